"""What a live shard owes at a boundary: scores on time, corrections of scores still open, and what it must keep.

Pure functions: no Beam, no clock, no I/O; `transforms.live_sequences` decides when they are called. Boundaries are the
as-ofs of the job, `score.every` apart from `since.first` on. Arrival alone decides which events are known, which are
late, and what is corrected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipelines.events.block import EventBlock, Ints, Mask, concat, order, tidy
from pipelines.events.decode import Since
from pipelines.events.sequences import SequenceBatch, sequences
from pipelines.task.spec import Task

EARLY = -1  # the revision of a score before its time


@dataclass(frozen=True)
class Due:
    """What a boundary brings. The new events are those accepted and the duplicates."""

    boundary: int  # us
    batches: Iterator[SequenceBatch]  # computed as they are taken: once
    keep: EventBlock  # tidy, what later boundaries need
    accepted: int  # events
    duplicates: int
    late: EventBlock  # accepted events that came after the first score that should have seen them was closed
    behind: int  # accepted events that had arrived before the last boundary, which should have seen them


def due(task: Task, since: Since, boundary: int, last: int | None, known: EventBlock, new: EventBlock) -> Due:
    """Everything a shard owes at a boundary.

    An entity gets a score on time if it has an event in its history, and a correction of each score still open whose
    history gained one of the new events.

    Args:
      boundary: us.
      last: us, the boundary before it, if there was one.
      known: what the shard kept then, tidy.
      new: what came since, in any order, with arrival < boundary.
    """
    every, lateness, history = task.score.every, task.score.allowed_lateness, task.history
    block, rows = tidy(concat([known, new]), task.events.identity != "none")
    gained = np.flatnonzero(rows >= len(known))
    fresh = block.take(gained)
    corrected = {}
    for as_of in range(max(since.first, boundary - lateness), boundary, every):
        hit = (fresh.time >= as_of - history) & (fresh.time < as_of)
        if hit.any():
            corrected[as_of] = _keys(fresh, hit)

    def batches() -> Iterator[SequenceBatch]:
        seen = _as_read(task, block)
        for batch, _ in sequences(task, seen, [boundary]):
            yield batch
        if corrected:
            for batch, _ in sequences(task, seen, sorted(corrected), corrected):
                yield _revised(batch, (boundary - batch.as_of) // every)

    late, behind = _late(task, since, fresh), 0
    if last is not None:  # an event that was dropped then may have been counted before: such come without end
        remembered = fresh.time >= last + every - lateness - history
        late &= remembered
        behind = int(np.count_nonzero(remembered & _arrived(fresh, last)))
    keep = block.take(block.time >= boundary + every - lateness - history)
    duplicates = len(known) + len(new) - len(block)
    return Due(boundary, batches(), keep, len(new) - duplicates, duplicates, fresh.take(late), behind)


def early(task: Task, boundary: int, known: EventBlock, new: EventBlock) -> Iterator[SequenceBatch]:
    """Scores of the next boundary (us) before its time, with revision -1: those of entities whose history gained an
    event of `new`. Arguments as of `due`."""
    both = concat([known, new])
    touched = np.zeros(len(both.keys), bool)
    touched[both.key[len(known) :]] = True
    rows = touched[both.key]
    block, kept = tidy(both.take(rows), task.events.identity != "none")
    fresh = kept >= np.count_nonzero(rows[: len(known)])
    only = {boundary: _keys(block, fresh & (block.time >= boundary - task.history) & (block.time < boundary))}
    for batch, _ in sequences(task, _as_read(task, block), [boundary], only):
        yield _revised(batch, EARLY)


def _late(task: Task, since: Since, fresh: EventBlock) -> Mask:
    """(events) whether the first score that should have seen each was closed when it arrived."""
    first = since.after(task, fresh.time)
    return (fresh.time >= first - task.history) & ~_arrived(fresh, first + task.score.allowed_lateness)


def _arrived(block: EventBlock, before: int | Ints) -> Mask:
    assert block.arrival is not None, "events of a live job have an arrival"
    return np.asarray(block.arrival < before)


def _keys(block: EventBlock, rows: Mask) -> Mask:
    """(keys) which entities have one of the rows (events)."""
    out = np.zeros(len(block.keys), bool)
    out[block.key[rows]] = True
    return out


def _as_read(task: Task, block: EventBlock) -> EventBlock:
    """A tidy block as if it had been read from files: without identity, ids of messages have no say in the order."""
    if task.events.identity != "none" or not block.id.any():
        return block
    block = replace(block, id=np.zeros_like(block.id))
    return block.take(order(block)[0])


def _revised(batch: SequenceBatch, revision: int) -> SequenceBatch:
    return replace(batch, revision=np.full(len(batch.entities), revision, np.int32))
