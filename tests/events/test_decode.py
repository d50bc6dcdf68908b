from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events.decode import Decoded, Since, Span, decode, without_arrival
from pipelines.task.fields import parse_time
from pipelines.task.spec import Task
from tests.support.event_files import DAY, SPAN, START, task
from tests.support.random_tasks import STEP
from tests.support.random_tasks import tasks as random_tasks

T0 = START * 1_000_000


def table(**columns: object) -> pa.Table:
    """Three good rows, but for `columns`."""
    good = {
        "user": ["a", "b", "a"],
        "ts": [START + i for i in range(3)],
        "kind": ["buy", "view", None],
        "amount": [1.5, None, 3.0],
        "id": ["x", "y", "z"],
    }
    return pa.table({**good, **columns})


def reasons(decoded: Decoded) -> dict[int, str]:
    return {row: refused.reason for row, refused in decoded.refused.items()}


def test_good_rows() -> None:
    decoded = decode(task(), table(), SPAN)
    block = decoded.block
    assert block.keys.take(pa.array(block.key)).to_pylist() == ["a", "b", "a"]
    assert block.time.tolist() == [T0, T0 + 1_000_000, T0 + 2_000_000]
    assert block.codes.tolist() == [[0, 1, 2]]
    np.testing.assert_array_equal(block.values, np.array([[1.5, np.nan, 3.0]], np.float32))
    assert [str(x.dtype) for x in (block.values, block.codes, block.id)] == ["float32", "uint16", "uint64"]
    assert (decoded.refused, decoded.filtered, decoded.outside) == ({}, 0, 0)
    assert (decoded.first_time, decoded.last_time) == (T0, T0 + 2_000_000)


@pytest.mark.parametrize(
    ("column", "reason", "value"),
    [
        ({"user": ["a", None, "b"]}, "user is missing", ""),
        ({"user": ["a", "", "b"]}, "user is missing", ""),
        ({"user": [1.0, 1.5, 2.0]}, "user is not a whole number or text", "1.5"),
        ({"user": [1.0, 2.0**60, 2.0]}, "user is a number too large to be an exact one", "1.152921504606847e+18"),
        ({"ts": [START, None, START]}, "ts is missing or out of range", ""),
        ({"ts": [START, 2**62, START]}, "ts is missing or out of range", ""),
        ({"ts": [START, -(2**63), START]}, "ts is missing or out of range", ""),
        ({"ts": [START, float("nan"), START]}, "ts is missing or out of range", ""),
        ({"ts": [START, float("-inf"), START]}, "ts is missing or out of range", ""),
        ({"ts": [str(START), "soon", str(START)]}, "ts is not a number", "'soon'"),
        ({"ts": [str(START), "", str(START)]}, "ts is missing or out of range", ""),
        ({"amount": ["1", "one", "2"]}, "amount is not a number", "'one'"),
        ({"amount": [1.0, float("inf"), 2.0]}, "amount is infinite or larger than a 32-bit float can be", ""),
        ({"amount": [1.0, 1e39, 2.0]}, "amount is infinite or larger than a 32-bit float can be", ""),
        ({"amount": ["1", "1e999", "2"]}, "amount is infinite or larger than a 32-bit float can be", ""),
        ({"id": ["x", None, "z"]}, "every field of the identity is missing", ""),
        ({"id": pa.array([b"x", b"\xff", b"z"])}, "id is not text", ""),
    ],
)
def test_one_bad_row_costs_one_row(column: dict[str, object], reason: str, value: str) -> None:
    decoded = decode(task(), table(**column), SPAN)
    assert reasons(decoded) == {1: reason}
    if value:
        assert decoded.refused[1].value == value
    assert len(decoded.block) == 2
    without = pa.table(
        {name: cells.take([0, 2]) for name, cells in zip(table().column_names, table(**column), strict=True)}
    )
    alone = decode(task(), without, SPAN).block
    assert decoded.block.id.tolist() == alone.id.tolist()
    assert decoded.block.time.tolist() == alone.time.tolist()
    np.testing.assert_array_equal(decoded.block.values, alone.values)


def test_entity_that_is_not_utf8() -> None:
    raw = pa.array([b"a", b"\xff\xfe", b"b"])
    as_string = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    for column in (as_string, as_string.dictionary_encode(), raw):
        decoded = decode(task(), table(user=column), SPAN)
        assert list(decoded.refused) == [1]
        assert decoded.block.keys.take(pa.array(decoded.block.key)).to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["7", "8", "7"]),
        pa.array(["7", "8", "7"], pa.large_string()),
        pa.array(["7", "8", "7"], pa.string_view()),
        pa.array(["7", "8", "7"]).dictionary_encode(),
        pa.array([7, 8, 7]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), pa.array(["7", "8", "7"])),
        pa.array([b"7", b"8", b"7"]),
        pa.array([7, 8, 7], pa.uint8()),
        pa.array([7, 8, 7], pa.int64()),
        pa.array([7, 8, 7], pa.float32()),
        pa.array([7, 8, 7], pa.float64()),
        pa.array([Decimal("7.00"), Decimal(8), Decimal(7)], pa.decimal128(10, 2)),
    ],
    ids=lambda c: str(c.type),
)
def test_entities_of_any_type_are_the_same(column: pa.Array) -> None:
    block = decode(task(), table(user=column), SPAN).block
    assert block.keys.take(pa.array(block.key)).to_pylist() == ["7", "8", "7"]


