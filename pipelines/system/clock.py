"""Time of day on a machine whose clock may be set back, and time that only passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Clock:
    """Times in us. Somebody who sets the clock of the machine changes `wall` alone.

    Args:
      wall: time of day.
      steady: time since any moment.
    """

    def __init__(
        self,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000,
        steady: Callable[[], int] = lambda: time.monotonic_ns() // 1_000,
    ) -> None:
        self.steady, self._wall = steady, wall
        self._lock = threading.Lock()
        self._latest = 0
        self._shown: tuple[int, int] | None = None  # what `onward` last gave, and the steady time at that

    def wall(self) -> int:
        """The time of day as the machine has it."""
        now = self._wall()
        with self._lock:
            self._latest = max(self._latest, now)
        return now

    def back(self) -> int:
        """How far the time of day is behind where it has been: 0, but after it was set back."""
        now = self.wall()
        return self._latest - now

    def onward(self) -> int:
        """Time of day that never goes back: where the machine's does, it goes on from where it was."""
        now, steady = self._wall(), self.steady()
        with self._lock:
            if self._shown is not None:
                shown, then = self._shown
                now = max(now, shown + steady - then)
            self._shown = now, steady
        return now


HERE = Clock()


def onward() -> float:
    """s since 1970, of this process: see `Clock.onward`."""
    return HERE.onward() / 1e6
