"""Work that is done over and over beside a block."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def repeating(work: Callable[[], int], every: float, name: str) -> Iterator[None]:
    """Calls `work` in a thread until the end of the block, which waits for a call that is under way.

    Args:
      work: returns how much it has done. After 0 it rests, otherwise it is called again at once. What it raises is
        logged, and it rests.
      every: seconds of rest, also before the first call.
      name: of the thread, and of the work in what is logged.
    """
    stop = threading.Event()

    def loop() -> None:
        done = 0
        while not stop.wait(0 if done else every):
            try:
                done = work()
            except Exception as error:
                done = 0
                log.warning("%s failed, and is tried again: %s", name, error)

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