def test_unsigned_ids_above_63_bits() -> None:
    block = decode(task(), table(user=pa.array([2**64 - 1, 2**63, 1], pa.uint64())), SPAN).block
    assert block.keys.take(pa.array(block.key)).to_pylist() == [str(2**64 - 1), str(2**63), "1"]


def test_a_column_of_nulls() -> None:
    nulls = pa.nulls(3)
    assert reasons(decode(task(), table(user=nulls), SPAN)) == dict.fromkeys(range(3), "user is missing")
    assert reasons(decode(task(), table(ts=nulls), SPAN)) == dict.fromkeys(range(3), "ts is missing or out of range")
    block = decode(task(), table(amount=nulls, kind=nulls), SPAN).block
    assert np.isnan(block.values).all()
    assert block.codes.tolist() == [[2, 2, 2]]


def test_a_type_that_cannot_be_refuses_all_rows_at_once() -> None:
    nested = pa.array([[1], [2], None])
    assert len(decode(task(), table(user=nested), SPAN).refused) == 3
    assert len(decode(task(), table(amount=nested), SPAN).refused) == 3
    stamps = pa.array([T0] * 3).cast(pa.timestamp("us"))
    assert reasons(decode(task(), table(ts=stamps), SPAN))[0] == "ts is timestamp[us] already: its unit is iso, not s"
    assert not len(decode(task(), table().slice(0, 0), SPAN).block)


def test_whole_and_broken_times_do_not_change_each_other() -> None:
    mixed = pa.array([str(START), f"{START}.5", "x", str(2**60)])
    decoded = decode(
        task(), pa.table({**{n: table()[n].take([0, 0, 0, 0]) for n in table().column_names}, "ts": mixed}), SPAN
    )
    assert decoded.block.time.tolist() == [T0, T0 + 500_000]
    assert list(decoded.refused) == [2, 3]


def test_iso_times_with_and_without_zone_in_one_column() -> None:
    spec = task(time={"field": "ts", "unit": "iso"})
    mixed = ["2024-01-02T12:00:00+02:00", "2024-01-02", "2024-01-02T12:00:00.1234567Z"]
    assert decode(spec, table(ts=mixed), SPAN).block.time.tolist() == [
        parse_time("2024-01-02T10:00"), parse_time("2024-01-02"), parse_time("2024-01-02T12:00:00.123456")
    ]  # fmt: skip


def test_arrival_and_skew() -> None:
    spec = task(arrival={"field": "seen", "unit": "s"}, max_skew="60s")
    decoded = decode(spec, table().append_column("seen", pa.array([START, START - 60, None])), SPAN)
    assert reasons(decoded) == {
        1: "ts is later than seen by more than events.max_skew",
        2: "seen is missing or out of range",
    }
    assert decoded.block.arrival is not None
    assert decoded.block.arrival.tolist() == [T0]


@pytest.mark.parametrize(
    ("where", "column", "kept"),
    [
        ("yes", ["yes", "no", None], 1),
        (True, [True, False, None], 1),
        (True, ["true", "True", "1"], 1),
        (0, [0, 1, 0], 2),
        (0, [0.0, 0.5, 0.0], 2),
        (5, ["5", "05", "5"], 2),
    ],
)
def test_where(where: object, column: list[object], kept: int) -> None:
    decoded = decode(task(where={"flag": where}), table().append_column("flag", pa.array(column)), SPAN)
    assert (len(decoded.block), decoded.filtered) == (kept, 3 - kept)


def test_rows_that_where_leaves_out_are_not_refused() -> None:
    broken = table(amount=["x", "1", "y"]).append_column("flag", pa.array(["no", "yes", "no"]))
    decoded = decode(task(where={"flag": "yes"}), broken, SPAN)
    assert (len(decoded.block), decoded.filtered, decoded.refused) == (1, 2, {})


def test_outside() -> None:
    decoded = decode(task(), table(ts=[START - 100 * 86_400, START, START + 100 * 86_400]), SPAN)
    assert (len(decoded.block), decoded.outside) == (1, 2)
    assert decoded.first_time == T0 - 100 * DAY


