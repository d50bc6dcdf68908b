"""Rows of a run over files into BigQuery: they wait in streams that nobody sees, or in a staging table, until all are
there, and then one statement merges them. What a live job writes is in `append_table`.

What the statement does is in `storage.bigquery.merge`, and how rows get into a stream in `storage.bigquery.append`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from pipelines.google.bigquery import client, execute, explained, patiently, writer
from pipelines.google.tables import Table, WriteMethod
from pipelines.ledger.counts import DeadLetter, Ledger, Status, total
from pipelines.storage.bigquery import schema
from pipelines.storage.bigquery.append import AppendError, RefusedRow, append, append_pending, commit, default_stream
from pipelines.storage.bigquery.merge import MergeCounts, merge, staged, time_parameter, visible
from pipelines.storage.rows import Run, ledger_table
from pipelines.system.versioned import versioned
from pipelines.task.fields import format_time
from pipelines.transforms.hold_rows import LETTERS, Hold, HoldScores
from pipelines.transforms.output_rows import Inputs, Letter, letter_fields, letter_rows, now, run_status, stamped

TEXT = 100_000  # characters of each text in a dead letter that is too large as it is


@versioned("merged")
@dataclass(frozen=True)
class MergedScores:
    """What became of the scores of a run."""

    status: Status
    at: int  # us
    ledger: Ledger
    differences: tuple[str, ...]
    staged: int = 0
    visible: int = 0
    counts: MergeCounts = field(default_factory=MergeCounts)


@dataclass(eq=False)  # not frozen: Beam keeps notes of its own on a transform
class WriteTable(beam.PTransform):
    """Writes (scores, dead letters, ledgers) of a run into the tables; gives one `MergedScores`.

    Ledgers are summed. A run that is not published leaves the table of scores as it is. The scores change in one step,
    then the dead letters, and a row of the ledger is the last: a run that ends in between is mended by the next one. A
    score that BigQuery refuses becomes a dead letter. To be run inside `staging.begin`.

    Args:
      as_ofs: of the scores, us.
      method: by streams that are committed together, or by load jobs.
      replace_model: whether scores take the place of those that another model made of the same revision.
    """

    run: Run
    table: Table
    as_ofs: tuple[int, ...]
    method: WriteMethod = "storage"
    replace_model: bool = False
    clock: Callable[[], int] = now

    def expand(self, inputs: Inputs) -> beam.PCollection[MergedScores]:
        scores, dead, ledgers = inputs
        write = _LoadScores if self.method == "load" else _StreamScores
        writing = beam.ParDo(write(self.run, self.table, self.clock))
        writing = writing.with_output_types(str, dead=DeadLetter, ledger=Ledger)
        written = scores | "WriteScores" >> writing.with_outputs("dead", "ledger", main="streams")
        ledger = (
            (ledgers, written.ledger)
            | "Ledgers" >> beam.Flatten()
            | "SumLedgers" >> beam.CombineGlobally(total).with_output_types(Ledger)
        )
        start = ledgers.pipeline | "Last" >> beam.Create([None], reshuffle=False)
        how = self.run, self.table, self.as_ofs, self.replace_model, self.clock
        merging = beam.Map(_merge, AsList(written.streams), AsSingleton(ledger), *how)
        merged = AsSingleton(start | "Merge" >> merging.with_output_types(MergedScores))
        letters = (dead, written.dead) | "Dead" >> beam.Flatten()
        writing = beam.ParDo(_WriteLetters(self.run, self.table), merged)
        streams = letters | "WriteLetters" >> writing.with_output_types(str)
        finishing = beam.Map(_finish, merged, AsList(streams), self.run, self.table, self.clock)
        return start | "Finish" >> finishing.with_output_types(MergedScores)


class _WriteScores(HoldScores):
    """Gives the streams to be committed; `dead` and `ledger`: of rows that BigQuery refuses."""

    def __init__(self, run: Run, table: Table, clock: Callable[[], int]) -> None:
        super().__init__(run, clock)
        self.table, self.staging = table, table.staging(run.attempt)

    def write(self, rows: pa.Table, at: int) -> Iterator[str | TaggedOutput]:
        with explained(self.staging):
            streams, refused = self.stage(schema.stored(rows, "scores", self.run.outputs))
        yield from streams
        for each in refused:
            yield TaggedOutput("dead", refused_letter(self.table, rows, each))
        if refused:
            yield TaggedOutput("ledger", Ledger(scored=-len(refused), failed=len(refused)))

    def stage(self, rows: pa.Table) -> tuple[list[str], list[RefusedRow]]:
        """The streams to be committed, and the rows that BigQuery refuses."""
        raise NotImplementedError


class _StreamScores(_WriteScores):
    def stage(self, rows: pa.Table) -> tuple[list[str], list[RefusedRow]]:
        pending, refused = append_pending(writer(), self.staging, rows)
        return [pending.name], refused


class _LoadScores(_WriteScores):
    """A bundle that is done again loads its rows again, which the merge makes one."""

    def stage(self, rows: pa.Table) -> tuple[list[str], list[RefusedRow]]:
        from google.api_core.exceptions import BadRequest

        try:
            patiently(lambda: load(self.table.project, self.staging, rows))
        except BadRequest:  # does not say which rows
            return [], append(writer(), default_stream(self.staging), rows)
        return [], []


def _merge(
    _: None,
    streams: list[str],
    ledger: Ledger,
    run: Run,
    table: Table,
    as_ofs: tuple[int, ...],
    replace_model: bool,
    clock: Callable[[], int],
) -> MergedScores:
    status = run_status(ledger, run.max_bad_share)
    if status != "published":
        return MergedScores(status, clock(), ledger, ledger.differences)
    staging, n, counts = table.staging(run.attempt), 0, MergeCounts()
    with explained(str(table)):
        if streams:
            commit(writer(), staging, streams)
        here = staged(table, staging)
        if here == ledger.scored:
            counts = merge(table, staging, run.outputs, as_ofs, replace_model)
            n = visible(table, staging, as_ofs)
    differences = []
    if here != ledger.scored:
        differences.append(f"{ledger.scored} scores meant for {table}, {here} staged: none was merged")
    elif n != here:
        differences.append(f"{here} scores staged for {table}, {n} visible")
    status = "unbalanced" if differences else "published"
    return MergedScores(status, clock(), ledger, tuple(differences), here, n, counts)


class _WriteLetters(Hold):
    """Into streams to be committed. They are written when the status of the run is known, which each letter has."""

    most = LETTERS

    def __init__(self, run: Run, table: Table) -> None:
        self.run, self.table = run, table

    def process(self, letter: DeadLetter, merged: MergedScores) -> Iterator[str]:
        self.merged = merged
        yield from self.hold(letter_fields(letter))

    def flush(self, held: list[Letter]) -> Iterator[str]:
        rows = letter_rows(held, self.run.run_id)
        rows = rows.append_column("status", pa.repeat(self.merged.status, rows.num_rows))
        rows = schema.stored(stamped(rows, self.merged.at), "dead_letters", self.run.outputs)
        name = self.table.dead_letters
        with explained(name):
            pending, refused = append_pending(writer(), name, rows)
            streams = [pending.name]
            if refused:
                pending, refused = append_pending(writer(), name, shortened(rows.take([row for row, _ in refused])))
                streams.append(pending.name)
        if refused:
            raise AppendError(f"{name}: {refused[0].reason}")
        yield from streams


def _finish(
    _: None, merged: MergedScores, letters: list[str], run: Run, table: Table, clock: Callable[[], int]
) -> MergedScores:
    """Dead letters of earlier attempts go when those of this one are there, as those of a folder do: a published run
    replaces all, another one those with its status."""
    with explained(str(table)):
        if letters:
            commit(writer(), table.dead_letters, letters)
        execute(
            table.project,
            f"DELETE FROM `{table.dead_letters}` WHERE run_id = @run_id AND written_at < @at"
            " AND (@status = 'published' OR status = @status)",
            {
                "run_id": ("STRING", run.run_id),
                "at": time_parameter(merged.at),
                "status": ("STRING", merged.status),
            },
        )
        row = schema.stored(ledger_row(run, merged, clock()), "ledger", run.outputs)
        refused = append(writer(), default_stream(table.ledger), row)
    if refused:
        raise AppendError(f"{table.ledger}: {refused[0].reason}")
    return merged


def load(project: str, name: str, rows: pa.Table) -> None:
    """Appends rows to a table by a load job.

    Raises:
      BadRequest: BigQuery does not take them. Other errors of Google's: it could not be asked, or they are there
        although it did not say so.
    """
    from google.cloud.bigquery import LoadJobConfig, SourceFormat

    service, file = client(project), BytesIO()
    pq.write_table(rows, file, compression="zstd", compression_level=1)
    # Without the schema, columns that may not be null are refused: those of the file may.
    config = LoadJobConfig(
        source_format=SourceFormat.PARQUET,
        write_disposition="WRITE_APPEND",
        schema=service.get_table(name, retry=None).schema,
    )
    service.load_table_from_file(file, name, rewind=True, job_config=config).result(retry=None)


def refused_letter(table: Table, rows: pa.Table, refused: RefusedRow) -> DeadLetter:
    """The dead letter of a row of scores that BigQuery did not take."""
    row = rows.slice(refused.row, 1)
    as_of = row["as_of"].cast(pa.int64())[0].as_py()
    raw = json.dumps(row.to_pylist()[0], default=str, ensure_ascii=False)
    position = f"{row['entity_id'][0].as_py()} as of {format_time(as_of)}"
    return DeadLetter("write", str(table), position, refused.reason, 1, raw)


def shortened(letters: pa.Table) -> pa.Table:
    """Dead letters without what is to be sent again, and with the begin of what else is long."""
    for i, column in enumerate(letters.schema):
        if column.type == pa.string():
            letters = letters.set_column(i, column, pc.utf8_slice_codeunits(letters[i], 0, TEXT))
        elif column.type == pa.binary():
            letters = letters.set_column(i, column, pa.nulls(letters.num_rows, column.type))
    return letters


def ledger_row(run: Run, merged: MergedScores, finished_at: int) -> pa.Table:
    """The row of the ledger of an attempt."""
    row = ledger_table(run, merged.ledger, merged.status, finished_at)
    at = row.schema.get_field_index("differences")
    row = row.set_column(at, row.schema.field(at), pa.array([list(merged.differences)], row.schema.field(at).type))
    numbers = {"meant": merged.ledger.scored, "staged": merged.staged, "visible": merged.visible}
    for name, number in {**numbers, **vars(merged.counts)}.items():
        row = row.append_column(name, pa.array([number], pa.int64()))
    return row
