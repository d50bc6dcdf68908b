"""SIGINT and SIGTERM: a command ends within seconds of them, whatever it is doing.

Python raises an exception in the main thread, which tidies up. That alone is not enough: a library that swallows it
goes on, and code in C holds it back. So a thread, which the system wakes whatever the main one does, ends the process
once the time to tidy up is over. Processes that were started with `processes.bound` end with this one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 7.0  # s to tidy up

Handler = Callable[[int, FrameType | None], Any]


class _Interrupts:
    def __init__(self) -> None:
        self.received: int | None = None  # the first one that interrupts this process
        self.taken = 0  # blocks of `taken` under way

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self.received = self.received or number
        raise KeyboardInterrupt


_HERE = _Interrupts()


def install() -> None:
    """Makes the signals interrupt this process, from now on. One that is ignored, as SIGINT is by nohup, stays so.

    Only for a process of its own, and in the main thread.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _HERE)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(woken,), name="interrupts", daemon=True).start()


def received() -> int | None:
    """The signal that interrupted this process."""
    return _HERE.received


def leave(code: int) -> NoReturn:
    """Ends an interrupted process without waiting for threads that do not know of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone
            continue
    os._exit(code)


@contextmanager
def taken(handler: Handler) -> Iterator[None]:
    """In the block the signals go to a handler, which decides what ends and when. Only in the main thread."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    _HERE.taken += 1
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)
        _HERE.taken -= 1


def _watch(woken: int) -> None:
    """Ends the process where a signal that interrupts it has not done so in time."""
    while True:
        ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        numbers = [number for number in os.read(woken, 1) if number in SIGNALS and number not in ignored]
        if numbers and not _HERE.taken:
            time.sleep(GRACE)
            os._exit(128 + numbers[0])
