"""Tensors, bit for bit, against the slow oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.task import Task
from pipelines.transforms.block import concat, split, tidy, unpack
from pipelines.transforms.decode import Span, decode
from pipelines.transforms.sequences import backfill, examples
from tests.oracle import Event, churned, oracle

STEP = 10_000_000
KINDS = ("a", "b", "c")
AGGREGATIONS = ("sum", "mean", "min", "max", "std", "first", "last")


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    feature: st.SearchStrategy[dict[str, Any]] = st.one_of(
        st.builds(dict, agg=st.just("count"), by=st.sampled_from([None, "kind"])),
        st.builds(
            dict, agg=st.just("distinct"), field=st.sampled_from(["kind", "page"]), by=st.sampled_from([None, "kind"])
        ),
        st.builds(
            dict,
            agg=st.sampled_from(AGGREGATIONS),
            field=st.sampled_from(["value", "price"]),
            by=st.sampled_from([None, "kind"]),
            values=st.just(None),
            fill=st.sampled_from(["zero", "forward"]),
        ),
    )
    features = draw(st.lists(feature, min_size=1, max_size=5, unique_by=lambda f: (f["agg"], f.get("field"), f["by"])))
    every = draw(st.integers(1, 3))
    arrival = draw(st.booleans())
    lateness = draw(st.integers(0, 2)) * every if arrival else 0
    return Task.model_validate(
        {
            "task": "random",
            "events": {
                "entity": "user",
                "time": {"field": "time", "unit": "us"},
                "arrival": {"field": "arrival", "unit": "us"} if arrival else None,
                "identity": draw(st.sampled_from(["none", ("id",), ("id", "page")])),
                "max_skew": f"{draw(st.integers(0, 30))}s",
                "where": draw(st.sampled_from([{}, {"page": "x"}])),
                "categories": {"kind": draw(st.sampled_from([KINDS, KINDS[:2]]))},
            },
            "sequence": {
                "step": "10s",
                "steps": draw(st.integers(1, 6)),
                "origin": draw(st.sampled_from(["1970-01-01", "1970-01-01T00:00:03"])),
                "features": tuple(features),
            },
            "score": {"every": f"{every * 10}s", "allowed_lateness": f"{lateness * 10}s"},
            "label": {"kind": "churn", "horizon": "25s", "active_within": "10s"},
        }
    )


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    time = st.integers(-3 * STEP, 14 * STEP) | st.integers(-3, 14).map(lambda s: s * STEP)
    event: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "user": st.sampled_from(["ü", "b", "long-name-of-a-user"]),
            "time": time,
            "delay": st.integers(-4 * STEP, 4 * STEP),
            "id": st.sampled_from(["1", "2", "3", "4"]),
            "kind": st.sampled_from([*KINDS, "other", None]),
            "page": st.sampled_from(["x", "y", None]),
            "value": st.none() | st.floats(-1e6, 1e6, width=32),
            "price": st.none() | st.integers(-1000, 1000).map(lambda x: x / 8),
        }
    )
    events = draw(st.lists(event, max_size=25))
    return [{**e, "arrival": e["time"] + e.pop("delay")} for e in events]


def table_of(events: Sequence[Event]) -> pa.Table:
    kinds: dict[str, Any] = {"time": pa.int64(), "arrival": pa.int64(), "value": pa.float64(), "price": pa.float64()}
    fields = ("user", "time", "arrival", "id", "kind", "page", "value", "price")
    return pa.table({f: pa.array([e[f] for e in events], kinds.get(f, pa.string())) for f in fields})


def blocks_of(task: Task, events: Sequence[Event], span: Span, shards: int, pieces: int) -> dict[int, list[bytes]]:
    """Packed blocks by shard, read in several pieces."""
    out: dict[int, list[bytes]] = {}
    for i in range(pieces):
        for shard, block in split(decode(task, table_of(events[i::pieces]), span).block, shards):
            out.setdefault(shard, []).append(block.pack())
    return out


@settings(max_examples=1000)
@given(task=tasks(), events=event_lists(), shards=st.integers(1, 3), pieces=st.integers(1, 3))
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


@settings(max_examples=200)
@given(task=tasks(), events=event_lists())
def test_examples_are_labelled_by_what_came_after(task: Task, events: list[Event]) -> None:
    as_of = task.sequence.origin + 4 * STEP
    span = Span((as_of,), task.horizon)
    got: dict[str, float] = {}
    want_tensors = oracle(task, events, [as_of], lateness=0)
    for raw in blocks_of(task, events, span, 1, 2).values():
        block, _ = tidy(concat([unpack(r) for r in raw]), task.events.identity != "none")
        for batch in examples(task, block, [as_of]):
            assert batch.label is not None
            got.update(zip(batch.entities, batch.label[:, 0].tolist(), strict=True))
            for entity, tensor in zip(batch.entities, batch.tensor, strict=True):
                assert tensor.tobytes() == want_tensors[entity, as_of].tensor.tobytes()
    assert got == churned(task, events, as_of)


def test_forward_fill_and_distinct_by_hand() -> None:
    task = Task.model_validate(
        {
            "task": "hand",
            "events": {"entity": "user", "time": {"field": "time", "unit": "us"}, "identity": "none"},
            "sequence": {
                "step": "10s",
                "steps": 4,
                "features": (
                    {"agg": "last", "field": "price", "fill": "forward"},
                    {"agg": "distinct", "field": "page"},
                    {"agg": "std", "field": "value"},
                ),
            },
            "score": {"every": "10s"},
            "label": {"kind": "churn", "horizon": "10s", "active_within": "10s"},
        }
    )
    rows = [(12, 5.0, "x", 1.0), (13, 6.0, "y", 3.0), (14, None, "x", None), (31, 7.0, None, 2.0)]
    names = ("time", "price", "page", "value")
    base = {"user": "u", "arrival": 0, "id": "1", "kind": "a"}
    events = [{**base, **dict(zip(names, (t * 1_000_000, *rest), strict=True))} for t, *rest in rows]
    block, _ = tidy(decode(task, table_of(events), Span((40_000_000,))).block, identity=False)
    (batch,) = backfill(task, block, [40_000_000])
    assert batch.tensor[0].tolist() == [[0, 0, 0], [6, 2, 1], [6, 0, 0], [7, 0, 0]]
    assert np.array_equal(batch.n_events, [4])
