"""What is to be launched: by a config, or as far as a command line and a task file can be read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import Finding, UserError
from pipelines.events.decode import Since, Span
from pipelines.google import subscription as pubsub
from pipelines.google.tables import WriteMethod
from pipelines.jobs.config import ExamplesConfig, Execution, Input, ScoreConfig, StreamConfig
from pipelines.jobs.outputs.base import Output
from pipelines.jobs.outputs.kinds import output
from pipelines.models.engines.base import ALIGNMENT, DeviceName, EngineName
from pipelines.runners import execution, portable
from pipelines.runners.dataflow import is_dataflow
from pipelines.task.spec import Task


@dataclass(frozen=True)
class Launch:
    """The arguments of a command; what is None could not be read, or was not given."""

    command: Literal["score", "stream", "examples"]
    execution: Execution
    task: Task | None
    span: Span | Since | None
    input: Input | None  # of a live job: its history
    max_bad_share: float
    problems: tuple[Finding, ...] = ()  # of the arguments themselves
    model: str | None = None
    engine: EngineName = "tensorflow"
    device: DeviceName = "auto"
    batch_size: int = ALIGNMENT
    output: str | None = None
    method: WriteMethod = "storage"
    replace_model: bool = False
    archive: str | None = None
    subscription: str | None = None
    arrival_attribute: str | None = None
    payload: str = "json"
    avro_schema: str | None = None  # file
    dead_letters: str | None = None  # topic
    job_name: str | None = None  # of a live job

    @classmethod
    def of(cls, config: ScoreConfig | StreamConfig | ExamplesConfig) -> Launch:
        """What a config says."""
        same = {name: getattr(config, name) for name in cls.__dataclass_fields__ if hasattr(config, name)}
        if isinstance(config, StreamConfig):
            return cls(**{**same, "command": "stream", "span": Since(config.first), "input": config.bootstrap})
        share = {"max_bad_share": config.input.max_bad_share}
        if isinstance(config, ScoreConfig):
            return cls(**{**same, **share, "command": "score", "span": Span(config.as_ofs)})
        span = Span(config.as_ofs, config.task.horizon)
        return cls(**{**same, **share, "command": "examples", "span": span, "output": None})

    @cached_property
    def runner(self) -> str:
        """The name of the runner, without its module."""
        name = portable.runner_name(self.execution) if self.live else execution.runner(self.execution)
        return name.rsplit(".", 1)[-1]

    @cached_property
    def options(self) -> PipelineOptions:
        return PipelineOptions(list(self.execution.beam_args))

    @property
    def live(self) -> bool:
        return self.command == "stream"

    @property
    def on_dataflow(self) -> bool:
        return is_dataflow(self.execution.beam_args)

    @property
    def here(self) -> bool:
        """Whether the workers are processes of this machine that the launch starts."""
        return self.runner in ("PrismRunner", "FnApiRunner")

    @cached_property
    def place(self) -> Output | UserError:
        """Where rows go, or why that cannot be told."""
        try:
            return output(self.output or "", self.method, self.replace_model)
        except UserError as problem:
            return problem

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
        return self.subscription is not None and pubsub.EMULATOR not in os.environ
