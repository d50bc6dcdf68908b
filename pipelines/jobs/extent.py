"""About how many rows an input has, by its size and a look at one file of each format. Nothing else is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pipelines.events.formats.base import ROW, Unreadable
from pipelines.events.formats.registry import reader_of


class Sized(Protocol):
    """A file, or a piece of one."""

    @property
    def path(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def size(self) -> int:
        """Its size in bytes."""


def rows(parts: Iterable[Sized]) -> int:
    """The number of rows of all files and pieces, each of which counts with its own size."""
    sizes: dict[str, dict[str, int]] = {}
    for part in parts:
        files = sizes.setdefault(part.format, {})
        files[part.path] = files.get(part.path, 0) + part.size
    total = 0.0
    for name, files in sizes.items():
        path = max(files, key=lambda p: files[p])
        total += sum(files.values()) / _row(name, path, files[path])
    return round(total)


def _row(name: str, path: str, size: int) -> float:
    """Bytes of a row in a file of `size` bytes."""
    try:
        return reader_of(name).row_size(path, size)
    except (Unreadable, OSError):  # reading it says why
        return ROW
