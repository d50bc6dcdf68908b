"""Blocks survive packing, splitting and joining; order and identity do not depend on how events came in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.transforms.block import (
    NO_CODE,
    VERSION,
    EventBlock,
    concat,
    hash64,
    order,
    sortable,
    split,
    tidy,
    unpack,
)

Row = tuple[str, int, int, int, float, int, int]  # key, time, id, code, value, hash, arrival
rows = st.tuples(
    st.sampled_from(["", "a", "ü", "exactly8", "nine byte", "x" * 40]),
    st.integers(-5, 5) | st.sampled_from([-(1 << 61), 1 << 61]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 1.5, float("nan")]),
    st.integers(0, 2),
    st.integers(0, 4),
)


def block_of(events: list[Row], arrival: bool = True) -> EventBlock:
    keys = pa.array([r[0] for r in events], pa.string()).dictionary_encode()
    column: list[Sequence[Any]] = list(zip(*events, strict=True)) if events else [()] * 7
    return EventBlock(
        keys.dictionary,
        keys.indices.to_numpy().astype(np.int32),
        np.array(column[1], np.int64),
        np.array(column[2], np.uint64),
        np.array([column[3]], np.uint16),
        np.array([column[4]], np.float32),
        np.array([column[5]], np.uint64),
        np.array(column[6], np.int64) if arrival else None,
    )


def rows_of(b: EventBlock) -> list[str]:
    names = b.keys.take(pa.array(b.key)).to_pylist()
    arrival = [None] * len(b) if b.arrival is None else b.arrival.tolist()
    columns = (b.time, b.id, b.codes[0], b.values[0], b.hashes[0])
    return [repr(r) for r in zip(names, *(c.tolist() for c in columns), arrival, strict=True)]


@given(st.lists(rows, max_size=20), st.booleans())
def test_pack_unpack(events: list[Row], arrival: bool) -> None:
    block = block_of(events, arrival)
    assert rows_of(unpack(block.pack())) == rows_of(block)


def test_a_block_of_another_version_is_refused() -> None:
    raw = block_of([]).pack()
    with pytest.raises(ValueError, match=f"reads version {VERSION}"):
        unpack(bytes([VERSION + 1]) + raw[1:])


@given(st.lists(rows, max_size=20), st.integers(1, 5))
def test_split_loses_nothing_and_keeps_entities_together(events: list[Row], shards: int) -> None:
    parts = dict(split(block_of(events), shards))
    assert sorted(r for b in parts.values() for r in rows_of(b)) == sorted(rows_of(block_of(events)))
    homes = {e[0]: {s for s, b in parts.items() if e[0] in b.keys.to_pylist()} for e in events}
    assert all(len(home) == 1 for home in homes.values())


@given(st.lists(rows, min_size=1, max_size=20), st.integers(1, 4), st.booleans(), st.randoms())
def test_tidy_does_not_depend_on_the_order_of_arrival(
    events: list[Row], pieces: int, identity: bool, random: Random
) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)
    once = tidy(block_of(events), identity)
    parts = [block_of(shuffled[i::pieces]) for i in range(pieces)]
    again = tidy(concat([p for p in parts if len(p)]), identity)
    keyed = [sorted_by_key(t[0]) for t in (once, again)]
    assert keyed[0] == keyed[1]
    assert once[1] == again[1]


def sorted_by_key(b: EventBlock) -> list[str]:
    """Rows in their own order within each key; the order of keys is that of first sight."""
    names = b.keys.take(pa.array(b.key)).to_pylist()
    return [r for _, r in sorted(zip(names, rows_of(b), strict=True), key=lambda x: x[0])]


def test_of_two_copies_the_one_that_arrived_first_stays() -> None:
    late, early = ("a", 1, 7, 0, 1.0, 0, 9), ("a", 1, 7, 3, 9.0, 0, 2)
    kept, dropped = tidy(block_of([late, early]), identity=True)
    assert dropped == 1
    assert rows_of(kept) == rows_of(block_of([early]))
    assert tidy(block_of([late, early]), identity=False)[1] == 0


def test_copies_that_arrived_at_once_are_settled_field_by_field() -> None:
    null = float("nan")
    events = [
        ("a", 1, 7, 2, 5.0, 0, 2),
        ("a", 1, 7, 2, -1.5, 9, 2),
        ("a", 1, 7, 2, null, 4, 2),
        ("a", 1, 7, 3, -8.0, 1, 3),
    ]
    kept, dropped = tidy(block_of([*events, ("b", 1, 7, 3, 1.0, 5, 2)]), identity=True)
    assert dropped == 3
    assert rows_of(kept) == rows_of(block_of([("a", 1, 7, 2, -1.5, 4, 2), ("b", 1, 7, 3, 1.0, 5, 2)]))
    kept, _ = tidy(block_of([("a", 1, 7, 1, null, 0, 2), ("a", 1, 7, 2, null, 0, 2)]), identity=True)
    assert rows_of(kept) == rows_of(block_of([("a", 1, 7, int(NO_CODE), null, 0, 2)]))


@given(st.lists(st.floats(width=32).map(lambda x: x + 0.0), max_size=20))
def test_sortable_is_the_order_of_the_values(values: list[float]) -> None:
    array = np.array(values, np.float32)
    by = array[np.argsort(sortable(array), kind="stable")]
    np.testing.assert_array_equal(by, np.sort(array))


def test_order_of_times_too_far_apart_for_one_word() -> None:
    events = [("b", 1 << 61, 0, 0, 0.0, 0, 0), ("a", 5, 0, 0, 0.0, 0, 0), ("b", -(1 << 61), 0, 0, 0.0, 0, 0)]
    assert order(block_of(events))[0].tolist() == [2, 0, 1]


@given(
    st.lists(st.none() | st.text(max_size=30) | st.sampled_from(["a" * 1024, "b" * 1025]), max_size=20),
    st.integers(0, 5),
)
def test_hash_is_of_the_string_alone(strings: list[str | None], start: int) -> None:
    array = pa.array(strings, pa.string())
    together = hash64(array)
    assert together.tolist() == [int(hash64(pa.array([s], pa.string()))[0]) for s in strings]
    assert hash64(array.slice(start)).tolist() == together[start:].tolist()
    assert all((h == 0) == (s is None) for h, s in zip(together.tolist(), strings, strict=True))


def test_hash_is_the_same_in_every_process_and_has_no_collisions_on_ids() -> None:
    imports = "import pyarrow as pa; from pipelines.transforms.block import hash64"
    code = f"{imports}; print(hash64(pa.array(['u1', 'ü' * 9])).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(hash64(pa.array(["u1", "ü" * 9])).tolist())
    assert out.strip() == "[15392423127763388987, 13722684158959132947]"
    assert len(np.unique(hash64(pa.array([f"user-{i}" for i in range(200_000)])))) == 200_000
