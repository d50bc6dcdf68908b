"""A Flink cluster as processes of this one, on loopback: JobManager, TaskManagers, Beam's job server and worker pool.
For tests, and to try a job before there is a real cluster.

    python -m pipelines.sandbox.flink_cluster start   leaves one running, as `make flink` does when it has the jars
    python -m pipelines.sandbox.flink_cluster stop

Jobs die with the JobManager, unless the cluster is highly available: then ZooKeeper runs beside it, and the next
JobManager goes on with them from their last checkpoints.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal

from pipelines.errors import Exit, UserError
from pipelines.runners import flink, flink_job
from pipelines.system.files import locked, write_file
from pipelines.system.processes import bound, end, free_port, listens

Kind = Literal["jobmanager", "taskmanager", "pool", "jobserver", "zookeeper"]
KINDS: tuple[Kind, ...] = ("jobmanager", "taskmanager", "pool", "jobserver")  # of every cluster
HOST = "127.0.0.1"
READY = 120.0  # s for a process to come up
ENDING = 5.0  # s that a process has to end by itself
POLL = 0.05  # s
JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
ZOOKEEPER = "org.apache.flink.shaded.zookeeper3.org.apache.zookeeper.server.ZooKeeperServerMain"
OPENED = [  # packages, to what serializes objects
    *("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch"),
]
HEAP = {"jobmanager": 512, "taskmanager": 768, "jobserver": 512, "zookeeper": 64}  # MB
SILENT = 15_000  # ms without a sign of life until a process counts as dead; one that was killed is missed at once
# Small memory for small machines. Flink's own scripts would work out what is not said; there are none here.
CONFIG: Mapping[str, object] = {
    "taskmanager.cpu.cores": 2.0,
    "taskmanager.memory.framework.heap.size": "64m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.heap.size": "704m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.managed.size": "256m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
    "taskmanager.network.sort-shuffle.min-buffers": 64,  # each shuffle between stages takes so many
    "heartbeat.interval": 1000,  # ms
    "heartbeat.timeout": SILENT,
    "classloader.resolve-order": "parent-first",  # only for its own classes does Beam keep workers between two stages
    "classloader.check-leaked-classloader": "false",  # Beam's worker connections outlive their job by a moment
}
LOG4J = """\
rootLogger.level=INFO
rootLogger.appenderRef.console.ref=Console
appender.console.name=Console
appender.console.type=CONSOLE
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


@dataclass(frozen=True)
class Ports:
    """Where the services of a cluster listen."""

    rest: int = 8081
    rpc: int = 6123
    jobs: int = 8099
    pool: int = 50000
    zookeeper: int = 2181  # of a highly available one

    @staticmethod
    def free() -> Ports:
        """Ports that nothing listens on right now."""
        return Ports(free_port(), free_port(), free_port(), free_port(), free_port())


