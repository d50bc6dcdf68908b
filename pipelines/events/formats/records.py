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
from uuid import UUID

import numpy as np
import pyarrow as pa

from pipelines.events.formats.base import Flaw, Ints, shorten
from pipelines.task.spec import Kind, Task

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


def tables(
    task: Task, records: Sequence[Record], compared: bool = True
) -> tuple[list[tuple[pa.Table, Ints]], dict[int, Flaw]]:
    """(table, its rows) for each combination of types, and the rows that fit none.

    Args:
      compared: with identity `all` by their fields; not where their text is compared.
    """
    whole = compared and task.events.identity == "all"
    uniform = _uniform(task, records)
    if uniform is not None:
        return [(_with_others(whole, uniform, records), np.arange(len(records)))], {}
    groups: dict[tuple[type, ...], list[int]] = {}
    cells: list[list[object]] = []
    bad: dict[int, Flaw] = {}
    for row, record in enumerate(records):
        values, problem = _cells(task, record)
        cells.append(values)
        if problem is None:
            groups.setdefault(tuple(map(type, values)), []).append(row)
        else:
            bad[row] = problem
    groups = _merged(groups)
    return [
        (_table(task, kinds, [records[r] for r in rows], [cells[r] for r in rows], whole), np.array(rows))
        for kinds, rows in groups.items()
    ], bad


def _uniform(task: Task, records: Sequence[Record]) -> dict[str, pa.Array] | None:
    """The task's columns where each has plain values of one type, as they mostly have; else None. Column by column it
    takes a third of the time."""
    out: dict[str, pa.Array] = {}
    for name, kind in task.columns.items():
        values = [record.get(name) for record in records]
        types = set(map(type, values)) - {type(None)}
        if len(types) > 1 or not types <= TYPES.keys():
            return None
        type_ = TYPES[types.pop()] if types else pa.null()
        try:
            column = pa.array(values, type_)
        except (ValueError, OverflowError, pa.ArrowException):  # half a surrogate pair, a number that is too large
            return None
        is_number = kind == "number" and type_ == pa.int64()
        out[name] = column.cast(pa.float64(), safe=False) if is_number else column
    return out


def _merged(groups: dict[tuple[type, ...], list[int]]) -> dict[tuple[type, ...], list[int]]:
    """One group where columns differ in nothing but nulls, as they mostly do: many small tables are slow to decode."""
    kinds = [set(column) - {type(None)} for column in zip(*groups, strict=True)]
    if len(groups) < 2 or any(len(kind) > 1 for kind in kinds):
        return groups
    key = tuple(kind.pop() if kind else type(None) for kind in kinds)
    return {key: sorted(row for rows in groups.values() for row in rows)}


def _table(
    task: Task, kinds: tuple[type, ...], records: Sequence[Record], cells: list[list[object]], whole: bool
) -> pa.Table:
    """Rows of one combination of types."""
    columns = {
        name: pa.array([row[i] for row in cells], TYPES.get(kind, pa.null()))
        for i, (name, kind) in enumerate(zip(task.columns, kinds, strict=True))
    }
    return _with_others(whole, columns, records)


def _with_others(whole: bool, columns: dict[str, pa.Array], records: Sequence[Record]) -> pa.Table:
    """If whole, the other fields are there as text, to be compared."""
    if whole:
        others = sorted({name for record in records for name in record} - set(columns))
        columns |= {name: pa.array([_comparable(r.get(name)) for r in records], pa.string()) for name in others}
    return pa.table(columns)


def _comparable(value: object) -> str | None:
    return None if value is None else json.dumps(value, default=repr, sort_keys=True)


def _cells(task: Task, record: Record) -> tuple[list[object], Flaw | None]:
    values: list[object] = []
    for name, kind in task.columns.items():
        value, problem = _cell(record.get(name), kind)
        if problem:
            return [], Flaw(f"{name} is {problem}", shorten(repr(record.get(name))))
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
