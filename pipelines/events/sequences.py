"""From the events of a shard to tensors: the whole meaning of what a model sees.

The functions are pure: no Beam, no clock, no I/O. Runners and the order of arrival decide when they are called,
never what they return. A score at as-of T is due for every entity with an event in the history [T - H, T), also for
those that fell silent in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.events.block import EventBlock, Floats, Hashes, Ints, Mask, sortable
from pipelines.system.versioned import versioned
from pipelines.task.aggregations.base import Reads, StepAggregation, WindowAggregation
from pipelines.task.labels.base import Ahead
from pipelines.task.spec import Task

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.uint16]

BATCH = 256  # entities in a SequenceBatch, at most
DENSE = 1 << 24  # cells (f4) of a dense step table, at most: 64 MB


@versioned("sequences")
@dataclass(frozen=True)
class SequenceBatch:
    """The model's input for n entities at one as-of."""

    entities: list[str]
    as_of: int  # us; the tensor covers [as_of - history, as_of)
    revision: npt.NDArray[np.int32]  # (n) 0 on time, k corrected at the k-th boundary after, -1 early
    tensor: Floats  # (n, steps, features)
    n_events: Ints  # (n) events in the history
    last_event_time: Ints  # (n) us
    label: Floats | None = None  # (n, label.width)


class Group(NamedTuple):
    """Features that one vectorised pass computes: same aggregation, field and category field."""

    aggregation: StepAggregation
    reads: Reads
    field: int  # row of block.values where it reads numbers, of block.hashes where it reads text, -1 for none
    by: int  # row of block.codes, -1 for none
    column: npt.NDArray[np.int64]  # category code -> feature column, -1 for none; one entry where by is -1


def groups(task: Task) -> tuple[Group, ...]:
    """The passes that compute all features of a task that follow from the events of each step."""
    members: dict[tuple[StepAggregation, Reads, int, int], list[tuple[int, str | None]]] = {}
    for i, f in enumerate(task.features):
        if not isinstance(f.aggregation, StepAggregation):
            continue
        field = -1 if f.field is None else (task.numeric if f.reads == "number" else task.hashed).index(f.field)
        by = -1 if f.by is None else task.categorical.index(f.by)
        members.setdefault((f.aggregation, f.reads, field, by), []).append((i, f.value))
    out = []
    for (aggregation, reads, field, by), features in members.items():
        values = (None,) if by < 0 else (*task.events.categories[task.categorical[by]], None)
        column = np.full(len(values), -1)
        for i, value in features:
            column[values.index(value)] = i
        out.append(Group(aggregation, reads, field, by, column))
    return tuple(out)


class Ties(NamedTuple):
    """Events of a tidy block that nothing but their content tells apart, as only a task without identity has them.

    Each feature takes them in the order of its own field (see `in_order`), so that none depends on the others.
    """

    rows: Ints  # (m) ascending
    run: Ints  # (m) the same number for events of one key, time and arrival

    def in_order(self, field: Array, column: Array) -> Array:
        """A copy of a column (n), each tie ascending by `field` (n)."""
        out = column.copy()
        out[self.rows] = column[self.rows[np.lexsort((field[self.rows], self.run))]]
        return out


def ties(task: Task, block: EventBlock) -> Ties | None:
    """None where there are none."""
    if task.events.identity != "none" or len(block) < 2:
        return None
    same = (block.key[1:] == block.key[:-1]) & (block.time[1:] == block.time[:-1])
    if block.arrival is not None:
        same &= block.arrival[1:] == block.arrival[:-1]
    if not same.any():
        return None
    rows = np.flatnonzero(np.concatenate(([False], same)) | np.concatenate((same, [False])))
    return Ties(rows, np.cumsum(np.concatenate(([True], ~same)))[rows])


