"""Columns of times as int64 microseconds since 1970 UTC: numbers of a unit, ISO 8601, formats, Arrow timestamps."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.events.block import Ints, Mask
from pipelines.events.columns import (
    DecodeError,
    WrongType,
    convert,
    filled,
    is_text,
    known,
    matches,
    plain,
    text,
    whole,
)
from pipelines.task.fields import UNITS
from pipelines.task.spec import TimeField

UNIT = {"d": UNITS["d"], "s": UNITS["s"], "ms": UNITS["ms"], "us": 1}
FARTHEST = 1 << 61  # us; 73,000 years: sums and differences of times stay inside 64 bits
US, NS = [[pa.timestamp(unit, zone) for zone in (None, "UTC")] for unit in ("us", "ns")]  # without a zone, and with one

# What Arrow's casts of text to times take.
LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
DAY = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{LEAP}-02-29)"
)
HOUR = "(?:[01][0-9]|2[0-3])"
CLOCK = rf"[ T]{HOUR}(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{{1,9}})?)?)?"
ZONE = f"(?:Z|[+-]{HOUR}(?::?[0-5][0-9])?)"
ISO_NAIVE, ISO_ZONED = f"^{DAY}(?:{CLOCK})?$", f"^{DAY}{CLOCK}{ZONE}$"


def micros(column: pa.Array, spec: TimeField) -> tuple[Ints, Mask]:
    """Times in us (n), and whether each is there and in range.

    Raises:
      DecodeError: a column of another type than the unit or format says, or text that is not a time.
    """
    column = plain(column)
    kind, name = column.type, spec.field
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if spec.unit != "iso":
            raise WrongType(f"{name} is {kind} already: its unit is iso, not {spec.unit or spec.format}", column)
        return _stamps(column)
    if spec.format is not None:
        column = _filled(text(column, name))
        stamps = pc.strptime(column, spec.format, "us", error_is_null=True)
        if stamps.null_count > column.null_count:
            raise DecodeError(f"{name} does not match the format {spec.format}", known(column) & ~known(stamps))
        return _stamps(stamps)
    if spec.unit == "iso":
        if not is_text(kind):
            raise WrongType(f"{name} is {kind}, not ISO 8601 text: give its unit (s, ms, us or ns)", column)
        return _stamps(_iso(_filled(convert(column, pa.string(), name, "text")), name))
    if pa.types.is_boolean(kind):
        raise WrongType(f"{name} is not a number of {spec.unit}", column)
    unit = spec.unit or "us"
    if is_text(kind):
        return _number_text(_filled(convert(column, pa.string(), name, "text")), name, unit)
    if pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        return _float_micros(convert(column, pa.float64(), name, "a number"), unit)
    return _whole_micros(convert(column, pa.int64(), name, f"a whole number of {unit}"), unit)


def _filled(column: pa.Array) -> pa.Array:
    """Empty text is null."""
    empty = pc.equal(column, "")
    return pc.if_else(empty, None, column) if empty.true_count else column


def _number_text(column: pa.Array, name: str, unit: str) -> tuple[Ints, Mask]:
    """Text of whole numbers and of others."""
    try:
        return _whole_micros(column.cast(pa.int64()), unit)
    except pa.ArrowException:
        is_whole = whole(column)
    others = convert(pc.if_else(pa.array(is_whole), None, column), pa.float64(), name, "a number")
    (times, ok), (rest, rest_ok) = (
        _whole_micros(pc.if_else(pa.array(is_whole), column, None).cast(pa.int64()), unit),
        _float_micros(others, unit),
    )
    return np.where(is_whole, times, rest), np.where(is_whole, ok, rest_ok)


def _iso(column: pa.Array, name: str) -> pa.Array:
    first = column.drop_null()[:1].cast(pa.binary()).to_pylist()
    likely = _stamp(first[0].decode("latin-1")) if first else US[0]
    if likely is not None:
        try:  # as the first value is written, all mostly are
            return column.cast(likely)
        except pa.ArrowInvalid:  # a cast that fails at many values is dear: no other is tried
            pass
    is_naive, is_zoned = matches(column, ISO_NAIVE), matches(column, ISO_ZONED)
    wrong = known(column) & ~(is_naive | is_zoned)
    if wrong.any():
        raise DecodeError(f"{name} is not an ISO 8601 time", wrong)
    column = pc.replace_substring_regex(column, r"(\.[0-9]{6})[0-9]+", r"\1")  # finer than us is rounded down
    parts = [
        pc.if_else(pa.array(some), column, None).cast(stamp).cast(pa.timestamp("us"))
        for some, stamp in ((is_naive, US[0]), (is_zoned, US[1]))
    ]
    return pc.coalesce(*parts)


def _stamp(text: str) -> pa.DataType | None:
    """The type of a time as it is written; None for text that is none."""
    zoned = re.search(ISO_ZONED, text) is not None
    if not zoned and re.search(ISO_NAIVE, text) is None:
        return None
    return (NS if re.search(r"\.[0-9]{7}", text) else US)[zoned]


def _stamps(column: pa.Array) -> tuple[Ints, Mask]:
    """A timestamp or date column in us; finer units are rounded down."""
    kind = column.type
    unit = "d" if pa.types.is_date32(kind) else "ms" if pa.types.is_date(kind) else kind.unit
    return _whole_micros(column.cast(pa.int32()).cast(pa.int64()) if unit == "d" else column.cast(pa.int64()), unit)


def _whole_micros(column: pa.Array, unit: str) -> tuple[Ints, Mask]:
    """Whole numbers of a unit in us, and whether each is there and in range."""
    times, ok = _scaled(filled(column, 0), unit)
    return times, ok & known(column)


def _scaled(raw: Ints, unit: str) -> tuple[Ints, Mask]:
    """Whole numbers of a unit in us, and whether each is in range; where it is not, the time is 0."""
    if unit == "ns":
        return raw // 1_000, np.ones(len(raw), bool)
    far = FARTHEST // UNIT[unit]
    ok = (raw <= far) & (raw >= -far)
    return np.where(ok, raw, 0) * UNIT[unit], ok


def _float_micros(column: pa.Array, unit: str) -> tuple[Ints, Mask]:
    """Floats of a unit in us, to the nearest; the whole part as exact as a whole number would be."""
    cells = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        ok = np.abs(cells) <= FARTHEST // UNIT.get(unit, 1)
    floor = np.floor(np.where(ok, cells, 0))
    if unit == "ns":
        return floor.astype(np.int64) // 1_000, ok
    rest = np.rint((np.where(ok, cells, 0) - floor) * UNIT[unit]).astype(np.int64)
    return floor.astype(np.int64) * UNIT[unit] + rest, ok
