"""What a run reads: files and tables, in pieces, as they are at this moment; and about how many rows they have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipelines.errors import UserError
from pipelines.events.decode import Since, Span
from pipelines.events.formats import bigquery
from pipelines.events.formats.base import ROW, Piece, Unreadable
from pipelines.events.formats.registry import reader_of
from pipelines.models.example_store import InputFile
from pipelines.runners.execution import Execution
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File, check_unchanged, fitting, plan

SHARD_BYTES = 16 << 20  # of input: enough events that arrays are long, few enough that a shard fits in memory
SHARDS = (8, 4096)


@dataclass(frozen=True)
class InputSource:
    pieces: tuple[Piece, ...]
    shards: int
    tables: tuple[InputFile, ...] = ()  # of BigQuery, and what tells each from its next version

    @property
    def size(self) -> int:
        """How many bytes are to be read."""
        return sum(p.size for p in self.pieces)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Checks, around a pipeline, that no file changed while it was read. Raises UserError where one did."""
        try:
            yield
        except UserError:
            for piece in self.pieces:
                if piece.whole:
                    check_unchanged(piece)
            raise

    @property
    def files(self) -> int:
        """How many files there are; tables and queries count as files."""
        return len({p.path for p in self.pieces})


class Opened(NamedTuple):
    """A table or query, the task as it is read with, and its snapshot."""

    found: bigquery.BigQueryInput
    task: Task
    snapshot: bigquery.BigQuerySession

    @property
    def readable(self) -> bool:
        """Whether rows can be looked at without running a query."""
        return self.found.table is not None and self.found.table.table_type in bigquery.READABLE


def opened(
    found: bigquery.BigQueryInput, task: Task, span: Span | Since, workers: int, dry_run: bool = False
) -> Opened:
    """Runs the query, where there is one; the rows of a table are those of this moment.

    Args:
      span: what of a table is read at all. Tables from which a stream starts need not have the task's arrival.
      dry_run: no query is run, and what it would read is one piece that cannot be read.

    Raises:
      UserError: BigQuery refuses, or a field of the task is of a type that no field can be.
    """
    task = fitting(task, span, found.fields)
    return Opened(found, task, bigquery.open_session(found, task, span, workers, dry_run))


def planned(files: Sequence[File], tables: Sequence[Opened], execution: Execution) -> InputSource:
    """The pieces of all of them."""
    streams = [piece for table in tables for piece in table.snapshot.pieces]
    size = sum(f.size for f in files) + sum(p.size for p in streams)
    versions = (InputFile(t.found.path, t.snapshot.size, t.snapshot.modified) for t in tables)
    return InputSource((*plan(files), *streams), shards(execution, size), tuple(versions))


def shards(execution: Execution, size: int) -> int:
    """Groups of entities for an input of `size` bytes, unless the command says how many."""
    return execution.shards or min(max(size // SHARD_BYTES, SHARDS[0]), SHARDS[1])


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
