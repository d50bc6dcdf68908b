"""Sequences of a stream: what a shard keeps between two boundaries, and when it is looked at.

`ShardClock` and `Core` are the whole state machine, without Beam; the DoFn below stores the state and sets the timers.
What is computed at a boundary is in `due`; that it depends on arrivals alone is why order of delivery, redelivery,
restarts and the moment at which a timer fires change nothing.

A shard that keeps and holds nothing sleeps: no timer, three empty bags. A timer says that the watermark has passed its
time: nothing that arrived before it is still to come, but for events that are then counted as `behind`.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import apache_beam as beam
import numpy as np
from apache_beam.coders import BytesCoder
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms import userstate
from apache_beam.utils.timestamp import Timestamp

from pipelines.events.block import EventBlock, arrivals, chunks, concat, joined, unpack
from pipelines.events.decode import Since
from pipelines.events.due import Due, due, early
from pipelines.events.messages import BlockOrTick, Tick
from pipelines.events.sequences import SequenceBatch
from pipelines.events.terms import SIZE, Terms
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.ledger.metrics import counter, distribution
from pipelines.task.fields import format_time
from pipelines.task.spec import Task

CLOCK = struct.Struct("<??qqq")
NONE = -(1 << 63)
TOO_LATE = "too late for a score that was closed"


class Bag(Protocol):
    """Packed blocks in any order, as Beam's bag state keeps them."""

    def read(self) -> Iterable[bytes]: ...

    def add(self, raw: bytes) -> None: ...

    def clear(self) -> None: ...


@dataclass(frozen=True)
class ShardClock:
    """When a shard is looked at next; times in us."""

    due: int | None = None  # the next boundary; None: the shard sleeps
    armed: bool = False  # a timer is set for it; if not, it lies in the future, and the next element sets the timer
    showing: bool = False  # a timer for early scores is set
    last: int | None = None  # the last boundary
    tick: int | None = None  # the newest: all that arrived before it has come

    def pack(self) -> bytes:
        times = (NONE if t is None else t for t in (self.due, self.last, self.tick))
        return CLOCK.pack(self.armed, self.showing, *times)

    @staticmethod
    def unpack(raw: bytes | None) -> ShardClock:
        """The clock of its packed form; a new one for None."""
        if raw is None:
            return ShardClock()
        armed, showing, *times = CLOCK.unpack(raw)
        at, last, tick = (None if t == NONE else t for t in times)
        return ShardClock(at, armed, showing, last, tick)


@dataclass
class Shard:
    """The state of a shard."""

    clock: ShardClock
    history: Bag  # tidy, what was kept at the last boundary
    shown: Bag  # came since then, and was part of early scores
    arrived: Bag  # came since


@dataclass(frozen=True)
class Passed:
    """A boundary, and the size of the state after it."""

    due: Due
    events: int
    bytes: int


