"""A runner of Beam, and what a command has to know of it: before it builds a job, when it starts one, and after.

Each kind of runner answers in a file of its own, and `kinds` lists them. Nobody else asks for the name of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TextIO

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner

from pipelines.errors import UserError
from pipelines.runners.endings import connections_end
from pipelines.runners.execution import Execution, Job
from pipelines.runners.flink_job import FlinkJob


@dataclass(frozen=True)
class Started:
    """What stands ready for a job while it runs."""

    runner: PipelineRunner | None = None  # that Beam gets; the one that the options name where None
    ended: Callable[[bool], str | None] = lambda gone: None  # how it ended too soon; gone: its connection was lost


@dataclass(frozen=True)
class Runner:
    """Where a job runs. These are the answers of a runner of which nothing is known."""

    name: str  # as Beam has it, without its module
    execution: Execution
    live: bool = False  # for a stream without an end; otherwise for files

    place: ClassVar[str] = "--runner"  # what a finding about whether it is there is about
    local: ClassVar[bool] = False  # its workers are processes of this machine that the command starts
    shares_folders: ClassVar[bool] = True  # its workers write to a folder that this machine reads
    on_google: ClassVar[bool] = False  # its workers are of a project of Google Cloud
    reads_pubsub: ClassVar[bool] = False  # by a read of its own, which gives no ticks
    replaces_jobs: ClassVar[bool] = False  # one that runs by another, if the names of their steps are the same
    has_beam_sink: ClassVar[bool] = False  # it runs Beam's sink for BigQuery, in Java
    settles_early: ClassVar[bool] = True  # it may say that a bundle is kept before it is
    flags: ClassVar[tuple[str, ...]] = ()  # options that it has and Beam's Python does not know

    @property
    def ready(self) -> str:
        """In words, where nothing is `unreachable`; empty where that is not known."""
        return ""

    @property
    def template(self) -> bool:
        """Whether the job is only described here, and launched by somebody else: then it is not waited for."""
        return False

    @property
    def hints(self) -> Mapping[str, str]:
        """Beam's resource hints for the step of inference."""
        return {}

    @property
    def accelerators(self) -> list[str]:
        """Those that workers are to have."""
        return []

    @cached_property
    def given(self) -> PipelineOptions:
        """The options that were given."""
        return PipelineOptions(list(self.execution.beam_args))

    def added(self) -> list[str]:
        """The options that the job needs beside those given, and that it was not given."""
        return []

    def options(self, name: str | None = None) -> PipelineOptions:
        """All options of the job.

        Args:
          name: of a live job, unless the options say it.
        """
        options = PipelineOptions([*self.execution.beam_args, *self.added()])
        if self.live:
            options.view_as(StandardOptions).streaming = True
            cloud = options.view_as(GoogleCloudOptions)
            cloud.job_name = cloud.job_name or name
        return options

    def problems(self, job: Job) -> Iterator[UserError]:
        """What will not do of the options, and of what the job asks for. No service is asked."""
        flag = next(self._asked(), None)
        if flag:
            yield UserError(
                f"{flag} is for --runner=DataflowRunner: elsewhere a worker has what its machine has",
                code="accelerators",
            )

    def unreachable(self, name: str | None = None) -> Iterator[UserError]:
        """What is not there, or has no room, where the job is to run.

        Args:
          name: of a job that must not run twice.
        """
        return iter(())

    def check(self, job: Job) -> None:
        """Raises UserError for the first of `problems`."""
        for problem in self.problems(job):
            raise problem

    def check_live(self, arrival_attribute: str | None = None) -> None:
        """Raises UserError where a live job would lose messages, or never acknowledge them, or judge them by the wrong
        clock."""

    @contextmanager
    def started(self, options: PipelineOptions, to: TextIO) -> Iterator[Started]:
        """What the job needs beside its workers, for as long as the block lasts.

        Args:
          options: of the job, to which addresses are added.
          to: where warnings go.

        Raises:
          UserError: it is not there, or does not come up.
        """
        with connections_end():
            yield Started()

    def works_here(self, options: PipelineOptions) -> bool:
        """Whether the workers are in this process: the job ends with it."""
        return bool(options.view_as(PortableOptions).environment_type == "LOOPBACK")

    def followed(self, options: PipelineOptions) -> FlinkJob | None:
        """What tells how the job stands, where Beam does not."""
        return None

    def _asked(self) -> Iterator[str]:
        """The flags for workers of a certain kind that were given."""
        if self.execution.accelerator:
            yield "--accelerator"
        if self.execution.inference_ram:
            yield "--inference-ram"
