"""Tensors, bit for bit, against the slow oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.events.block import EventBlock, concat, hash64, split, tidy, unpack
from pipelines.events.decode import Span, decode
from pipelines.events.sequences import SequenceBatch, backfill, examples, sequences
from pipelines.models.example_store import sub_task
from pipelines.task.spec import Task
from tests.support.oracle import Event, labelled, oracle
from tests.support.random_tasks import AS_OF, KINDS, LABELS, STEP, event_lists, table_of, tasks


def blocks_of(task: Task, events: Sequence[Event], span: Span, shards: int, pieces: int) -> dict[int, list[bytes]]:
    """Packed blocks by shard, read in several pieces."""
    out: dict[int, list[bytes]] = {}
    for i in range(pieces):
        for shard, block in split(decode(task, table_of(events[i::pieces]), span).block, shards):
            out.setdefault(shard, []).append(block.pack())
    return out


CROWDED = event_lists(st.sampled_from([2 * STEP, 2 * STEP + 1]), st.sampled_from([0, 0, STEP]), few=8)
AHEAD = event_lists(st.sampled_from([2 * STEP, 5 * STEP, 5 * STEP + 1]), st.just(0), few=15)  # of the as-of 4 * STEP


@settings(max_examples=1000)
@given(task=tasks(), events=event_lists() | CROWDED, shards=st.integers(1, 3), pieces=st.integers(1, 3))
def test_backfill_equals_oracle(task: Task, events: list[Event], shards: int, pieces: int) -> None:
    first = task.sequence.origin
    as_ofs = tuple(first + i * task.score.every for i in range(1, 5))
    want = oracle(task, events, as_ofs)
    got = {}
    for raw in blocks_of(task, events, Span(as_ofs), shards, pieces).values():
        block, _ = tidy(concat([unpack(r) for r in raw]), task.events.identity != "none")
        for batch in backfill(task, block, as_ofs):
            rows = zip(
                batch.tensor,
                batch.n_events.tolist(),
                batch.last_event_time.tolist(),
                batch.revision.tolist(),
                strict=True,
            )
            for entity, row in zip(batch.entities, rows, strict=True):
                got[entity, batch.as_of] = row
    assert got.keys() == want.keys()
    for key, (tensor, *rest) in got.items():
        assert rest == list(want[key][1:]), key
        assert tensor.tobytes() == want[key].tensor.tobytes(), (key, tensor, want[key].tensor)


@pytest.mark.parametrize("kind", LABELS)
@settings(max_examples=200)
@given(data=st.data(), events=event_lists() | AHEAD)
def test_examples_are_labelled_by_what_came_after(kind: str, data: st.DataObject, events: list[Event]) -> None:
    task = data.draw(tasks(kind=kind))
    as_of = task.sequence.origin + 4 * STEP
    span = Span((as_of,), task.horizon)
    got: dict[str, list[float]] = {}
    want_tensors = oracle(task, events, [as_of], lateness=0)
    for raw in blocks_of(task, events, span, 1, 2).values():
        block, _ = tidy(concat([unpack(r) for r in raw]), task.events.identity != "none")
        for batch in examples(task, block, [as_of]):
            assert batch.label is not None
            got.update(zip(batch.entities, batch.label.tolist(), strict=True))
            for entity, tensor in zip(batch.entities, batch.tensor, strict=True):
                assert tensor.tobytes() == want_tensors[entity, as_of].tensor.tobytes()
    assert got == labelled(task, events, as_of)


@settings(max_examples=300)
@given(task=tasks(), events=CROWDED, data=st.data())
def test_no_feature_depends_on_the_others(task: Task, events: list[Event], data: st.DataObject) -> None:
    """Also where events tie, or copies contradict one another: what is added later is what it would have been."""
    picked = sorted(data.draw(st.sets(st.integers(0, len(task.features) - 1), min_size=1)))
    as_ofs = [task.sequence.origin + i * STEP for i in (2, 5)]
    whole, part = (tensors(backfill, t, events, as_ofs) for t in (task, sub_task(task, picked)))
    assert whole.keys() == part.keys()
    for key, tensor in part.items():
        assert tensor.tobytes() == np.ascontiguousarray(whole[key][:, picked]).tobytes()


Build = Callable[[Task, EventBlock, Sequence[int]], Iterator[SequenceBatch]]


def tensors(build: Build, task: Task, events: Sequence[Event], as_ofs: Sequence[int]) -> dict[tuple[str, int], Any]:
    """(entity, as-of) -> (steps, features)."""
    block = decode(task, table_of(events), Span(tuple(as_ofs), task.horizon)).block
    block, _ = tidy(block, task.events.identity != "none")
    return {(e, b.as_of): x for b in build(task, block, as_ofs) for e, x in zip(b.entities, b.tensor, strict=True)}


def assert_sees_nothing_later(build: Build, task: Task, events: Sequence[Event], as_of: int) -> None:
    """What happened at the as-of or after it, or arrived then, changes no feature and no entity."""
    late = task.events.arrival is not None
    known = [e for e in events if e["time"] < as_of and not (late and e["arrival"] >= as_of)]
    seen, want = (tensors(build, task, some, [as_of]) for some in (events, known))
    assert seen.keys() == want.keys()
    assert all(seen[key].tobytes() == want[key].tobytes() for key in want)


AROUND = st.integers(AS_OF - 3 * STEP, AS_OF + STEP)
LATE = event_lists(AROUND, st.sampled_from([0, STEP, 3 * STEP]), few=5)


@settings(max_examples=300)
@given(task=tasks(), events=LATE)
def test_examples_see_nothing_later(task: Task, events: list[Event]) -> None:
    assert_sees_nothing_later(examples, task, events, AS_OF + task.sequence.origin)


def one_step_ahead(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Wrong on purpose: features that end one step after the as-of."""
    for batch, _ in sequences(task, block, [t + task.sequence.step for t in as_ofs]):
        yield replace(batch, as_of=batch.as_of - task.sequence.step)


