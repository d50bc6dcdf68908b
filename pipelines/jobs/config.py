"""What a command was asked to do: frozen, checked against the task, before anything is read or run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipelines.errors import UserError
from pipelines.google.tables import WriteMethod, is_bigquery
from pipelines.jobs.outputs.kinds import output
from pipelines.runners.execution import Execution, at_most
from pipelines.task.fields import format_duration, format_time, parse_time

if TYPE_CHECKING:
    from pipelines.jobs.outputs.base import Output
    from pipelines.models.engines.base import DeviceName, EngineName
    from pipelines.runners.base import Runner
    from pipelines.task.spec import Task

FIRST = parse_time("0001-01-02")
LIVE_SHARDS = 16
LATEST = "latest"
AS_OFS = 1_000_000  # of a run, at most: all processes hold the list, and each is a pass over the events of every shard
PULLERS = 256  # at most: each is a thread with a connection of its own
BATCH = 1 << 20  # rows of a call of the model, at most: it runs no faster long before
WHY_AS_OFS = "each is a pass over all entities, and every process holds the list"


@dataclass(frozen=True)
class Input:
    """Where events come from: files, folders or globs, local or of a scheme that Beam knows; tables or queries (bq://)."""

    patterns: tuple[str, ...]
    format: str | None  # by the name of the file where None

    @classmethod
    def located(cls, paths: Sequence[str], format: str | None) -> Input:
        """With paths for processes in any folder."""
        patterns = tuple(os.path.abspath(path) if _is_local(path) else path for path in paths)
        return cls(patterns, format)

    @property
    def tables(self) -> tuple[str, ...]:
        """The patterns that are tables or queries of BigQuery."""
        return tuple(filter(is_bigquery, self.patterns))

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for path in self.patterns if not is_bigquery(path))

    @property
    def local(self) -> tuple[str, ...]:
        """The patterns that are files of this machine."""
        return tuple(filter(_is_local, self.patterns))


def _is_local(path: str) -> bool:
    return "://" not in path and not is_bigquery(path)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every job over events is asked."""

    execution: Execution
    max_bad_share: float  # of the rows read: with more bad ones a run publishes nothing, a live job pulls no more

    live: ClassVar[bool] = False

    @cached_property
    def runner(self) -> Runner:
        """Loads Beam, which takes seconds: after what may be wrong in the arguments."""
        from pipelines.runners.kinds import resolve

        return resolve(self.execution, self.live)


@dataclass(frozen=True, kw_only=True)
class ScoringFlags(Asked):
    """What the flags of `foretide score` and `foretide stream` say by themselves, whatever the task."""

    model: str
    engine: EngineName
    device: DeviceName
    batch_size: int
    output: str
    method: WriteMethod = "storage"

    @property
    def place(self) -> Output:
        """Where scores go. Raises UserError for a name that is none."""
        return output(self.output, self.method)

    def check(self) -> None:
        """Raises UserError for numbers that nobody means."""
        at_most("--batch-size", self.batch_size, BATCH, "a model runs no faster long before")


@dataclass(frozen=True, kw_only=True)
class ScoreFlags(ScoringFlags):
    input: Input
    replace_model: bool = False  # scores of another model of the same revision, in BigQuery

    @property
    def place(self) -> Output:
        return output(self.output, self.method, self.replace_model)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ScoreFlags):
    """A run over files."""

    task: Task
    as_ofs: tuple[int, ...]  # us, ascending

    def __post_init__(self) -> None:
        self.check()

    def run_id(self, model_version: str) -> str:
        """The name of the run, the same for the same question: a rerun replaces its own scores, whatever the machine or
        the workers."""
        facts = [self.task.digest, model_version, self.engine, self.as_ofs, sorted(self.input.patterns)]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]
        return f"{self.task.task}-{format_time(self.as_ofs[-1])[:10]}-{digest}"


@dataclass(frozen=True, kw_only=True)
class StreamFlags(ScoringFlags):
    subscription: str
    arrival_attribute: str | None  # of a message, when a replay says when it arrived; else the publish time is it
    payload: str  # one of `registry.PAYLOADS`
    avro_schema: str | None  # file
    bootstrap: Input | None  # history, read before the first score
    archive: str | None  # folder
    dead_letters: str | None  # topic; else they go to the output folder
    pullers: int

    live: ClassVar[bool] = True

    @property
    def shards(self) -> int:
        """How many shards there are; they are frozen with the state."""
        return self.execution.shards or LIVE_SHARDS

    def check(self) -> None:
        super().check()
        at_most("--pullers", self.pullers, PULLERS, "each is a thread with a connection of its own")


@dataclass(frozen=True, kw_only=True)
class StreamConfig(StreamFlags):
    """A live job."""

    task: Task
    first: int  # us, the first as-of that the job is responsible for
    early: int  # us between two early scores; 0 for none

    def __post_init__(self) -> None:
        self.check()

    @property
    def run_id(self) -> str:
        """The name of the job's run, the same for the same question, whatever the model that serves: a restart goes on
        with its own scores."""
        digest = hashlib.sha256(json.dumps([self.task.digest, self.subscription]).encode()).hexdigest()[:10]
        return f"{self.task.task}-live-{digest}"

    @property
    def job_name(self) -> str:
        """The name of the job, of letters that Dataflow takes."""
        return self.run_id.lower().replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class ExamplesConfig(Asked):
    """Labelled sequences to be made."""

    task: Task
    input: Input
    as_ofs: tuple[int, ...]  # us, ascending
    output: str  # the store


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Asked):
    """Training on rolling as-ofs: the label's horizon lies between training, validation and test."""

    task: Task
    input: Input
    test: tuple[int, ...]  # us, ascending
    train_as_ofs: int
    train_every: int  # us between two as-ofs of training and of validation
    validation_as_ofs: int
    models: str  # the registry
    examples: str  # the store of examples
    resume: bool = False
    promote: bool = False

    def __post_init__(self) -> None:
        for flag, n in (("--train-as-ofs", self.train_as_ofs), ("--validation-as-ofs", self.validation_as_ofs)):
            at_most(flag, n, AS_OFS, WHY_AS_OFS)
        first = self.test[0] - (self.train_as_ofs + self.validation_as_ofs) * self.train_every - 2 * self.task.horizon
        if first < FIRST:
            raise UserError(f"--train-as-ofs {self.train_as_ofs}: the first of them would lie before the year 1")

    @property
    def validation(self) -> tuple[int, ...]:
        """The validation as-ofs, ascending. The label of the last one is known at the first test as-of."""
        return self._before(self.test[0], self.validation_as_ofs)

    @property
    def train(self) -> tuple[int, ...]:
        """The training as-ofs, ascending. The label of the last one is known at the first validation as-of."""
        return self._before(self.validation[0], self.train_as_ofs)

    @property
    def folder(self) -> Path:
        """The folder of the task's models."""
        return Path(self.models) / self.task.task

    def example_config(self, *as_ofs: int) -> ExamplesConfig:
        """The examples of some as-ofs."""
        return ExamplesConfig(
            task=self.task,
            input=self.input,
            as_ofs=tuple(sorted(set(as_ofs))),
            output=self.examples,
            execution=self.execution,
            max_bad_share=self.max_bad_share,
        )

    def _before(self, time: int, n: int) -> tuple[int, ...]:
        last = floor(self.task, time - self.task.horizon)
        return tuple(sorted({floor(self.task, last - i * self.train_every) for i in range(n)}))


