"""About how many rows an input has, by its size and a look at one file of each format. Nothing else is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pipelines.events.formats import lines, parquet
from pipelines.events.formats.base import Unreadable

ROW = 64  # bytes of a row where a look tells nothing: in Avro files and tables of BigQuery, a few fields
GZIP = 6  # times that lines are longer than what gzip makes of them


class Sized(Protocol):
    """A file, or a piece of one."""

    @property
    def path(self) -> str: ...

    @property
    def format(self) -> str: ...

    @property
    def size(self) -> int:
        """Bytes."""


def rows(parts: Iterable[Sized]) -> int:
    """Of all files and pieces, each of which counts with its own size."""
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
        if name in ("parquet", "messages"):
            with parquet.reader(path) as file:
                return max(size, 1) / max(file.metadata.num_rows, 1)
        if name in ("jsonl", "csv"):
            head = lines.head(path)
            length = len(head) / max(head.count(b"\n"), 1)
            return max(length / GZIP if path.endswith(".gz") else length, 1.0)
    except (*parquet.BROKEN, Unreadable):  # reading it says why
        pass
    return ROW
