"""What is to be launched, as far as its command line and task file can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.doctor.findings import Finding
from pipelines.events.decode import Since, Span
from pipelines.google import bigquery as bigquery
from pipelines.google import subscription as pubsub
from pipelines.google.tables import is_bigquery
from pipelines.jobs.config import Input, ScoreConfig, ScoreFlags, StreamConfig, StreamFlags
from pipelines.runners.base import Runner
from pipelines.task.spec import Task


@dataclass(frozen=True)
class Launch:
    """A launch of `foretide score` or `foretide stream`."""

    config: ScoreFlags | StreamFlags  # a ScoreConfig or StreamConfig, unless the task or its arguments cannot be read
    task: Task | None  # None: its file cannot be read
    problems: tuple[Finding, ...] = ()  # of the arguments themselves

    @property
    def command(self) -> Literal["score", "stream"]:
        return "stream" if self.config.live else "score"

    @property
    def stream(self) -> StreamFlags | None:
        return self.config if isinstance(self.config, StreamFlags) else None

    @property
    def input(self) -> Input | None:
        """Of a live job: its history."""
        return self.config.input if isinstance(self.config, ScoreFlags) else self.config.bootstrap

    @property
    def span(self) -> Span | Since | None:
        """None where the arguments cannot be read."""
        if isinstance(self.config, ScoreConfig):
            return Span(self.config.as_ofs)
        return Since(self.config.first) if isinstance(self.config, StreamConfig) else None

    @property
    def job_name(self) -> str | None:
        """Of a live job."""
        return self.config.job_name if isinstance(self.config, StreamConfig) else None

    @property
    def runner(self) -> Runner:
        return self.config.runner

    @property
    def options(self) -> PipelineOptions:
        return self.runner.given

    @property
    def tables(self) -> tuple[str, ...]:
        """Inputs of BigQuery."""
        return tuple(p for p in self.config.inputs if is_bigquery(p))

    @property
    def files(self) -> tuple[str, ...]:
        """Inputs that are files."""
        return tuple(p for p in self.config.inputs if not is_bigquery(p))

    @property
    def real_bigquery(self) -> bool:
        """Whether it reads or writes BigQuery, and not an emulator of it."""
        return bool(self.tables or is_bigquery(self.config.output)) and bigquery.EMULATOR not in os.environ

    @property
    def real_pubsub(self) -> bool:
        """Whether it reads Pub/Sub, and not an emulator of it."""
        return self.config.live and pubsub.EMULATOR not in os.environ
