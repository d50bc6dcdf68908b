"""Scores in BigQuery through the real command line, on an emulator: runs over files, live jobs, kills and mistakes."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud.bigquery import LoadJobConfig

from pipelines.errors import Exit
from pipelines.google.bigquery import client
from pipelines.storage.folder.query import select
from tests.support.command_line import foretide
from tests.support.live_world import (
    AS_OFS,
    END,
    ENGINE,
    PATIENCE,
    SEAM,
    World,
    common,
    drained,
    live,
    publish,
    split,
)
from tests.support.services import Emulator
from tests.support.warehouse import PROJECT, Warehouse

pytestmark = pytest.mark.long

COLUMNS = "score_id, task, entity_id, as_of, revision, churn, model_version, n_events, last_event_time"
Rows = list[tuple[object, ...]]
SOAK = "FORETIDE_SOAK" in os.environ


@pytest.fixture(scope="module")
def backfill(world: World, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a run into a folder."""
    out = tmp_path_factory.mktemp("backfill")
    foretide("score", *flags(world, str(out)))
    return [tuple(row) for row in select(out, f"SELECT {COLUMNS} FROM scores ORDER BY score_id").rows]


@pytest.fixture
def output(warehouse: Warehouse, world: World) -> str:
    """Tables of scores in a dataset of their own."""
    place = f"bq://{PROJECT}.{warehouse.dataset()}.scores"
    foretide("schema", "apply", "--task", str(world.task), "--output", place)
    return place


def flags(world: World, output: str, as_ofs: str = AS_OFS, events: Sequence[Path | str] = ()) -> list[str]:
    where = ["--input", *map(str, events or [world.events]), "--as-of", as_ofs]
    return ["--task", str(world.task), "--model", str(world.model), *ENGINE, "--output", output, *where]


def rows(warehouse: Warehouse, output: str, name: str = "", columns: str = COLUMNS) -> Rows:
    """What a table or view of an output has of the as-ofs of `AS_OFS`; a live job goes on from there."""
    table, last = output.removeprefix("bq://") + name, AS_OFS.rpartition(".")[2]
    found = warehouse.sql(f"SELECT {columns} FROM `{table}` WHERE as_of <= '{last}' ORDER BY score_id")
    return [tuple(row.values()) for row in found]


def counts(told: str) -> dict[str, int]:
    """What the last screen says of the merge."""
    found = re.search(r"([\d,]+) new, ([\d,]+) corrected, ([\d,]+) equal, ([\d,]+) kept", told)
    assert found, told
    numbers = [int(n.replace(",", "")) for n in found.groups()]
    return dict(zip(("new", "corrected", "equal", "kept"), numbers, strict=True))


