"""Columns of a run's files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ledger.counts import Ledger
from pipelines.storage.rows import (
    DEAD_LETTERS,
    LEDGER,
    Run,
    ledger_table,
    ledgers,
    live_ledger,
    live_ledger_table,
    live_schema,
    read_ledger,
    score_schema,
)

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.csv",), 5, "m1", horizon=30, active_within=20)
FULL = Ledger(read=9, accepted=7, rejected=2, files=1, first_time=-3, last_time=8, reasons=(("bad", 1), ("worse", 1)))


@pytest.mark.parametrize("ledger", [FULL, Ledger()])
def test_a_ledger_survives_its_file(tmp_path: Path, ledger: Ledger) -> None:
    pq.write_table(ledger_table(RUN, ledger, "published", 6), tmp_path / "ledger.parquet")
    assert read_ledger(tmp_path / "ledger.parquet") == ledger


def test_the_ledger_row() -> None:
    table = ledger_table(RUN, Ledger(read=2, accepted=1), "unbalanced", 6)
    assert table.schema == LEDGER
    row = table.to_pylist()[0]
    assert (row["run_id"], row["attempt"], row["status"]) == ("churn-1", "a", "unbalanced")
    assert row["inputs"] == ["in/*.csv"]
    assert row["differences"] == ["2 events read, 1 accounted for"]
    assert row["first_time"] is None
    assert (row["model_version"], row["horizon"], row["active_within"]) == ("m1", 30, 20)


def test_score_columns_are_named_by_the_task() -> None:
    names = score_schema(["step_1", "step_2"]).names
    assert names[:5] == ["score_id", "task", "entity_id", "as_of", "revision"]
    assert names[5:7] == ["step_1", "step_2"]


def test_a_live_row_says_when_it_was_written() -> None:
    assert live_schema(score_schema(["churn"])).names == [*score_schema(["churn"]).names, "scored_at"]
    assert live_schema(DEAD_LETTERS).names == [*DEAD_LETTERS.names, "written_at"]


def test_the_last_row_of_each_attempt_makes_the_ledger_of_a_live_job() -> None:
    first = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
    again = Run("churn-live", "b", "churn", ("churn",), ("s", "in/*.csv"), 50)
    more = FULL + Ledger(read=2, accepted=1)
    rows = [live_ledger_table(first, FULL, 6), live_ledger_table(again, FULL, 60), live_ledger_table(first, more, 7)]
    table = pa.concat_tables(rows)
    assert table.schema == LEDGER
    assert table["attempt"].to_pylist() == ["a", "b", "a"]
    assert table["differences"].to_pylist() == [[]] * 3
    assert ledgers(table) == [FULL, FULL, more]
    assert live_ledger([table]) == live_ledger(rows[::-1]) == live_ledger([table, rows[0]]) == more + FULL
    assert live_ledger([]) == Ledger()


def test_a_ledger_of_a_file_that_lacks_a_column() -> None:
    table = ledger_table(RUN, FULL, "published", 6).drop_columns(["late"])
    assert ledgers(table) == [FULL]
