"""Rows of a live job into BigQuery: scores, dead letters and ledger are appended to its tables as they come. What a run
over files writes is in `write_table`.

Each row is there at least once. A bundle that is done again, and a request whose answer got lost, write their rows
again, which the views make one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from pipelines.google.bigquery import writer
from pipelines.google.tables import Table
from pipelines.ledger.counts import Appended, DeadLetter, Ledger, Running
from pipelines.storage.bigquery.append import RefusedRow, append, default_stream
from pipelines.storage.bigquery.reconcile import Reconcile
from pipelines.storage.bigquery.schema import arrow_schema, stored
from pipelines.storage.rows import Run, live_ledger_table
from pipelines.transforms.hold_rows import HoldLetters, HoldScores
from pipelines.transforms.output_rows import Inputs, now
from pipelines.transforms.running_ledger import RunningTotal
from pipelines.transforms.write_table import refused_letter, shortened

log = logging.getLogger(__name__)

SETTLING = 60.0  # seconds in which rows that another sink took can be seen


@dataclass(eq=False)  # not frozen: Beam keeps notes of its own on a transform
class AppendTable(beam.PTransform):
    """Appends (scores, dead letters, ledgers) of a live job to the tables; gives all dead letters, with those of scores
    that BigQuery refused.

    The ledger is a running total, see `RunningTotal`. Each of its rows says how many of the scores that were appended
    are visible in the table.

    Args:
      letters: whether dead letters are appended, too; otherwise something else is to take them.
      every_s: seconds from a change of the ledger to a row of it; the end of the input makes one, too.
      by: what writes the scores in place of our own sink; it gives `refused` and `counts`, as `WriteByBeam` does.
    """

    run: Run
    table: Table
    letters: bool = True
    clock: Callable[[], int] = now
    every_s: float = 300.0
    by: beam.PTransform | None = None

    def expand(self, inputs: Inputs) -> beam.PCollection[DeadLetter]:
        scores, dead, ledgers = inputs
        ours = beam.ParDo(_AppendScores(self.run, self.table, self.clock))
        ours = ours.with_output_types(DeadLetter, counts=Appended | Ledger)
        out = scores | "AppendScores" >> (self.by or ours.with_outputs("counts", main="refused"))
        look = Reconcile(self.run, self.table, SETTLING if self.by else 0.0)
        (
            (ledgers, out.counts)
            | "Counts" >> beam.Flatten()
            | RunningTotal(self.run.attempt, self.every_s, self.clock, look)
            | "AppendLedger" >> beam.FlatMap(_append_ledger, self.run, self.table)
        )
        letters = (dead, out.refused) | "Refused" >> beam.Flatten()
        if self.letters:
            letters | "AppendLetters" >> beam.ParDo(_AppendLetters(self.run, self.table, self.clock))
        return letters


class _AppendScores(HoldScores):
    """Gives a dead letter of each row refused; `counts`: rows of each window, and what the ledger must take back."""

    def __init__(self, run: Run, table: Table, clock: Callable[[], int]) -> None:
        super().__init__(run, clock)
        self.table = table

    def write(self, rows: pa.Table, at: int) -> Iterator[DeadLetter | TaggedOutput]:
        refused = append(writer(), default_stream(self.table.scores), stored(rows, "scores", self.run.outputs))
        for each in refused:
            yield refused_letter(self.table, rows, each)
        yield TaggedOutput("counts", appended(rows, refused))
        if refused:
            yield TaggedOutput("counts", Ledger(scored=-len(refused), failed=len(refused)))


class _AppendLetters(HoldLetters):
    def __init__(self, run: Run, table: Table, clock: Callable[[], int]) -> None:
        super().__init__(run, clock)
        self.table = table

    def write(self, rows: pa.Table, at: int) -> Iterable[Any]:
        rows = rows.append_column("status", pa.repeat("live", len(rows)))
        rows = stored(rows, "dead_letters", self.run.outputs)
        refused = append(writer(), default_stream(self.table.dead_letters), rows)
        if refused:
            _append_or_log(self.table.dead_letters, shortened(rows.take([each.row for each in refused])))
        return ()


def _append_ledger(running: Running, run: Run, table: Table) -> Iterable[Any]:
    _append_or_log(table.ledger, ledger_row(run, running))
    return ()


def appended(rows: pa.Table, refused: Sequence[RefusedRow]) -> Appended:
    """How many score rows of each window were not refused. Early scores are left out: they may come again."""
    pairs = np.stack([rows["as_of"].cast(pa.int64()).to_numpy(), rows["revision"].to_numpy()], axis=1)
    counted = pairs[:, 1] >= 0
    counted[[index for index, _ in refused]] = False
    windows, counts = np.unique(pairs[counted], axis=0, return_counts=True)
    return Appended(dict(zip(map(tuple, windows.tolist()), counts.tolist(), strict=True)))


def ledger_row(run: Run, running: Running) -> pa.Table:
    """The row of the ledger, which says of the rows of scores how many were meant to be visible, and how many are."""
    row = live_ledger_table(replace(run, attempt=running.attempt), running.total, running.at).to_pylist()[0]
    row |= {"differences": list(running.differences), "meant": running.meant, "visible": running.visible}
    return pa.Table.from_pylist([row], schema=arrow_schema("ledger", run.outputs))


def _append_or_log(table: str, rows: pa.Table) -> None:
    for index, reason in append(writer(), default_stream(table), rows):
        log.error("%s does not take a row: %s: %s", table, reason, rows.slice(index, 1).to_pylist()[0])
