"""Live jobs on a real Flink cluster, through the real command line: one is stopped with a savepoint and goes on from it
at twice the parallelism, or is cancelled and goes on from its last checkpoint, and its scores are those of a backfill;
so are those of a rehearsal; another job's state is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import Exit, UserError
from pipelines.runners.flink_job import FlinkJob, ask
from pipelines.sandbox.flink_cluster import FlinkCluster
from pipelines.storage.folder.live import live_runs, stop_file
from pipelines.storage.folder.query import connect
from pipelines.system.processes import listeners
from tests.support.command_line import foretide
from tests.support.live_world import (
    AS_OFS,
    END,
    ENGINE,
    PATIENCE,
    SEAM,
    World,
    common,
    live,
    publish,
    split,
)
from tests.support.services import Emulator, emulator, free_port

pytestmark = pytest.mark.long

CLOSED = END + 5 * 86_400
TASK_MANAGERS = 2 if "FORETIDE_SOAK" in os.environ else 1  # with a worker each
SLOTS = 4  # of all of them
SETTINGS = dict.fromkeys(("taskmanager.memory.network.min", "taskmanager.memory.network.max"), "128m")
SCORES = "SELECT * EXCLUDE (run_id, scored_at) FROM scores WHERE as_of < '2024-01-28' ORDER BY ALL"


@dataclass(frozen=True)
class Place:
    """A cluster whose workers find the emulator."""

    cluster: FlinkCluster
    pubsub: Emulator

    @property
    def where(self) -> list[str]:
        cluster = [f"--flink_master={self.cluster.master}", "--checkpointing_interval=1000"]
        workers = ["--environment_type=EXTERNAL", f"--environment_config={self.cluster.pool}"]
        return ["--runner=FlinkRunner", *cluster, *workers]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("flink")
    with emulator() as pubsub:
        shape = (TASK_MANAGERS, SLOTS // TASK_MANAGERS)
        with FlinkCluster(folder, *shape, settings=SETTINGS, environment=pubsub.environment) as cluster:
            yield Place(cluster, pubsub)


def until(condition: Any, log: Path) -> None:
    due = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < due, log.read_text()
        time.sleep(0.2)


@dataclass(frozen=True)
class Stages:
    """A live job on the cluster and those that go on from it: one stream, one place for scores."""

    place: Place
    world: World
    folder: Path
    topic: str
    flags: Sequence[object]  # of all of them

    @staticmethod
    def prepared(place: Place, world: World, folder: Path) -> Stages:
        topic = place.pubsub.topic(folder.name)
        pq.write_table(pa.Table.from_pylist(split(world, SEAM)[0]), folder / "history.parquet")
        history = ["--from", "2024-01-21", "--bootstrap", folder / "history.parquet", "--shards", 8]
        first = common(world, place.pubsub.subscription(topic), folder / "out")
        return Stages(place, world, folder, topic, [*first, *history, *place.where])

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def run(self) -> str:
        return live_runs(self.out)[0]

    @contextmanager
    def job(self, name: str, *more: object) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
        """One that goes on, and its log."""
        flags, log = [*self.flags, *more, f"--parallelism={SLOTS}"], self.folder / f"{name}.log"
        with live(self.place.pubsub, *flags, log=log) as job:
            yield job, log
        assert "Traceback" not in log.read_text()

    def taken(self, job: subprocess.Popen[bytes], log: Path) -> None:
        """Waits until all messages are acknowledged, or the job ends."""
        until(lambda: not self.place.pubsub.counts(self.topic).outstanding or job.poll() is not None, log)

    def begin(self, rows: Sequence[dict[str, Any]], clock: int) -> str:
        """The first job, which is stopped with a savepoint: what goes on from it."""
        log, arguments = self.folder / "first.log", [*self.flags, f"--parallelism={SLOTS // 2}"]
        with live(self.place.pubsub, *arguments, log=log) as job:
            publish(self.place.pubsub, self.topic, rows, clock)
            self.taken(job, log)
            assert [listener for listener in listeners() if not listener.loopback] == []
            told = foretide("stream", *map(str, self.flags), expect=Exit.USAGE)
            assert f"the job {self.run} runs on the cluster" in told
            master, target = f"--flink_master={self.place.cluster.master}", self.folder / "savepoints"
            told = foretide("savepoint", self.run, master, "--target", target.as_uri())
            savepoint = told.partition("savepoint   ")[2].splitlines()[0]
            assert Path(savepoint.removeprefix("file:")).parent == target
            assert job.wait(PATIENCE) == Exit.OK, log.read_text()
        assert "is running, " in log.read_text()
        return f"--savepoint_path={savepoint}"

    def refused(self, savepoint: str, rows: Sequence[dict[str, Any]]) -> None:
        """Jobs that differ from the one of which the state is, and acknowledge nothing."""
        given = list(map(str, self.flags))
        shards, start = given.index("--shards") + 1, given.index("--arrival-attribute")
        told = foretide("stream", *given[:start], *self.place.where, savepoint, expect=Exit.USAGE)
        assert "--savepoint_path: say with --from TIME" in told
        other = replace(self, flags=[*given[:shards], "9", *given[shards + 1 :]])
        with other.job("refused", savepoint) as (job, log):
            publish(self.place.pubsub, self.topic, rows)
            assert job.wait(PATIENCE) == Exit.USAGE, log.read_text()
        assert "the state was kept by a job that differs: --shards was 8 and is 9." in log.read_text()

    def cancelled(self, savepoint: str, rows: Sequence[dict[str, Any]]) -> str:
        """A job that is cancelled: its last checkpoint, from which another one goes on."""
        kept = ["--externalized_checkpoints_enabled", "--retain_externalized_checkpoints_on_cancellation"]
        with self.job("cancelled", savepoint, *kept) as (job, log):
            publish(self.place.pubsub, self.topic, rows)
            self.taken(job, log)
            follow = FlinkJob(f"http://{self.place.cluster.master}", self.run)
            follow.look()
            follow.cancel()
            assert job.wait(PATIENCE) != Exit.OK
        files = (self.place.cluster.folder / "checkpoints" / str(follow.id)).glob("chk-*/_metadata")  # of complete ones
        [file] = files
        return f"--savepoint_path={file.parent.as_uri()}"

    def end(self, savepoint: str, rows: Sequence[dict[str, Any]]) -> None:
        """The last job; the scores of all are those of a backfill, and the history that each was given counts once."""
        with self.job("last", savepoint) as (job, log):
            publish(self.place.pubsub, self.topic, rows, CLOSED)
            self.taken(job, log)
            stop_file(self.out, self.run).touch()
            assert job.wait(PATIENCE) == Exit.OK, log.read_text()
        assert "read        2,100 events" in log.read_text()
        work = ["--task", str(self.world.task), "--model", str(self.world.model), "--input", str(self.world.events)]
        foretide("score", *work, *ENGINE, "--as-of", AS_OFS, "--output", str(self.folder / "back"))
        assert scores(self.out) == scores(self.folder / "back") != []


def scores(out: Path) -> list[Any]:
    return connect(out).execute(SCORES).fetchall()


def test_a_job_goes_on_from_a_savepoint_at_twice_the_parallelism(place: Place, world: World, tmp_path: Path) -> None:
    stages = Stages.prepared(place, world, tmp_path)
    _, during, after = split(world, SEAM, SEAM + 3 * 86_400)
    stages.end(stages.begin(during, SEAM + 3 * 86_400), after)


@pytest.mark.soak(only=True)
def test_and_from_a_checkpoint_on_two_task_managers(place: Place, world: World, tmp_path: Path) -> None:
    stages = Stages.prepared(place, world, tmp_path)
    _, during, after = split(world, SEAM, SEAM + 3 * 86_400)
    savepoint = stages.begin(during, SEAM + 3 * 86_400)
    stages.refused(savepoint, after[:20])
    checkpoint = stages.cancelled(savepoint, after[20:100])
    stages.end(checkpoint, after[100:])


@pytest.mark.soak(only=True)
def test_a_rehearsal_on_the_cluster(place: Place, world: World, tmp_path: Path) -> None:
    """The workers know the emulator by its address: the rehearsal starts it there."""
    place.pubsub.stop()
    command = ["rehearse", "--task", world.task, "--model", world.model, "--input", world.events, "--as-of", AS_OFS]
    more = ["--output", tmp_path / "out", "--speed", "2d", "--mess", *ENGINE, "--parallelism=1", *place.where]
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, [*command, *more])],
        env={**os.environ, **place.pubsub.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    place.pubsub.start()
    assert run.returncode == Exit.OK, run.stdout + run.stderr
    assert "live and backfilled are equal, bit for bit" in run.stdout


def test_what_is_not_there_is_told(place: Place) -> None:
    master = f"--flink_master={place.cluster.master}"
    assert "no job named nothing runs on the cluster" in foretide("savepoint", "nothing", master, expect=Exit.USAGE)
    assert "--flink_master=HOST:PORT is missing" in foretide("savepoint", "nothing", expect=Exit.USAGE)
    gone = f"http://127.0.0.1:{free_port()}"
    assert FlinkJob(gone, "nothing").look() == ([], f"no answer from {gone}: Connection refused")
    assert FlinkJob(f"http://{place.cluster.master}", "nothing").look() == ([], "the cluster has no such job yet")
    with pytest.raises(UserError, match="did not stop nothing: Connection refused"):
        FlinkJob(gone, "nothing").stop(None)
    assert ask(f"http://{place.cluster.master}/overview")["slots-total"] == SLOTS
