"""Blocks survive packing, splitting and joining; order and identity do not depend on how events came in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events.block import (
    NO_CODE,
    SMALL,
    VERSION,
    EventBlock,
    arrivals,
    chunks,
    concat,
    hash64,
    joined,
    order,
    pruned,
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
    for read in (unpack, lambda raw: joined([raw])):
        with pytest.raises(ValueError, match=f"reads version {VERSION}"):
            read(bytes([VERSION + 1]) + raw[1:])


def test_arrivals_of_a_packed_block() -> None:
    assert arrivals(block_of([("a", 1, 7, 0, 1.0, 0, 9), ("b", 2, 7, 3, 9.0, 0, 2)]).pack()).tolist() == [9, 2]


def test_an_empty_block_is_one_of_no_events() -> None:
    block = EventBlock.empty(1, 1, 1)
    assert block.pack() == block_of([]).pack()
    assert rows_of(concat([block, block_of([("a", 1, 7, 0, 1.0, 0, 9)])])) == [repr(("a", 1, 7, 0, 1.0, 0, 9))]


@given(st.lists(st.lists(rows, max_size=6), min_size=1, max_size=6), st.booleans(), st.sampled_from([0, 1, 100]))
def test_joined_is_concat(parts: list[list[Row]], arrival: bool, more: int) -> None:
    blocks = [block_of(events, arrival) for events in parts]
    large = block_of([("x" * 30 + str(i), i, i, 0, 0.5, 1, i) for i in range(8 * more)], arrival)
    blocks.insert(1, large)
    raws = [b.pack() for b in blocks]
    assert (len(raws[1]) >= SMALL) == (more == 100)
    assert sorted(rows_of(joined(raws))) == sorted(rows_of(concat(blocks)))
    assert len(joined(raws).keys) == len(concat(blocks).keys)


@given(st.lists(rows, min_size=1, max_size=20), st.sets(st.integers(0, 19)))
def test_pruned_keeps_the_events_and_no_other_key(events: list[Row], picked: set[int]) -> None:
    block = block_of(events).take(np.array(sorted(i for i in picked if i < len(events)), np.int64))
    out = pruned(block)
    assert rows_of(out) == rows_of(block)
    assert set(out.keys.to_pylist()) == {e[0] for i, e in enumerate(events) if i in picked}


@given(st.lists(rows, max_size=20), st.integers(1, 600))
def test_chunks_are_small_and_lose_nothing(events: list[Row], size: int) -> None:
    raws = list(chunks(block_of(events), size))
    parts = [unpack(raw) for raw in raws]
    assert [r for b in parts for r in rows_of(b)] == rows_of(block_of(events))
    assert all(len(raw) <= size or len(b) == 1 for raw, b in zip(raws, parts, strict=True))
    assert all(len(raw) % 8 == 0 for raw in raws)


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


@given(st.lists(rows, min_size=1, max_size=20), st.booleans())
def test_tidy_says_which_rows_stayed(events: list[Row], identity: bool) -> None:
    block, kept = tidy(block_of(events), identity)
    assert len(set(kept.tolist())) == len(block)
    for row, stayed in zip(rows_of(block), rows_of(block_of(events).take(kept)), strict=True):
        name, time, id_, *_, arrival = ast.literal_eval(row.replace("nan", "None"))
        other = ast.literal_eval(stayed.replace("nan", "None"))
        assert (name, time, id_, arrival) == (*other[:3], other[-1])
    different = {(e[0], e[1], e[2]) for e in events if identity or e[2]}
    assert len(block) == len(different) + sum(not (identity or e[2]) for e in events)


def test_of_equal_copies_the_first_given_stays() -> None:
    event = ("a", 1, 7, 0, 1.0, 0, 9)
    for identity in (True, False):
        assert tidy(block_of([event, ("b", 0, 1, 0, 0.0, 0, 0), event]), identity)[1].tolist() == [0, 1]
    others = [("a", 1, 7, 2, 0.5, 0, 9), ("a", 1, 7, 0, 5.0, 1, 9)]
    for events in permutations([event, *others]):
        assert tidy(block_of([*events, ("a", 1, 7, 0, -1.0, 1, 10)]), True)[1].tolist() == [0]


def sorted_by_key(b: EventBlock) -> list[str]:
    """Rows in their own order within each key; the order of keys is that of first sight."""
    names = b.keys.take(pa.array(b.key)).to_pylist()
    return [r for _, r in sorted(zip(names, rows_of(b), strict=True), key=lambda x: x[0])]


def test_of_two_copies_the_one_that_arrived_first_stays() -> None:
    late, early = ("a", 1, 7, 0, 1.0, 0, 9), ("a", 1, 7, 3, 9.0, 0, 2)
    kept, rows = tidy(block_of([late, early]), identity=True)
    assert rows.tolist() == [1]
    assert rows_of(kept) == rows_of(block_of([early]))


def test_without_identity_only_ids_of_messages_make_copies() -> None:
    row, message = ("a", 1, 0, 0, 1.0, 0, 2), ("a", 1, 7, 0, 1.0, 0, 2)
    assert tidy(block_of([row, message, row, message]), identity=False)[1].tolist() == [0, 2, 1]


def test_copies_that_arrived_at_once_are_settled_field_by_field() -> None:
    null = float("nan")
    events = [
        ("a", 1, 7, 2, 5.0, 0, 2),
        ("a", 1, 7, 2, -1.5, 9, 2),
        ("a", 1, 7, 2, null, 4, 2),
        ("a", 1, 7, 3, -8.0, 1, 3),
    ]
    kept, rows = tidy(block_of([*events, ("b", 1, 7, 3, 1.0, 5, 2)]), identity=True)
    assert len(rows) == 2
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
    imports = "import pyarrow as pa; from pipelines.events.block import hash64"
    code = f"{imports}; print(hash64(pa.array(['u1', 'ü' * 9])).tolist())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(hash64(pa.array(["u1", "ü" * 9])).tolist())
    assert out.strip() == "[15392423127763388987, 13722684158959132947]"
    assert len(np.unique(hash64(pa.array([f"user-{i}" for i in range(200_000)])))) == 200_000
