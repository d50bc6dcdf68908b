"""Rows of a live job in BigQuery, on an emulator: written twice, refused, lost, and with the service away meanwhile."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.testing import test_stream
from apache_beam.transforms.periodicsequence import PeriodicImpulse

from pipelines.google.bigquery import execute
from pipelines.google.tables import Table
from pipelines.ledger.counts import Appended, DeadLetter, Ledger, Running, WindowRows
from pipelines.storage.bigquery import schema
from pipelines.storage.bigquery.append import RefusedRow
from pipelines.storage.rows import Run
from pipelines.transforms import append_table as livetable
from pipelines.transforms.append_table import AppendTable
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import Inputs, block_table, score_rows
from tests.support.score_blocks import DAY, ROWS, block, blocks, counters, letter, written
from tests.support.warehouse import PROJECT, Warehouse
from tests.transforms.test_running_ledger import on_prism

RUN = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
GOOD = Ledger(read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=200, scored=200)
LETTERS = [letter("row 3"), letter("row 12")]
ELSEWHERE: list[DeadLetter] = []


@pytest.fixture
def table(warehouse: Warehouse) -> Table:
    return warehouse.scores_tables(*RUN.outputs)


def stream(
    table: Table,
    scores: Sequence[ScoreBlock] = (),
    dead: Sequence[DeadLetter] = (),
    ledgers: Sequence[Ledger] = (),
    at: int = 7,
    letters: bool = True,
    attempt: str = "a",
) -> dict[str, int]:
    """A live job that is over at once; gives its counters, and in ELSEWHERE all dead letters."""
    ELSEWHERE.clear()
    append = AppendTable(replace(RUN, attempt=attempt), table, letters, partial(int, at))
    return written(append | beam.Map(keep), scores, dead, ledgers)


def keep(each: DeadLetter) -> None:
    ELSEWHERE.append(each)


def rows(warehouse: Warehouse, name: str, order: str = "score_id, revision") -> list[dict[str, Any]]:
    return warehouse.sql(f"SELECT * FROM `{name}` ORDER BY {order}")


def test_rows_that_are_there_twice_are_told_as_meant_and_visible(warehouse: Warehouse, table: Table) -> None:
    stream(table, blocks(1, 7), LETTERS, [GOOD])
    stream(table, blocks(2, 30), LETTERS, at=8, attempt="b")
    assert len(rows(warehouse, table.scores)) == 2 * len(ROWS)
    ledger = rows(warehouse, table.ledger, "finished_at")
    assert [(r["attempt"], r["meant"], r["visible"]) for r in ledger] == [("a", 200, 200), ("b", 200, 200)]
    assert [ledger[0][n] for n in ("staged", "added", "replaced", "unchanged", "kept")] == [None] * 5


def test_a_large_bundle_is_written_in_parts(
    warehouse: Warehouse, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(livetable._AppendScores, "most", 50)
    monkeypatch.setattr(livetable._AppendLetters, "most", 2)
    stream(table, blocks(1, 20), [letter(f"row {i}") for i in range(5)])
    assert len(rows(warehouse, table.scores)) == len(ROWS)
    assert len(rows(warehouse, table.dead_letters, "position")) == 5
    [ledger] = rows(warehouse, table.ledger, "finished_at")
    assert (ledger["meant"], ledger["visible"]) == (200, 200)


@pytest.mark.parametrize("letters", [True, False])
def test_rows_that_are_refused_are_dead_letters(warehouse: Warehouse, table: Table, letters: bool) -> None:
    """One that lacks what is required, and one that is too large; they alone."""
    bad = block([("a", 1, 0), ("b", 1, 0), ("c" * 9_000_000, 2, 0), ("d", 1, -1)])
    bad.entities[1] = None  # type: ignore[call-overload]
    stream(table, [bad], LETTERS, [GOOD], letters=letters)
    assert [r["entity_id"] for r in rows(warehouse, table.scores, "entity_id")] == ["a", "d"]
    null, large = sorted((each for each in ELSEWHERE if each.stage == "write"), key=lambda each: len(each.raw))
    assert len(ELSEWHERE) == 4
    assert (null.stage, null.source, null.rows) == ("write", str(table), 1)
    assert null.position == "None as of 1970-01-02"
    assert null.reason == "Missing required field: entity_id."
    assert '"revision": 0' in null.raw
    assert large.reason.startswith("the row has 9,0")
    found = rows(warehouse, table.dead_letters, "length(raw), position")
    if letters:
        assert [r["position"][:9] for r in found] == ["row 12", "row 3", "None as o", "ccccccccc"]
        assert len(found[-1]["raw"]) == 100_000
    else:
        assert found == []
    [ledger] = rows(warehouse, table.ledger, "finished_at")
    assert (ledger["scored"], ledger["failed"], ledger["meant"], ledger["visible"]) == (198, 2, 1, 1)


def test_a_dead_letter_that_is_too_large_is_shortened(warehouse: Warehouse, table: Table) -> None:
    stream(table, dead=[LETTERS[1], replace(LETTERS[0], payload=b"x" * 9_000_000)])
    found = rows(warehouse, table.dead_letters, "position")
    assert [(r["position"], r["payload"]) for r in found] == [("row 12", None), ("row 3", None)]


def test_a_dead_letter_that_is_refused_is_logged(
    warehouse: Warehouse, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {f.name: "STRING" for f in schema.arrow_schema("dead_letters", ())}
    columns |= {"rows": "INT64", "payload": "BYTES NOT NULL", "written_at": "TIMESTAMP"}
    described = ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
    warehouse.sql(f"CREATE OR REPLACE TABLE `{table.dead_letters}` ({described})")
    stream(table, dead=[LETTERS[0], replace(LETTERS[1], payload=b"x")])
    assert [r["position"] for r in rows(warehouse, table.dead_letters, "position")] == ["row 12"]
    [record] = [r for r in caplog.records if r.name == "pipelines.transforms.append_table"]
    assert record.levelno == logging.ERROR
    told = record.getMessage()
    assert told.startswith(f"{table.dead_letters} does not take a row: Missing required field: payload.: {{'stage'")
    assert "'position': 'row 3', 'reason': 'bad'" in told


def test_windows_are_counted_without_early_scores_and_refused_ones() -> None:
    data = block([("a", 1, 0), ("b", 1, 0), ("a", 2, 1), ("b", 2, 1), ("c", 2, -1), ("c", 2, 0)])
    scores = score_rows([block_table(data, RUN.outputs)], RUN)
    refused = [RefusedRow(1, "no")]
    assert livetable.appended(scores, []) == Appended({(DAY, 0): 2, (2 * DAY, 1): 2, (2 * DAY, 0): 1})
    assert livetable.appended(scores, refused) == Appended({(DAY, 0): 1, (2 * DAY, 1): 2, (2 * DAY, 0): 1})
    assert livetable.appended(scores.slice(0, 0), []) == Appended({})


def test_the_row_of_the_ledger() -> None:
    """An attempt goes on when a job is updated. What was not looked at is not known."""
    running = Running("first", GOOD, 9, windows={(DAY, 0): WindowRows(3, 1), (2 * DAY, 0): WindowRows(2)})
    [row] = livetable.ledger_row(RUN, running).to_pylist()
    assert (row["attempt"], row["meant"], row["visible"]) == ("first", 5, None)
    assert row["differences"] == ["as of 1970-01-02: 3 rows meant, 1 visible"]


def inputs(scores: beam.PCollection[ScoreBlock]) -> Inputs:
    """Of the sink: nothing but scores."""
    return (
        scores,
        scores | "Dead" >> beam.FlatMap(lambda _: ()).with_output_types(DeadLetter),
        scores | "Ledgers" >> beam.FlatMap(lambda _: ()).with_output_types(Ledger),
    )


def test_rows_that_vanish_are_told_aloud(
    prism: str, warehouse: Warehouse, table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the windows that changed, at the next look; and in each row of the ledger from then on."""
    rob = f"DELETE FROM `{table.scores}` WHERE entity_id = 'b'"
    plays = [block([("a", 1, 0), ("b", 1, 0), ("b", 1, -1)]), rob, block([("a", 2, 0), ("a", 1, 1)]), rob]
    source = test_stream.TestStream(coder=BytesCoder())
    for i, each in enumerate(plays):
        source = source.advance_watermark_to(10 * i).add_elements([pickle.dumps(each)])
        if each == rob:
            source = source.advance_watermark_to(10 * i + 5).advance_processing_time(1_000)
    with caplog.at_level(logging.ERROR), beam.Pipeline(options=on_prism(prism)) as p:
        played = p | source.advance_watermark_to_infinity() | beam.FlatMap(play)
        inputs(played) | AppendTable(RUN, table)
    ledger = rows(warehouse, table.ledger, "finished_at")
    difference = "as of 1970-01-02: {} rows meant, {} visible"
    assert [(r["meant"], r["visible"], r["differences"]) for r in ledger] == [
        (2, 1, [difference.format(2, 1)]),
        (4, 3, [difference.format(3, 2)]),
    ]
    told = f"{table.scores}: as of 1970-01-02, revision 0: 2 rows were appended, 1 are visible"
    assert [r.getMessage() for r in caplog.records if r.name == "pipelines.storage.bigquery.reconcile"] == [told]
    assert counters(p.result)["rows_missing"] == 1


