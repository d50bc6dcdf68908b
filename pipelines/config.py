"""What a command was asked to do: frozen, checked against the task, before anything is read or run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from pipelines.errors import UserError
from pipelines.models.engine import DeviceName, EngineName
from pipelines.task import Task, format_duration, format_time, parse_time


@dataclass(frozen=True)
class Input:
    """Where events come from: files, folders or globs, local or of a scheme that Beam knows."""

    patterns: tuple[str, ...]
    format: str | None  # by the name of the file where None
    max_bad_share: float


@dataclass(frozen=True)
class Execution:
    """Where the pipeline runs."""

    workers: int  # processes on this machine
    shards: int | None  # by the size of the input where None
    beam_args: tuple[str, ...]  # for Beam as they are, such as --runner=FlinkRunner
    debug: bool


@dataclass(frozen=True)
class ScoreConfig:
    task: Task
    input: Input
    as_ofs: tuple[int, ...]  # us, ascending
    model: str
    engine: EngineName
    device: DeviceName
    batch_size: int
    output: str
    execution: Execution

    def run_id(self, model_version: str) -> str:
        """The same for the same question: a rerun replaces its own scores, whatever the machine or the workers."""
        facts = [self.task.digest, model_version, self.engine, self.as_ofs, sorted(self.input.patterns)]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]
        return f"{self.task.task}-{format_time(self.as_ofs[-1])[:10]}-{digest}"


@dataclass(frozen=True)
class ExamplesConfig:
    task: Task
    input: Input
    as_ofs: tuple[int, ...]
    output: str
    execution: Execution


@dataclass(frozen=True)
class TrainConfig:
    """Training on rolling as-ofs, with the label's horizon between training, validation and test."""

    task: Task
    input: Input
    test: int  # us
    train_as_ofs: int
    train_every: int  # us between two training as-ofs
    output: str
    execution: Execution

    @property
    def validation(self) -> int:
        return floor(self.task, self.test - self.task.horizon)

    @property
    def train(self) -> tuple[int, ...]:
        """Ascending. The label of the last one is known at the validation as-of."""
        last = floor(self.task, self.validation - self.task.horizon)
        return tuple(sorted(floor(self.task, last - i * self.train_every) for i in range(self.train_as_ofs)))


def floor(task: Task, time: int) -> int:
    """The last step boundary at or before a time, us."""
    return time - (time - task.sequence.origin) % task.sequence.step


def parse_as_ofs(task: Task, text: str, flag: str = "--as-of") -> tuple[int, ...]:
    """`2024-01-01`, or `2024-01-01..2024-03-01` for every as-of that is due between the two, both included.

    Raises:
      UserError: not a time, not a step boundary (with the nearest ones), or an empty range.
    """
    first, dots, last = text.partition("..")
    bounds = [_as_of(task, t, flag) for t in ((first, last) if dots else (first,))]
    as_ofs = tuple(range(bounds[0], bounds[-1] + 1, task.score.every))
    if not as_ofs:
        raise UserError(f"{flag} {text}: the range ends before it starts")
    return as_ofs


def _as_of(task: Task, text: str, flag: str) -> int:
    try:
        time = parse_time(text)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None
    if not task.boundary(time):
        before, step = floor(task, time), task.sequence.step
        near = f"{format_time(before)} and {format_time(before + step)}"
        raise UserError(
            f"{flag} {text} is not a step boundary of task {task.task} (steps of {format_duration(step)} "
            f"from {format_time(task.sequence.origin)}); the nearest are {near}"
        )
    return time
