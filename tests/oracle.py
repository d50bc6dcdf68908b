"""The meaning of a score's input in dictionaries and loops: slow, and obviously what `pipelines/task.py` says.

Events are dicts of the task's fields: text, numbers or None; times are integers of microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.task import ChurnLabel, Feature, Task
from pipelines.transforms.block import hash64

Event = Mapping[str, Any]
F4 = np.float32


class Expected(NamedTuple):
    tensor: npt.NDArray[np.float32]
    n_events: int
    last_event_time: int
    revision: int


def oracle(
    task: Task, events: Sequence[Event], as_ofs: Sequence[int], lateness: int | None = None
) -> dict[tuple[str, int], Expected]:
    """(entity, as-of) -> what a model must see; lateness in us, the task's own unless given."""
    open_for = task.score.allowed_lateness if lateness is None else lateness
    unique = once(task, [e for e in events if is_event(task, e)])
    out = {}
    for as_of in as_ofs:
        histories: dict[str, list[Event]] = {}
        for e in unique:
            arrived = task.events.arrival is None or e[task.events.arrival.field] < as_of + open_for
            if arrived and as_of - task.history <= e[task.events.time.field] < as_of:
                histories.setdefault(e[task.events.entity], []).append(e)
        for entity, history in histories.items():
            times = [e[task.events.time.field] for e in history]
            out[entity, as_of] = Expected(
                tensor(task, history, as_of), len(history), max(times), revision(task, history, as_of)
            )
    return out


def is_event(task: Task, e: Event) -> bool:
    """Whether a row passes the task's filter and skew rule."""
    if any(e[field] != value for field, value in task.events.where.items()):
        return False
    arrival = task.events.arrival
    return arrival is None or e[task.events.time.field] - e[arrival.field] <= task.events.max_skew


def once(task: Task, events: Sequence[Event]) -> list[Event]:
    """In canonical order; of the copies of an event, the one that arrived first."""
    seen, out = set(), []
    for e in sorted(events, key=lambda e: canonical(task, e)):
        identity = (e[task.events.entity], e[task.events.time.field], *(e[f] for f in identity_fields(task, e)))
        if task.events.identity == "none" or identity not in seen:
            seen.add(identity)
            out.append(e)
    return out


def identity_fields(task: Task, e: Event) -> tuple[str, ...]:
    fields = task.events.identity
    return fields if isinstance(fields, tuple) else tuple(sorted(e)) if fields == "all" else ()


def text_hash(value: object) -> int:
    """The one thing that is not plain here: the hash that puts events of one entity and time in order."""
    return 0 if value is None else int(hash64(pa.array([str(value)]))[0])


def canonical(task: Task, e: Event) -> tuple[Any, ...]:
    """(time, identity, arrival, content): hashes decide only between events of one entity and time."""
    identity = [text_hash(e[f]) for f in identity_fields(task, e)]
    arrival = 0 if task.events.arrival is None else e[task.events.arrival.field]
    return (e[task.events.time.field], mixed(identity), arrival, *content(task, e))


def mixed(hashes: Sequence[int]) -> int:
    """The combined hash of identity fields, as `decode.identity` combines them (splitmix64)."""
    mask, out = (1 << 64) - 1, 0
    for h in hashes:
        x = ((out ^ h) + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        out = x ^ (x >> 31)
    return out


def content(task: Task, e: Event) -> list[Any]:
    """Least significant field first, as the block's sort has it; null sorts last."""
    codes = [
        len(task.events.categories[f])
        if e[f] not in task.events.categories[f]
        else task.events.categories[f].index(e[f])
        for f in task.categorical
    ]
    values = [(e[f] is None, 0 if e[f] is None else float(F4(e[f]))) for f in task.numeric]
    hashes = [text_hash(e[f]) for f in task.hashed]
    return [*codes[::-1], *values[::-1], *hashes[::-1]]


def tensor(task: Task, history: Sequence[Event], as_of: int) -> npt.NDArray[np.float32]:
    out = np.zeros((task.sequence.steps, len(task.features)), F4)
    start = as_of - task.history
    steps: list[list[Event]] = [[] for _ in range(task.sequence.steps)]
    for e in history:
        steps[(e[task.events.time.field] - start) // task.sequence.step].append(e)
    for column, f in enumerate(task.features):
        last = F4(0)
        for row, events in enumerate(steps):
            if events or f.fill == "zero":
                last = cell(f, events)
            out[row, column] = last
    return out


def cell(f: Feature, events: Sequence[Event]) -> np.float32:
    chosen = [e for e in events if f.by is None or e[f.by] == f.value]
    if f.agg == "count":
        return F4(len(chosen))
    known = [e[f.field] for e in chosen if e[f.field] is not None] if f.field else []
    if f.agg == "distinct":
        return F4(len(set(known)))
    if not known:
        return F4(0)
    values = [F4(v) for v in known]
    if f.agg == "sum":
        total = F4(0)
        for v in values:
            total = F4(total + v)
        return total
    if f.agg in ("mean", "std"):
        mean = sum(float(v) for v in values) / len(values)
        if f.agg == "mean":
            return F4(mean)
        return F4(np.sqrt(sum((float(v) - mean) ** 2 for v in values) / len(values)))
    if f.agg in ("min", "max"):
        return min(values) if f.agg == "min" else max(values)
    return values[0] if f.agg == "first" else values[-1]


def revision(task: Task, history: Sequence[Event], as_of: int) -> int:
    """Boundaries after the as-of by which the last event of the history had arrived."""
    if task.events.arrival is None:
        return 0
    boundary, count = as_of, 0
    while any(e[task.events.arrival.field] >= boundary for e in history):
        boundary, count = boundary + task.score.every, count + 1
    return count


def churned(task: Task, events: Sequence[Event], as_of: int) -> dict[str, float]:
    """Label of every entity that was active in time, by all that became known of the horizon."""
    assert isinstance(task.label, ChurnLabel)
    seen = oracle(task, events, [as_of], lateness=0)
    active = {entity for (entity, _), x in seen.items() if x.last_event_time >= as_of - task.label.active_within}
    alive = {
        e[task.events.entity]
        for e in events
        if is_event(task, e) and as_of <= e[task.events.time.field] < as_of + task.label.horizon
    }
    return {entity: float(entity not in alive) for entity in active}
