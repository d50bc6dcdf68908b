"""What a run reads: the files behind its patterns, in pieces, checked against the task before the pipeline starts."""

from __future__ import annotations

from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.config import Execution, Input
from pipelines.task import Task
from pipelines.transforms.files import find as find_files
from pipelines.transforms.files import plan, preflight
from pipelines.transforms.formats.base import Piece

SHARD_BYTES = 16 << 20  # of input: enough events that arrays are long, few enough that a shard fits in memory
SHARDS = (8, 4096)


@dataclass(frozen=True)
class Source:
    pieces: tuple[Piece, ...]
    shards: int

    @property
    def size(self) -> int:
        """Bytes to read."""
        return sum(p.size for p in self.pieces)

    @property
    def files(self) -> int:
        return len({p.path for p in self.pieces})


def find(task: Task, input: Input, execution: Execution, arrival: bool = True) -> Source:
    """Raises UserError when there are no files, or when they do not have the fields of the task.

    Args:
      arrival: whether the task's field of arrival is among those.
    """
    FileSystems.set_options(PipelineOptions(list(execution.beam_args)))  # credentials, endpoints
    files = find_files(input.patterns, input.format)
    preflight(task, files, arrival)
    size = sum(f.size for f in files)
    return Source(plan(files), execution.shards or min(max(size // SHARD_BYTES, SHARDS[0]), SHARDS[1]))
