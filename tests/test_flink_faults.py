"""A live job on a Flink cluster whose parts are killed: no message lost, no score wrong, none twice."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from pipelines.errors import Exit
from pipelines.runners import flink_job
from pipelines.sandbox.flink_cluster import FlinkCluster
from pipelines.storage.folder.live import live_runs, read_live_ledger, stop_file
from pipelines.storage.folder.query import select
from pipelines.task.fields import format_time
from pipelines.task.file import load_task
from pipelines.transforms.pulled_messages import micros_of
from tests.support.command_line import foretide
from tests.support.live_world import ENGINE, live
from tests.support.services import Emulator, emulator
from tests.support.toy_models import DAY, plain
from tests.support.warehouse import PROJECT, Warehouse

pytestmark = pytest.mark.long

SECOND = 1_000_000  # us
EVERY = 5  # s
TASK = """\
task: faults
events:
  entity: user
  time: {field: at, unit: us}
  arrival: {field: arrived, unit: us}
  identity: [id]
sequence:
  step: 5s
  steps: 12
  features: [{agg: count}, {agg: sum, field: price}, {agg: recency}]
score: {every: 5s, allowed_lateness: 10s}
label: {kind: churn, horizon: 1m, active_within: 1m}
model: {network: mlp, units: [8]}
"""
COLUMNS = "score_id, entity_id, as_of, revision, churn, model_version, n_events, last_event_time"
USERS = 300
POLL = 0.3  # s
WELL = 900.0  # s that a recovery may take
WRITES = "worker while it writes"
T = TypeVar("T")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with task.yaml and an untrained model for it."""
    from pipelines.models.calibration import Calibration
    from pipelines.models.export import Origin, manifest_of, save
    from pipelines.models.network import build
    from pipelines.models.predictor import Predictor

    folder = tmp_path_factory.mktemp("world")
    (folder / "task.yaml").write_text(TASK)
    task = load_task(folder / "task.yaml")
    transform = plain(task.sequence.steps, len(task.features))
    network = build(task, transform.shapes, 0)
    predictor = Predictor(task, transform, [network], Calibration("platt", (1.5,), (-0.5,)))
    save(predictor, folder / "model" / "saved_model")
    origin = Origin((10 * DAY, 20 * DAY), (30 * DAY,), (40 * DAY,), {"auc": 0.75}, 50 * DAY)
    manifest_of(predictor, origin).write(folder / "model")
    return folder


@dataclass(frozen=True)
class Output:
    """Where a job writes, and how users see it."""

    place: str
    table: str  # with _current and _history behind it: what users see
    rows: Callable[[str], list[tuple[Any, ...]]]  # of a SELECT

    @staticmethod
    def folder(path: Path) -> Output:
        path.mkdir()
        return Output(str(path), "scores", lambda sql: list(select(path, sql).rows))

    @staticmethod
    def bigquery(warehouse: Warehouse) -> Output:
        table = f"{PROJECT}.{warehouse.dataset()}.scores"
        return Output(f"bq://{table}", table, lambda sql: [tuple(row.values()) for row in warehouse.sql(sql)])

    def newest(self) -> float:
        """The last as-of of which scores can be seen, s; 0 where there are none."""
        ((found,),) = self.rows(f"SELECT max(as_of) FROM {self.table}_history")
        return micros_of(found) / SECOND if found is not None else 0.0

    def scores(self, closed: int) -> list[tuple[Any, ...]]:
        """Up to an as-of, s."""
        until = f"as_of <= '{format_time(closed * SECOND)}'"
        return self.rows(f"SELECT {COLUMNS} FROM {self.table}_current WHERE {until} ORDER BY score_id, revision")

    def twice(self) -> int:
        """Rows of the history that are there already."""
        all_rows = f"SELECT score_id, revision, count(*) AS n FROM {self.table}_history GROUP BY score_id, revision"
        ((found,),) = self.rows(f"SELECT count(*) FROM ({all_rows}) AS counted WHERE n > 1")
        return int(found)


def answered(ask: Callable[[], T]) -> T:
    """What a service that may be away for a while answers in the end."""
    while True:
        try:
            return ask()
        except (GoogleAPICallError, RetryError):
            time.sleep(POLL)