def sequences(
    task: Task, block: EventBlock, as_ofs: Sequence[int], only: Mapping[int, Mask] | None = None
) -> Iterator[tuple[SequenceBatch, Ints]]:
    """(batch, index of its entities in block.keys) of a tidy block, at each as-of (us, ascending).

    Steps are aggregated once for all as-ofs; each as-of is a window on them.

    Args:
      only: as-of -> (keys) the entities that are wanted then; all without it.
    """
    origin, step, steps = task.sequence.origin, task.sequence.step, task.sequence.steps
    ends = [(t - origin) // step for t in as_ofs]
    low, high = ends[0] - steps, ends[-1]
    width = high - low
    at = (block.time - origin) // step - low
    inside = (at >= 0) & (at < width)
    if only is not None:
        inside &= np.logical_or.reduce([only[t] for t in as_ofs])[block.key]
    if not inside.all():
        block, at = block.take(inside), at[inside]
    if not len(block):
        return
    passes = groups(task)
    starts = np.flatnonzero(np.concatenate(([True], block.key[1:] != block.key[:-1])))  # tidy: sorted by key
    edges = np.append(starts, len(block))
    size = max(1, min(BATCH, DENSE // (width * len(task.features))))
    for i in range(0, len(starts), size):
        edge = edges[i : i + size + 1]
        chunk = block.take(slice(int(edge[0]), int(edge[-1])))
        entity = np.repeat(np.arange(len(edge) - 1), np.diff(edge))
        shape = (len(edge) - 1, width, len(task.features))
        table = step_table(passes, chunk, ties(task, chunk), entity, at[edge[0] : edge[-1]], shape)
        keys = block.key[edge[:-1]].astype(np.int64)
        for as_of, end in zip(as_ofs, ends, strict=True):
            window = table.window(slice(end - low - steps, end - low))
            live = np.asarray((window.events > 0).any(axis=1))
            if only is not None:
                live &= only[as_of][keys]
            if live.any():
                entities = block.keys.take(pa.array(keys[live])).to_pylist()
                yield window.batch(task, live, entities, as_of), keys[live]


@dataclass(frozen=True)
class StepTable:
    """What n entities did in each of w steps."""

    dense: Floats  # (n, w, features)
    events: Ints  # (n, w)
    last: Ints  # (n, w) time of the last event, us; of no meaning where there is none

    def window(self, steps: slice) -> StepTable:
        return StepTable(self.dense[:, steps], self.events[:, steps], self.last[:, steps])

    def batch(self, task: Task, live: Mask, entities: list[str], as_of: int) -> SequenceBatch:
        """The entities of `live` (n), which have an event."""
        rows: slice | Mask = slice(None) if live.all() else live
        events = self.events[rows]
        has = events > 0
        last = self.last[rows].max(axis=1, where=has, initial=-(1 << 63))
        on_time = np.zeros(len(entities), np.int32)
        tensor = fill(task, self.dense[rows], has)
        for i, f in enumerate(task.features):
            if isinstance(f.aggregation, WindowAggregation):
                start, step = as_of - task.history, task.sequence.step
                tensor[:, :, i] = f.aggregation.over(self.last[rows], has, start, step)
        return SequenceBatch(entities, as_of, on_time, tensor, events.sum(axis=1), last)


def step_table(
    passes: Sequence[Group],
    block: EventBlock,
    tied: Ties | None,
    entity: Ints,
    step: Ints,
    shape: tuple[int, int, int],
) -> StepTable:
    """Events of a tidy block by entity (n events, ascending) and step (n events) -> a table of `shape`."""
    cells = shape[0] * shape[1]
    cell = entity * shape[1] + step
    last = np.zeros(cells, np.int64)
    last[cell] = block.time  # in time order: the last write stays
    dense = aggregate(passes, block, tied, cell, cells, shape[2]).reshape(shape)
    return StepTable(dense, np.bincount(cell, minlength=cells).reshape(shape[:2]), last.reshape(shape[:2]))


def aggregate(
    passes: Sequence[Group], block: EventBlock, tied: Ties | None, cell: Ints, cells: int, width: int
) -> Floats:
    """f4 (cells * width). Rows are in canonical order, so that every sum has one order of addition."""
    out = np.zeros(cells * width, np.float32)
    for g in passes:
        field, code = _columns(g, block, tied)
        rows: slice | Mask = slice(None)
        if code is None:
            at = cell * width + g.column[0]
        else:
            column = g.column.take(code, mode="clip")
            rows = slice(None) if column.min(initial=0) >= 0 else column >= 0
            at = (cell * width + column)[rows]
        v: Array = np.broadcast_to(np.float32(1), len(at))
        if field is not None:
            v = field[rows]
            real = ~np.isnan(v) if g.reads == "number" else v != 0
            at, v = (at, v) if real.all() else (at[real], v[real])
        g.aggregation.add(out, at, text_codes(v) if g.reads == "word" else v)
    return out


def _columns(g: Group, block: EventBlock, tied: Ties | None) -> tuple[Array | None, Codes | None]:
    """(values or hashes of the group's field, codes of its category), None for each that it does not have."""
    field = None if g.field < 0 else (block.values if g.reads == "number" else block.hashes)[g.field]
    code = None if g.by < 0 else block.codes[g.by]
    if tied is None or field is None:
        return field, code
    by = sortable(field) if g.reads == "number" else field
    return tied.in_order(by, field), None if code is None else tied.in_order(by, code)


def text_codes(hashes: Hashes) -> Floats:
    """f4 (n) of the hashes of text values: 1 to 2^23, so exact; 0 is left for none."""
    return (np.uint64(1) + (hashes >> np.uint64(41))).astype(np.float32)


def fill(task: Task, window: Floats, has: Mask) -> Floats:
    """A contiguous copy of (n, steps, features) with forward-filled features: a step without events (has (n, steps))
    takes the value of the last step of the window that has some, else 0."""
    forward = [i for i, f in enumerate(task.features) if f.fill == "forward"]
    window = np.array(window, order="C")
    if forward and not has.all():
        at = np.maximum.accumulate(np.where(has, np.arange(has.shape[1]), 0), axis=1)
        for f in forward:
            window[:, :, f] = np.take_along_axis(window[:, :, f], at, axis=1)
    return window


def backfill(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Every score of a shard (tidy, its whole history at hand). With arrival, each as-of sees what was known in time:
    events with arrival < as-of + allowed lateness; the revision says at which boundary the last of them came."""
    if block.arrival is None:
        for batch, _ in sequences(task, block, as_ofs):
            yield batch
        return
    for t in as_ofs:
        known = block.take(block.arrival < t + task.score.allowed_lateness)
        late = _revisions(task, known, t)
        for batch, keys in sequences(task, known, [t]):
            yield replace(batch, revision=late[keys])


def _revisions(task: Task, known: EventBlock, as_of: int) -> npt.NDArray[np.int32]:
    """(keys) boundaries after the as-of at which the last event of an entity's history had arrived."""
    out = np.zeros(len(known.keys), np.int32)
    if known.arrival is not None and task.score.allowed_lateness:
        inside = (known.time >= as_of - task.history) & (known.time < as_of)
        boundaries = (known.arrival[inside] - as_of) // task.score.every + 1
        np.maximum.at(out, known.key[inside], np.maximum(boundaries, 0).astype(np.int32))
    return out


def examples(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Labelled sequences of a tidy shard: features from what had arrived by the as-of, labels from what came after.

    Only entities that the label is meant for.
    """
    for t in as_ofs:
        known = block if block.arrival is None else block.take(block.arrival < t)
        ahead = block.take((block.time >= t) & (block.time < t + task.horizon))
        came = _ahead(task, ahead, t)
        for batch, keys in sequences(task, known, [t]):
            label, meant = task.label.of(task, batch, keys, came)
            if meant.any():
                yield _picked(replace(batch, label=label), meant)


def _ahead(task: Task, block: EventBlock, as_of: int) -> Ahead:
    """A tidy block of events in the horizon of an as-of, as a label asks it."""

    def values(field: str) -> Floats:
        found, tied = block.values[task.numeric.index(field)], ties(task, block)
        return found if tied is None else tied.in_order(sortable(found), found)

    return Ahead(len(block.keys), block.key, (block.time - as_of) // task.sequence.step, values)


def _picked(b: SequenceBatch, rows: Mask) -> SequenceBatch:
    entities = [e for e, r in zip(b.entities, rows.tolist(), strict=True) if r]
    label = None if b.label is None else b.label[rows]
    return SequenceBatch(
        entities, b.as_of, b.revision[rows], b.tensor[rows], b.n_events[rows], b.last_event_time[rows], label
    )
