"""On a real Flink cluster, through the real command line: the same bytes as here; and what is not there is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import flink
from pipelines.errors import Exit, UserError
from pipelines.flinkcluster import FlinkCluster
from tests.services import free_port
from tests.test_end_to_end import digest, foretide
from tests.world import AS_OFS, World, make_world

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Flink needs Java")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with FlinkCluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


def score(world: World, out: Path, *more: str, expect: int = Exit.OK) -> str:
    arguments = ["--task", str(world.task), "--input", str(world.events), "--as-of", AS_OFS]
    return foretide("score", *arguments, "--model", str(world.model), "--output", str(out), *more, expect=expect)


@pytest.fixture(scope="module")
def here(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("here")
    score(world, out)
    return out


@needs_java
def test_a_cluster_scores_the_same_bytes(world: World, here: Path, cluster: FlinkCluster, tmp_path: Path) -> None:
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}"]
    workers = ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]
    told = score(world, tmp_path / "one", *where, *workers)
    assert "scored" in told
    assert digest(tmp_path / "one") == digest(here)
    endpoint = ["--runner=PortableRunner", f"--job_endpoint={cluster.job_endpoint}", "--parallelism=2"]
    score(world, tmp_path / "two", *endpoint, *workers)
    assert digest(tmp_path / "two") == digest(here)


@needs_java
def test_what_a_cluster_lacks_is_told_before_a_job_is_sent(world: World, cluster: FlinkCluster, tmp_path: Path) -> None:
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}"]
    told = score(world, tmp_path / "out", *where, "--parallelism=3", expect=Exit.USAGE)
    assert "has 2 task slot(s), and --parallelism=3 takes as many" in told
    told = score(world, tmp_path / "out", *where, "--flink_version=1.20", expect=Exit.USAGE)
    assert "is of version 1.19.3, and the job server for 1.20: add --flink_version=1.19" in told
    pool = ["--environment_type=EXTERNAL", f"--environment_config=localhost:{free_port()}"]
    told = score(world, tmp_path / "out", *where, *pool, expect=Exit.USAGE)
    assert "no worker pool answers at localhost:" in told
    assert not (tmp_path / "out").exists()


@needs_java
def test_what_is_killed_comes_back(cluster: FlinkCluster, world: World, here: Path, tmp_path: Path) -> None:
    cluster.kill("taskmanager")
    cluster.kill("pool")
    cluster.kill("jobmanager")
    cluster.start_job_manager(wait=False)
    cluster.start_pool(wait=False)
    cluster.start_task_manager()
    workers = ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]
    score(world, tmp_path / "out", "--runner=FlinkRunner", f"--flink_master={cluster.master}", *workers)
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
    with pytest.raises(UserError, match="needs --job_endpoint=HOST:PORT"):
        flink.check(["--runner=PortableRunner"])
    with pytest.raises(UserError, match="it is not of the form HOST:PORT"):
        flink.check(["--runner=PortableRunner", "--job_endpoint=somewhere"])
    flink.check([])
    flink.check(["--runner=DataflowRunner"])


def test_workers_come_from_a_pool_unless_told() -> None:
    pool = ["--environment_type=EXTERNAL", "--environment_config=localhost:50000"]

    def added(*args: str) -> list[str]:
        return [arg for arg in flink.added(args) if not arg.startswith("--flink_job_server_jar")]

    assert added("--runner=FlinkRunner", "--flink_master=flink:8081") == pool
    assert added("--runner=PortableRunner", "--job_endpoint=flink:8099") == pool
    assert added("--runner=FlinkRunner") == []  # a cluster within the job server: workers are in this process
    assert added("--runner=FlinkRunner", "--flink_master=[local]") == []
    assert added("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_type=LOOPBACK") == []
    assert added("--runner=FlinkRunner", "--flink_master=flink:8081", "--environment_config=image") == []
    assert added("--runner=DataflowRunner") == added() == []
