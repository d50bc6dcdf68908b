"""Masks find the very rows that halving finds, with the same reasons and values, and convert the others alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events import decode
from pipelines.events.columns import numbers, text
from pipelines.events.decode import converted
from pipelines.events.formats import lines
from pipelines.events.formats.base import Flaw, Refusal, Rows
from pipelines.events.formats.csv import Parser
from pipelines.events.times import micros
from pipelines.task.spec import TimeField
from tests.support import halving
from tests.support.event_files import task

Convert = Callable[[pa.Array, str], Any]

WHOLE = ["0", "7", "-7", "007", "-0", "9223372036854775807", "9223372036854775808", "-9223372036854775808"]
HEX = ["0x1F", "0X7f", "-0x1", "0x", "0xFFFFFFFFFFFFFFFF", "0x0FFFFFFFFFFFFFFFF", "0xg"]
LONG = ["-9223372036854775809", "0000000000000000000000001", "1" * 18, "1" * 19, "9" * 19, "9" * 20, "-" + "9" * 19]
POINT = [
    "1.5",
    "+1",
    "+1.",
    ".5",
    "5.",
    ".",
    "-.5e3",
    "1e5",
    "1e",
    "1e+",
    "1e+5",
    "1E-5",
    ".e5",
    "1e999",
    "1.5f",
    "1_0",
]
WORDS = [
    "nan",
    "NaN",
    "-nan",
    "nan(1_a)",
    "nan(",
    "nan(-)",
    "inf",
    "-INF",
    "Infinity",
    "infinit",
    "NA",
    "null",
    "-",
    "+",
]
SPACE = ["", " ", " 5", "5 ", "\t5\n", "\u00a05", "5\0", "\0", "٣", "é", "x", "soon"]
DAYS = ["2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "2024-04-31", "2024-12-31", "2024-13-01", "2024-00-10"]
DAYS += ["0000-01-01", "9999-12-31", "2024-1-2", "20240102", "-2024-01-01", "2024-01-00", "1969-12-31"]
CLOCK = ["", "T12", "T12:00", " 12:00:00", "T24:00", "T23:60", "T23:59:60", "T12:00:00.", "T12:00:00.1", "T", "t12"]
CLOCK += ["T12:00:00.123456", "T12:00:00,1", "T1200", "T12:00:00.123456Z7"]
ZONE = ["", "Z", "z", "+02", "+0200", "-02:00", "+24:00", "+23:60", "+02:0", " +02:00", "-00:00"]
FINE = ["2024-01-02T12:00:00.1234567", "1969-12-31T23:59:59.9999999", "2024-01-02 12:00:00.123456789Z"]
FINE += ["2024-01-02T12:00:00.1234567890", "2024-01-02T12:00:00.12345678+02:00"]

iso = st.builds(lambda *parts: "".join(parts), *map(st.sampled_from, (DAYS, CLOCK, ZONE))) | st.sampled_from(FINE)
number = st.sampled_from([*WHOLE, *HEX, *LONG, *POINT, *WORDS, *SPACE])
drawn = st.text(st.sampled_from("0123456789+-.eExXT:Z naif() _é"), max_size=12)
string = st.none() | number | iso | drawn | st.sampled_from(["02/01/2024", "31/02/2024", "5"])
raw = st.none() | string.map(lambda s: None if s is None else s.encode()) | st.binary(max_size=4)
wholes = st.none() | st.sampled_from([0, 1, -1, 1_704_067_200, 2**53, 2**63 - 1, -(2**63), 2**62])
floats = st.none() | st.floats() | st.sampled_from([2.0**53, 1.5, 7.0, -0.0])

COLUMNS: tuple[tuple[pa.DataType, st.SearchStrategy[Any]], ...] = (
    (pa.string(), string),
    (pa.large_string(), string),
    (pa.string_view(), string),
    (pa.binary(), raw),
    (pa.large_binary(), raw),
    (pa.binary_view(), raw),
    (pa.binary(2), st.none() | st.binary(min_size=2, max_size=2)),
    (pa.int64(), wholes),
    (pa.uint64(), st.none() | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])),
    (pa.float64(), floats),
    (pa.decimal128(25, 3), st.none() | st.sampled_from([0, 1, 10**20])),
    (pa.bool_(), st.none() | st.booleans()),
    (pa.timestamp("us", "UTC"), wholes),
    (pa.date32(), st.none() | st.sampled_from([0, 19_000, 2**31 - 1])),
    (pa.time64("us"), st.none() | st.sampled_from([0, 5])),
    (pa.list_(pa.int64()), st.none() | st.lists(st.integers(0, 5), max_size=2)),
)
TIMES = [TimeField(field="x", unit=unit) for unit in ("iso", "s", "ms", "ns")] + [
    TimeField(field="x", format="%d/%m/%Y")
]


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    """A column of any type, plain, encoded, or of strings that are not UTF-8."""
    kind, cells = draw(st.sampled_from(COLUMNS))
    some = draw(st.lists(cells, min_size=1, max_size=3))
    column = pa.array(draw(st.lists(st.sampled_from(some) | cells, min_size=1, max_size=25)), kind)
    how = draw(st.integers(0, 3))
    if how == 1 and kind == pa.binary():
        return pa.Array.from_buffers(pa.string(), len(column), column.buffers())
    if how == 2 and kind in (pa.string(), pa.binary(), pa.int64(), pa.float64()):
        return column.dictionary_encode()
    return column


def same(new: Convert, old: Convert, column: pa.Array) -> None:
    bad: dict[int, Flaw] = {}
    expected: dict[int, Flaw] = {}
    found, parts = converted(column, "x", new, bad), halving.piecewise(column, "x", old, expected)
    assert bad == expected
    assert list(bad) == list(expected) or len({r.reason for r in bad.values()}) > 1
    if isinstance(found, pa.Array):
        whole = pa.concat_arrays([part.cast(pa.string()) for part in parts])
        assert found.cast(pa.binary()).equals(whole.cast(pa.binary()))
    elif isinstance(found, tuple):
        for got, want in zip(found, map(np.concatenate, zip(*parts, strict=True)), strict=True):
            np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_array_equal(found, np.concatenate(parts))


@settings(max_examples=400, deadline=None)
@given(columns())
def test_text_and_numbers(column: pa.Array) -> None:
    same(text, halving.text, column)
    same(decode._entity_text, halving.entity, column)
    same(numbers, halving.numbers, column)


@settings(max_examples=400, deadline=None)
@given(columns(), st.sampled_from(TIMES))
def test_times(column: pa.Array, spec: TimeField) -> None:
    same(lambda c, _: micros(c, spec), lambda c, _: halving.micros(c, spec), column)


@pytest.mark.parametrize("values", [[d + c + z for d in DAYS for c in CLOCK for z in ZONE], FINE])
def test_every_iso_time(values: list[str]) -> None:
    """All that the parts make, together and alone."""
    spec = TimeField(field="x", unit="iso")
    same(lambda c, _: micros(c, spec), lambda c, _: halving.micros(c, spec), pa.array(values))


def test_every_number() -> None:
    column = pa.array([*WHOLE, *HEX, *LONG, *POINT, *WORDS, *SPACE])
    same(numbers, halving.numbers, column)
    for spec in TIMES:
        same(lambda c, _, spec=spec: micros(c, spec), lambda c, _, spec=spec: halving.micros(c, spec), column)  # type: ignore[misc]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from('",; \tab\0é'), min_size=1, max_size=14), min_size=1, max_size=30))
def test_csv_lines(drawn: list[str]) -> None:
    """Quotes in any place; those that do not close would take the next lines for their own."""
    for separator in ",;\t":
        parser = Parser(task(), ["user", "ts", "kind", "amount", "id"], separator)
        texts = ["good"] + [line for line in drawn if line.strip() and line.count('"') % 2 == 0]
        chunk = lines.whole_lines("\n".join(texts * 2).encode(), 0)
        refused = [p for p in parser._parse(chunk) if isinstance(p, Refusal)]
        rows = [p for p in parser._parse(chunk) if isinstance(p, Rows)]
        parts = list(halving.parse(parser, chunk))
        assert sorted(refused) == sorted(p for p in parts if isinstance(p, Refusal))
        expected = [p for p in parts if not isinstance(p, Refusal)]
        assert [t for r in rows for t in r.at] == [t for c, _ in expected for t in c.at]
        assert [x for r in rows for x in r.table.to_pylist()] == [x for _, t in expected for x in t.to_pylist()]
