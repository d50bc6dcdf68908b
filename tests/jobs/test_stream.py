"""The live job through the real command line: a Pub/Sub emulator, Prism, kills, restarts and mistakes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import Exit
from pipelines.jobs.rehearse import compare
from pipelines.storage.folder.query import select
from tests.support.command_line import foretide
from tests.support.live_world import (
    AS_OFS,
    DAY,
    END,
    ENGINE,
    PATIENCE,
    SEAM,
    START,
    World,
    common,
    drained,
    live,
    publish,
    split,
)
from tests.support.services import Emulator

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def backfill(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("backfill")
    arguments = ["--task", str(world.task), "--input", str(world.events), "--as-of", AS_OFS]
    foretide("score", *arguments, "--model", str(world.model), *ENGINE, "--output", str(out))
    return out


def test_a_killed_job_goes_on_from_its_archive(world: World, backfill: Path, pubsub: Emulator, tmp_path: Path) -> None:
    topic = pubsub.topic("killed")
    out, archive, log = tmp_path / "out", tmp_path / "archive", tmp_path / "log"
    history, first, second = split(world, SEAM, SEAM + 3 * DAY)
    files = tmp_path / "history.parquet"
    pq.write_table(pa.Table.from_pylist(history), files)
    base = [*common(world, pubsub.subscription(topic), out), "--archive", archive, "--from", "2024-01-21"]
    publish(pubsub, topic, first, SEAM + 3 * DAY)
    with live(pubsub, *base, "--bootstrap", files, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        wait_for_scores(out, job, log)
        os.kill(job.pid, signal.SIGKILL)
    publish(pubsub, topic, second, END + 4 * DAY)
    with live(pubsub, *base, "--bootstrap", files, archive, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        told = drained(job, log)
    parity = compare(out, backfill, ["churn"])
    assert parity.equal, parity
    assert parity.rows > 300
    assert parity.corrected > 30
    assert not re.search(r"^  behind ", told, re.MULTILINE), told


def wait_for_scores(out: Path, job: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not list(out.glob("live/*/scores/*.parquet")):
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_bad_messages_are_kept_and_come_again(world: World, pubsub: Emulator, tmp_path: Path) -> None:
    topic = pubsub.topic("bad")
    out, log = tmp_path / "out", tmp_path / "log"
    history, rows, _ = split(world, SEAM, END)
    broken = [b'{"user": "user 1", "at": "soon", "id": "x1", "amount": 1, "price": 1}', b"{", b"\xff\x00"]
    base = [*common(world, pubsub.subscription(topic), out), "--from", "2024-01-21"]
    publish(pubsub, topic, history + rows)
    pubsub.publish(topic, broken, [{"arrival": str(SEAM * 1_000_000)}] * 3)
    publish(pubsub, topic, [], END + 4 * DAY)
    with live(pubsub, *base, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        told = drained(job, log)
    assert re.search(r"rejected +3 ", told), told
    letters = {row[0] for row in select(out, "SELECT payload FROM dead_letters WHERE stage = 'read'").rows}
    assert letters == set(broken)
    accounted = "accepted + duplicates + rejected + outside + pending"
    ledger = next(iter(select(out, f"SELECT read, {accounted} FROM ledger").rows))
    assert ledger[0] == ledger[1] == len(history) + len(rows) + 3
    retry = pubsub.topic("retry")
    where = ["--output", str(out), "--topic", retry]
    os.environ.update(pubsub.environment)
    try:
        assert "3" in foretide("replay", *where, "--dry-run")
        assert pubsub.counts(retry).messages == 0
        foretide("replay", *where, "--reason", "JSON")
        assert pubsub.counts(retry).messages == 1
    finally:
        del os.environ["PUBSUB_EMULATOR_HOST"]


FATAL = """
import os
from pipelines.events.formats import payloads
parse = payloads.parse
def dies(task, messages, payload):
    if any(b"poison" in data for data in messages.data):
        os._exit(7)
    return parse(task, messages, payload)
