"""BigQuery: tables, and the results of queries and views, as Arrow from the streams of a read session.

A session is a snapshot: its streams give the same rows, in the same order, as often as they are read, and by whomever,
for at least six hours. It has only the columns that the task needs, and only rows whose time some as-of can use: what
else a table holds is not read, and not paid for.
https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.events.decode import Since, Span
from pipelines.events.formats.base import Piece, Reader, Refusal, Rows
from pipelines.events.formats.parquet import table_rows
from pipelines.google.bigquery import TIMEOUT, answers, client, execute, explained, patiently, reader
from pipelines.google.tables import NAME, QUERY
from pipelines.system.versioned import versioned
from pipelines.task.fields import EPOCH, UNITS
from pipelines.task.spec import Task, TimeField

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField, Table
    from google.cloud.bigquery_storage_v1.types import ReadSession

FORMAT = "bigquery"
ROWS, BYTES = 1 << 17, 64 << 20  # in memory
STREAMS = 4  # for each worker, where BigQuery finds that the table is worth as many
DEADLINE = 600.0  # seconds in which a stream is read before it is asked again, from where it stood
READABLE = ("TABLE", "SNAPSHOT")  # other kinds, such as views, are asked with a query
STAMPS = {"TIMESTAMP": 1, "DATETIME": 1, "DATE": UNITS["d"]}  # us
WHOLE = ("INTEGER", "INT64")
NESTED = ("RECORD", "STRUCT", "RANGE", "ARRAY")
NANOS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@versioned("bigquery_stream")
@dataclass(frozen=True)
class Stream(Piece):
    """A stream of a read session; `start` is its number."""

    name: str
    schema: bytes  # of Arrow: a stream without rows says none


@dataclass(frozen=True)
class BigQueryInput:
    """What an input stands for: a table that can be read as it is, a view, or a query."""

    path: str
    project: str  # which pays
    fields: Mapping[str, str]  # name -> type, such as STRING, or ARRAY of STRING
    size: int  # bytes that a query would read
    table: Table | None
    sql: str | None  # of a query


@dataclass(frozen=True)
class BigQuerySession:
    """A snapshot to read."""

    pieces: tuple[Piece, ...]
    size: int  # bytes of the whole table
    modified: float  # when, seconds since 1970
    sample: Iterator[Rows]  # some rows of any time, or nothing


def look(path: str) -> BigQueryInput:
    """What is behind `bq://project.dataset.table` or `bq://project?query`. Nothing is read or run.

    Raises:
      UserError: it is neither, is not there, may not be read, or is wrong.
    """
    answers()
    query, table = QUERY.fullmatch(path), NAME.fullmatch(path)
    if query is not None:
        project, sql = query.groups()
        with explained(path):
            job = execute(project, sql, dry_run=True)
        if job.statement_type != "SELECT":
            raise UserError(f"{path}: an input is one SELECT, and this is {job.statement_type}")
        return BigQueryInput(path, project, _fields(job.schema), int(job.total_bytes_processed or 0), None, sql)
    if table is None:
        raise UserError(f'{path}: a table is named bq://PROJECT.DATASET.TABLE, a query "bq://PROJECT?SELECT ..."')
    with explained(path):
        name = ".".join(table.groups())
        there = patiently(lambda: client(table[1]).get_table(name, retry=None, timeout=TIMEOUT), TIMEOUT)
    return BigQueryInput(path, table[1], _fields(there.schema), 0, there, None)


def open_session(
    found: BigQueryInput, task: Task, span: Span | Since, workers: int, dry_run: bool = False
) -> BigQuerySession:
    """Runs the query, where there is one, and opens a session on its result, or on the table.

    Args:
      dry_run: a query is not run, and its one piece is as large as what it would read.

    Raises:
      UserError: BigQuery refuses, or a field of the task is of a type that no field can be.
    """
    columns = list(found.fields) if task.events.identity == "all" else list(task.columns)
    _check_types(found, task, columns)
    where = restriction(task, span, found.fields)
    sql, table = found.sql, found.table
    with explained(found.path):
        if table is not None and table.table_type not in READABLE:
            sql = _select(table, columns, where if found.fields[task.events.time.field] in STAMPS else "")
        if sql is not None and dry_run:
            size = found.size or int(execute(found.project, sql, dry_run=True).total_bytes_processed or 0)
            return BigQuerySession((Piece(found.path, FORMAT, 0, 0, size, True),), size, 0.0, iter(()))
        if sql is not None:
            result = execute(found.project, sql).destination
            table = patiently(lambda: client(found.project).get_table(result, retry=None, timeout=TIMEOUT))
        assert table is not None, "there is a table or a query"
        session = _session(found.project, table, columns, where, STREAMS * workers)
    size = int(table.num_bytes or 0) + int(getattr(table.streaming_buffer, "estimated_bytes", None) or 0)
    sample = _sample(found, table, columns, task)
    return BigQuerySession(_pieces(found.path, session), size, table.modified.timestamp(), sample)


def restriction(task: Task, span: Span | Since, fields: Mapping[str, str]) -> str:
    """SQL that is true of every row whose time some as-of of the run can use, or is null; empty where the type of the
    column does not tell its time."""
    name = task.events.time.field
    low, high = bounds(task, span)
    limits = [(">=", _literal(task.events.time, fields[name], low))]
    if high is not None:
        limits.append(("<", _literal(task.events.time, fields[name], high)))
    terms = [f"`{name}` {sign} {limit}" for sign, limit in limits if limit is not None]
    return f"({' AND '.join(terms)}) OR `{name}` IS NULL" if terms else ""


def bounds(task: Task, span: Span | Since) -> tuple[int, int | None]:
    """Times, us, before the first or from the second on are usable for no as-of."""
    if isinstance(span, Since):
        return span.first - task.history, None
    return span.as_ofs[0] - task.history, span.as_ofs[-1] + span.horizon


def _literal(spec: TimeField, kind: str, time: int) -> str | None:
    """The first value of a column whose time is `time` (us) or later; None where there is none."""
    if kind in WHOLE and spec.unit in NANOS:
        whole = -(-time * 1_000 // NANOS[spec.unit])
        return str(whole) if abs(whole) < 1 << 63 else None
    if kind not in STAMPS or spec.unit != "iso":
        return None
    try:
        moment = EPOCH.replace(tzinfo=None) + timedelta(microseconds=-(-time // STAMPS[kind]) * STAMPS[kind])
    except OverflowError:
        return None
    if kind == "DATE":
        return f"DATE '{moment.date()}'"
    return f"{kind} '{moment.isoformat(' ')}{'+00:00' if kind == 'TIMESTAMP' else ''}'"


class BigQuery(Reader):
    """Reads the streams of a session."""

    name = FORMAT
    piece = Stream

    def columns(self, piece: Piece) -> Collection[str]:
        assert isinstance(piece, Stream)
        return tuple(pa.ipc.read_schema(pa.py_buffer(piece.schema)).names)

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """All rows of a stream."""
        assert isinstance(piece, Stream)
        held, first = list[pa.RecordBatch](), 0
        for batch in _batches(piece):
            held.append(batch)
            rows = sum(map(len, held))
            if rows >= ROWS or sum(b.nbytes for b in held) >= BYTES:
                yield _rows(piece, task, held, first)
                held, first = [], first + rows
        if held:
            yield _rows(piece, task, held, first)


READER = BigQuery()


def _batches(stream: Stream) -> Iterator[pa.RecordBatch]:
    """All that a stream has, in order; a read that breaks off goes on where it was.

    Raises:
      UserError: BigQuery refuses to give it, as it does when the session is over.
    """
    columns, done = pa.ipc.read_schema(pa.py_buffer(stream.schema)), 0
    messages: Iterator[Any] | None = None

    def following() -> Any:
        nonlocal messages
        try:
            if messages is None:
                messages = iter(reader().read_rows(stream.name, done, retry=None, timeout=DEADLINE))
            return next(messages, None)
        except Exception:
            messages = None
            raise

    over = "cannot be read to its end; run the command again (a read session lasts six hours)"
    with explained(f"{stream.path}: stream {stream.start} {over}"):
        while (message := patiently(following)) is not None:
            done += message.row_count
            yield pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), columns)


def _rows(stream: Stream, task: Task, batches: list[pa.RecordBatch], first: int) -> Rows:
    table = pa.Table.from_batches(batches)
    if task.events.identity != "all":
        table = table.select(list(task.columns))
    return table_rows(table, first, f"row {{}} of stream {stream.start}")


def _check_types(found: BigQueryInput, task: Task, columns: list[str]) -> None:
    for name in columns:
        kind = found.fields[name]
        if kind == "INTERVAL" or (name in task.columns and kind.startswith(NESTED)):
            raise UserError(
                f"{found.path}: {name} is of type {kind}, of which no field can be: "
                f'take out of it what is needed, with "bq://{found.project}?SELECT ..."'
            )


def _fields(schema: list[SchemaField]) -> dict[str, str]:
    return {f.name: f"ARRAY of {f.field_type}" if f.mode == "REPEATED" else f.field_type for f in schema}


def _select(table: Table, columns: list[str], where: str) -> str:
    names = ", ".join(f"`{name}`" for name in columns)
    sql = f"SELECT {names} FROM `{table.project}.{table.dataset_id}.{table.table_id}`"
    return f"{sql} WHERE {where}" if where else sql


def _session(project: str, table: Table, columns: list[str], where: str, least: int, most: int = 0) -> ReadSession:
    """A session of `least` streams or more, if BigQuery finds the table worth them, and of at most `most` if not 0."""
    from google.cloud.bigquery_storage_v1 import types

    options = types.ReadSession.TableReadOptions(selected_fields=columns, row_restriction=where)
    compressed = types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
    options.arrow_serialization_options.buffer_compression = compressed
    name = table.reference.to_bqstorage()
    wanted = types.ReadSession(table=name, data_format=types.DataFormat.ARROW, read_options=options)
    request = types.CreateReadSessionRequest(
        parent=f"projects/{project}",
        read_session=wanted,
        preferred_min_stream_count=least,
        max_stream_count=most,
    )
    return patiently(lambda: reader().create_read_session(request=request, retry=None, timeout=TIMEOUT))


def _pieces(path: str, session: ReadSession) -> tuple[Piece, ...]:
    """The streams, which share what the session scans; an empty table is one piece with nothing in it."""
    size, schema = int(session.estimated_total_bytes_scanned), bytes(session.arrow_schema.serialized_schema)
    n = len(session.streams)
    upto = [size * k // n for k in range(n + 1)] if n else []
    pieces = tuple(
        Stream(path, FORMAT, k, k + 1, max(upto[k + 1] - upto[k], 1), k == 0, stream.name, schema)
        for k, stream in enumerate(session.streams)
    )
    return pieces or (Piece(path, FORMAT, 0, 0, 0, True),)


def _sample(found: BigQueryInput, table: Table, columns: list[str], task: Task) -> Iterator[Rows]:
    """Rows that have a time: also when the run can use none of the table, it can be said why."""
    with explained(found.path):
        session = _session(found.project, table, columns, f"`{task.events.time.field}` IS NOT NULL", 1, 1)
    for piece in _pieces(found.path, session):
        if isinstance(piece, Stream):
            yield from (_rows(piece, task, [batch], 0) for batch in _batches(piece))
