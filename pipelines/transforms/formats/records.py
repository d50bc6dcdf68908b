"""Rows that come one by one, as dictionaries: checked and put into columns. Slow and tolerant; for rows of a chunk that
does not parse as a whole, and for formats that have no other way.

Rows whose fields have the same kinds of values share a table, with the very types that the fast way has: whichever way
a row is read, it means the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa

from pipelines.task import Kind, Task
from pipelines.transforms.formats.base import Ints, shorten

Record = Mapping[str, object]
TYPES: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", "UTC"),
    date: pa.date32(),
}
NESTED: dict[type, str] = {dict: "an object", list: "a list"}


class Bad(NamedTuple):
    """Why a row is refused."""

    reason: str
    value: str


def tables(task: Task, records: Sequence[Record]) -> tuple[list[tuple[pa.Table, Ints]], dict[int, Bad]]:
    """(table, its rows) for each combination of types, and the rows that fit none."""
    groups: dict[tuple[type, ...], list[int]] = {}
    cells: list[list[object]] = []
    bad: dict[int, Bad] = {}
    for row, record in enumerate(records):
        values, problem = _cells(task, record)
        cells.append(values)
        if problem is None:
            groups.setdefault(tuple(map(type, values)), []).append(row)
        else:
            bad[row] = problem
    return [
        (_table(task, [records[r] for r in rows], [cells[r] for r in rows]), np.array(rows)) for rows in groups.values()
    ], bad


def _table(task: Task, records: Sequence[Record], cells: list[list[object]]) -> pa.Table:
    """Rows of one combination of types. With identity `all` the other fields are there as text, to be compared."""
    columns = {
        name: pa.array([row[i] for row in cells], TYPES.get(type(cells[0][i]), pa.null()))
        for i, name in enumerate(task.columns)
    }
    if task.events.identity == "all":
        others = sorted({name for record in records for name in record} - set(columns))
        columns |= {name: pa.array([_comparable(r.get(name)) for r in records], pa.string()) for name in others}
    return pa.table(columns)


def _comparable(value: object) -> str | None:
    return None if value is None else json.dumps(value, default=repr, sort_keys=True)


def _cells(task: Task, record: Record) -> tuple[list[object], Bad | None]:
    values: list[object] = []
    for name, kind in task.columns.items():
        value, problem = _cell(record.get(name), kind)
        if problem:
            return [], Bad(f"{name} is {problem}", shorten(repr(record.get(name))))
        values.append(value)
    return values, None


def _cell(value: object, kind: Kind) -> tuple[object, str]:
    """The value as one of `TYPES`, or what is wrong with it."""
    if isinstance(value, str):
        return (value, "") if value.isascii() or _valid(value) else (value, "text that is not Unicode")
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if kind == "number":
            return _number(value), ""
        if -(1 << 63) <= value < 1 << 63:
            return value, ""
        return (str(value), "") if kind == "text" else (value, "out of range")
    if value is None or type(value) in TYPES:
        return value, ""
    if isinstance(value, UUID):
        return str(value), ""
    return value, NESTED.get(type(value), f"a {type(value).__name__}")


def _number(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