@dataclass
class FlinkCluster:
    """`with FlinkCluster(folder) as cluster:`. Its processes end with the block, and with this process, whatever ends
    that one; to be used in the thread that made it.

    Args:
        folder: where it keeps its settings, logs and checkpoints.
        task_managers: how many start with it.
        slots: tasks of a TaskManager at the same time.
        settings: more settings of Flink, or other values.
        environment: more variables for the workers.
        high_availability: whether jobs outlive the JobManager.
    """

    folder: Path
    task_managers: int = 1
    slots: int = 2
    ports: Ports = field(default_factory=Ports.free)
    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    high_availability: bool = False
    _running: dict[Kind, list[tuple[str, subprocess.Popen[bytes]]]] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def master(self) -> str:
        """The address for --flink_master."""
        return f"{HOST}:{self.ports.rest}"

    @property
    def job_endpoint(self) -> str:
        """The address for --job_endpoint, with the PortableRunner."""
        return f"{HOST}:{self.ports.jobs}"

    @property
    def pool(self) -> str:
        """The address for --environment_config, with --environment_type=EXTERNAL."""
        return f"{HOST}:{self.ports.pool}"

    def __enter__(self) -> FlinkCluster:
        """Starts the cluster.

        Raises:
          UserError: it is not built, a port is taken, or a process ended.
        """
        self._prepare()
        try:
            if self.high_availability:
                self.start_zookeeper()
            self.start_job_manager(wait=False)
            for _ in range(self.task_managers):
                self.start_task_manager(wait=False)
            self.start_pool(wait=False)
            self.start_job_server(wait=False)
            self.wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = [process for started in self._running.values() for _, process in started]
        for process in processes:
            process.terminate()
        due = time.monotonic() + ENDING
        for process in processes:
            end(process, max(0.1, due - time.monotonic()))
        self._running.clear()

    def start_job_manager(self, wait: bool = True) -> None:
        self._java("jobmanager", ["-cp", self._jars(), JOB_MANAGER, "--configDir", str(self.folder / "conf")], wait)

    def start_task_manager(self, wait: bool = True) -> None:
        name = f"taskmanager-{next(self._numbers)}"
        words = ["-cp", self._jars(), TASK_MANAGER, "--configDir", str(self.folder / "conf")]
        self._java("taskmanager", [*words, "-D", f"taskmanager.resource-id={name}"], wait, name)

    def start_job_server(self, wait: bool = True) -> None:
        listen = ["--job-host=localhost", f"--job-port={self.ports.jobs}", "--artifact-port=0", "--expansion-port=-1"]
        jar = ["-jar", str(flink.folder() / "job-server" / "job-server.jar")]
        place = f"--artifacts-dir={self.folder / 'artifacts'}"
        self._java("jobserver", [*jar, *listen, place, f"--flink-master={self.master}"], wait)

    def start_pool(self, wait: bool = True) -> None:
        self._start("pool", [sys.executable, "-m", "pipelines.runners.worker_pool", str(self.ports.pool)], wait)

    def start_zookeeper(self, wait: bool = True) -> None:
        self._java("zookeeper", ["-cp", self._jars(), ZOOKEEPER, str(self.folder / "conf" / "zoo.cfg")], wait)

    def kill(self, kind: Kind) -> None:
        """Ends the newest process of its kind as `kill -9` does; with the pool go its workers."""
        _, process = self._running[kind].pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def processes(self) -> list[int]:
        """The processes that were started here and run."""
        return [process.pid for started in self._running.values() for _, process in started if process.poll() is None]

    def workers(self) -> list[int]:
        """The worker processes of the pool, which Linux tells."""
        pools = [process.pid for _, process in self._running.get("pool", [])]
        found = (Path(f"/proc/{pid}/task").glob("*/children") for pid in pools)
        return [int(child) for files in found for file in files for child in file.read_text().split()]

    def wait(self) -> None:
        """Waits until all that runs answers.

        Raises:
          UserError: a process ended, or does not come up.
        """
        due = time.monotonic() + READY
        while missing := self._missing():
            for started in self._running.values():
                for name, process in started:
                    if process.poll() is not None:
                        raise UserError(f"{name} ended with {process.returncode}: {self._said(name)}", Exit.FAILED)
            if time.monotonic() > due:
                raise UserError(f"{missing} did not come up within {READY:.0f} s: {self._said(missing)}", Exit.FAILED)
            time.sleep(POLL)

    def _missing(self) -> str | None:
        """The name of a process that does not answer yet."""
        ports: dict[Kind, int] = {
            "zookeeper": self.ports.zookeeper,
            "jobmanager": self.ports.rest,
            "pool": self.ports.pool,
            "jobserver": self.ports.jobs,
        }
        for kind, port in ports.items():
            if self._running.get(kind) and listens(f"{HOST}:{port}", 1.0) is not None:
                return kind
        expected = {name for name, _ in self._running.get("taskmanager", [])}
        try:
            found = flink_job.ask(f"http://{self.master}/taskmanagers")["taskmanagers"]
            known = {manager["id"] for manager in found if manager["slotsNumber"]}  # they come a moment later
        except (OSError, ValueError, KeyError):
            return "jobmanager" if self._running.get("jobmanager") else None
        return min(expected - known, default=None)

    def _prepare(self) -> None:
        if not (flink.folder() / "job-server" / "job-server.jar").is_file():
            raise UserError("Flink is not there: run `make flink`, which fetches it")
        for name, port in asdict(self.ports).items():
            if (name != "zookeeper" or self.high_availability) and listens(f"{HOST}:{port}", 1.0) is None:
                raise UserError(f"something listens on port {port} already: end it, or choose another port")
        for name in ("conf", "log", "tmp", "web", "artifacts", "checkpoints", "savepoints", "zookeeper", "jobs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        lines = (f"{key}: {value}\n" for key, value in self._config().items())
        (self.folder / "conf" / "flink-conf.yaml").write_text("".join(lines))
        (self.folder / "conf" / "log4j.properties").write_text(LOG4J)
        (self.folder / "conf" / "zoo.cfg").write_text(
            f"dataDir={self.folder / 'zookeeper'}\nclientPort={self.ports.zookeeper}\nclientPortAddress={HOST}\n"
            "tickTime=1000\nadmin.enableServer=false\n"
        )

    def _config(self) -> dict[str, object]:
        found = {
            "high-availability.type": "zookeeper",
            "high-availability.zookeeper.quorum": f"{HOST}:{self.ports.zookeeper}",
            "high-availability.zookeeper.client.session-timeout": SILENT,
            "high-availability.zookeeper.client.tolerate-suspended-connections": "true",
            "high-availability.storageDir": (self.folder / "jobs").as_uri(),
        }
        names = ("jobmanager.rpc.address", "taskmanager.host", "rest.address")
        return {
            **dict.fromkeys((*names, *flink.BINDINGS), HOST),
            "rest.port": self.ports.rest,
            "jobmanager.rpc.port": self.ports.rpc,
            "taskmanager.numberOfTaskSlots": self.slots,
            "io.tmp.dirs": self.folder / "tmp",
            "web.upload.dir": self.folder / "web",
            "state.checkpoints.dir": (self.folder / "checkpoints").as_uri(),
            "state.savepoints.dir": (self.folder / "savepoints").as_uri(),
            **CONFIG,
            **(found if self.high_availability else {}),
            **self.settings,
        }

    def _jars(self) -> str:
        """Flink's own, without the tables, which Beam does not use, and those of Beam's job server."""
        own = sorted((flink.folder() / "dist" / "pyflink" / "lib").glob("*.jar"))
        beam = sorted((flink.folder() / "job-server" / "lib").glob("*.jar"))
        jars = [jar for jar in own if "-table-" not in jar.name and "scala" not in jar.name]
        return ":".join(map(str, [*jars, *(jar for jar in beam if not jar.name.startswith(("flink-", "slf4j-")))]))

    def _java(self, kind: Kind, words: Sequence[str], wait: bool, name: str | None = None) -> None:
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        # C1 alone: the JVM moves bytes while Python works, and starts in half the time.
        flags = [f"-Xmx{HEAP[kind]}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *opened]
        log = f"-Dlog4j.configurationFile={self.folder / 'conf' / 'log4j.properties'}"
        self._start(kind, [java(), *flags, log, *words], wait, name)

    def _start(self, kind: Kind, command: Sequence[str], wait: bool, name: str | None = None) -> None:
        name = name or kind
        with open(self.folder / "log" / name, "ab") as log:
            process = bound(command, stdout=log, stderr=log, env={**os.environ, **self.environment})
        self._running.setdefault(kind, []).append((name, process))
        if wait:
            self.wait()

    def _said(self, name: str) -> str:
        """The last line of its log, and where that is."""
        log = self.folder / "log" / name
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{(lines or ['nothing was said'])[-1][:300]} ({log})"


def java() -> str:
    """The program, of JAVA_HOME or the PATH. Raises UserError where there is none."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which(Path(home, "bin", "java") if home else "java")
    if program is None:
        raise UserError("Flink needs Java 17: install a JDK, or set JAVA_HOME")
    return program


def run(folder: Path, task_managers: int, slots: int) -> None:
    """Runs a cluster on Flink's own ports until SIGTERM or SIGINT.

    Raises:
      UserError: it does not come up, or another one runs in the folder.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    with _held(folder), FlinkCluster(folder, task_managers, slots, Ports()):
        write_file(folder / "pid", lambda f: f.write(str(os.getpid()).encode()))
        try:
            while True:
                signal.pause()
        finally:
            (folder / "pid").unlink()


def start(folder: Path, task_managers: int, slots: int) -> str:
    """Leaves one running. Returns what to tell about it.

    Raises:
      UserError: it does not come up.
    """
    if _runs(folder) is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pid").unlink(missing_ok=True)
        words = ["run", "--folder", str(folder), "--task-managers", str(task_managers), "--slots", str(slots)]
        with open(folder / "cluster.log", "wb") as log:
            command = [sys.executable, "-m", "pipelines.sandbox.flink_cluster", *words]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        while _runs(folder) is None:
            if process.poll() is not None:
                said = (folder / "cluster.log").read_text().splitlines()
                raise UserError("".join(said[-1:]) or f"it ended with {process.returncode}", Exit.FAILED)
            time.sleep(POLL)
    page, slots = f"{HOST}:{Ports.rest}", task_managers * slots
    return f"""\
Flink runs: its page is http://{page}, its logs are in {folder / "log"}, and `make flink-stop` ends it.
A job for it has --runner=FlinkRunner --flink_master={page} --parallelism={slots}"""


def stop(folder: Path) -> str:
    """Ends the cluster, if it runs. Returns what to tell about it."""
    pid = _runs(folder)
    if pid is None:
        return "no Flink runs"
    os.kill(pid, signal.SIGTERM)
    with _held(folder, wait=True):
        return "Flink has ended"


@contextmanager
def _held(folder: Path, wait: bool = False) -> Iterator[None]:
    """The folder, for one cluster alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", wait) as held:
        if not held:
            raise UserError(f"a cluster runs in {folder} already")
        yield


def _runs(folder: Path) -> int | None:
    """The process of the cluster that is ready in the folder."""
    pid = folder / "pid"
    if not pid.exists():
        return None
    try:
        with _held(folder):
            return None
    except UserError:
        return int(pid.read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command of this module and returns its exit code."""
    parser = argparse.ArgumentParser(prog="flinkcluster", description="A Flink cluster on this machine.")
    parser.add_argument("action", choices=("start", "stop", "run"), help="run stays in the foreground")
    parser.add_argument("--folder", type=Path, default=flink.folder() / "cluster", help="settings, logs, checkpoints")
    parser.add_argument("--task-managers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2, help="of a TaskManager")
    args = parser.parse_args(argv)
    folder = args.folder.resolve()
    try:
        if args.action == "run":
            run(folder, args.task_managers, args.slots)
        else:
            print(stop(folder) if args.action == "stop" else start(folder, args.task_managers, args.slots))
    except UserError as error:
        print(f"flinkcluster: {error}", file=sys.stderr)
        return int(error.exit)
    return int(Exit.OK)


if __name__ == "__main__":
    sys.exit(main())