def floor(task: Task, time: int) -> int:
    """The last step boundary at or before a time, us."""
    return time - (time - task.sequence.origin) % task.sequence.step


def first_as_of(task: Task, now: int, history: bool, text: str | None = None) -> int:
    """The first as-of of a live job: the one that `text` (`--from`) names or the first one after it; otherwise the
    first after now, or, with a history to start from, the oldest one that is still open to corrections.

    Raises:
      UserError: not a time.
    """
    every = task.score.every
    if text is None:
        time = now - task.score.allowed_lateness if history else now + every
        return time - (time - task.sequence.origin) % every
    try:
        time = parse_time(text)
    except ValueError as error:
        raise UserError(f"--from {text}: {error}") from None
    return time + (task.sequence.origin - time) % every


def parse_as_ofs(task: Task, text: str, flag: str = "--as-of", every: int | None = None) -> tuple[int, ...]:
    """Reads as-ofs: `2024-01-01`, or `2024-01-01..2024-03-01` for every as-of that is due between the two, both
    included; or for those that lie `every` us apart; `latest` for the newest that is due.

    Raises:
      UserError: not a time, not a step boundary (with the nearest ones), an empty range, or one of more than `AS_OFS`.
    """
    if text == LATEST:
        now = time.time_ns() // 1_000
        return (now - (now - task.sequence.origin) % task.score.every,)
    first, dots, last = text.partition("..")
    bounds = [_as_of(task, t, flag) for t in ((first, last) if dots else (first,))]
    as_ofs = range(bounds[0], bounds[-1] + 1, every or task.score.every)
    if not as_ofs:
        raise UserError(f"{flag} {text}: the range ends before it starts")
    if len(as_ofs) > AS_OFS:
        apart = format_duration(as_ofs.step)
        raise UserError(
            f"{flag} {text}: {len(as_ofs):,} as-ofs, one every {apart}; a run has {AS_OFS:,} at most, for "
            f"{WHY_AS_OFS}: narrow the range, or take one after the other"
        )
    return tuple(as_ofs)


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