@dataclass(frozen=True)
class Core:
    """The state machine of a shard: what it does with an element or a timer.

    Args:
      previews: whether there are early scores.
      by_ticks: the time of day is the newest tick that the shard has seen, not the clock on the wall.
    """

    task: Task
    since: Since
    previews: bool
    by_ticks: bool

    def received(self, clock: ShardClock, element: BlockOrTick) -> ShardClock:
        """The shard after a packed block, which is to be added to `arrived`, or a tick, which wakes nobody."""
        if isinstance(element, Tick):
            newest = element.time if clock.tick is None else max(element.time, clock.tick)
            return replace(clock, armed=clock.due is not None, tick=newest)
        boundary = self._after(int(arrivals(element).min()))
        if clock.last is not None:
            boundary = max(boundary, clock.last + self.task.score.every)
        if clock.due is not None:
            boundary = min(boundary, clock.due)  # lower than it was if this block was overtaken by a later one
        return replace(clock, due=boundary, armed=True, showing=self.previews)

    def boundaries(self, shard: Shard, at: int, now: int) -> Iterator[Passed]:
        """Handles a timer set for `at` (us): gives each boundary that is due by then, in order, and not in the future.

        The batches of one are to be taken before the next is asked for; the shard is left as it is after each.
        """
        clock = shard.clock
        today = now if not self.by_ticks else NONE if clock.tick is None else clock.tick
        while clock.due is not None and clock.due <= min(at, today):
            passed = self._boundary(shard, clock.due)
            clock = shard.clock
            yield passed
        armed = clock.due is not None and clock.due > at
        shard.clock = replace(clock, armed=armed, showing=clock.showing and armed)

    def preview(self, shard: Shard) -> Iterator[SequenceBatch]:
        """Handles the timer for early scores: gives those of entities with new events since the last early scores."""
        shard.clock = replace(shard.clock, showing=False)
        boundary = shard.clock.due
        if boundary is None:
            return
        new, rest = self._split(shard.arrived.read(), boundary)
        if not len(new):
            return
        shown, _ = self._split(shard.shown.read(), boundary)
        known = concat([*map(unpack, shard.history.read()), shown])
        _fill(shard.arrived, rest)
        for raw in chunks(new):
            shard.shown.add(raw)
        yield from early(self.task, boundary, known, new)

    def _boundary(self, shard: Shard, boundary: int) -> Passed:
        clock, history = shard.clock, list(shard.history.read())
        new, rest = self._split([*shard.shown.read(), *shard.arrived.read()], boundary)
        known = concat([*map(unpack, history)] or [self._nothing])
        result = due(self.task, self.since, boundary, clock.last, known, new)
        if len(new) or len(result.keep) < len(known):
            history = list(chunks(result.keep))
            _fill(shard.history, history)
        if len(new):
            shard.shown.clear()
            _fill(shard.arrived, rest)
        following = None
        if history:
            following = boundary + self.task.score.every
        elif rest:
            following = self._after(min(int(arrivals(raw).min()) for raw in rest))
        showing = clock.showing or (self.previews and bool(rest))
        shard.clock = replace(clock, due=following, armed=False, showing=showing, last=boundary)
        return Passed(result, len(result.keep), sum(map(len, (*history, *rest))))

    def _split(self, raws: Iterable[bytes], boundary: int) -> tuple[EventBlock, list[bytes]]:
        """Events that had arrived by a boundary, and the packed blocks of the rest."""
        known: list[bytes] = []
        rest: list[bytes] = []
        for raw in raws:
            (known if arrivals(raw).min() < boundary else rest).append(raw)
        block = joined(known) if known else self._nothing
        assert block.arrival is not None, "arrivals were read from it"
        arrived = block.arrival < boundary
        if arrived.all():
            return block, rest
        return block.take(arrived), [*rest, *chunks(block.take(~arrived))]

    @property
    def _nothing(self) -> EventBlock:
        task = self.task
        return EventBlock.empty(len(task.categorical), len(task.numeric), len(task.hashed))

    def _after(self, arrival: int) -> int:
        """The first boundary that may know an event of that arrival."""
        return int(self.since.after(self.task, np.array(arrival)))


def _fill(bag: Bag, raws: Iterable[bytes]) -> None:
    bag.clear()
    for raw in raws:
        bag.add(raw)


@dataclass(frozen=True)
class LiveSettings:
    """Settings of a live job that decide when a shard is looked at.

    Args:
      source: the subscription, which dead letters of late events name.
      early: us from an event to the early scores of its entity, 0 for none.
      ticks: the source says how far its clock has come before its watermark passes a boundary, and nothing beyond is
        scored: so a job that is drained leaves out what it has not read of.
      clock: seconds since 1970, as the runner's timers know them.
      shards: into which the entities are divided.
    """

    source: str
    early: int = 0
    ticks: bool = False
    clock: Callable[[], float] = time.time
    shards: int = 1


@dataclass(eq=False)
class LiveSequences(beam.PTransform):
    """(shard, packed EventBlock or tick) -> `sequences`: SequenceBatch; `ledger`: one Ledger a shard and boundary; and
    `dead`: DeadLetters of late events."""

    task: Task
    since: Since
    live: LiveSettings

    def expand(self, blocks: beam.PCollection[tuple[int, BlockOrTick]]) -> beam.pvalue.DoOutputsTuple:
        build = beam.ParDo(_Live(self.task, self.since, self.live)).with_input_types(tuple[int, BlockOrTick])
        build = build.with_output_types(SequenceBatch, dead=DeadLetter, ledger=Ledger)
        return blocks | "Live" >> build.with_outputs("dead", "ledger", main="sequences")


Output: TypeAlias = SequenceBatch | TaggedOutput
HISTORY, SHOWN, ARRIVED = (
    beam.DoFn.StateParam(userstate.BagStateSpec(name, BytesCoder())) for name in ("history", "shown", "arrived")
)
STATE, TERMS = (
    beam.DoFn.StateParam(userstate.ReadModifyWriteStateSpec(name, BytesCoder())) for name in ("clock", "terms")
)
DUE_TIMER = userstate.TimerSpec("due", userstate.TimeDomain.WATERMARK)
SHOW_TIMER = userstate.TimerSpec("show", userstate.TimeDomain.REAL_TIME)
DUE, SHOW = beam.DoFn.TimerParam(DUE_TIMER), beam.DoFn.TimerParam(SHOW_TIMER)


