"""A clock that somebody sets back."""

from __future__ import annotations

import pytest

from pipelines.system.clock import HERE, Clock, onward

S = 1_000_000
HOUR = 3600 * S


class Machine:
    """One whose clock is told what to say."""

    def __init__(self) -> None:
        self.day, self.passed = 100 * HOUR, 0
        self.clock = Clock(lambda: self.day, lambda: self.passed)

    def wait(self, us: int) -> None:
        self.day, self.passed = self.day + us, self.passed + us


def test_a_clock_that_nobody_sets() -> None:
    machine = Machine()
    for _ in range(3):
        assert machine.clock.wall() == machine.clock.onward() == machine.day
        assert machine.clock.back() == 0
        machine.wait(S)


def test_how_far_it_went_back_until_it_is_where_it_was() -> None:
    machine = Machine()
    machine.clock.wall()
    machine.day -= HOUR
    assert machine.clock.back() == HOUR
    machine.wait(HOUR // 2)
    assert machine.clock.back() == HOUR // 2
    machine.wait(HOUR)
    assert machine.clock.back() == 0


def test_onward_never_goes_back_and_follows_forward() -> None:
    machine = Machine()
    first = machine.clock.onward()
    machine.day -= HOUR
    machine.wait(S)
    assert machine.clock.onward() == first + S
    machine.wait(S)
    assert machine.clock.onward() == first + 2 * S
    machine.day += 3 * HOUR
    assert machine.clock.onward() == machine.day


def test_the_clock_of_this_machine() -> None:
    assert onward() == pytest.approx(HERE.wall() / 1e6, abs=5)
