"""What a live job finds in its table, and says of what it does not find."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipelines.google.bigquery import writer
from pipelines.google.tables import Table
from pipelines.storage.bigquery import schema
from pipelines.storage.bigquery.append import append, default_stream
from pipelines.storage.bigquery.reconcile import Reconcile, visible
from pipelines.storage.rows import Run
from pipelines.transforms.output_rows import block_table, score_rows, stamped
from tests.support.score_blocks import DAY, block
from tests.support.warehouse import Warehouse

RUN = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
OTHER = replace(RUN, run_id="churn-1")


@pytest.fixture
def table(warehouse: Warehouse) -> Table:
    return warehouse.scores_tables(*RUN.outputs)


def put(table: Table, run: Run, rows: Sequence[tuple[str, int, int]]) -> None:
    """Scores of (entity, day, revision)."""
    scores = stamped(score_rows([block_table(block(rows), run.outputs)], run), 7)
    assert append(writer(), default_stream(table.scores), schema.stored(scores, "scores", run.outputs)) == []


def test_scores_count_once_in_their_window(table: Table) -> None:
    put(table, RUN, [("a", 1, 0), ("b", 1, 0), ("a", 1, 1), ("a", 1, -1), ("a", 2, 0), ("c", 3, 0)])
    put(table, RUN, [("a", 1, 0), ("b", 1, 0)])
    put(table, replace(RUN, task="spend"), [("x", 1, 0)])
    windows = [(DAY, 0), (3 * DAY, 0), (DAY, 1), (3 * DAY, 2), (9 * DAY, 0)]
    assert visible(table, RUN, windows) == dict(zip(windows, [2, 1, 1, 0, 0], strict=True))


def test_scores_that_a_run_over_files_replaced_count(table: Table) -> None:
    """By one of the same revision or a higher one; not by a lower one."""
    put(table, RUN, [("a", 1, 1)])
    put(table, OTHER, [("a", 1, 1), ("b", 1, 1), ("c", 1, 2), ("d", 1, 0)])
    assert visible(table, RUN, [(DAY, 0), (DAY, 1), (DAY, 2)]) == {(DAY, 0): 4, (DAY, 1): 3, (DAY, 2): 1}


def test_what_is_missing_is_an_error(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    put(table, RUN, [("a", 1, 0), ("b", 1, 0), ("a", 2, 1)])
    compare = Reconcile(RUN, table)
    assert compare({(DAY, 0): 2, (2 * DAY, 1): 1}) == {(DAY, 0): 2, (2 * DAY, 1): 1}
    assert compare({(DAY, 0): 1}) == {(DAY, 0): 2}  # another attempt wrote one of them, too
    assert compare({}) == {}
    assert caplog.records == []
    assert compare({(DAY, 0): 3, (2 * DAY, 1): 1, (2 * DAY, 0): 120}) == {(DAY, 0): 2, (2 * DAY, 1): 1, (2 * DAY, 0): 0}
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.ERROR, f"{table.scores}: as of 1970-01-02, revision 0: 3 rows were appended, 2 are visible"),
        (logging.ERROR, f"{table.scores}: as of 1970-01-03, revision 0: 120 rows were appended, 0 are visible"),
    ]


def test_a_question_that_fails_is_a_warning(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    table = warehouse.table()
    assert Reconcile(RUN, table)({(DAY, 0): 3}) == {}
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{table.scores}: 1 windows were not compared: ")


def test_one_question_for_many_windows(table: Table) -> None:
    windows = [(day * DAY, revision) for day in range(400) for revision in range(5)]
    put(table, RUN, [("a", day, revision) for day in range(400) for revision in range(5)])
    assert visible(table, RUN, windows) == dict.fromkeys(windows, 1)