def test_identity() -> None:
    def ids(spec: Task, **columns: object) -> list[int]:
        return [int(i) for i in decode(spec, table(**columns), SPAN).block.id]

    assert ids(task(identity="none")) == [0, 0, 0]
    assert len(set(ids(task(), id=[5.0, 5.5, None]))) == 3 - 1  # the third has no identity
    assert ids(task(), id=[5.0, 6.0, 7.0]) == ids(task(), id=["5", "6", "7"]) == ids(task(), id=[5, 6, 7])
    whole = [pa.array([[1], [1], [2]]), pa.array([{"a": 1}, {"a": 1}, {"a": 2}]), pa.array([b"\xff", b"\xff", b"x"])]
    for column in whole:
        same = {"user": ["a"] * 3, "ts": [START] * 3, "kind": ["buy"] * 3, "amount": [1.0] * 3, "id": ["x"] * 3}
        first, second, third = ids(task(identity="all"), **same, extra=column)
        assert first == second != third


@given(st.lists(st.sampled_from(["1", "2.5", "x", "", "1e39", "-7", None, "9" * 30]), min_size=1, max_size=40))
def test_halving_finds_every_bad_row(cells: list[str | None]) -> None:
    rows = pa.table(
        {"user": ["a"] * len(cells), "ts": [START] * len(cells), "kind": ["buy"] * len(cells), "id": ["i"] * len(cells)}
    )
    decoded = decode(task(), rows.append_column("amount", pa.array(cells, pa.string())), SPAN)
    assert sorted(decoded.refused) == [i for i, c in enumerate(cells) if c in ("x", "1e39")]


def test_usable() -> None:
    """What a run can use: the history of each as-of, what arrived in time for it, the horizon of labels."""
    spec, as_ofs = task(), (T0 + 100 * DAY, T0 + 300 * DAY)
    day = np.arange(0, 320, 10)
    seen = Span(as_ofs).usable(spec, T0 + day * DAY, None)
    assert day[seen].tolist() == [*range(40, 100, 10), *range(240, 300, 10)]
    labels = Span(as_ofs, 10 * DAY).usable(spec, T0 + day * DAY, None)
    assert day[labels].tolist() == [*range(40, 110, 10), *range(240, 310, 10)]
    late = Span(as_ofs).usable(spec, T0 + day * DAY, np.full(len(day), T0 + 200 * DAY))
    assert day[late].tolist() == list(range(240, 300, 10))


def test_an_arrival_that_is_given() -> None:
    """The field of the task is not read, and events must not lie after the arrival in any task."""
    arrival = np.array([T0, T0 - 60_000_001, T0 + 5])
    for field in ({"field": "seen", "unit": "s"}, None):
        spec = without_arrival(task(arrival=field, max_skew="61s"))
        decoded = decode(spec, table(), SPAN, arrival=arrival)
        assert reasons(decoded) == {1: "ts is later than its arrival by more than events.max_skew"}
        assert decoded.block.arrival is not None
        assert decoded.block.arrival.tolist() == [T0, T0 + 5]
    assert "seen" not in without_arrival(task(arrival={"field": "seen", "unit": "s"})).columns


def test_a_stream_starts_from_files_without_arrival() -> None:
    block = decode(task(), table(), Since(T0 + DAY)).block
    assert block.arrival is not None
    assert block.arrival.tolist() == block.time.tolist()
    assert decode(task(), table(), SPAN).block.arrival is None
    decoded = decode(task(), table(), Since(T0 + 60 * DAY + 1))  # every score.every from there: the first event is old
    assert (len(decoded.block), decoded.outside) == (2, 1)


@given(
    random_tasks(),
    st.integers(-2, 6),
    st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=20),
    st.sampled_from([0, 1]),
)
def test_usable_since(spec: Task, first: int, when: list[tuple[int, int]], more: int) -> None:
    """Some as-of of the job has the event in its history, and is still open when it arrives."""
    every, lateness = spec.score.every, spec.score.allowed_lateness
    since = Since(spec.sequence.origin + first * every)
    grid = [since.first + i * every for i in range(100)]
    time, arrival = (np.array(column) * STEP // 2 + more for column in zip(*when, strict=True))
    for known in (arrival, None):
        usable = since.usable(spec, time, known).tolist()
        for t, a, ok in zip(time, time if known is None else known, usable, strict=True):
            assert ok == any(as_of > t >= as_of - spec.history and as_of + lateness > a for as_of in grid)
    assert since.after(spec, time).tolist() == [next(as_of for as_of in grid if as_of > t) for t in time]
    assert since.horizon == 0


def test_ids_are_for_tasks_without_identity() -> None:
    ids = np.array([7, 8, 9], np.uint64)
    assert decode(task(identity="none"), table(), SPAN, ids=ids).block.id.tolist() == [7, 8, 9]
    assert decode(task(), table(), SPAN, ids=ids).block.id.tolist() == decode(task(), table(), SPAN).block.id.tolist()