@dataclass
class Traffic:
    """Messages that are published in one thread, and in another one kept as a second subscriber gets them."""

    address: str
    topic: str
    subscription: str
    rate: int  # events per s
    kept: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # message id -> payload, publish time in us
    changed: list[str] = field(default_factory=list)  # messages that came again as others
    closing: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._publish), threading.Thread(target=self._keep)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.closing.set()
            self.ended.set()
            for thread in threads:
                thread.join()

    def _publish(self) -> None:
        """3 % come twice, within 15 s."""
        client = PublisherClient(transport=PublisherGrpcTransport(channel=grpc.insecure_channel(self.address)))
        chance, begun, sent = np.random.default_rng(1), time.monotonic(), 0
        again: list[tuple[float, bytes]] = []
        while not self.closing.wait(0.2):
            now = time.monotonic()
            fresh = [self._event(number, chance) for number in range(sent, int((now - begun) * self.rate))]
            sent += len(fresh)
            batch = [*fresh, *(payload for when, payload in again if when <= now)]
            again = [(when, payload) for when, payload in again if when > now]
            again += [(now + chance.uniform(0, 15), payload) for payload in fresh if chance.random() < 0.03]
            for i in range(0, len(batch), 1000):
                request = {"topic": self.topic, "messages": [{"data": payload} for payload in batch[i : i + 1000]]}
                answered(lambda request=request: client.publish(request=request))  # type: ignore[misc]

    def _event(self, number: int, chance: np.random.Generator) -> bytes:
        """Up to 3 s old, 10 % older, and 4 % so old that scores may be closed that it belonged to."""
        low, high = [(0, 3), (3, 9), (9, 40)][int(np.searchsorted([0.90, 0.96], chance.random()))]
        at = int((time.time() - chance.uniform(low, high)) * SECOND)
        user, price = int(chance.integers(USERS)), round(float(chance.gamma(2, 10)), 2)
        return json.dumps({"user": f"user {user}", "at": at, "id": f"e{number}", "price": price}).encode()

    def _keep(self) -> None:
        client = SubscriberClient(transport=SubscriberGrpcTransport(channel=grpc.insecure_channel(self.address)))
        pull = {"subscription": self.subscription, "max_messages": 1000}
        while not self.ended.wait(0.2):
            found = answered(lambda: client.pull(request=pull)).received_messages
            for message in (received.message for received in found):
                body = message.data, micros_of(message.publish_time)
                if self.kept.setdefault(message.message_id, body) != body:
                    self.changed.append(message.message_id)
            if found:
                request = {"subscription": self.subscription, "ack_ids": [received.ack_id for received in found]}
                answered(lambda request=request: client.acknowledge(request=request))  # type: ignore[misc]

    def events(self) -> pa.Table:
        """As a file for `foretide score`."""
        return pa.Table.from_pylist([{**json.loads(data), "arrived": at} for data, at in self.kept.values()])


@dataclass
class Rehearsal:
    """A job that runs, and all that can happen to it."""

    folder: Path
    output: Output
    pubsub: Emulator
    cluster: FlinkCluster
    warehouse: Warehouse | None
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # of each recovery

    def fault(self, kind: str) -> str:
        """Kills something at a random moment, puts another one in its place, and waits until the job is well again."""
        time.sleep(self.chance.uniform(1, 9))
        if kind == WRITES:
            self._wait_for_a_write()
        at = time.time()
        self._kill(kind)
        self.wait(at)
        self.seconds[kind].append(time.time() - at)
        return f"{kind}: {self.seconds[kind][-1]:.1f} s"

    def _kill(self, kind: str) -> None:
        if kind == "TaskManager":
            self.cluster.kill("taskmanager")
            self.cluster.start_task_manager(wait=False)
        elif kind in ("worker", WRITES):
            os.kill(self.chance.choice(self.cluster.workers()), signal.SIGKILL)
        elif kind == "worker pool":
            self.cluster.kill("pool")
            self.cluster.start_pool(wait=False)
        elif kind == "JobManager":
            self.cluster.kill("jobmanager")
            self.cluster.start_job_manager(wait=False)
        elif kind == "Pub/Sub":
            self.pubsub.kill()
            time.sleep(self.chance.uniform(0, 3))
            self.pubsub.start()
        elif kind == "BigQuery" and self.warehouse is not None:
            self.warehouse.kill()
            time.sleep(self.chance.uniform(0, 3))
            self.warehouse.start()
        else:
            assert kind == "nothing"

    def wait(self, since: float) -> None:
        """Until there are scores of an as-of after a time, s, and a checkpoint that began after it."""
        end = time.monotonic() + WELL
        while not (self.output.newest() > since and self.checkpoint() > since):
            assert time.monotonic() < end, f"{since}: {self.output.newest()}, {self.checkpoint()}"
            time.sleep(POLL)

    def checkpoint(self) -> float:
        """When the last complete one began, s; 0 where none is known."""
        try:
            job = self._ask("/jobs/overview")["jobs"][0]["jid"]
            done = self._ask(f"/jobs/{job}/checkpoints")["latest"]["completed"]
        except (OSError, ValueError, KeyError, IndexError):
            return 0.0
        return float(done["trigger_timestamp"]) / 1000 if done else 0.0

    def _ask(self, what: str) -> dict[str, Any]:
        return flink_job.ask(f"http://{self.cluster.master}{what}")

    def _wait_for_a_write(self) -> None:
        end = time.monotonic() + 4 * EVERY
        while not self.cut() and time.monotonic() < end:
            time.sleep(0.001)

    def cut(self) -> list[Path]:
        """Files of scores that are being written, or whose writer was killed."""
        return list(self.folder.glob("out/live/*/scores/*.part"))

    def table(self) -> str:
        """The recoveries, as docs/flink-faults.md has them."""
        lines = ["| killed | times | min | median | max |", "|---|---|---|---|---|"]
        for kind, found in sorted(self.seconds.items()):
            figures = " | ".join(f"{x:.1f} s" for x in (min(found), statistics.median(found), max(found)))
            lines.append(f"| {kind} | {len(found)} | {figures} |")
        return "\n".join(lines)