def play(pickled: bytes) -> Iterator[ScoreBlock]:
    """A block is given, a statement executed."""
    each = pickle.loads(pickled)
    if isinstance(each, str):
        execute(PROJECT, each)
    else:
        yield each


def test_a_service_that_dies_loses_nothing(prism: str, tmp_path: Path) -> None:
    """It comes back a while later, with what it had acknowledged. It ends with the thread that starts it: this one."""
    with Warehouse(tmp_path) as warehouse:
        table = warehouse.scores_tables(*RUN.outputs)
        now = time.time()
        source = PeriodicImpulse(start_timestamp=now, stop_timestamp=now + 12, fire_interval=0.1)
        p = beam.Pipeline(options=on_prism(prism))
        inputs(p | source | beam.Map(score)) | AppendTable(RUN, table, every_s=2)
        result = p.run()
        seen = 0
        for _ in range(2):
            while (n := scores_in(warehouse, table)) == seen and n < 120:
                time.sleep(0.1)
            warehouse.kill()
            time.sleep(1)
            warehouse.start()
            seen = scores_in(warehouse, table)
            assert seen >= n
        result.wait_until_finish()
        assert len(rows(warehouse, table.view("current"))) == 120
        ledger = rows(warehouse, table.ledger, "finished_at")
        assert all(r["differences"] == [] for r in ledger)
        assert (ledger[-1]["meant"], ledger[-1]["visible"]) == (120, 120)


def scores_in(warehouse: Warehouse, table: Table) -> int:
    [row] = warehouse.sql(f"SELECT count(DISTINCT score_id) AS n FROM `{table.scores}`")
    return row["n"]


def score(moment: float) -> ScoreBlock:
    return block([(f"user {moment}", 1, 0)])
