"""The meaning of a score's input in dictionaries and loops: slow, and obviously what `pipelines/task/spec.py` says.

Events are dicts of the task's fields: text, numbers or None; times are integers of microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.events.block import hash64
from pipelines.task.labels.churn import ChurnLabel
from pipelines.task.labels.path import PathLabel
from pipelines.task.spec import Feature, Task

Event = Mapping[str, Any]
Copies = Sequence[Event]  # of one event, with one time and arrival; they may contradict one another
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
        histories: dict[str, list[Copies]] = {}
        for copies in unique:
            e = copies[0]
            arrived = task.events.arrival is None or e[task.events.arrival.field] < as_of + open_for
            if arrived and as_of - task.history <= e[task.events.time.field] < as_of:
                histories.setdefault(e[task.events.entity], []).append(copies)
        for entity, history in histories.items():
            times = [time(task, c) for c in history]
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


def once(task: Task, events: Sequence[Event]) -> list[Copies]:
    """Each event once, in canonical order: of its copies those that arrived first."""
    if task.events.identity == "none":
        return [[e] for e in sorted(events, key=lambda e: place(task, e))]
    out: dict[tuple[Any, ...], list[Event]] = {}
    for e in sorted(events, key=lambda e: place(task, e)):
        identity = (e[task.events.entity], e[task.events.time.field], *(e[f] for f in identity_fields(task, e)))
        copies = out.setdefault(identity, [])
        if not copies or place(task, e) == place(task, copies[0]):
            copies.append(e)
    return list(out.values())


def identity_fields(task: Task, e: Event) -> tuple[str, ...]:
    fields = task.events.identity
    return fields if isinstance(fields, tuple) else tuple(sorted(e)) if fields == "all" else ()


def text_hash(value: object) -> int:
    """The one thing that is not plain here: the hash that puts events of one entity and time in order."""
    return 0 if value is None else int(hash64(pa.array([str(value)]))[0])


def place(task: Task, e: Event) -> tuple[int, ...]:
    """(time, identity, arrival): hashes decide only between events of one entity and time."""
    arrival = 0 if task.events.arrival is None else e[task.events.arrival.field]
    return (e[task.events.time.field], mixed([text_hash(e[f]) for f in identity_fields(task, e)]), arrival)


def mixed(hashes: Sequence[int]) -> int:
    """The combined hash of identity fields, as `decode.identity` combines them (splitmix64)."""
    mask, out = (1 << 64) - 1, 0
    for h in hashes:
        x = ((out ^ h) + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        out = x ^ (x >> 31)
    return out


def time(task: Task, copies: Copies) -> int:
    return int(copies[0][task.events.time.field])


def number(copies: Copies, field: str) -> np.float32 | None:
    """The smallest value of copies that contradict one another; -0.0 is 0.0."""
    return min((F4(c[field]) + F4(0) for c in copies if c[field] is not None), default=None)


def text(copies: Copies, field: str) -> int:
    """The smallest hash of copies that contradict one another, 0 for none."""
    return min((text_hash(c[field]) for c in copies if c[field] is not None), default=0)


def category(copies: Copies, field: str) -> object:
    """None where copies contradict one another."""
    values = {c[field] for c in copies}
    return values.pop() if len(values) == 1 else None


def tensor(task: Task, history: Sequence[Copies], as_of: int) -> npt.NDArray[np.float32]:
    out = np.zeros((task.sequence.steps, len(task.features)), F4)
    start = as_of - task.history
    steps: list[list[Copies]] = [[] for _ in range(task.sequence.steps)]
    for copies in history:
        steps[(time(task, copies) - start) // task.sequence.step].append(copies)
    for column, f in enumerate(task.features):
        last = F4(0)
        for row, events in enumerate(steps):
            if f.agg in OVER:
                out[row, column] = OVER[f.agg](task, [c for events in steps[: row + 1] for c in events], start, row)
                continue
            if events or f.fill == "zero":
                last = cell(task, f, events)
            out[row, column] = last
    return out


def since(task: Task, events: Sequence[Copies], start: int, row: int) -> np.float32:
    """Steps from the last of the events, or from the start of the window, to the end of a step."""
    end = start + (row + 1) * task.sequence.step
    return F4((end - max([start, *(time(task, c) for c in events)])) / task.sequence.step)


def cell(task: Task, f: Feature, events: Sequence[Copies]) -> np.float32:
    chosen = [c for c in events if f.by is None or category(c, f.by) == f.value]
    known = [(place(task, c[0]), v) for c in chosen if (v := value(f, c)) is not None]
    values = [1 + (v >> 41) if f.reads == "word" else v for _, v in sorted(known)]
    return F4(REDUCED[f.agg](values) if values else 0)


def value(f: Feature, copies: Copies) -> Any:
    """What a feature reads of an event; None for nothing."""
    if f.field is None:
        return 1
    return number(copies, f.field) if f.reads == "number" else text(copies, f.field) or None


def added(values: Sequence[np.float32]) -> np.float32:
    total = F4(0)
    for v in values:
        total = F4(total + v)
    return total


def mean(values: Sequence[float]) -> float:
    return sum(float(v) for v in values) / len(values)


def deviation(values: Sequence[float]) -> float:
    return math.sqrt(mean([(float(v) - mean(values)) ** 2 for v in values]))


# What an aggregation of the window makes of its events up to the end of a step.
OVER = {"recency": since}

# What an aggregation of a step makes of the values of a step, at least one, in order of time.
REDUCED: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "count": len,
    "sum": added,
    "mean": mean,
    "min": min,
    "max": max,
    "std": deviation,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "distinct": lambda values: len(set(values)),
}


def revision(task: Task, history: Sequence[Copies], as_of: int) -> int:
    """Boundaries after the as-of by which the last event of the history had arrived."""
    if task.events.arrival is None:
        return 0
    boundary, count = as_of, 0
    while any(c[0][task.events.arrival.field] >= boundary for c in history):
        boundary, count = boundary + task.score.every, count + 1
    return count


def labelled(task: Task, events: Sequence[Event], as_of: int) -> dict[str, list[float]]:
    """Label of every entity that the question is meant for, by all that became known of the horizon."""
    seen = {entity: x for (entity, _), x in oracle(task, events, [as_of], lateness=0).items()}
    ahead: dict[str, list[Copies]] = {entity: [] for entity in seen}
    for copies in once(task, [e for e in events if is_event(task, e)]):
        if as_of <= time(task, copies) < as_of + task.horizon:
            ahead.setdefault(copies[0][task.events.entity], []).append(copies)
    found = {entity: LABELLED[task.label.kind](task, as_of, x, ahead[entity]) for entity, x in seen.items()}
    return {entity: label for entity, label in found.items() if label is not None}


def churned(task: Task, as_of: int, seen: Expected, ahead: Sequence[Copies]) -> list[float] | None:
    assert isinstance(task.label, ChurnLabel)
    return [float(not ahead)] if seen.last_event_time >= as_of - task.label.active_within else None


def path(task: Task, as_of: int, seen: Expected, ahead: Sequence[Copies]) -> list[float] | None:
    assert isinstance(task.label, PathLabel)
    steps: list[list[float]] = [[] for _ in range(task.label.steps)]
    known = [(place(task, c[0]), v) for c in ahead if (v := number(c, task.label.field)) is not None]
    for (at, *_), level in sorted(known):
        steps[(at - as_of) // task.sequence.step].append(float(level))
    last = float(seen.tensor[-1, [f.name for f in task.features].index(f"last({task.label.field})")])
    if last <= 0 or not any(steps):
        return None
    levels = [last]
    for values in steps:
        levels.append(values[-1] if values else levels[-1])
    return levels[1:]


# What came true of an entity, by its history and the events in its horizon; None where it is not asked of it.
LABELLED: Mapping[str, Callable[[Task, int, Expected, Sequence[Copies]], list[float] | None]] = {
    "churn": churned,
    "path": path,
}
