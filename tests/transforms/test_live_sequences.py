"""The state machine of a shard, bit for bit: whatever a runner does with it, the scores are those of a backfill."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.events.block import EventBlock, tidy
from pipelines.events.decode import Span, decode
from pipelines.events.messages import BlockOrTick, Tick
from pipelines.events.sequences import backfill
from pipelines.transforms.live_sequences import Core, Passed, Shard, ShardClock
from tests.events.test_due import SECOND, SINCE, block, event, task
from tests.support.random_tasks import table_of
from tests.support.simulated_stream import END, Case, Key, ListBag, Simulation, cases, rows, same

SOAK = "FORETIDE_SOAK" in os.environ
TASK = task()


@pytest.mark.soak
@settings(max_examples=10_000 if SOAK else 300, derandomize=not SOAK)
@given(case=cases(), seed=st.integers(0, 1 << 32))
def test_a_stream_makes_the_scores_of_a_backfill(case: Case, seed: int) -> None:
    simulation = Simulation(case, seed)
    simulation.run()
    check(case, simulation)


class IgnoresArrival(Core):
    """Takes whatever has been delivered."""

    def _split(self, raws: Iterable[bytes], boundary: int) -> tuple[EventBlock, list[bytes]]:
        return super()._split(raws, 1 << 60)


class ForgetsToArm(Core):
    """Sets no timer after a boundary."""

    def boundaries(self, shard: Shard, at: int, now: int) -> Iterator[Passed]:
        yield from super().boundaries(shard, at, now)
        shard.clock = replace(shard.clock, armed=False)


class KeepsItsClock(Core):
    """Does not look earlier when an older block comes after a newer one."""

    def received(self, clock: ShardClock, element: BlockOrTick) -> ShardClock:
        after = super().received(clock, element)
        return after if clock.due is None else replace(after, due=clock.due)


class GoesBack(Core):
    """Processes a boundary again when an event of its time comes again."""

    def received(self, clock: ShardClock, element: BlockOrTick) -> ShardClock:
        after = super().received(replace(clock, last=None), element)
        return replace(after, last=clock.last)


class NeverWaits(Core):
    """Scores the future when the watermark goes to the end of time."""

    def boundaries(self, shard: Shard, at: int, now: int) -> Iterator[Passed]:
        shard.clock = replace(shard.clock, tick=at)
        yield from super().boundaries(shard, at, at)


@pytest.mark.parametrize("wrong", [IgnoresArrival, ForgetsToArm, KeepsItsClock, GoesBack, NeverWaits])
def test_a_wrong_machine_is_caught(wrong: type[Core]) -> None:
    @settings(max_examples=5_000, database=None, phases=[Phase.generate])  # about a hundred do, as a rule
    @given(case=cases(), seed=st.integers(0, 1 << 32))
    def run(case: Case, seed: int) -> None:
        simulation = Simulation(case, seed, wrong)
        simulation.run()
        check(case, simulation)

    with pytest.raises(AssertionError):
        run()


@pytest.mark.parametrize(
    "clock", [ShardClock(), ShardClock(-5, True, False, None, 7), ShardClock(None, False, True, 1 << 50, None)]
)
def test_a_clock_survives_packing(clock: ShardClock) -> None:
    assert ShardClock.unpack(clock.pack()) == clock
    assert ShardClock.unpack(None) == ShardClock()


def test_boundaries_that_are_overdue_come_in_order() -> None:
    """A timer that was set for a later one, before an older block came, does for all."""
    random = Random(0)
    shard = Shard(ShardClock(), ListBag(random), ListBag(random), ListBag(random))
    core = Core(TASK, SINCE, previews=False, by_ticks=False)
    for raw in (packed("a", 47), packed("b", 5)):
        shard.clock = core.received(shard.clock, raw)
        shard.arrived.add(raw)
    assert (shard.clock.due, shard.clock.armed) == (10 * SECOND, True)
    passed = core.boundaries(shard, 50 * SECOND, 1 << 50)
    found = [(p.due.boundary // SECOND, [k for b in p.due.batches for k, _ in rows(b)]) for p in passed]
    assert [t for t, _ in found] == [10, 20, 30, 40, 50]
    assert [[key.entity for key in keys] for _, keys in found] == [["b"], ["b"], ["b"], [], ["a"]]
    assert (shard.clock.due, shard.clock.armed, shard.clock.last) == (60 * SECOND, True, 50 * SECOND)
    assert not list(core.boundaries(shard, 50 * SECOND, 1 << 50))  # the same timer again


def test_a_boundary_of_the_future_waits_for_the_next_element() -> None:
    random = Random(0)
    for by_ticks, following in ((False, packed("a", 5)), (True, Tick(10 * SECOND))):
        core = Core(TASK, SINCE, previews=True, by_ticks=by_ticks)
        shard = Shard(ShardClock(), ListBag(random), ListBag(random), ListBag(random))
        assert core.received(shard.clock, Tick(7 * SECOND)) == ShardClock(tick=7 * SECOND)  # a tick wakes nobody
        shard.clock = core.received(shard.clock, packed("a", 5))
        shard.arrived.add(packed("a", 5))
        assert not list(core.boundaries(shard, 10 * SECOND, 1 << 50 if by_ticks else 9 * SECOND))
        assert shard.clock == ShardClock(10 * SECOND, False, False, None, None)
        shard.clock = core.received(shard.clock, following)
        assert shard.clock.armed
        assert len(list(core.boundaries(shard, 10 * SECOND, 10 * SECOND))) == 1


def test_what_a_boundary_leaves_is_shown_early() -> None:
    random = Random(0)
    core = Core(TASK, SINCE, previews=True, by_ticks=False)
    shard = Shard(ShardClock(), ListBag(random), ListBag(random), ListBag(random))
    for raw in (packed("a", 5), packed("b", 12)):
        shard.clock = core.received(shard.clock, raw)
        shard.arrived.add(raw)
    assert [k.entity for b in core.preview(shard) for k, _ in rows(b)] == ["a"]
    assert not shard.clock.showing
    assert len(list(core.boundaries(shard, 10 * SECOND, 1 << 50))) == 1
    assert shard.clock.showing
    assert [k.entity for b in core.preview(shard) for k, _ in rows(b)] == ["b"]
    assert not list(core.preview(shard))


def packed(user: str, time: int) -> bytes:
    return block(event(user, time, time)).pack()


def check(case: Case, simulation: Simulation) -> None:
    """Every score and every count."""
    scores, most = simulation.scores, case.expected(simulation.most)
    assert case.expected(simulation.end).keys() <= scores.keys() <= most.keys()
    assert all(same(x, most[key]) for key, x in scores.items())
    counts = simulation.world.counts
    assert counts.read == counts.unused + counts.accepted + counts.duplicates + simulation.pending
    assert counts.late == case.late(simulation.end)
    assert counts.behind == 0
    if simulation.end == END:
        assert_as_a_backfill(case, simulation)
        kept = simulation.world.kept.values()
        assert all(ShardClock.unpack(k.clock).due is None for k in kept)
        assert not any(bag.raws for k in kept for bag in (k.history, k.shown, k.arrived))


def assert_as_a_backfill(case: Case, simulation: Simulation) -> None:
    """The last revision of every score is what the files of the archive give."""
    as_ofs = tuple(case.as_ofs)
    block = decode(case.timed, table_of(case.events), Span(as_ofs)).block
    block, _ = tidy(block, case.timed.events.identity != "none")
    want = {key: x for batch in backfill(case.timed, block, as_ofs) for key, x in rows(batch)}
    last: dict[tuple[str, int], Key] = {}
    for key in sorted(simulation.scores):
        last[key.entity, key.as_of] = key
    assert set(last.values()) == want.keys()
    assert all(same(simulation.scores[key], x) for key, x in want.items())