payloads.parse = dies
"""


def test_a_message_that_ends_the_job_does_so_once(
    world: World, pubsub: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder is made to die of it, as it would of a fault of a library in C."""
    (tmp_path / "sitecustomize.py").write_text(FATAL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    topic = pubsub.topic("poison")
    out, log = tmp_path / "out", tmp_path / "log"
    history, rows, _ = split(world, SEAM, END)
    base = [*common(world, pubsub.subscription(topic), out), "--from", "2024-01-21"]
    pubsub.publish(topic, [b"poison"], [{"arrival": str(START * 1_000_000)}])
    publish(pubsub, topic, history + rows)
    publish(pubsub, topic, [], END + 4 * DAY)
    with live(pubsub, *base, log=log) as job:
        assert job.wait(PATIENCE) == 7, log.read_text()
    with live(pubsub, *base, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        told = drained(job, log)
    assert re.search(r"rejected +1 ", told), told
    [(payload, reason)] = select(out, "SELECT payload, reason FROM dead_letters WHERE stage = 'read'").rows
    assert (payload, reason) == (b"poison", "a message that ends the process that decodes it: exit code 7")
    accounted = "accepted + duplicates + rejected + outside + pending"
    ledger = next(iter(select(out, f"SELECT read, {accounted} FROM ledger").rows))
    assert ledger[0] == ledger[1] == len(history) + len(rows) + 1
    assert not list(out.glob("live/*/decoding/*"))


def test_too_many_bad_messages_pause_the_job(world: World, pubsub: Emulator, tmp_path: Path) -> None:
    topic = pubsub.topic("paused-job")
    log = tmp_path / "log"
    stamp = {"arrival": str(SEAM * 1_000_000)}
    base = [*common(world, pubsub.subscription(topic), tmp_path / "out"), "--from", "2024-01-21"]
    pubsub.publish(topic, [b"no event"] * 200, [stamp] * 200)
    with live(pubsub, *base, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        pubsub.publish(topic, [b"no event"] * 50, [stamp] * 50)
        while "paused" not in log.read_text():
            assert job.poll() is None, log.read_text()
            time.sleep(0.1)
        told = drained(job, log)
    assert pubsub.counts(topic).outstanding == 50, told
    assert "--max-bad-share" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--from", "soon"], "--from soon: a time is a date"),
        (["--early", "often"], "--early often: a duration is"),
        (["--runner=BundleBasedDirectRunner"], "BundleBasedDirectRunner"),
        (["--runner=FlinkRunner"], "checkpointing_interval"),
        (["--bigquery-method", "beam"], "--bigquery-method and --replace-model are for tables of BigQuery"),
        (["--avro-schema", "nowhere.avsc"], "--avro-schema goes with --payload avro"),
        (["--payload", "avro", "--avro-schema", "nowhere.avsc"], "nowhere.avsc: cannot be read"),
        (["--dead-letters", "letters"], "projects/"),
        (["--bootstrap", "nowhere.parquet"], "nowhere.parquet: no such file"),
        (["--arrival-attribute", "a"], "say where it begins with --from"),
        (["--unknown"], "unknown option --unknown"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    changed: list[str], told: str, world: World, pubsub: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    name = f"mistake{abs(hash(tuple(changed))) % 10**9}"
    where = ["--subscription", pubsub.subscription(pubsub.topic(name)), "--output", str(tmp_path / "out")]
    arguments = ["--task", str(world.task), "--model", str(world.model), *where, *changed]
    assert told in foretide("stream", *arguments, expect=Exit.USAGE)
    assert not (tmp_path / "out").exists()


def test_a_subscription_that_is_not_there(world: World, pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    arguments = ["--task", str(world.task), "--model", str(world.model), "--output", "out"]
    told = foretide("stream", *arguments, "--subscription", "projects/test/subscriptions/none", expect=Exit.USAGE)
    assert "projects/test/subscriptions/none" in told


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    world: World, pubsub: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    where = ["--subscription", pubsub.subscription(pubsub.topic("dry")), "--output", str(tmp_path / "out")]
    arguments = ["--task", str(world.task), "--model", str(world.model), *where, "--bootstrap", str(world.events)]
    told = foretide("stream", *arguments, "--early", "30s", "--dry-run")
    assert "PrismRunner" in told
    assert "events.parquet" in told
    assert not (tmp_path / "out").exists()
