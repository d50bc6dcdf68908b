"""Live jobs on a real Flink cluster, through the real command line: one is stopped with a savepoint and goes on from it
at twice the parallelism, is cancelled and goes on from its last checkpoint, and its scores are those of a backfill; so
are those of a rehearsal; another job's state is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
from pipelines.system.listening import listeners
from tests.services import Emulator, emulator, free_port
from tests.test_end_to_end import foretide
from tests.world import AS_OFS, END, SEAM, World, common, live, make_world, publish, split

CLOSED = END + 5 * 86_400
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
    with emulator() as pubsub, FlinkCluster(folder, 2, environment=pubsub.environment) as cluster:
        yield Place(cluster, pubsub)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def until(condition: Any, log: Path, seconds: float = 180) -> None:
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, log.read_text()
        time.sleep(0.2)


def scores(out: Path) -> list[Any]:
    return connect(out).execute(SCORES).fetchall()


def test_a_job_goes_on_from_a_savepoint_at_twice_the_parallelism_and_from_a_checkpoint(
    place: Place, world: World, tmp_path: Path
) -> None:
    """Its history is given to all three, and counts once: the first one has read it."""
    pubsub = place.pubsub
    topic = pubsub.topic("events")
    subscription = pubsub.subscription(topic)
    before, during, after = split(world, SEAM, SEAM + 3 * 86_400)
    pq.write_table(pa.Table.from_pylist(before), tmp_path / "history.parquet")
    out, one, two, three, four = (tmp_path / name for name in ("out", "one.log", "two.log", "three.log", "four.log"))
    history = ["--from", "2024-01-21", "--bootstrap", tmp_path / "history.parquet", "--shards", 8]
    arguments = [*common(world, subscription, out), *history, *place.where]
    with live(pubsub, *arguments, "--parallelism=2", log=one) as job:
        publish(pubsub, topic, during, SEAM + 3 * 86_400)
        until(lambda: not pubsub.counts(topic).outstanding or job.poll() is not None, one)
        assert [listener for listener in listeners() if not listener.loopback] == []
        name = live_runs(out)[0]
        told = foretide("stream", *map(str, arguments), expect=Exit.USAGE)
        assert f"the job {name} runs on the cluster" in told
        target = tmp_path / "savepoints"
        told = foretide("savepoint", name, f"--flink_master={place.cluster.master}", "--target", target.as_uri())
        savepoint = told.partition("savepoint   ")[2].splitlines()[0]
        assert Path(savepoint.removeprefix("file:")).parent == target
        assert job.wait(60) == Exit.OK, one.read_text()
    assert "is running, " in one.read_text()

    goes_on = [*arguments, f"--savepoint_path={savepoint}"]
    plain = [*common(world, subscription, out)[:-2], *place.where, goes_on[-1]]
    told = foretide("stream", *map(str, plain), expect=Exit.USAGE)
    assert "--savepoint_path: say with --from TIME" in told
    other = [*goes_on[: goes_on.index("--shards")], "--shards", 9, *place.where, goes_on[-1]]
    with live(pubsub, *other, "--parallelism=4", log=two) as job:
        publish(pubsub, topic, after[:20])  # it fails before it acknowledges one of them
        assert job.wait(180) == Exit.USAGE, two.read_text()
    assert "the state was kept by a job that differs: --shards was 8 and is 9." in two.read_text()
    assert "Traceback" not in two.read_text()

    kept = ["--externalized_checkpoints_enabled", "--retain_externalized_checkpoints_on_cancellation"]
    with live(pubsub, *goes_on, *kept, "--parallelism=4", log=three) as job:
        publish(pubsub, topic, after[20:100])
        until(lambda: not pubsub.counts(topic).outstanding or job.poll() is not None, three)
        follow = FlinkJob(f"http://{place.cluster.master}", name)
        follow.look()
        follow.cancel()
        assert job.wait(60) != Exit.OK
    [kept_file] = (place.cluster.folder / "checkpoints" / str(follow.id)).glob("chk-*/_metadata")  # of complete ones

    goes_on[-1] = f"--savepoint_path={kept_file.parent.as_uri()}"
    with live(pubsub, *goes_on, "--parallelism=4", log=four) as job:
        publish(pubsub, topic, after[100:], CLOSED)
        until(lambda: not pubsub.counts(topic).outstanding or job.poll() is not None, four)
        stop_file(out, name).touch()
        assert job.wait(120) == Exit.OK, four.read_text()
    assert "Traceback" not in three.read_text() + four.read_text()
    score = ["--task", str(world.task), "--model", str(world.model), "--input", str(world.events), "--as-of", AS_OFS]
    foretide("score", *score, "--output", str(tmp_path / "back"))
    assert scores(out) == scores(tmp_path / "back") != []
    assert "read        2,100 events" in four.read_text()


def test_a_rehearsal_on_the_cluster(place: Place, world: World, tmp_path: Path) -> None:
    """The workers know the emulator by its address: the rehearsal starts it there."""
    place.pubsub.stop()
    command = ["rehearse", "--task", world.task, "--model", world.model, "--input", world.events, "--as-of", AS_OFS]
    more = ["--output", tmp_path / "out", "--speed", "2d", "--mess", "--parallelism=2", *place.where]
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *map(str, [*command, *more])],
        env={**os.environ, **place.pubsub.environment},
        capture_output=True,
        text=True,
        timeout=300,
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
    assert ask(f"http://{place.cluster.master}/overview")["slots-total"] == 4