def rehearse(
    world: Path,
    folder: Path,
    faults: Sequence[str],
    warehouse: Warehouse | None = None,
    told: Callable[[str], None] = print,
) -> None:
    """Runs a job over a stream of messages, with faults at random moments, and judges all that it wrote."""
    log = folder / "log"
    output = Output.bigquery(warehouse) if warehouse else Output.folder(folder / "out")
    common = ["--task", str(world / "task.yaml"), "--model", str(world / "model"), *ENGINE]
    if warehouse:
        foretide("schema", "apply", *common[:2], "--output", output.place)
    with ExitStack() as stack:
        pubsub = stack.enter_context(emulator(journal=folder / "journal"))
        topic = pubsub.topic("faults")
        traffic = Traffic(pubsub.address, topic, pubsub.subscription(topic, "faults-kept"), 100)
        subscription = pubsub.subscription(topic)
        lasting = "JobManager" in faults
        started = FlinkCluster(folder / "flink", environment=pubsub.environment, high_availability=lasting)
        cluster = stack.enter_context(started)
        first = int(time.time()) // EVERY * EVERY + EVERY
        where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}", "--parallelism=2"]
        where += ["--environment_type=EXTERNAL", f"--environment_config={cluster.pool}"]
        source = ["--subscription", subscription, "--from", format_time(first * SECOND), "--shards", "8"]
        source += ["--archive", str(folder / "archive"), "--checkpointing_interval=3000"]
        job = stack.enter_context(live(pubsub, *common, *source, "--output", output.place, *where, log=log))
        stack.enter_context(traffic.flowing())
        rehearsal = Rehearsal(folder, output, pubsub, cluster, warehouse)
        rehearsal.wait(time.time())
        for kind in faults:
            told(f"{rehearsal.fault(kind)}, {len(rehearsal.cut())} files were cut off")
            assert job.poll() is None, log.read_text()
        traffic.closing.set()
        closed = int(time.time()) // EVERY * EVERY + 2 * EVERY
        rehearsal.wait(closed + 2 * EVERY)  # what is late may come so long
        end = time.monotonic() + WELL
        while (counts := pubsub.counts(topic)).acks < 2 * counts.messages or len(traffic.kept) < counts.messages:
            assert time.monotonic() < end, counts
            time.sleep(5 * POLL)  # it goes through all messages
        if not warehouse:
            _drain(folder / "out", job, log)
    told(rehearsal.table())
    judge(folder, output, traffic, common, first, closed, told)


def _drain(out: Path, job: subprocess.Popen[bytes], log: Path) -> None:
    """Ends a job for good, as the user does; nothing is left over, and the counts add up."""
    (run,) = live_runs(out)
    stop_file(out, run).touch()
    assert job.wait(WELL) == Exit.OK, log.read_text()
    assert "Traceback" not in log.read_text()
    assert read_live_ledger(out, run).differences == ()


def judge(
    folder: Path,
    output: Output,
    traffic: Traffic,
    common: Sequence[str],
    first: int,
    closed: int,
    told: Callable[[str], None],
) -> None:
    """What was written is what a run over the very messages writes, each row once; the archive has every message."""
    backfill, events = Output.folder(folder / "backfill"), folder / "events.parquet"
    pq.write_table(traffic.events(), events)
    as_ofs = "..".join(format_time(t * SECOND) for t in (first, closed))
    foretide("score", *common, "--input", str(events), "--as-of", as_ofs, "--output", backfill.place)
    want, got = backfill.scores(closed), output.scores(closed)
    files = (folder / "archive").rglob("*.messages.parquet")
    archived = {name for file in files for name in pq.ParquetFile(file).read(["message_id"])["message_id"].to_pylist()}
    told(
        f"{len(traffic.kept):,} messages, of which {len(traffic.kept.keys() - archived)} are lost; {len(want):,} final "
        f"scores, of which {len(set(want) - set(got))} are wrong; {len(set(got) - set(want))} others; "
        f"{output.twice()} twice"
    )
    assert len(want) > 1000
    assert traffic.changed == []
    assert traffic.kept.keys() <= archived
    assert got == want
    assert output.twice() == 0


SOAK = {"nothing": 4, "TaskManager": 7, "worker": 4, WRITES: 4, "worker pool": 4, "JobManager": 6, "Pub/Sub": 5}
BIGQUERY = {"BigQuery": 4, "TaskManager": 1, "worker": 2, "Pub/Sub": 1}


@pytest.mark.soak(only=True)
@pytest.mark.parametrize("times", [SOAK, BIGQUERY], ids=["folder", "bigquery"])
def test_killed_at_random_moments(
    world: Path, tmp_path: Path, times: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    faults = [kind for kind, n in times.items() for _ in range(n)]
    random.Random(6).shuffle(faults)

    def told(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    with ExitStack() as stack:
        warehouse = stack.enter_context(Warehouse(tmp_path / "warehouse")) if "BigQuery" in faults else None
        rehearse(world, tmp_path, faults, warehouse, told)