class _Live(beam.DoFn):
    """The cell `clock` begins with the digest of the terms, which are in a cell of their own."""

    def __init__(self, task: Task, since: Since, live: LiveSettings) -> None:
        self.core = Core(task, since, live.early > 0, live.ticks)
        self.live = live
        self.terms = Terms.of(task, since, live.shards)
        self.digest = self.terms.digest

    def process(
        self,
        element: tuple[int, BlockOrTick],
        arrived: Any = ARRIVED,
        state: Any = STATE,
        terms: Any = TERMS,
        due_timer: Any = DUE,
        show_timer: Any = SHOW,
    ) -> None:
        _, received = element
        clock = self._clock(state, terms)
        after = self.core.received(clock, received)
        if not isinstance(received, Tick):
            arrived.add(received)
        self._store(clock, after, state, due_timer, show_timer)

    @userstate.on_timer(DUE_TIMER)
    def boundary(
        self,
        at: Timestamp = beam.DoFn.TimestampParam,
        history: Any = HISTORY,
        shown: Any = SHOWN,
        arrived: Any = ARRIVED,
        state: Any = STATE,
        terms: Any = TERMS,
        due_timer: Any = DUE,
        show_timer: Any = SHOW,
    ) -> Iterator[Output]:
        clock = replace(self._clock(state, terms), armed=False)  # what fired is set no more
        shard = Shard(clock, history, shown, arrived)
        now = int(self.live.clock() * 1e6)
        for passed in self.core.boundaries(shard, at.micros, now):
            distribution("boundary_lag_ms").update(max(now - passed.due.boundary, 0) // 1000)
            yield from self._outputs(passed)
        self._store(clock, shard.clock, state, due_timer, show_timer)

    @userstate.on_timer(SHOW_TIMER)
    def show(
        self,
        history: Any = HISTORY,
        shown: Any = SHOWN,
        arrived: Any = ARRIVED,
        state: Any = STATE,
        terms: Any = TERMS,
        due_timer: Any = DUE,
        show_timer: Any = SHOW,
    ) -> Iterator[Output]:
        clock = replace(self._clock(state, terms), showing=False)
        shard = Shard(clock, history, shown, arrived)
        built = 0
        for batch in self.core.preview(shard):
            built += len(batch.entities)
            yield batch
        counter("scores_early").inc(built)
        if built:
            yield TaggedOutput("ledger", Ledger(sequences=built))
        self._store(clock, shard.clock, state, due_timer, show_timer)

    def _clock(self, state: Any, terms: Any) -> ShardClock:
        """Raises StateError where another job kept it."""
        raw = state.read()
        if raw is None:
            terms.write(self.terms.pack())
        elif raw[:SIZE] != self.digest:
            raise self.terms.refuse(terms.read())
        return ShardClock.unpack(raw and raw[SIZE:])

    def _store(self, before: ShardClock, after: ShardClock, state: Any, due_timer: Any, show_timer: Any) -> None:
        """Keeps the clock, and sets the timers that were not set before; one that nothing waits for fires at once, for
        a job does not end before its timers."""
        if after.due is not None and after.armed and (after.due != before.due or not before.armed):
            due_timer.set(Timestamp(micros=-(-after.due // 1000) * 1000))  # runners count in whole ms
        if after.showing != before.showing:
            show_timer.set(Timestamp.of(self.live.clock() + self.live.early / 1e6 * after.showing))
        state.write(self.digest + after.pack())

    def _outputs(self, passed: Passed) -> Iterator[Output]:
        """The scores of a boundary, its late events and its counts."""
        result, on_time, corrected = passed.due, 0, 0
        for batch in result.batches:
            if batch.as_of == result.boundary:
                on_time += len(batch.entities)
            else:
                corrected += len(batch.entities)
            yield batch
        late = result.late
        entities = late.keys.take(late.key).to_pylist()
        for entity, moment in zip(entities, late.time.tolist(), strict=True):
            position = f"{entity} at {format_time(moment)}"
            yield TaggedOutput("dead", DeadLetter("late", self.live.source, position, TOO_LATE, 1, ""))
        ledger = Ledger(
            accepted=result.accepted, duplicates=result.duplicates, late=len(late), sequences=on_time + corrected
        )
        if ledger != Ledger():
            yield TaggedOutput("ledger", ledger)
        for name in ("accepted", "duplicates", "late"):
            counter(name).inc(getattr(ledger, name))
        counter("behind").inc(result.behind)
        counter("scores_on_time").inc(on_time)
        counter("scores_corrected").inc(corrected)
        distribution("history_events").update(passed.events)
        distribution("state_bytes").update(passed.bytes)