@contextmanager
def running(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def staging(warehouse: Warehouse, output: str) -> list[Any]:
    """Staging tables that are left."""
    dataset = output.removeprefix("bq://").rpartition(".")[0]
    found = warehouse.sql(f"SELECT table_name FROM `{dataset}`.INFORMATION_SCHEMA.TABLES")
    return [row["table_name"] for row in found if "_staging_" in row["table_name"]]


def test_a_table_has_the_rows_of_the_folder_and_a_rerun_changes_nothing(
    world: World, backfill: Rows, warehouse: Warehouse, output: str
) -> None:
    told = foretide("score", *flags(world, output))
    assert counts(told) == {"new": len(backfill), "corrected": 0, "equal": 0, "kept": 0}
    assert rows(warehouse, output) == rows(warehouse, output, "_current") == backfill
    before = rows(warehouse, output, columns="*")
    told = foretide("score", *flags(world, output))
    assert counts(told) == {"new": 0, "corrected": 0, "equal": len(backfill), "kept": 0}
    assert rows(warehouse, output, columns="*") == before
    ledger = warehouse.sql(f"SELECT * FROM `{output.removeprefix('bq://')}_ledger` ORDER BY finished_at")
    assert [(r["meant"], r["staged"], r["visible"]) for r in ledger] == [(len(backfill),) * 3] * 2
    assert all(r["status"] == "published" and r["differences"] == [] for r in ledger)
    assert staging(warehouse, output) == []


def killed_and_rerun(world: World, warehouse: Warehouse, output: str, folder: Path, kills: int) -> None:
    """Kills runs at random moments, during which a reader sees all scores of a run or none."""
    log, want = folder / "log", len(rows(warehouse, output))
    assert want == 0
    started = time.monotonic()
    with running("score", *flags(world, output), log=log) as run:
        assert run.wait(PATIENCE) == 0, log.read_text()
    whole, want = time.monotonic() - started, len(rows(warehouse, output))
    table = output.removeprefix("bq://")
    warehouse.sql(f"DELETE FROM `{table}` WHERE TRUE")
    seen, stop = set[int](), threading.Event()

    def look() -> None:
        while not stop.wait(0.2):
            seen.add(len(rows(warehouse, output, columns="score_id")))

    reader = threading.Thread(target=look)
    reader.start()
    seeded = random.Random(7)
    try:
        for _ in range(kills):
            with running("score", *flags(world, output), log=log) as run:
                time.sleep(seeded.uniform(0.5, 1.0) * whole)  # what comes before is the import of libraries
                run.send_signal(signal.SIGKILL)
            if len(rows(warehouse, output)) == want and seeded.random() < 0.5:
                warehouse.sql(f"DELETE FROM `{table}` WHERE TRUE")
    finally:
        stop.set()
        reader.join()
    assert seen <= {0, want}
    foretide("score", *flags(world, output))


@pytest.mark.soak
def test_killed_at_any_moment_a_rerun_ends_right(
    world: World, backfill: Rows, warehouse: Warehouse, output: str, tmp_path: Path
) -> None:
    kills = 20 if SOAK else 1
    killed_and_rerun(world, warehouse, output, tmp_path, kills)
    assert rows(warehouse, output) == backfill


@pytest.mark.soak
@pytest.mark.parametrize("share", [0.6, 0.7, 0.8, 0.9] if SOAK else [0.8])
def test_the_service_killed_and_back_again(world: World, backfill: Rows, tmp_path: Path, share: float) -> None:
    """The run ends right, or says what went wrong, and a rerun ends right."""
    with Warehouse(tmp_path / "warehouse") as own:
        place = f"bq://{PROJECT}.{own.dataset()}.scores"
        foretide("schema", "apply", "--task", str(world.task), "--output", place)
        log, started = tmp_path / "log", time.monotonic()
        with running("score", *flags(world, f"{place}", "2024-01-21"), log=log) as run:
            assert run.wait(PATIENCE) == 0, log.read_text()
        whole = time.monotonic() - started
        with running("score", *flags(world, place), log=log) as run:
            time.sleep(share * whole)
            own.kill()
            time.sleep(0.5)
            own.restart()
            code = run.wait(PATIENCE)
        told = log.read_text()
        assert "Traceback" not in told
        if code:
            assert code in (Exit.FAILED, Exit.UNBALANCED), told
            assert "foretide score: " in told or "UNBALANCED" in told
            foretide("score", *flags(world, place))
        assert rows(own, place) == backfill


def test_a_backfill_over_what_a_live_job_wrote(
    world: World, backfill: Rows, warehouse: Warehouse, output: str, pubsub: Emulator, tmp_path: Path
) -> None:
    """A live job that is killed, goes on from its archive, and misses the last events; then a backfill."""
    topic, archive, log = pubsub.topic("warehouse"), tmp_path / "archive", tmp_path / "log"
    history, first, second = split(world, SEAM, SEAM + 3 * 86_400)
    files = tmp_path / "history.parquet"
    pq.write_table(pa.Table.from_pylist(history), files)
    subscription = pubsub.subscription(topic)
    base = ["--archive", archive, "--from", "2024-01-21", *common(world, subscription, output)]
    publish(pubsub, topic, first, SEAM + 3 * 86_400)
    with live(pubsub, *base, "--bootstrap", files, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        wait_for_rows(warehouse, output, job, log)
        os.kill(job.pid, signal.SIGKILL)
    missed = [row for row in second if row["arrived"] >= END]
    publish(pubsub, topic, [row for row in second if row["arrived"] < END], END + 4 * 86_400)
    with live(pubsub, *base, "--bootstrap", files, archive, log=log) as job:
        pubsub.wait_until_acked(topic, PATIENCE)
        told = drained(job, log)
    assert "UNBALANCED" not in told
    assert missed
    raw, current = rows(warehouse, output), rows(warehouse, output, "_current")
    assert len(raw) > len(current)  # corrections, and what the killed job had written
    assert {row[0] for row in current} == {row[0] for row in raw}
    want = {row[0]: row for row in backfill}
    equal = sum(want.get(row[0]) == row for row in current)
    told = foretide("score", *flags(world, output))
    done = counts(told)
    assert done["equal"] == equal > 300
    assert done["new"] == len(want.keys() - {row[0] for row in current})
    assert done["corrected"] == len(backfill) - equal - done["new"] > 0
    assert done["kept"] == 0
    assert rows(warehouse, output, "_current") == backfill
    untouched = [row for row in raw if want[row[0]] == row]
    assert [row for row in rows(warehouse, output) if row in untouched] == untouched


def wait_for_rows(warehouse: Warehouse, output: str, job: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not rows(warehouse, output):
        assert job.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("drift", "told"),
    [
        ("DROP COLUMN n_events", "n_events"),
        ("ADD COLUMN comment STRING", "comment"),
        ("DROP COLUMN revision; ALTER TABLE `{}` ADD COLUMN revision STRING", "revision"),
    ],
)
def test_drifted_tables_are_refused_before_anything_is_read(
    world: World, warehouse: Warehouse, output: str, drift: str, told: str
) -> None:
    table = output.removeprefix("bq://")
    warehouse.sql(f"ALTER TABLE `{table}` {drift.format(table)}")
    text = foretide("score", *flags(world, output, events=["nowhere.parquet"]), expect=Exit.USAGE)
    assert told in text
    assert "nowhere" not in text


def test_mistakes_are_told_in_a_line(world: World, warehouse: Warehouse) -> None:
    def tell(output: str) -> str:
        return foretide("score", *flags(world, output), expect=Exit.USAGE)

    assert "bq://PROJECT.DATASET.TABLE" in tell("bq://scores")
    assert "bq://PROJECT.DATASET.TABLE" in tell("bq:/p.d.scores")
    dataset = warehouse.dataset()
    assert "foretide schema apply" in tell(f"bq://{PROJECT}.{dataset}.scores")
    assert "bq mk" in foretide(
        *("schema", "apply", "--task", str(world.task), "--output", f"bq://{PROJECT}.nothing.scores"),
        expect=Exit.USAGE,
    )


def test_beams_own_sink_is_for_dataflow(
    world: World, output: str, pubsub: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    subscription = pubsub.subscription(pubsub.topic("beam"))
    where = ["--task", str(world.task), "--model", str(world.model), "--output", output]
    told = foretide(
        *("stream", *where, "--subscription", subscription, "--bigquery-method", "beam", "--dry-run"),
        expect=Exit.USAGE,
    )
    assert "--bigquery-method beam is for Dataflow" in told


def test_a_dry_run_shows_tables_and_bytes_and_writes_nothing(world: World, warehouse: Warehouse, output: str) -> None:
    told = foretide("score", *flags(world, output), "--dry-run")
    assert output.removeprefix("bq://") in told
    assert re.search(r"merge +reads [\d.]+ ", told), told
    assert rows(warehouse, output) == []


def test_events_of_a_table_give_the_scores_of_the_files(
    world: World, backfill: Rows, warehouse: Warehouse, output: str
) -> None:
    table = f"{PROJECT}.{warehouse.dataset()}.events"
    with world.events.open("rb") as file:
        client(PROJECT).load_table_from_file(file, table, job_config=LoadJobConfig(source_format="PARQUET")).result()
    for events in (f"bq://{table}", f"bq://{PROJECT}?SELECT * FROM `{table}`"):
        foretide("score", *flags(world, output, events=[events]))
        assert rows(warehouse, output) == backfill
