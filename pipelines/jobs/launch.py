"""What is to be launched: by a config, or as far as a command line and a task file can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import Finding, UserError
from pipelines.events.decode import Since, Span
from pipelines.google.subscription import EMULATOR
from pipelines.jobs.config import (
    ExamplesConfig,
    Input,
    ScoreConfig,
    ScoreFlags,
    ScoringFlags,
    StreamConfig,
    StreamFlags,
)
from pipelines.jobs.outputs.base import Output
from pipelines.runners.base import Runner
from pipelines.runners.execution import Job
from pipelines.task.spec import Task


@dataclass(frozen=True)
class Launch:
    """A config, or as much of it as can be read."""

    config: ScoreFlags | StreamFlags | ExamplesConfig  # without what needs a task where that cannot be read
    task: Task | None  # None: its file cannot be read
    problems: tuple[Finding, ...] = ()  # of the arguments themselves

    @classmethod
    def of(cls, config: ScoreConfig | StreamConfig | ExamplesConfig) -> Launch:
        """What a config says."""
        return cls(config, config.task)

    @property
    def command(self) -> Literal["score", "stream", "examples"]:
        if self.stream is not None:
            return "stream"
        return "score" if self.scoring is not None else "examples"

    @property
    def scoring(self) -> ScoringFlags | None:
        """None where nothing is scored."""
        return self.config if isinstance(self.config, ScoringFlags) else None

    @property
    def stream(self) -> StreamFlags | None:
        """None where the job is no live one."""
        return self.config if isinstance(self.config, StreamFlags) else None

    @property
    def input(self) -> Input | None:
        """Of a live job: its history."""
        return self.config.bootstrap if isinstance(self.config, StreamFlags) else self.config.input

    @property
    def span(self) -> Span | Since | None:
        """None where the arguments cannot be read."""
        match self.config:
            case StreamConfig():
                return Since(self.config.first)
            case ScoreConfig():
                return Span(self.config.as_ofs)
            case ExamplesConfig():
                return Span(self.config.as_ofs, self.config.task.horizon)
        return None

    @property
    def job_name(self) -> str | None:
        """Of a live job."""
        return self.config.job_name if isinstance(self.config, StreamConfig) else None

    @property
    def runner(self) -> Runner:
        return self.config.runner

    @property
    def options(self) -> PipelineOptions:
        """Of Beam, as they were given."""
        return self.runner.given

    @property
    def place(self) -> Output | None:
        """Where scores go; None where there are none, or where that cannot be told."""
        try:
            return self.scoring.place if self.scoring else None
        except UserError:  # a check tells it
            return None

    @property
    def job(self) -> Job:
        """What the runner has to be able to do."""
        inputs = self.input.local if self.input else ()
        if self.scoring is None:
            return Job(inputs=inputs)
        folder = self.scoring.output if self.place and self.place.here else None
        archive = self.stream.archive if self.stream else None
        return Job(self.scoring.model, folder, inputs, archive, self.scoring.device)

    @property
    def tables(self) -> tuple[str, ...]:
        """Inputs of BigQuery."""
        return tuple(dict.fromkeys(self.input.tables)) if self.input else ()

    @property
    def files(self) -> tuple[str, ...]:
        """The inputs that are files."""
        return self.input.files if self.input else ()

    @property
    def real_pubsub(self) -> bool:
        """Whether it reads Pub/Sub, and not an emulator of it."""
        return self.stream is not None and EMULATOR not in os.environ
