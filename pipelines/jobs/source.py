"""What a run reads: files and tables, in pieces, checked against the task before the pipeline starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import UserError
from pipelines.events.decode import Since, Span, without_arrival
from pipelines.events.formats import bigquery
from pipelines.events.formats.base import Piece
from pipelines.jobs.config import Execution, Input
from pipelines.models.example_store import InputFile
from pipelines.task.spec import Task
from pipelines.transforms.read_files import check_fields, check_rows, check_unchanged, plan, preflight
from pipelines.transforms.read_files import find as find_files

SHARD_BYTES = 16 << 20  # of input: enough events that arrays are long, few enough that a shard fits in memory
SHARDS = (8, 4096)


@dataclass(frozen=True)
class Source:
    pieces: tuple[Piece, ...]
    shards: int
    tables: tuple[InputFile, ...] = ()  # of BigQuery, and what tells each from its next version

    @property
    def size(self) -> int:
        """Bytes to read."""
        return sum(p.size for p in self.pieces)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Where a pipeline fails because a file changed while it was read, says just that. Raises UserError."""
        try:
            yield
        except UserError:
            for piece in self.pieces:
                if piece.whole:
                    check_unchanged(piece)
            raise

    @property
    def files(self) -> int:
        """Tables and queries count as files."""
        return len({p.path for p in self.pieces})


def find(task: Task, span: Span | Since, input: Input, execution: Execution, dry_run: bool = False) -> Source:
    """Queries are run here, and the rows of a table are those of this moment.

    Args:
      span: what of a table is read at all. Files, and tables, from which a stream starts need not have the task's
        field of arrival.
      dry_run: no query is run, and what it would read is one piece that cannot be read.

    Raises:
      UserError: there are no files, no such table, or they do not have the fields of the task.
    """
    FileSystems.set_options(PipelineOptions(list(execution.beam_args)))  # credentials, endpoints
    paths = list(dict.fromkeys(input.tables))
    files = find_files(input.files, input.format)
    preflight(task, files, isinstance(span, Span))
    looked = [(found, _fitting(task, span, found)) for found in map(bigquery.look, paths)]
    opened = [bigquery.open_session(found, fit, span, execution.workers, dry_run) for found, fit in looked]
    for table, (found, fit) in zip(opened, looked, strict=True):
        check_rows(fit, found.path, table.sample)
    streams = [piece for table in opened for piece in table.pieces]
    size = sum(f.size for f in files) + sum(p.size for p in streams)
    return Source(
        (*plan(files), *streams),
        shards(execution, size),
        tuple(InputFile(path, table.size, table.modified) for path, table in zip(paths, opened, strict=True)),
    )


def shards(execution: Execution, size: int) -> int:
    """Groups of entities for an input of `size` bytes, unless the command says how many."""
    return execution.shards or min(max(size // SHARD_BYTES, SHARDS[0]), SHARDS[1])


def _fitting(task: Task, span: Span | Since, found: bigquery.Found) -> Task:
    """The task as a table is read with. Raises UserError when the table lacks a field of it."""
    arrival = task.events.arrival
    if isinstance(span, Since) and arrival is not None and arrival.field not in found.fields:
        task = without_arrival(task)
    check_fields(found.path, found.fields, task.columns)
    return task
