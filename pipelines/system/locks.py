"""Locks between processes: of a file. The system lets go of one however its process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file until the end of the block, against other processes and other threads.

    Args:
      file: made where it is not there; it stays.
      wait: until nobody else holds it. If not, the block may run without it.

    Yields:
      Whether this block holds it.

    Raises:
      OSError: the file cannot be made.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _take(fd, wait)
    finally:
        os.close(fd)


def _take(fd: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
