"""Leases of open bundles: extended, settled, given back and given up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from pipelines.google.leases import ATTEMPTS, CHUNK, LONGEST, TICK, Bundle, Leases, ServiceRefused

SUB = "projects/p/subscriptions/sub"


@dataclass
class Fake:
    """A service that remembers, and refuses the next calls if told so."""

    acked: list[str] = field(default_factory=list)
    leased: list[tuple[int, int]] = field(default_factory=list)  # ids, seconds
    refusals: list[ServiceRefused] = field(default_factory=list)
    largest: int = 0

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> None:
        self._called(ids)
        self.acked += ids

    def lease(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        self._called(ids)
        self.leased.append((len(ids), seconds))

    def _called(self, ids: Sequence[str]) -> None:
        self.largest = max(self.largest, len(ids))
        if self.refusals:
            raise self.refusals.pop(0)


@dataclass
class Time:
    now: float = 0.0
    slept: list[float] = field(default_factory=list)
    blocked: threading.Event = field(default_factory=threading.Event)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if threading.current_thread().name == "pubsub-leases":
            self.blocked.wait()  # the tests extend by hand
        self.slept.append(seconds)


def leases(time: Time) -> Leases:
    return Leases(time.clock, time.sleep)


def bundle(fake: Fake, n: int = 1, puller: int = 0, position: int = 0) -> Bundle:
    return Bundle(fake, SUB, puller, position, 10, 0, [f"{puller}-{position}-{i}" for i in range(n)])


def test_a_bundle_that_is_kept_is_acknowledged_once_in_requests_of_a_legal_size() -> None:
    fake, held = Fake(), leases(Time())
    b = bundle(fake, 2 * CHUNK + 1)
    held.open(b)
    assert held.settle(b) == 0
    assert fake.acked == b.ids
    assert fake.largest == CHUNK
    assert len(held) == 0


def test_leases_are_extended_once_a_third_of_them_is_over_and_no_more_when_settled() -> None:
    fake, time = Fake(), Time()
    held = leases(time)
    b = bundle(fake, CHUNK + 5)
    held.open(b)
    assert held.extend()
    assert fake.leased == []
    while time.now < 20:
        time.now += TICK
        held.extend()
    assert fake.leased[:2] == [(CHUNK, 10), (5, 10)]
    assert len(fake.leased) >= 2 * 20 // 10
    held.settle(b)
    before = len(fake.leased)
    time.now += 10
    assert not held.extend()
    assert len(fake.leased) == before


def test_no_lease_runs_out_between_two_looks() -> None:
    fake, time = Fake(), Time()
    held = leases(time)
    last = 0.0
    time.now = 0.1
    held.open(bundle(fake))
    time.now = 0.0
    for _ in range(100):
        time.now += TICK
        held.extend()
        if fake.leased:
            fake.leased.clear()
            last = time.now
        assert time.now - last < 10 - TICK / 2


def test_a_bundle_that_never_ends_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    fake, time = Fake(), Time()
    held = leases(time)
    b = bundle(fake, 3)
    held.open(b)
    time.now = LONGEST
    assert held.extend()
    time.now += 1
    assert not held.extend()
    assert "gave up the leases of 3 messages" in caplog.text
    assert held.settle(b) == 0  # the runner kept it after all
    assert fake.acked == b.ids


def test_lost_bundles_are_given_back_at_once_and_never_acknowledged() -> None:
    fake, held = Fake(), leases(Time())
    early, late, other = bundle(fake, 2, 0, 4), bundle(fake, 3, 0, 5), bundle(fake, 4, 1, 5)
    for b in (early, late, other):
        held.open(b)
    assert held.lose(SUB, 0, 5) == 3
    assert fake.leased == [(3, 0)]
    assert held.settle(late) == 0
    assert fake.acked == []
    assert held.settle(early) == held.settle(other) == 0
    assert fake.acked == early.ids + other.ids
    assert held.lose("projects/p/subscriptions/another", 0, 0) == 0


def test_acknowledging_is_tried_again() -> None:
    fake, time = Fake(refusals=[ServiceRefused("UNAVAILABLE")] * (ATTEMPTS - 1)), Time()
    held = leases(time)
    b = bundle(fake)
    held.open(b)
    assert held.settle(b) == 0
    assert fake.acked == b.ids
    assert len(time.slept) == ATTEMPTS - 1


@pytest.mark.parametrize(("final", "attempts"), [(True, 1), (False, ATTEMPTS)])
def test_acknowledgements_that_fail_are_counted(final: bool, attempts: int, caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(refusals=[ServiceRefused("no", final)] * attempts)
    held = leases(Time())
    b = bundle(fake, CHUNK + 1)
    held.open(b)
    assert held.settle(b) == 1
    assert fake.acked == b.ids[CHUNK:]  # the next request went through
    assert "1000 messages are not acknowledged: no" in caplog.text


def test_leases_that_cannot_be_extended_do_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    fake, time = Fake(refusals=[ServiceRefused("UNAVAILABLE")]), Time()
    held = leases(time)
    held.open(bundle(fake))
    time.now = 5
    assert held.extend()
    assert "could not be changed: UNAVAILABLE" in caplog.text


def test_the_thread_runs_while_bundles_are_open() -> None:
    def keepers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "pubsub-leases" and t not in before]

    before = threading.enumerate()
    fake, time = Fake(), Time()
    held = leases(time)
    for round in range(3):
        b, c = bundle(fake, 1, 0, round), bundle(fake, 1, 1, round)
        held.open(b)
        held.open(c)
        (keeper,) = keepers()
        assert keeper.daemon
        held.settle(b)
        held.settle(c)
        time.blocked.set()
        keeper.join(10)
        assert not keepers()
        time.blocked.clear()
