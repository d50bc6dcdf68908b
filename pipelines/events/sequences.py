"""From the events of a shard to tensors: the whole meaning of what a model sees.

The functions are pure: no Beam, no clock, no I/O. Runners and the order of arrival decide when they are called,
never what they return. A score at as-of T is due for every entity with an event in the history [T - H, T), also for
those that fell silent in it.

An event goes from the top down: `backfill` or `examples` (or `due`, in a live job) picks what was known at an as-of;
`sequences` puts each event into a step of its entity; `aggregate` makes the features of each step, in a `FeatureGroup`
for each pass; `StepTable.batch` cuts out the window of an as-of, fills the steps without events and gives the tensor.
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
from pipelines.task.aggregations import Reads, StepAggregation, WindowAggregation
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


class FeatureGroup(NamedTuple):
    """Features that one vectorised pass computes: same aggregation, field and category field."""

    aggregation: StepAggregation
    reads: Reads
    field: int  # row of block.values where it reads numbers, of block.hashes where it reads text, -1 for none
    by: int  # row of block.codes, -1 for none
    column: npt.NDArray[np.int64]  # category code -> feature column, -1 for none; one entry where by is -1


def groups(task: Task) -> tuple[FeatureGroup, ...]:
    """The passes over events that compute the features of a task; those of the window need none."""
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
        out.append(FeatureGroup(aggregation, reads, field, by, column))
    return tuple(out)


class Ties(NamedTuple):
    """Events of one entity, time and arrival: nothing says which came first. Only a task without identity has them.

    Each feature takes them in the order of its own field (see `in_order`), so that none depends on the others.
    """

    rows: Ints  # (m) their rows in a tidy block, ascending
    run: Ints  # (m) a number for each tie

    def in_order(self, field: Array, column: Array) -> Array:
        """A copy of a column (n), each tie ascending by `field` (n)."""
        out = column.copy()
        out[self.rows] = column[self.rows[np.lexsort((field[self.rows], self.run))]]
        return out


def ties(task: Task, block: EventBlock) -> Ties | None:
    """The ties of a tidy block; None where there are none."""
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
    """Sequences of a tidy block at each as-of, of every entity with an event in the history then.

    Steps are aggregated once for all as-ofs, and each as-of is a window on them: 256 entities at a time, or fewer where
    their table of steps would be larger than `DENSE`.

    Args:
      as_ofs: us, ascending; each a step boundary.
      only: as-of -> (keys) the entities that are wanted then; all without it.

    Yields:
      A batch of at most `BATCH` entities of one as-of, and their indices in `block.keys`.
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

    dense: Floats  # (n, w, features); those of the window are 0
    events: Ints  # (n, w) how many
    last: Ints  # (n, w) time of the last event, us; of no meaning where there is none

    def window(self, steps: slice) -> StepTable:
        """The same entities in some of the steps: views, no copies."""
        return StepTable(self.dense[:, steps], self.events[:, steps], self.last[:, steps])

    def batch(self, task: Task, live: Mask, entities: list[str], as_of: int) -> SequenceBatch:
        """The tensor of a window that ends at an as-of, with a revision of 0.

        Args:
          live: (n) the entities that are wanted; each has an event in the window.
          entities: their names.
          as_of: us.
        """
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
    passes: Sequence[FeatureGroup],
    block: EventBlock,
    tied: Ties | None,
    entity: Ints,
    step: Ints,
    shape: tuple[int, int, int],
) -> StepTable:
    """What the events of a tidy block make of each step of each entity.

    Args:
      entity: (events) the number of the entity of each, ascending.
      step: (events) the step that each falls into.
      shape: entities, steps and features.
    """
    cells = shape[0] * shape[1]
    cell = entity * shape[1] + step
    last = np.zeros(cells, np.int64)
    last[cell] = block.time  # in time order: the last write stays
    dense = aggregate(passes, block, tied, cell, cells, shape[2]).reshape(shape)
    return StepTable(dense, np.bincount(cell, minlength=cells).reshape(shape[:2]), last.reshape(shape[:2]))


def aggregate(
    passes: Sequence[FeatureGroup], block: EventBlock, tied: Ties | None, cell: Ints, cells: int, width: int
) -> Floats:
    """f4 (cells * width): the features of each cell, which is a step of an entity.

    Each pass drops the events that it has no use for, of another category or without a value, and adds the rest to
    the cells of its column. Rows are in canonical order, so that every sum has one order of addition.

    Args:
      cell: (events) the cell of each.
      width: features.
    """
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


def _columns(g: FeatureGroup, block: EventBlock, tied: Ties | None) -> tuple[Array | None, Codes | None]:
    """(events) values or hashes of the group's field, and codes of its category; None for what it does not have."""
    field = None if g.field < 0 else (block.values if g.reads == "number" else block.hashes)[g.field]
    code = None if g.by < 0 else block.codes[g.by]
    if tied is None or field is None:
        return field, code
    by = sortable(field) if g.reads == "number" else field
    return tied.in_order(by, field), None if code is None else tied.in_order(by, code)


def text_codes(hashes: Hashes) -> Floats:
    """Hashes (n) of texts as codes that 32 bits hold exactly: 1 to 2^23; 0 is left for no text."""
    return (np.uint64(1) + (hashes >> np.uint64(41))).astype(np.float32)


def fill(task: Task, window: Floats, has: Mask) -> Floats:
    """A contiguous copy of a window (n, steps, features) in which steps without events have what `fill` says.

    With `forward` it is the value of the last step of the window before it that has events; 0 before the first one.

    Args:
      has: (n, steps) which steps have events.
    """
    forward = [i for i, f in enumerate(task.features) if f.fill == "forward"]
    window = np.array(window, order="C")
    if forward and not has.all():
        at = np.maximum.accumulate(np.where(has, np.arange(has.shape[1]), 0), axis=1)
        for f in forward:
            window[:, :, f] = np.take_along_axis(window[:, :, f], at, axis=1)
    return window


def backfill(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Every score of a shard, whose events are all at hand (tidy), as it stands once it is closed to corrections.

    Without arrival all events count as known. With it, an as-of sees the events with arrival < as-of + allowed
    lateness, and the revision says by which boundary the last of them had come.
    """
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
    """(keys) how many boundaries after the as-of each entity's history had all arrived; 0 at the as-of itself."""
    out = np.zeros(len(known.keys), np.int32)
    if known.arrival is not None and task.score.allowed_lateness:
        inside = (known.time >= as_of - task.history) & (known.time < as_of)
        boundaries = (known.arrival[inside] - as_of) // task.score.every + 1
        np.maximum.at(out, known.key[inside], np.maximum(boundaries, 0).astype(np.int32))
    return out


def examples(task: Task, block: EventBlock, as_ofs: Sequence[int]) -> Iterator[SequenceBatch]:
    """Labelled sequences of a tidy shard, of the entities that the label is meant for.

    Features come from what had arrived by the as-of, labels from what happened in the horizon after it.
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
    """The events in the horizon of an as-of (a tidy block) in the form that labels read."""

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