def as_if_all_were_on_time(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Wrong on purpose: features of events that had not arrived."""
    return (batch for batch, _ in sequences(task, block, as_ofs))


@pytest.mark.parametrize("peek", [one_step_ahead, as_if_all_were_on_time])
def test_a_feature_that_peeks_is_caught(peek: Build) -> None:
    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @given(task=tasks(), events=LATE)
    def check(task: Task, events: list[Event]) -> None:
        assert_sees_nothing_later(peek, task, events, AS_OF + task.sequence.origin)

    with pytest.raises(AssertionError):
        check()


def by_hand(identity: str | tuple[str, ...], *features: dict[str, Any], label: dict[str, Any] | None = None) -> Task:
    return Task.model_validate(
        {
            "task": "hand",
            "events": {
                "entity": "user",
                "time": {"field": "time", "unit": "us"},
                "identity": identity,
                "categories": {"kind": KINDS},
            },
            "sequence": {"step": "10s", "steps": 4, "features": features},
            "score": {"every": "10s"},
            "label": label or {"kind": "churn", "horizon": "10s", "active_within": "10s"},
        }
    )


def events_of(names: Sequence[str], *rows: Sequence[Any]) -> list[Event]:
    """Events of one user; times in seconds."""
    base = {"user": "u", "arrival": 0, "id": "1", "kind": "a", "page": None, "value": None, "price": None}
    return [{**base, "time": int(t * 1_000_000), **dict(zip(names, rest, strict=True))} for t, *rest in rows]


def the_tensor(task: Task, events: Sequence[Event]) -> list[list[float]]:
    (found,) = tensors(backfill, task, events, [4 * STEP]).values()
    rows: list[list[float]] = found.tolist()
    return rows


def test_forward_fill_and_distinct_by_hand() -> None:
    task = by_hand(
        "none",
        {"agg": "last", "field": "price", "fill": "forward"},
        {"agg": "distinct", "field": "page"},
        {"agg": "std", "field": "value"},
    )
    names = ("price", "page", "value")
    events = events_of(names, (12, 5.0, "x", 1.0), (13, 6.0, "y", 3.0), (14, None, "x", None), (31, 7.0, None, 2.0))
    assert the_tensor(task, events) == [[0, 0, 0], [6, 2, 1], [6, 0, 0], [7, 0, 0]]


def test_recency_by_hand() -> None:
    """Steps from the last event to the end of the step, and from the start of the window before the first."""
    task = by_hand("none", {"agg": "recency"})
    assert the_tensor(task, events_of((), (12,), (15,), (39,))) == [[1], [0.5], [1.5], [np.float32(0.1)]]


def test_text_values_by_hand() -> None:
    """Null is no value; a step without events takes the last value with fill: forward only."""
    page: dict[str, Any] = {"field": "page", "vocabulary": 9}
    task = by_hand("none", {"agg": "first", **page}, {"agg": "last", **page, "fill": "forward"})
    x, y = (1 + (int(hash64(pa.array([text]))[0]) >> 41) for text in "xy")
    assert 1 <= x <= 1 << 23
    events = events_of(("page",), (2, None), (11, None), (12, "x"), (13, "y"), (14, None))
    assert the_tensor(task, events) == [[0, 0], [x, y], [0, y], [0, y]]


def test_ties_are_broken_by_the_field_itself() -> None:
    task = by_hand("none", {"agg": "first", "field": "price"}, {"agg": "last", "field": "value", "by": "kind"})
    rows = [(5, "a", 2.0, 1.0), (5, "a", 1.0, None), (5, "b", 3.0, 7.0), (5, "a", None, 9.0), (5, "b", 0.5, 4.0)]
    for order in permutations(rows):
        assert the_tensor(task, events_of(("kind", "price", "value"), *order))[0] == [0.5, 9, 7, 0]


def test_a_path_is_labelled_by_the_largest_of_equal_times() -> None:
    level = {"agg": "last", "field": "price", "fill": "forward"}
    task = by_hand("none", level, label={"kind": "path", "field": "price", "steps": 2})
    rows = [(35, 2.0, 1.0), (45, 5.0, 2.0), (45, 6.0, 1.0), (45, None, 3.0)]
    for order in permutations(rows):
        block = decode(task, table_of(events_of(("price", "value"), *order)), Span((4 * STEP,), task.horizon)).block
        (batch,) = examples(task, tidy(block, False)[0], [4 * STEP])
        assert batch.label is not None
        assert batch.label.tolist() == [[6, 6]]


def test_copies_that_contradict_one_another_by_hand() -> None:
    """Each field has its smallest value, null only if all are; a category that differs is none of the values."""
    task = by_hand(
        ("id",),
        {"agg": "count"},
        {"agg": "count", "by": "kind"},
        {"agg": "sum", "field": "price"},
        {"agg": "sum", "field": "value"},
    )
    names = ("kind", "price", "value")
    for order in permutations([(5, "a", 2.0, 8.0), (5, "b", 1.0, None), (5, "a", None, 9.0)]):
        assert the_tensor(task, events_of(names, *order))[0] == [1, 0, 0, 0, 1, 8]
    assert the_tensor(task, events_of(names, *[(5, "b", 2.0, 8.0)] * 3))[0] == [1, 0, 1, 0, 2, 8]
