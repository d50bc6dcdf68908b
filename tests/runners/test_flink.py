"""On a real Flink cluster, through the real command line: the same bytes as here; and what is not there is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import Exit
from pipelines.runners import flink
from pipelines.sandbox.flink_cluster import KINDS, FlinkCluster
from pipelines.system.processes import Listener, listeners
from tests.support.asked_runners import asked
from tests.support.command_line import digest, foretide
from tests.support.live_world import AS_OFS, ENGINE, World
from tests.support.services import free_port

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with FlinkCluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


def workers(cluster: FlinkCluster) -> list[str]:
    return ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]


def score(world: World, out: Path, *more: str, expect: int = Exit.OK) -> str:
    arguments = ["--task", str(world.task), "--input", str(world.events), "--as-of", AS_OFS]
    arguments += ["--model", str(world.model), *ENGINE]
    return foretide("score", *arguments, "--output", str(out), *more, expect=expect)


@contextmanager
def listened() -> Iterator[set[Listener]]:
    """All on which this process, and what it has started, listens at some moment of the block."""
    seen: set[Listener] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.update(listeners())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()


@pytest.fixture(scope="module")
def here(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("here")
    score(world, out)
    return out


def test_what_a_cluster_lacks_is_told_before_a_job_is_sent(world: World, cluster: FlinkCluster, tmp_path: Path) -> None:
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}"]
    told = score(world, tmp_path / "out", *where, "--parallelism=3", expect=Exit.USAGE)
    assert "has 2 task slot(s), and --parallelism=3 takes as many" in told
    told = score(world, tmp_path / "out", *where, "--flink_version=1.20", expect=Exit.USAGE)
    assert "is of version 1.19.3, and the job server for 1.20. Add --flink_version=1.19" in told
    pool = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{free_port()}"]
    told = score(world, tmp_path / "out", *where, *pool, expect=Exit.USAGE)
    assert "no worker pool answers at localhost:" in told
    assert not (tmp_path / "out").exists()


def test_a_cluster_scores_the_same_bytes(world: World, here: Path, cluster: FlinkCluster, tmp_path: Path) -> None:
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}", workers(cluster)[1]]
    where.append("--parallelism=2")
    cluster.start_zookeeper()
    with listened() as seen:
        assert "386 of 386 sequences" in score(world, tmp_path / "out", *where)
    cluster.kill("zookeeper")
    assert digest(tmp_path / "out") == digest(here)
    assert sorted(listener for listener in seen if not listener.loopback) == []
    others = {listener.pid for listener in seen} - {*cluster.processes}
    assert len(others) == 2  # the command's own job server, and ZooKeeper
    managers = [listener for listener in seen if listener.pid in cluster.processes and listener.program == "java"]
    assert len(managers) > 12  # of JobManager, TaskManager and job server, and of the TaskManager for its worker
    (log,) = (cluster.folder / "log").glob("taskmanager-*")
    assert "Python sdk harness starting" in log.read_text()
    assert "Pipeline_options" not in log.read_text()


@pytest.mark.soak(only=True)
def test_so_does_one_that_was_killed(world: World, here: Path, cluster: FlinkCluster, tmp_path: Path) -> None:
    for kind in KINDS:
        cluster.kill(kind)
    cluster.start_job_manager(wait=False)
    cluster.start_pool(wait=False)
    cluster.start_job_server(wait=False)
    cluster.start_task_manager()
    where = ["--runner=PortableRunner", f"--job_endpoint={cluster.job_endpoint}", "--parallelism=2"]
    score(world, tmp_path / "out", *where, *workers(cluster))
    assert digest(tmp_path / "out") == digest(here)


@pytest.mark.parametrize(
    ("runner", "flag", "told"),
    [
        ("FlinkRunner", "flink_master", "no Flink cluster answers at http://{} (--flink_master): Connection refused"),
        ("PortableRunner", "job_endpoint", "no job server answers at {} (--job_endpoint): Connection refused"),
    ],
)
def test_a_wrong_address_is_told_in_a_sentence(world: World, tmp_path: Path, runner: str, flag: str, told: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    text = score(world, tmp_path / "out", f"--runner={runner}", f"--{flag}={address}", expect=Exit.USAGE)
    assert told.format(address) in text
    assert len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_answers_may_be_something_else(tmp_path: Path) -> None:
    [unnamed] = asked("--runner=PortableRunner").unreachable()
    assert "needs --job_endpoint=HOST:PORT" in str(unnamed)
    [no_address] = asked("--runner=PortableRunner", "--job_endpoint=somewhere").unreachable()
    assert "it is not of the form HOST:PORT" in str(no_address)
    for runner in (asked(), asked("--runner=DataflowRunner")):
        assert not list(runner.unreachable())


def test_a_job_server_with_a_cluster_of_its_own_keeps_it_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLINK_CONF_DIR", raising=False)
    assert flink._environment(tmp_path)["FLINK_CONF_DIR"] == str(tmp_path)
    told = (tmp_path / "flink-conf.yaml").read_text().splitlines()
    assert told == [
        f"{side}: 127.0.0.1" for side in ("jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address")
    ]
    monkeypatch.setenv("FLINK_CONF_DIR", "mine")
    assert flink._environment(tmp_path)["FLINK_CONF_DIR"] == "mine"


def test_workers_come_from_a_pool_unless_told() -> None:
    kept = "--environment_cache_millis=20000"
    pool = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000", kept]

    def added(*args: str) -> list[str]:
        return [arg for arg in asked(*args).added() if arg.startswith("--environment_")]

    assert added("--runner=FlinkRunner", "--flink_master=flink:8081") == pool
    assert added("--runner=PortableRunner", "--job_endpoint=flink:8099") == pool
    assert added("--runner=FlinkRunner") == [kept]  # a cluster within the job server: workers are in this process
    assert added("--runner=FlinkRunner", "--flink_master=[local]") == [kept]
    assert added("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_type=LOOPBACK") == [kept]
    assert added("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_config=image") == [kept]
    assert added("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_config=shop/image:0.1") == [kept]
    for place in ("localhost:50001", "workers.shop.internal:50000", "[::1]:50000"):
        named = ["--runner=FlinkRunner", "--flink_master=flink:8081", f"--environment_config={place}"]
        assert added(*named) == ["--environment_type=EXTERNAL", kept]
        assert added(*named, "--environment_type=DOCKER") == [kept]
    assert added("--runner=FlinkRunner", "--environment_cache_millis=1") == []
    assert kept not in asked("--runner=FlinkRunner", live=True).added()
    assert added("--runner=DataflowRunner") == added() == []
