"""The slow way to find values that do not convert: a column is halved until each stands alone. An oracle for masks.

A value means what it means alone; whatever `pipelines` does faster must come to the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.block import Ints, Mask
from pipelines.events.columns import EXACT, MISSING, filled, is_text, plain
from pipelines.events.formats.base import Flaw, Refusal
from pipelines.events.formats.csv import OPEN, Parser
from pipelines.events.formats.lines import TextLines
from pipelines.events.times import _float_micros, _scaled, _stamps
from pipelines.task.spec import TimeField

NAIVE, ZONED = [[pa.timestamp(unit, zone) for unit in ("us", "ns")] for zone in (None, "UTC")]
STAMPS = {False: (*NAIVE, *ZONED), True: (*ZONED, *NAIVE)}

T = TypeVar("T")


class WrongError(ValueError):
    """A column that does not convert."""


class TypeWrongError(WrongError):
    """A column of a type that has no value that would convert."""


def piecewise(
    column: pa.Array, name: str, convert: Callable[[pa.Array, str], T], bad: dict[int, Flaw], first: int = 0
) -> list[T]:
    """The parts of a converted column: halved where it does not convert, and a single value that does not is null."""
    try:
        return [convert(column, name)]
    except TypeWrongError as error:
        for row in range(len(column)):
            bad.setdefault(first + row, Flaw(str(error), shown(column[row : row + 1])))
        return [convert(pa.nulls(len(column), pa.string()), name)]
    except WrongError as error:
        if len(column) == 1:
            bad.setdefault(first, Flaw(str(error), shown(column)))
            return [convert(pa.nulls(1, pa.string()), name)]
    column = plain(column)
    half = len(column) // 2
    left = piecewise(column[:half], name, convert, bad, first)
    return left + piecewise(column[half:], name, convert, bad, first + half)


def text(column: pa.Array, name: str) -> pa.Array:
    """As `columns.text`."""
    kind = column.type
    if kind == pa.string():
        return column
    if pa.types.is_dictionary(kind):
        return text(column.dictionary, name).take(column.indices)
    if pa.types.is_floating(kind):
        return _float_text(column.cast(pa.float64()), name)
    if pa.types.is_decimal(kind):
        return _float_text(_convert(column, pa.float64(), name, "a number"), name)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp(kind.unit))
    return _convert(column, pa.string(), name, "text")


def entity(column: pa.Array, name: str) -> pa.Array:
    """As `decode._entity_text`."""
    if pa.types.is_floating(column.type):
        cells = column.to_numpy(zero_copy_only=False)
        if (np.floor(cells[~np.isnan(cells)]) != cells[~np.isnan(cells)]).any():
            raise WrongError(f"{name} is not a whole number or text")
    return text(column, name)


def numbers(column: pa.Array, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """As `columns.numbers`."""
    column = plain(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if is_text(column.type):
        column = _convert(column, pa.string(), name, "text")
        try:
            column = column.cast(pa.float64())
        except pa.ArrowException:
            if any(not _is_utf8(value) for value in column.cast(pa.binary()).to_pylist()):
                raise WrongError(f"{name} is not text") from None
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.is_in(column, pa.array(MISSING)), None, column)
    column = _convert(column, pa.float64(), name, "a number")
    with np.errstate(over="ignore"):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).astype(np.float32)


def micros(column: pa.Array, spec: TimeField) -> tuple[Ints, Mask]:
    """As `times.micros`."""
    column = plain(column)
    kind, name = column.type, spec.field
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if spec.unit != "iso":
            raise TypeWrongError(f"{name} is {kind} already: its unit is iso, not {spec.unit or spec.format}")
        return _stamps(column)
    if spec.format is not None:
        column = _filled(text(column, name))
        stamps = pc.strptime(column, spec.format, "us", error_is_null=True)
        if stamps.null_count > column.null_count:
            raise WrongError(f"{name} does not match the format {spec.format}")
        return _stamps(stamps)
    if spec.unit == "iso":
        if not is_text(kind):
            raise TypeWrongError(f"{name} is {kind}, not ISO 8601 text: give its unit (s, ms, us or ns)")
        return _stamps(_iso(_filled(_convert(column, pa.string(), name, "text")), name))
    if pa.types.is_boolean(kind):
        raise TypeWrongError(f"{name} is not a number of {spec.unit}")
    if is_text(kind):
        column = _number_text(_filled(_convert(column, pa.string(), name, "text")), name)
    if pa.types.is_decimal(column.type) or pa.types.is_floating(column.type):
        return _float_micros(_convert(column, pa.float64(), name, "a number"), spec.unit or "us")
    whole = _convert(column, pa.int64(), name, f"a whole number of {spec.unit}")
    times, ok = _scaled(filled(whole, 0), spec.unit or "us")
    return times, ok & whole.is_valid().to_numpy(zero_copy_only=False)


def parse(parser: Parser, chunk: TextLines) -> Iterator[Refusal | tuple[TextLines, pa.Table]]:
    """As `csv.Parser._parse`: halves lines until as many rows as lines come out."""
    skipped: list[tuple[int, str]] = []
    table = parser._table(chunk, skipped)
    if table is not None:
        for row, reason in skipped:
            yield chunk.refusal(row, "a row with another number of fields", reason)
        good = chunk.take(np.setdiff1d(np.arange(len(chunk)), np.array([row for row, _ in skipped], np.int64)))
        if len(good):
            yield good, table
    elif len(chunk) == 1:
        yield from chunk.refused(OPEN)
    else:
        half = len(chunk) // 2
        yield from parse(parser, chunk.take(slice(0, half)))
        yield from parse(parser, chunk.take(slice(half, None)))


def shown(column: pa.Array) -> str:
    """The first value, shortened."""
    try:
        return repr(column[0].as_py())[:80]
    except (UnicodeDecodeError, ValueError, OverflowError):
        return ""


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or bool(value.decode()) or True
    except UnicodeDecodeError:
        return False


def _float_text(column: pa.Array, name: str) -> pa.Array:
    cells = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        whole = np.floor(cells) == cells
        if (np.abs(cells[whole]) >= EXACT).any():
            raise WrongError(f"{name} is a number too large to be an exact one")
    null = np.isnan(cells)
    strings = pa.array(np.where(whole, cells, 0).astype(np.int64)).cast(pa.string())
    if not (whole | null).all():
        strings = pc.if_else(pa.array(whole), strings, pa.array(cells).cast(pa.string()))
    return pc.if_else(pa.array(null), None, strings)


def _filled(column: pa.Array) -> pa.Array:
    empty = pc.equal(column, "")
    return pc.if_else(empty, None, column) if empty.true_count else column


def _number_text(column: pa.Array, name: str) -> pa.Array:
    try:
        return column.cast(pa.int64())
    except pa.ArrowException:
        if len(column) > 1 and not pc.all(pc.match_substring(column, ".")).as_py():
            raise WrongError(f"{name} is not a number") from None
        return _convert(column, pa.float64(), name, "a number")


def _iso(column: pa.Array, name: str) -> pa.Array:
    first = column.drop_null()[:1].cast(pa.binary()).to_pylist()
    zoned = bool(first) and re.search(rb"[:T ][0-9]+.*(Z|[+-][0-9:]+)$", first[0]) is not None
    for stamp in STAMPS[zoned]:
        try:
            return column.cast(stamp)
        except pa.ArrowInvalid:
            continue
    raise WrongError(f"{name} is not an ISO 8601 time")


def _convert(column: pa.Array, kind: pa.DataType, name: str, what: str) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        if pa.types.is_integer(column.type) and kind == pa.float64():
            return column.cast(kind, safe=False)
        wrong = TypeWrongError if isinstance(error, pa.ArrowNotImplementedError) else WrongError
        raise wrong(f"{name} is not {what}") from error
