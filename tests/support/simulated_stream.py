"""A stream in plain Python: a source, a clock and a runner that does all that a runner may do to the state machine.

Bundles in any order, blocks after a boundary before its timer, timers late, twice and after they were set anew, early
timers at any moment, messages that come again, files beside the stream, restarts from a checkpoint. `Case.expected`
says what must come of it, in loops over the oracle; nothing here runs Beam.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipelines.events.block import Hashes, Ints, hash64, split, unpack
from pipelines.events.decode import Since, decode, without_arrival
from pipelines.events.due import EARLY
from pipelines.events.messages import BlockOrTick, Tick
from pipelines.events.sequences import SequenceBatch
from pipelines.task.spec import Task
from pipelines.transforms.live_sequences import Core, Passed, Shard, ShardClock
from tests.support.oracle import Event, Expected, is_event, once, oracle
from tests.support.random_tasks import STEP, event_lists, table_of, tasks

FOREVER = 1 << 50  # us, after everything
END = 1 << 49  # us, after every score
TIMES = st.integers(-2 * STEP, 9 * STEP) | st.integers(-2, 9).map(lambda s: s * STEP)
DELAYS = st.sampled_from([s * STEP // 2 for s in (0, 0, 0, 1, 2, 3, 5, 9)]) | st.integers(-STEP, 5 * STEP)
ROUNDS = 2_000  # more than any case needs: a loop that does not end is an error


class Key(NamedTuple):
    """What a score is of; the sink keeps one row of each."""

    entity: str
    as_of: int
    revision: int


@dataclass(frozen=True)
class Message:
    """A message of the stream, or a file."""

    id: str
    arrival: int  # us; of a file the first of its events
    events: tuple[Event, ...]  # each with its arrival, which is that of the message
    file: bool = False


@dataclass(frozen=True)
class Case:
    """What is published, and how the job is set up."""

    timed: Task  # names the field of the arrival: what a backfill of the same events uses
    task: Task  # what the job has: perhaps without it
    first: int
    messages: tuple[Message, ...]
    shards: int
    by_ticks: bool
    previews: bool
    end: int  # us: when the job is drained; everything arrived before

    @property
    def since(self) -> Since:
        return Since(self.first)

    @property
    def events(self) -> list[Event]:
        return [e for message in self.messages for e in message.events]

    @property
    def as_ofs(self) -> range:
        """All that can have a score."""
        last = max((e["time"] for e in self.events), default=self.first) + self.task.history + self.task.score.every
        return range(self.first, max(last, self.first) + 1, self.task.score.every)

    def expected(self, end: int) -> dict[Key, Expected]:
        """Every score, on time and corrected, that is due by `end`."""
        every, out = self.task.score.every, {}
        for as_of in self.as_ofs:
            for revision in range(self.task.score.allowed_lateness // every + 1):
                boundary = as_of + revision * every
                known = [e for e in self.events if e["arrival"] < boundary]
                if boundary <= end:
                    for (entity, _), x in oracle(self.timed, known, [as_of], lateness=FOREVER).items():
                        if x.revision == revision:
                            out[Key(entity, as_of, revision)] = x
        return out

    def late(self, end: int) -> int:
        """Events that some score can use, though not the first that should have, of those judged by `end`."""
        events = [e for e in self.events if is_event(self.timed, e)]
        return sum(self._is_late(copies[0], end) for copies in once(self.timed, events))

    def _is_late(self, e: Event, end: int) -> bool:
        last = max(e["time"], e["arrival"], self.first) + self.task.history + self.task.score.every
        grid = range(self.first, last + 1, self.task.score.every)
        taken = next(t for t in grid if t > e["arrival"])
        first = next(t for t in grid if t > e["time"])
        open_for = self.task.score.allowed_lateness
        usable = any(t > e["time"] >= t - self.task.history and e["arrival"] < t + open_for for t in grid)
        missed = e["time"] >= first - self.task.history and e["arrival"] >= first + open_for
        return taken <= end and usable and missed


@dataclass
class ListBag:
    """A bag in memory, which is read in another order each time."""

    random: Random
    raws: list[bytes] = field(default_factory=list)

    def read(self) -> Iterable[bytes]:
        return self.random.sample(self.raws, len(self.raws))

    def add(self, raw: bytes) -> None:
        self.raws.append(raw)

    def clear(self) -> None:
        self.raws.clear()


@dataclass
class Kept:
    """What a runner keeps of a shard: the bytes of its state, its timers, and elements on their way to it."""

    history: ListBag
    shown: ListBag
    arrived: ListBag
    clock: bytes | None = None
    timer: int | None = None
    showing: bool = False
    ticks: list[int] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)  # timers that may fire once more


@dataclass
class Counts:
    """What the ledgers of a job say."""

    read: int = 0
    unused: int = 0  # refused, filtered, outside
    accepted: int = 0
    duplicates: int = 0
    late: int = 0
    behind: int = 0


@dataclass
class World:
    """All that a checkpoint holds."""

    kept: dict[int, Kept]
    waiting: list[Message]
    delivered: list[Message] = field(default_factory=list)
    watermark: int = -FOREVER
    counts: Counts = field(default_factory=Counts)
    since_shown: dict[int, list[tuple[Event, bool]]] = field(default_factory=dict)  # events, and whether they are new


class Simulation:
    """One run of a case; `scores` is the sink, `world` what is left at the end."""

    def __init__(self, case: Case, seed: int, core: type[Core] = Core) -> None:
        self.case, self.random = case, Random(seed)
        self.core = core(case.task, case.since, case.previews, case.by_ticks)
        kept = {s: Kept(ListBag(self.random), ListBag(self.random), ListBag(self.random)) for s in range(case.shards)}
        self.world = World(kept, list(case.messages))
        self.wall = -FOREVER
        self.scores: dict[Key, Expected] = {}
        self.end = case.end  # us, up to which everything is scored
        # us, up to which something may be: before a restart the job may have come further
        self.most = -FOREVER if case.by_ticks else case.end
        self.checkpoint = self._copy()

    def run(self) -> None:
        """To the end of the stream, and then of the job."""
        often, seldom = [self._deliver, self._advance, self._fire], [self._show, self._tick, self._repeat]
        steps = [*often, *often, *seldom]
        restarts = 0
        for _ in range(ROUNDS):
            if self._may_end and self.random.random() < 0.05:
                break
            self.random.choice(steps)()
            if self.random.random() < 0.1:
                self.checkpoint = self._copy()
            if restarts < 3 and self.random.random() < 0.05:
                self._restart()
                restarts += 1
        assert self._may_end, "the simulation did not end"
        self._drain()

    @property
    def _may_end(self) -> bool:
        """By the clock on the wall, only when everything has been read; with ticks at any moment."""
        return self.case.by_ticks or not self.world.waiting

    def _copy(self) -> World:
        published = [x for m in self.case.messages for x in (m, *m.events)]
        return copy.deepcopy(self.world, {id(x): x for x in (self.random, *published)})

    def _restart(self) -> None:
        """What was not acknowledged at the checkpoint comes again, though scores written since then are there."""
        self.world = self.checkpoint
        self.checkpoint = self._copy()
        acknowledged = [m for m in self.world.delivered if m.file or self.random.random() < 0.7]
        lost = [m for m in self.world.delivered if m not in acknowledged]
        if self.random.random() < 0.5:
            self._read(self.random.sample(lost, len(lost)))

    def _deliver(self) -> None:
        waiting = self.world.waiting
        bundle = [waiting.pop(self.random.randrange(len(waiting))) for _ in range(self._some(len(waiting)))]
        self._read(bundle)

    def _repeat(self) -> None:
        """A message that was read comes again."""
        again = [m for m in self.world.delivered if not m.file]
        self._read(self.random.sample(again, self._some(len(again))))

    def _some(self, most: int) -> int:
        return self.random.randint(0, min(most, self.random.choice([1, 2, 4])))

    def _read(self, bundle: Sequence[Message]) -> None:
        """Decoded in one table or several, split, and handed to the shards."""
        self.wall = max([self.wall, *(m.arrival for m in bundle)])
        for part in [bundle] if self.random.random() < 0.5 else [[m] for m in bundle]:
            for files in (True, False):
                self._decode([m for m in part if m.file == files], files)

    def _decode(self, messages: Sequence[Message], files: bool) -> None:
        if not messages:
            return
        world, task = self.world, self.case.task
        events = [e for m in messages for e in m.events]
        arrival, ids = (None, None) if files else columns(messages)
        found = decode(task, table_of(events), self.case.since, None, arrival, ids).block
        world.counts.read += len(events)
        world.counts.unused += len(events) - len(found)
        known = [e for m in world.delivered for e in m.events]
        for shard, block in split(found, self.case.shards):
            mine = [e for e in events if e["user"] in block.keys.to_pylist()]
            world.since_shown.setdefault(shard, []).extend((e, not _among(task, e, known)) for e in mine)
            before = ShardClock.unpack(world.kept[shard].clock).due
            self._receive(shard, block.pack())
            due = ShardClock.unpack(world.kept[shard].clock).due
            if before is not None and due is not None and due < before:  # what was shown for a later one is new again
                world.since_shown[shard] += [(e, False) for e in known if e["arrival"] >= due]
        world.delivered.extend(m for m in messages if m not in world.delivered)

    def _receive(self, shard: int, raw: BlockOrTick) -> None:
        kept = self.world.kept[shard]
        before = ShardClock.unpack(kept.clock)
        after = self.core.received(before, raw)
        if not isinstance(raw, Tick):
            kept.arrived.add(raw)
        self._store(kept, before, after)

    def _store(self, kept: Kept, before: ShardClock, after: ShardClock) -> None:
        if after.armed and (not before.armed or after.due != before.due):
            if kept.timer is not None and self.random.random() < 0.3:
                kept.stale.append(kept.timer)
            kept.timer = after.due
        kept.showing |= after.showing and not before.showing
        kept.clock = after.pack()

    @property
    def _promise(self) -> int:
        """The watermark may rise to the first arrival that has not been delivered; files hold it back altogether."""
        if any(m.file for m in self.world.waiting):
            return -FOREVER
        return min([self.wall, *(m.arrival for m in self.world.waiting)])

    def _advance(self) -> None:
        world, every = self.world, self.case.task.score.every
        if not world.waiting:  # time goes on
            since = max(self.wall, self.case.first - every)
            self.wall = min(since + self.random.randint(0, 2 * every), self.case.end)
        if self._promise > world.watermark:
            low = max(world.watermark, self.case.first - self.case.task.history)
            world.watermark = self.random.randint(min(low, self._promise), self._promise)
            self.most = max(self.most, world.watermark)
            for kept in world.kept.values():
                kept.ticks.append(world.watermark)

    def _tick(self) -> None:
        if self.case.by_ticks:
            for shard, kept in self.world.kept.items():
                if kept.ticks and self.random.random() < 0.7:
                    self._receive(shard, Tick(kept.ticks.pop(self.random.randrange(len(kept.ticks)))))

    def _fire(self) -> None:
        """Some of the timers that the watermark has passed."""
        for shard, kept in self.world.kept.items():
            if self.random.random() < 0.5:
                if kept.stale and kept.stale[0] <= self.world.watermark:
                    self._boundaries(shard, kept.stale.pop(0))
                if kept.timer is not None and kept.timer <= self.world.watermark:
                    self._pop(shard)

    def _pop(self, shard: int) -> None:
        kept = self.world.kept[shard]
        at, kept.timer = kept.timer, None
        assert at is not None
        if self.random.random() < 0.2:
            kept.stale.append(at)
        self._boundaries(shard, at)

    def _boundaries(self, shard: int, at: int) -> None:
        kept = self.world.kept[shard]
        before = replace(ShardClock.unpack(kept.clock), armed=False)
        state = Shard(before, kept.history, kept.shown, kept.arrived)
        for passed in self.core.boundaries(state, at, self.wall):
            self._passed(shard, passed)
        self._store(kept, before, state.clock)

    def _passed(self, shard: int, passed: Passed) -> None:
        result, counts, task = passed.due, self.world.counts, self.case.task
        for batch in result.batches:
            for key, x in rows(batch):
                assert key.revision == (result.boundary - key.as_of) // task.score.every
                assert key not in self.scores or same(self.scores[key], x), ("written twice, and not the same", key)
                self.scores[key] = x
        counts.accepted += result.accepted
        counts.duplicates += result.duplicates
        counts.late += len(result.late)
        counts.behind += result.behind
        kept = self.world.kept[shard]
        least = result.boundary + task.score.every - task.score.allowed_lateness - task.history
        blocks = [unpack(raw) for raw in kept.history.raws]
        assert all((b.time >= least).all() and set(b.key.tolist()) == set(range(len(b.keys))) for b in blocks)
        assert passed.events == sum(map(len, blocks))
        self._forget(shard, result.boundary)

    def _forget(self, shard: int, boundary: int) -> None:
        unshown = self.world.since_shown.get(shard, [])
        self.world.since_shown[shard] = [(e, new) for e, new in unshown if e["arrival"] >= boundary]

    def _show(self) -> None:
        for shard, kept in self.world.kept.items():
            if kept.showing and self.random.random() < 0.5:
                self._preview(shard)

    def _preview(self, shard: int) -> None:
        """Early scores are of what has come so far, for all entities that gained an event since the last ones."""
        kept, kept.showing = self.world.kept[shard], False
        clock = ShardClock.unpack(kept.clock)
        before = replace(clock, showing=False)
        state = Shard(before, kept.history, kept.shown, kept.arrived)
        found = {key: x for batch in self.core.preview(state) for key, x in rows(batch)}
        self._store(kept, before, state.clock)
        if clock.due is None:
            assert not found
            return
        task, due = self.case.timed, clock.due
        delivered = [e for m in self.world.delivered for e in m.events]
        known = [e for e in delivered if e["arrival"] < due]
        want = oracle(task, known, [due], lateness=FOREVER)
        for key, x in found.items():
            assert key.as_of == due
            assert key.revision == EARLY
            assert same(x, want[key.entity, due])
        new = [(e, n) for e, n in self.world.since_shown.get(shard, []) if e["arrival"] < due and is_event(task, e)]
        inside = [(e, n) for e, n in new if due - task.history <= e["time"] < due]
        alone = [e for e, is_new in inside if is_new and not _among(task, e, [k for k in delivered if k is not e])]
        must, may = {e["user"] for e in alone}, {e["user"] for e, _ in inside}
        assert must <= {key.entity for key in found} <= may, (due, must, found.keys(), may)
        self._forget(shard, due)

    def _drain(self) -> None:
        """The watermark goes to the end of time; what the time of day allows is still scored, and no more."""
        if self.world.waiting:
            self.end = self.world.watermark
        self.most = max(self.most, self.end)
        for kept in self.world.kept.values():
            kept.ticks.append(self.end)
        self.wall, self.world.watermark = self.case.end, FOREVER
        for _ in range(ROUNDS):
            self._tick()
            for shard, kept in self.world.kept.items():
                for at in kept.stale:
                    self._boundaries(shard, at)
                kept.stale.clear()
                if kept.timer is not None:
                    self._pop(shard)
                elif kept.showing:
                    self._preview(shard)
            kept_all = self.world.kept.values()
            if not any(k.timer is not None or k.showing or (k.ticks and self.case.by_ticks) for k in kept_all):
                return
        raise AssertionError("the job does not end")

    @property
    def pending(self) -> int:
        """Events that wait for a boundary."""
        bags = [bag for kept in self.world.kept.values() for bag in (kept.shown, kept.arrived)]
        return sum(len(unpack(raw)) for bag in bags for raw in bag.raws)


def _among(task: Task, e: Event, known: Sequence[Event]) -> bool:
    """Whether an event is a copy of a known one."""
    if task.events.identity == "none":
        return any(e is other for other in known)
    fields = (task.events.entity, task.events.time.field, *task.events.identity)
    return any(all(e[f] == other[f] for f in fields) for other in known)


def rows(batch: SequenceBatch) -> Iterator[tuple[Key, Expected]]:
    """One by one."""
    for i, entity in enumerate(batch.entities):
        revision = int(batch.revision[i])
        found = Expected(batch.tensor[i], int(batch.n_events[i]), int(batch.last_event_time[i]), revision)
        yield Key(entity, batch.as_of, revision), found


def same(one: Expected, other: Expected) -> bool:
    """Bit for bit, but for the revision."""
    return one.tensor.tobytes() == other.tensor.tobytes() and one[1:3] == other[1:3]


def columns(messages: Sequence[Message]) -> tuple[Ints, Hashes]:
    """Arrival and id of each event, as reading of messages gives them."""
    arrival = np.array([m.arrival for m in messages for _ in m.events], np.int64)
    names = [f"{m.id}/{k}" for m in messages for k in range(len(m.events))]
    return arrival, hash64(pa.array(names, pa.string()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random ones; some events are published twice, and not always the same."""
    timed = draw(tasks(arrivals=st.just(True)))
    bare = not timed.score.allowed_lateness and draw(st.booleans())
    events = draw(event_lists(TIMES, DELAYS, few=draw(st.sampled_from([0, 12, 22]))))
    for e in draw(st.lists(st.sampled_from(events), max_size=4)) if events else ():
        changed = draw(st.sampled_from(["id", "value", "kind"]))  # the id is not: it says that they are the same
        changes = {changed: {"id": e["id"], "value": 7.0, "kind": "c"}[changed]}
        events.append({**e, **changes, "arrival": e["arrival"] + draw(st.integers(-1, 2)) * STEP})
    end = draw(st.just(END) | st.integers(0, 14 * STEP))
    events = [e for e in events if e["arrival"] < end]
    files = draw(st.integers(0, len(events))) if draw(st.booleans()) else 0
    messages = [_file(i, e, bare) for i, e in enumerate(events[:files])]
    at = files
    while at < len(events):
        size = draw(st.sampled_from([1, 1, 1, 2, 3]))
        arrival = events[at]["arrival"]
        together = tuple({**e, "arrival": arrival} for e in events[at : at + size])
        messages.append(Message(str(at), arrival, together))
        at += size
    first = timed.sequence.origin + draw(st.integers(-2, 3)) * timed.score.every
    task = without_arrival(timed) if bare else timed
    shards, by_ticks, previews = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    return Case(timed, task, first, tuple(m for m in messages if m.arrival < end), shards, by_ticks, previews, end)


def _file(i: int, e: Event, bare: bool) -> Message:
    """A file of one event, which arrived when it happened where the task knows of no arrival."""
    arrival = e["time"] if bare else e["arrival"]
    return Message(f"file {i}", arrival, ({**e, "arrival": arrival},), file=True)
