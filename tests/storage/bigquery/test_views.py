"""The views over tables of BigQuery and over a folder: equal answers to the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pipelines.google.bigquery import execute, writer
from pipelines.google.tables import Table
from pipelines.ledger.counts import Ledger
from pipelines.storage.bigquery.append import append, default_stream
from pipelines.storage.bigquery.schema import Kind, apply, plan, stored
from pipelines.storage.folder.query import select
from pipelines.storage.rows import Run, ledger_table, live_ledger_table
from tests.support.folder_outputs import Row, append_rows, publish_rows, score_table

if TYPE_CHECKING:
    from tests.support.warehouse import Warehouse

DAY = 86_400_000_000
SCORES: Kind = "scores"
LEDGER: Kind = "ledger"
VIEWS = ("current", "history", "forecasts", "movers", "calibration")
OUTPUTS = ("churn", "step_1", "step_2", "step_1_p10", "step_1_p97_5", "step_2_p10", "step_2_p97_5")
SHOP = Run("shop-1", "a", "shop", OUTPUTS[:1], (), 0, "m1", horizon=14 * DAY, active_within=10 * DAY)
PRICE = Run("price-1", "a", "price", OUTPUTS[1:], (), 0, "p1")

Value = str | int | float | None


@dataclass(frozen=True)
class Written:
    """What a run wrote, in one piece; the same piece may be written twice."""

    run: Run
    rows: pa.Table
    at: int  # us
    live: bool

    @property
    def ledger(self) -> pa.Table:
        if self.live:
            return live_ledger_table(self.run, Ledger(), self.at)
        return ledger_table(self.run, Ledger(), "published", self.at)


def lives(task: Run, seed: int) -> dict[str, list[int]]:
    """Times of the events of some entities, us: often, rarely, and until one day."""
    random = np.random.default_rng(seed)
    found = {}
    for i in range(30):
        times = np.cumsum(random.exponential(random.uniform(1, 9), 60))
        found[f"{task.task} {i}"] = (times[times < random.uniform(20, 120)] * DAY).astype(int).tolist()
    return found


def batch(run: Run, days: Sequence[int], at: int, revision: int = 0, history: int = 28, live: bool = False) -> Written:
    """Scores as of these days of all that had events in the history."""
    random = np.random.default_rng(at)
    rows: list[Row] = []
    for entity, times in lives(run, 1).items():
        for day in days:
            seen = [t for t in times if (day - history) * DAY <= t < day * DAY]
            if seen:
                scores = np.sort(random.random(len(run.outputs))).tolist()
                rows.append((entity, day * DAY, revision, run.model_version, seen[-1], scores))
    return Written(run, score_table(run, rows, at), at, live)


def some(written: Written, share: float, at: int) -> Written:
    """Rows at random."""
    chosen = np.random.default_rng(at).random(len(written.rows)) < share
    return replace(written, rows=written.rows.filter(pa.array(chosen)))


def world() -> Iterator[Written]:
    """Runs over files of two models, a live job with corrections, early scores and doubles, and paths."""
    yield batch(SHOP, range(28, 70, 7), 1_000)
    yield batch(replace(SHOP, run_id="shop-2", model_version="m2"), range(56, 84, 7), 2_000)
    job = replace(SHOP, run_id="shop-live", model_version="m2")
    for number, (revision, share) in enumerate([(-1, 0.5), (0, 0.8), (1, 0.3), (2, 0.1), (0, 0.2)]):
        piece = some(batch(job, range(70, 105, 7), 1_500 + 300 * number, revision, live=True), share, number)
        yield piece
        yield some(piece, 0.5, 10 + number)  # twice, with all that they say
    # This horizon ends between two as-ofs, and the history is shorter than it.
    other = Run("other-1", "a", "other", OUTPUTS[:1], (), 0, "o1", horizon=17 * DAY, active_within=8 * DAY)
    yield batch(other, [*range(28, 70, 7), *range(80, 100, 7)], 3_000, history=9)
    yield batch(PRICE, range(28, 70, 7), 4_000)
    corrected = batch(replace(PRICE, run_id="price-live"), range(63, 77, 7), 4_500, revision=1, live=True)
    yield some(corrected, 0.5, 1)


def plain(rows: Iterable[Sequence[object]]) -> list[list[Value]]:
    """In an order that does not hang on the last digits of floats; times as text."""
    values = [[v if v is None or isinstance(v, str | int | float) else _text(v) for v in row] for row in rows]
    return sorted(values, key=lambda row: [f"{v:.9g}" if isinstance(v, float) else str(v) for v in row])


def _text(value: object) -> str:
    assert isinstance(value, datetime)
    return value.astimezone(UTC).isoformat()


def same(a: Value, b: Value) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)
    return type(a) is type(b) and a == b


@pytest.fixture(scope="module")
def both(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table]:
    out, table = tmp_path_factory.mktemp("scores"), warehouse.table()
    pieces = list(world())
    for piece in pieces:
        (append_rows if piece.live else publish_rows)(out, piece.run, piece.rows, piece.at)
    for task in (SHOP, PRICE):
        apply(plan(table, task.outputs))
    for piece in pieces:
        for name, kind, rows in ((table.scores, SCORES, piece.rows), (table.ledger, LEDGER, piece.ledger)):
            assert append(writer(), default_stream(name), stored(rows, kind, piece.run.outputs)) == []
    return out, table


@pytest.mark.parametrize("view", VIEWS)
def test_equal_answers(both: tuple[Path, Table], view: str) -> None:
    out, table = both
    folder = select(out, f"SELECT * FROM scores_{view}")
    found = execute(table.project, f"SELECT * FROM `{table.view(view)}`").result()
    assert [field.name for field in found.schema] == list(folder.names)
    ours, theirs = plain(folder.rows), plain(row.values() for row in found)
    assert len(ours) == len(theirs) > 10
    for a, b in zip(ours, theirs, strict=True):
        assert all(map(same, a, b)), (a, b)


def test_what_the_rows_are_like(both: tuple[Path, Table]) -> None:
    """So that the answers above are about all that there is to say."""
    out, table = both
    rows = execute(table.project, f"SELECT count(*), count(DISTINCT score_id) FROM `{table.scores}`").result()
    ((written, distinct),) = (row.values() for row in rows)

    def one(sql: str) -> tuple[object, ...]:
        (row,) = select(out, sql).rows
        return row

    counts = "count(*), count(DISTINCT score_id), count(DISTINCT revision), count(DISTINCT run_id)"
    assert one(f"SELECT {counts} FROM scores") == (distinct, distinct, 4, 6)
    assert written > one("SELECT count(*) FROM scores_history")[0] > distinct
    assert one("SELECT count(DISTINCT model_version), count(DISTINCT bin) FROM scores_calibration") == (3, 10)
    assert one("SELECT count(*) >= 10 FROM scores_calibration WHERE churned NOT IN (0, 1)") == (True,)
    assert one("SELECT count(DISTINCT output) FROM scores_movers") == (3,)


@pytest.mark.parametrize("outputs", [(), ("churn",), ("step_1", "step_2")])
def test_tables_without_rows(warehouse: Warehouse, tmp_path: Path, outputs: Sequence[str]) -> None:
    """Columns of a table of one task are those of a folder of that task; without a task, those of an empty folder."""
    table = warehouse.table()
    apply(plan(table, outputs))
    if outputs:
        run = Run("r", "a", "shop", tuple(outputs), (), 0)
        publish_rows(tmp_path, run, score_table(run, [], 1), 1)
    for view in VIEWS:
        found = execute(table.project, f"SELECT * FROM `{table.view(view)}`").result()
        assert [field.name for field in found.schema] == list(select(tmp_path, f"FROM scores_{view}").names)
        assert list(found) == []
