"""Parquet: row groups, read in batches, only the columns that are needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.task import Task
from pipelines.transforms.formats.base import (
    Piece,
    Refusal,
    Rows,
    Unreadable,
    ended,
    explain,
    opened,
    readable,
    without,
)

BATCH = 1 << 18  # rows in memory
PIECE = 32 << 20  # bytes of whole row groups, at least one
BROKEN = (pa.ArrowException, OSError, ValueError)


@contextmanager
def reader(path: str, dictionary: list[str] | None = None) -> Iterator[pq.ParquetFile]:
    """An open file. Raises one of BROKEN."""
    with (
        opened(path) as raw,
        pq.ParquetFile(raw, read_dictionary=dictionary, pre_buffer=True, coerce_int96_timestamp_unit="us") as file,
    ):
        yield file


def pieces(path: str, size: int) -> list[Piece]:
    """Consecutive row groups of about `PIECE` bytes."""
    try:
        with reader(path) as file:
            groups = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    except BROKEN:
        groups = []
    upto = np.cumsum([0, *groups]) / max(sum(groups), 1) * size  # bytes of the file up to each row group
    upto[-1] = size
    out, start = [], 0
    for end in range(1, len(upto)):
        if upto[end] - upto[start] >= PIECE or end == len(groups):
            out.append(Piece(path, "parquet", start, end, int(upto[end]) - int(upto[start]), start == 0))
            start = end
    return out or [Piece(path, "parquet", 0, 0, size, True)]


def fields(path: str) -> dict[str, str]:
    """Columns and their Arrow types.

    Raises:
      Unreadable: no readable footer.
    """
    try:
        with reader(path) as file:
            return {f.name: str(f.type) for f in file.schema_arrow}
    except BROKEN as error:
        raise Unreadable(explain(error)) from error


def read(piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
    """Row groups [start, end). A row group that breaks off is refused from where it breaks."""
    try:
        with reader(piece.path) as file:
            schema = file.schema_arrow
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    except BROKEN as error:
        yield Refusal("file", "not a readable Parquet file", explain(error), "", 1, True)
        return
    if len(groups) < piece.end:
        yield from ended(piece, len(groups), "row groups")
        return
    columns = list(schema.names) if task.events.identity == "all" else list(task.columns)
    first, rows = sum(groups[: piece.start]), sum(groups[piece.start : piece.end])
    lacking = next((c for c in task.columns if schema.names.count(c) != 1), None)
    if lacking is not None and rows:
        yield without(lacking, schema.names, rows)
    if lacking is not None:
        return
    with reader(piece.path, _dictionaries(task, schema)) as file:
        for group in range(piece.start, piece.end):
            yield from _group(file, group, columns, first, groups[group])
            first += groups[group]


def _group(file: pq.ParquetFile, group: int, columns: list[str], first: int, rows: int) -> Iterator[Rows | Refusal]:
    done = 0
    try:
        for batch in file.iter_batches(BATCH, [group], columns=columns, use_threads=False):
            table = pa.table(_sound(batch))
            yield Rows(table, np.arange(first + done, first + done + len(table)), "row {}", partial(json_row, table))
            done += len(table)
    except BROKEN as error:
        reason = "a row group that cannot be read"
        yield Refusal(f"row {first + done}", reason, explain(error), "", rows - done, True)


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch itself.

    Raises:
      pa.ArrowInvalid: damaged data give an index that is not in its dictionary, which Arrow itself never checks.
    """
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            most = pc.max(column.indices).as_py()
            if most is not None and most >= len(column.dictionary):
                raise pa.ArrowInvalid("an index outside its dictionary")
    return batch


def _dictionaries(task: Task, schema: pa.Schema) -> list[str]:
    """Text columns with few distinct values: they stay encoded."""
    ev = task.events
    few = {ev.entity, *ev.where, *ev.categories}
    return [
        f.name for f in schema if f.name in few and (pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
    ]


def json_row(table: pa.Table, row: int) -> str:
    """A row of a table as JSON; bytes that are not UTF-8 as \\xNN."""
    cells = {name: shown(table[name][row]) for name in table.column_names}
    return readable(json.dumps(cells, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def shown(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return readable(cell.cast(pa.binary()).as_py())
    except (ValueError, OverflowError):  # times that Python cannot hold
        return str(cell.cast(pa.int64()))
