"""What is to be launched, as far as its command line and task file can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.doctor.findings import Finding
from pipelines.events.decode import Since, Span
from pipelines.google import bigquery as bigquery
from pipelines.google import subscription as pubsub
from pipelines.google.tables import is_bigquery
from pipelines.jobs.config import Input, PayloadFormat, WriteMethod
from pipelines.models.engines.base import DeviceName, EngineName
from pipelines.runners.base import Runner
from pipelines.runners.execution import Execution, Job
from pipelines.runners.kinds import resolve
from pipelines.task.spec import Task


@dataclass(frozen=True)
class Launch:
    """The arguments of `foretide score` or `foretide stream`; what is None could not be read, or was not given."""

    command: Literal["score", "stream"]
    problems: tuple[Finding, ...]  # of the arguments themselves
    task: Task | None
    span: Span | Since | None
    input: Input | None  # of a live job: its history
    max_bad_share: float
    model: str
    engine: EngineName
    device: DeviceName
    batch_size: int
    output: str
    method: WriteMethod
    execution: Execution
    replace_model: bool = False
    archive: str | None = None
    subscription: str | None = None
    arrival_attribute: str | None = None
    payload: PayloadFormat = "json"
    avro_schema: str | None = None  # file
    dead_letters: str | None = None  # topic
    job_name: str | None = None  # of a live job

    @cached_property
    def runner(self) -> Runner:
        return resolve(self.execution, self.live)

    @property
    def job(self) -> Job:
        """What of it the runner has to be able to do."""
        inputs = self.input.patterns if self.input else ()
        return Job(self.model, self.output, inputs, self.archive, self.device)

    @cached_property
    def options(self) -> PipelineOptions:
        return PipelineOptions(list(self.execution.beam_args))

    @property
    def live(self) -> bool:
        return self.command == "stream"

    @property
    def on_dataflow(self) -> bool:
        return self.runner.on_google

    @property
    def here(self) -> bool:
        """Whether the workers are processes of this machine that the launch starts."""
        return self.runner.local

    @property
    def tables(self) -> tuple[str, ...]:
        """Inputs of BigQuery."""
        return tuple(p for p in (self.input.patterns if self.input else ()) if is_bigquery(p))

    @property
    def files(self) -> tuple[str, ...]:
        """Inputs that are files."""
        return tuple(p for p in (self.input.patterns if self.input else ()) if not is_bigquery(p))

    @property
    def real_bigquery(self) -> bool:
        """Whether it reads or writes BigQuery, and not an emulator of it."""
        return bool(self.tables or is_bigquery(self.output)) and bigquery.EMULATOR not in os.environ

    @property
    def real_pubsub(self) -> bool:
        """Whether it reads Pub/Sub, and not an emulator of it."""
        return self.subscription is not None and pubsub.EMULATOR not in os.environ
