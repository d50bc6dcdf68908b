"""The watermark's promise, held against a subscription that does everything that its docstring allows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipelines.transforms import watermark
from pipelines.transforms.watermark import STRIDE, Together, Watermark

MS = 1_000
S = 1_000_000
SLACK = 2 * S
DEADLINE = 10 * S
WORLDS = 20


def test_nothing_is_proved_before_slack_of_pulling() -> None:
    w = Watermark(SLACK)
    for t in range(0, SLACK, SLACK // STRIDE):
        w.answered(100 * S + t)
        assert w.value is None
    w.answered(100 * S + SLACK)
    assert w.value == 100 * S


def test_an_idle_subscription_moves_on_slack_behind_its_pulls() -> None:
    w = Watermark(SLACK)
    for t in range(0, 60 * S, 100 * MS):
        w.answered(t)
    assert w.value == 60 * S - 100 * MS - SLACK


def test_a_few_empty_answers_after_a_stall_prove_nothing() -> None:
    w = Watermark(SLACK)
    for t in range(0, 3 * S, 100 * MS):
        w.answered(t)
    before = w.value
    for i in range(1, STRIDE):
        w.answered(100 * S + i)
    assert w.value is not None
    assert before is not None
    assert w.value < 3 * S


def test_an_old_message_stops_it_while_it_is_among_the_last_pulls() -> None:
    w = Watermark(SLACK)
    for t in range(0, 10 * S, 100 * MS):
        w.answered(t)
    before = w.value
    w.answered(10 * S, 1 * S, 1 * S)
    for t in range(10 * S + 100 * MS, 10 * S + SLACK, 100 * MS):
        w.answered(t)
        assert w.value == before
    for t in range(10 * S + SLACK, 14 * S, 100 * MS):
        w.answered(t)
    assert w.value == 14 * S - 100 * MS - SLACK


def test_a_hold_forgets_what_was_proved_and_never_goes_back() -> None:
    w = Watermark(SLACK)
    for t in range(0, 10 * S, 100 * MS):
        w.answered(t)
    before = w.value
    w.hold(10 * S + DEADLINE)
    for t in range(10 * S, 10 * S + DEADLINE + SLACK, 100 * MS):
        w.answered(t)
        assert w.value == before
    w.answered(10 * S + DEADLINE + SLACK)
    assert w.value == 10 * S + DEADLINE


def test_with_messages_it_goes_on_though_the_clock_was_set_back() -> None:
    """Their publish times say how late it is. Without any it stands, and never goes back."""
    w, step = Watermark(SLACK), 100 * MS
    for t in range(0, 100 * S, step):
        w.answered(t, wall=t)
    before = w.value
    assert before == 100 * S - step - SLACK
    for t in range(100 * S, 110 * S, step):
        w.answered(t, wall=t - 3600 * S)
        assert w.value is not None
        assert w.value <= 100 * S
    before = w.value
    for t in range(110 * S, 120 * S, step):
        w.answered(t, t - step, t - step, wall=t - 3600 * S)
    assert w.value == 120 * S - 2 * step - SLACK
    for t in range(120 * S, 3720 * S, step):
        w.answered(t, wall=t - 3600 * S)
        assert w.value <= 120 * S
    for t in range(3720 * S, 3730 * S, step):
        w.answered(t, wall=t - 3600 * S)
    assert w.value == 130 * S - step - SLACK


def test_a_hold_ends_though_the_clock_was_set_back() -> None:
    w = Watermark(SLACK)
    w.hold(10 * S)
    for t in range(0, 20 * S, 100 * MS):
        w.answered(t, t, t, wall=t - 3600 * S)
    assert w.value is not None
    assert w.value >= 17 * S


def test_by_attribute_an_idle_subscription_stands_at_its_newest_arrival() -> None:
    w = Watermark(SLACK, by_attribute=True)
    for t in range(0, 5 * S, 100 * MS):
        w.answered(t)
    assert w.value is None
    w.answered(5 * S, 777, 888)
    for t in range(5 * S + 100 * MS, 60 * S, 100 * MS):
        w.answered(t)
    assert w.value == 888


def test_together_waits_for_what_another_has_in_a_bundle() -> None:
    t = Together()
    t.begin(0, False)
    t.begin(1, False)
    assert t.end(0, 10) is None  # 1 has proved nothing
    assert t.end(1, 20) is None  # nor is it kept what 0 has
    t.begin(0, True)
    assert t.end(0, 30) is None
    t.begin(1, True)
    assert t.end(1, 40) == 10
    t.begin(0, True)
    assert t.end(0, 50) == 20
    t.leave(1)
    assert t.end(0, 50) == 50


@dataclass
class Message:
    published: int
    clock: int  # publish time, or arrival
    visible: int
    owner: int | None = None  # the puller that has it in a bundle
    kept: bool = False
    passed: dict[int, int] = field(default_factory=dict)  # us of pulling for which each puller was answered without it


Rule = Callable[[int, bool], Watermark]


@dataclass
class World:
    """A subscription, its pullers, and a runner that keeps their bundles.

    Args:
      separate: each puller in a process of its own, one of which dies now and then, on a runner that takes the least
        watermark. Otherwise one process on a runner that takes the last watermark that it was told.
    """

    seed: int
    pullers: int
    separate: bool
    by_attribute: bool = False
    rule: Rule = Watermark
    share: bool = True
    seconds: int = 90

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        gaps = self.rng.exponential(0.25, 4 * self.seconds) * self.rng.choice([0.02, 1, 8], 4 * self.seconds)
        times = (np.cumsum(gaps) * S).astype(int)
        delays = self.rng.integers(0, SLACK // 8, len(times))
        pace = self.rng.choice([0.1, 1, 50])
        self.messages = [
            Message(t, int(t * pace) if self.by_attribute else t, t + d)
            for t, d in zip(times.tolist(), delays.tolist(), strict=True)
            if t < self.seconds * S
        ]
        self.open = self.messages
        self.last: dict[int, int | None] = {}  # the last pull of each puller
        self.newest = -1  # arrival that this process has seen
        self.together = Together()
        self.reported = dict.fromkeys(range(self.pullers), -1)  # what the runner was told
        self.late = 0
        self.now = 0

    @property
    def watermark(self) -> int:
        return min(self.reported.values()) if self.separate else max(self.reported.values())

    def run(self) -> World:
        """Until all is quiet for long."""
        lives = [(int(self.rng.integers(0, S)), k, self.life(k)) for k in range(self.pullers)]
        heapq.heapify(lives)
        while lives and self.now < (self.seconds + 60) * S:
            self.now, k, life = heapq.heappop(lives)
            heapq.heappush(lives, (self.now + max(1, next(life)), k, life))
        return self

    def life(self, k: int) -> Iterator[int]:
        """One puller for ever; yields us to wait."""
        while True:
            mark, goes_on = self.rule(SLACK, self.by_attribute), False
            mark.hold(self.now + DEADLINE)
            self.newest, self.last[k] = -1, None
            while True:
                self.together.begin(k, goes_on)
                bundle: list[Message] = []
                for _ in range(int(self.rng.integers(1, 4))):
                    start = self.now
                    got = self.pull(k)
                    bundle += got
                    clocks = [m.clock for m in got]
                    mark.answered(start, min(clocks, default=None), max(clocks, default=None))
                    yield int(self.rng.integers(1, 250 * MS))
                if self.separate and self.rng.random() < 0.02:
                    yield from self.die(bundle)
                    break
                least = self.together.end(k, mark.value) if self.share else mark.value
                yield int(self.rng.exponential(100 * MS))
                self.keep(k, bundle, mark.value if self.separate else least)
                goes_on = True
                yield int(6 * S if self.rng.random() < 0.03 else self.rng.exponential(100 * MS))

    def die(self, bundle: list[Message]) -> Iterator[int]:
        """Its leases last for up to the deadline, and it is started again, sooner or later."""
        back = self.now + int(self.rng.integers(0, DEADLINE))
        for m in bundle:
            m.owner, m.visible = None, back
        yield int(self.rng.exponential(3 * S))

    def keep(self, k: int, bundle: list[Message], told: int | None) -> None:
        for m in bundle:
            self.late += not m.kept and m.clock < self.watermark
            m.kept = True
        if told is not None:
            self.reported[k] = max(self.reported[k], told)

    def pull(self, k: int) -> list[Message]:
        """Anything between nothing and everything that waits, in any order, but for those that may not be passed over
        any longer."""
        last = self.last[k]
        covers = 0 if last is None else min(self.now - last, SLACK // STRIDE)
        self.last[k] = self.now
        self.open = [m for m in self.open if not m.kept]
        waiting = [m for m in self.open if m.published < self.now and m.owner is None]
        there = [m for m in waiting if m.visible <= self.now]
        share = self.rng.choice([0, 0.1, 0.5, 1])
        got = [m for m in there if self.rng.random() < share][-20:]
        must = [m for m in there if m.passed.get(k, -1) + covers >= SLACK]
        if must:
            got.append(min(must, key=lambda m: m.clock))
        oldest = min((m.clock for m in got), default=1 << 62)
        for m in waiting:
            if m.visible > self.now > m.published + SLACK:  # leased to nobody: it does not wait
                m.passed.clear()
            elif m.clock >= oldest:
                m.passed.pop(k, None)
            elif not self.by_attribute or m.clock < max([self.newest, *(g.clock for g in got)]):
                m.passed[k] = m.passed[k] + covers if k in m.passed else 0
        for m in got:
            m.owner = k
            self.newest = max(self.newest, m.clock)
        return list({id(m): m for m in got}.values())


def late(**settings: object) -> tuple[int, int, int]:
    """Of many worlds: messages kept after the watermark had passed them, messages, worlds where it came to the end."""
    worlds = [World(seed, **settings).run() for seed in range(WORLDS)]  # type: ignore[arg-type]
    assert all(m.kept for w in worlds for m in w.messages)
    ended = sum(w.watermark >= w.messages[-1].clock for w in worlds)
    return sum(w.late for w in worlds), sum(len(w.messages) for w in worlds), ended


@pytest.mark.parametrize("pullers", [1, 2, 3])
@pytest.mark.parametrize("separate", [True, False])
def test_no_message_comes_after_the_watermark(pullers: int, separate: bool) -> None:
    behind, messages, ended = late(pullers=pullers, separate=separate)
    assert messages > 1_000
    assert behind == 0
    assert ended == WORLDS


@pytest.mark.parametrize("separate", [True, False])
def test_no_message_comes_after_the_watermark_of_an_attribute(separate: bool) -> None:
    behind, _, ended = late(pullers=1, separate=separate, by_attribute=True)
    assert behind == 0
    assert ended == WORLDS or separate  # a fresh process knows no arrival before it gets a message


class NoHold(Watermark):
    def hold(self, until: int) -> None:
        pass


def test_the_worlds_are_hard_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that forgets one of its conditions breaks its promise in them."""
    assert late(pullers=1, separate=True, rule=NoHold)[0]
    assert late(pullers=1, separate=False, rule=lambda slack, by: Watermark(slack // 2, by))[0]
    assert late(pullers=1, separate=False, by_attribute=True, rule=lambda slack, by: Watermark(slack // 2, by))[0]
    assert late(pullers=2, separate=False, share=False)[0]
    monkeypatch.setattr(watermark, "STRIDE", 1e-3)  # a stall counts as pulling
    assert late(pullers=1, separate=False)[0]
