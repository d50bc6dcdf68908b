"""Parquet: row groups, only the columns that are needed. How they are read in bounded memory is in `rowgroups`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.events.formats import rowgroups
from pipelines.events.formats.base import (
    Format,
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
from pipelines.task.spec import Task

PIECE = 32 << 20  # bytes of whole row groups, at least one
BROKEN = (pa.ArrowException, OSError, ValueError, Unreadable)
LOST = "a row group that cannot be read"


@contextmanager
def reader(path: str) -> Iterator[pq.ParquetFile]:
    """An open file. Raises one of BROKEN."""
    with opened(path) as raw:
        rowgroups.check_footer(raw)
        with pq.ParquetFile(raw, pre_buffer=True, coerce_int96_timestamp_unit="us") as file:
            yield file


class Parquet(Format):
    """The format; pieces are row groups."""

    name = "parquet"
    title = "Parquet"
    endings: ClassVar[tuple[str, ...]] = (".parquet", ".pq")
    magic = b"PAR1"

    def pieces(self, path: str, size: int) -> list[Piece]:
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
                out.append(Piece(path, self.name, start, end, int(upto[end]) - int(upto[start]), start == 0))
                start = end
        return out or [Piece(path, self.name, 0, 0, size, True)]

    def fields(self, path: str) -> dict[str, str]:
        """Columns and their Arrow types. Raises Unreadable: no readable footer."""
        with _footer(path) as file:
            return {f.name: str(f.type) for f in file.schema_arrow}

    def row_size(self, path: str, size: int) -> float:
        with _footer(path) as file:
            return max(size, 1) / max(file.metadata.num_rows, 1)

    def read(self, piece: Piece, task: Task) -> Iterator[Rows | Refusal]:
        """Row groups [start, end). A row group that breaks off is refused from where it breaks."""
        try:
            with reader(piece.path) as file:
                schema, meta = file.schema_arrow, file.metadata
                groups = [meta.row_group(i).num_rows for i in range(file.num_row_groups)]
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
        for part in tables(piece, meta, columns, _dictionaries(task, schema)):
            if isinstance(part, Refusal):
                yield part._replace(position=f"row {first}")
                first += part.rows
            else:
                yield table_rows(part, first, "row {}")
                first += len(part)


READER = Parquet()


@contextmanager
def _footer(path: str) -> Iterator[pq.ParquetFile]:
    """An open file, of which the footer is looked at. Raises Unreadable."""
    try:
        with reader(path) as file:
            yield file
    except BROKEN as error:
        raise Unreadable(explain(error)) from error


def tables(
    piece: Piece, meta: pq.FileMetaData, columns: list[str], dictionary: list[str]
) -> Iterator[pa.Table | Refusal]:
    """The rows of row groups [start, end), in order, as tables, and what is lost of those that cannot be read."""
    try:
        groups = rowgroups.groups(meta, columns, piece.start, piece.end)
    except Unreadable as error:
        lost = sum(meta.row_group(i).num_rows for i in range(piece.start, piece.end))
        yield Refusal("", LOST, explain(error), "", lost, True)
        return
    with opened(piece.path) as file:
        for run in rowgroups.runs(groups):
            found = _together(file, meta, run, columns, dictionary) if len(run) > 1 else None
            if found is not None:
                yield from found
                continue
            for group in run:
                yield from _alone(file, meta, group, columns, dictionary)


def _together(
    file: BinaryIO, meta: pq.FileMetaData, run: list[rowgroups.RowGroup], columns: list[str], dictionary: list[str]
) -> list[pa.Table] | None:
    """The rows of some small row groups; None where one of them is damaged."""
    try:
        found = list(rowgroups.tables(file, meta, run, columns, dictionary))
    except BROKEN:
        return None
    return found if sum(map(len, found)) == sum(group.rows for group in run) else None


def _alone(
    file: BinaryIO, meta: pq.FileMetaData, group: rowgroups.RowGroup, columns: list[str], dictionary: list[str]
) -> Iterator[pa.Table | Refusal]:
    done, problem = 0, "it has fewer rows than the file says"
    try:
        for table in rowgroups.tables(file, meta, [group], columns, dictionary):
            yield table
            done += len(table)
    except BROKEN as error:
        problem = explain(error)
    if done < group.rows:
        yield Refusal("", LOST, problem, "", group.rows - done, True)


def _dictionaries(task: Task, schema: pa.Schema) -> list[str]:
    """Text columns with few distinct values: they stay encoded."""
    ev = task.events
    few = {ev.entity, *ev.where, *ev.categories}
    return [
        f.name for f in schema if f.name in few and (pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
    ]


def table_rows(table: pa.Table, first: int, place: str) -> Rows:
    """The rows of a table, numbered from `first`, and shown as JSON."""
    at = np.arange(first, first + len(table))
    return Rows(table, at, place, partial(json_row, table), raws=partial(json_rows, table))


def json_rows(table: pa.Table, rows: Sequence[int]) -> list[str]:
    """Some rows of a table as JSON: all of a column at once, unless one of its values has to be asked for alone."""
    try:
        columns = [column.to_pylist() for column in table.take(pa.array(rows, pa.int64())).columns]
    except (ValueError, OverflowError, pa.ArrowException):
        return [json_row(table, row) for row in rows]
    return [_json(dict(zip(table.column_names, cells, strict=True))) for cells in zip(*columns, strict=True)]


def json_row(table: pa.Table, row: int) -> str:
    """A row of a table as JSON; bytes that are not UTF-8 as \\xNN."""
    return _json({name: shown(table[name][row]) for name in table.column_names})


def _json(cells: dict[str, object]) -> str:
    return readable(json.dumps(cells, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def shown(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return readable(cell.cast(pa.binary()).as_py())
    except (ValueError, OverflowError):  # times that Python cannot hold
        return str(cell.cast(pa.int64()))
