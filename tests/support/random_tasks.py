"""Random tasks, and random events that all of them can read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from pipelines.task.aggregations import AGGREGATIONS, Reads
from pipelines.task.spec import Task
from tests.support.oracle import Event

STEP = 10_000_000
KINDS = ("a", "b", "c")
LABELS: dict[str, dict[str, Any]] = {
    "churn": {"kind": "churn", "horizon": "25s", "active_within": "10s"},
    "path": {"kind": "path", "field": "price", "steps": 2},
}
STARTS = {"path": {"agg": "last", "field": "price", "fill": "forward"}}  # the feature that a label starts from
FIELDS: dict[Reads, list[str]] = {"number": ["value", "price"], "hash": ["kind", "page"], "word": ["page", "id"]}


def features() -> Iterator[st.SearchStrategy[dict[str, Any]]]:
    """One of every aggregation, with all that its class takes."""
    for name, aggregation in AGGREGATIONS.items():
        common = {"agg": st.just(name), "fill": st.sampled_from(["zero", "forward"])}
        if not aggregation.whole:
            common["by"] = st.sampled_from([None, "kind"])
        if aggregation.reads == "nothing":
            yield st.fixed_dictionaries(common)
        else:
            yield st.fixed_dictionaries({**common, "field": st.sampled_from(FIELDS[aggregation.reads])})
        if aggregation.words:
            text = {"field": st.sampled_from(FIELDS["word"]), "vocabulary": st.just(3)}
            yield st.fixed_dictionaries({**common, **text})


@st.composite
def tasks(
    draw: st.DrawFn,
    arrivals: st.SearchStrategy[bool] = st.booleans(),  # noqa: B008
    kind: str = "churn",  # of the label
) -> Task:
    feature = st.one_of(*features())
    named = st.lists(feature, min_size=1, max_size=6, unique_by=lambda f: (f["agg"], f.get("field"), f.get("by")))
    chosen = draw(named)
    if (start := STARTS.get(kind)) is not None:
        chosen = [start, *(f for f in chosen if (f["agg"], f.get("field"), f.get("by")) != ("last", "price", None))]
    every = draw(st.integers(1, 3))
    arrival = draw(arrivals)
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
                "features": tuple(chosen),
            },
            "score": {"every": f"{every * 10}s", "allowed_lateness": f"{lateness * 10}s"},
            "label": LABELS[kind],
        }
    )


AS_OF = 5 * STEP
ANY_TIME = st.integers(-3 * STEP, 14 * STEP) | st.integers(-3, 14).map(lambda s: s * STEP)
ANY_DELAY = st.just(0) | st.integers(-4 * STEP, 4 * STEP)


@st.composite
def event_lists(
    draw: st.DrawFn, time: st.SearchStrategy[int] = ANY_TIME, delay: st.SearchStrategy[int] = ANY_DELAY, few: int = 0
) -> list[Event]:
    event: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
        {
            "user": st.sampled_from(["ü", "b", "long-name-of-a-user"]),
            "time": time,
            "delay": delay,
            "id": st.sampled_from(["1", "2", "3", "4"]),
            "kind": st.sampled_from([*KINDS, "other", None]),
            "page": st.sampled_from(["x", "y", None]),
            "value": st.none() | st.floats(-1e6, 1e6, width=32),
            "price": st.none() | st.just(-0.0) | st.integers(-1000, 1000).map(lambda x: x / 8),
        }
    )
    events = draw(st.lists(event, min_size=few, max_size=25))
    return [{**e, "arrival": e["time"] + e.pop("delay")} for e in events]


def table_of(events: Sequence[Event]) -> pa.Table:
    kinds: dict[str, Any] = {"time": pa.int64(), "arrival": pa.int64(), "value": pa.float64(), "price": pa.float64()}
    fields = ("user", "time", "arrival", "id", "kind", "page", "value", "price")
    return pa.table({f: pa.array([e[f] for e in events], kinds.get(f, pa.string())) for f in fields})
