"""The staging table comes and goes with its run; what the ledger says of a run."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.google.bigquery import client, writer
from pipelines.google.tables import Table
from pipelines.ledger.counts import Ledger
from pipelines.storage.bigquery.append import append, default_stream
from pipelines.storage.bigquery.merge import MergeCounts
from pipelines.storage.bigquery.schema import apply, plan, stored
from pipelines.storage.bigquery.staging import StagedResult, begin, cost, read_result
from pipelines.storage.rows import Run
from pipelines.transforms.write_table import MergedScores, ledger_row
from tests.support.warehouse import PROJECT, Warehouse

RUN = Run("churn-1", "a1", "churn", ("churn",), ("in/*.parquet",), 5, "m1")
GOOD = Ledger(
    read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=9, scored=9, first_time=3, last_time=4
)


@pytest.fixture
def table(warehouse: Warehouse) -> Table:
    return made(warehouse)


def made(warehouse: Warehouse) -> Table:
    table = warehouse.table()
    apply(plan(table, ["churn", "step_1"])[:3])
    return table


def names(table: Table) -> set[str]:
    return {t.table_id for t in client(PROJECT).list_tables(f"{PROJECT}.{table.dataset}")}


def test_a_staging_table_is_there_while_it_is_needed(table: Table) -> None:
    before = names(table)
    with begin(table, RUN) as name:
        assert name == table.staging("a1")
        there = client(PROJECT).get_table(name)
        columns = {field.name: field for field in client(PROJECT).get_table(table.scores).schema}
        assert [f.name for f in there.schema] == [c for c in columns if c != "step_1"]
        assert all(columns[f.name].mode == f.mode for f in there.schema)
        left = there.expires - datetime.now(UTC)
        assert timedelta(hours=23) < left < timedelta(hours=25)
        with begin(table, replace(RUN, attempt="a2")):
            assert len(names(table)) == len(before) + 2
    assert names(table) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_goes_when_the_run_fails(table: Table, error: type[BaseException]) -> None:
    with pytest.raises(error), begin(table, RUN):
        raise error
    assert table.staging("a1").rpartition(".")[2] not in names(table)


def test_no_table_no_run(warehouse: Warehouse) -> None:
    nowhere = warehouse.table()
    with pytest.raises(UserError, match=f"(?i){nowhere.staging('a1')}: .*not found"), begin(nowhere, RUN):
        pytest.fail("it has begun")


def test_a_service_that_is_gone_hides_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Warehouse(tmp_path) as fragile:
        table, start = made(fragile), time.monotonic()

        def fail() -> None:
            with begin(table, RUN):
                fragile.kill()
                raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            fail()
        assert time.monotonic() - start < 300  # and not as long as a statement may take
        assert f"{table.staging('a1')} was not dropped, and expires by itself: " in caplog.text


def put(table: Table, run: Run, merged: MergedScores, finished_at: int) -> None:
    row = stored(ledger_row(run, merged, finished_at), "ledger", [])
    assert append(writer(), default_stream(table.ledger), row) == []


def test_the_result_is_the_last_row_of_the_attempt(table: Table) -> None:
    done = MergedScores("published", 8, GOOD, (), 9, 9, MergeCounts(1, 2, 3, 3))
    put(table, RUN, replace(done, counts=MergeCounts(9)), 9)
    put(table, RUN, done, 10)
    put(table, RUN, done, 10)
    put(table, replace(RUN, attempt="a2"), replace(done, status="unbalanced", differences=("so", "and so")), 11)
    put(table, replace(RUN, run_id="churn-2"), replace(done, status="refused"), 12)
    assert read_result(table, "churn-1", "a1") == StagedResult(GOOD, "published", (), 9, 9, 9, 1, 2, 3, 3)
    other = read_result(table, "churn-1", "a2")
    assert (other.status, other.differences) == ("unbalanced", ("so", "and so"))
    with pytest.raises(AssertionError, match="without a row"):
        read_result(table, "churn-1", "a3")


def test_the_cost_of_a_merge(table: Table) -> None:
    assert cost(table, [0, 7]) == 0
