"""The runners of this machine: Beam's own, in this process or in some more, for files; and a Prism, for a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, TextIO

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, PrismRunnerOptions
from apache_beam.runners.runner import create_runner

from pipelines.errors import UserError
from pipelines.runners import workers
from pipelines.runners.base import Runner, Started
from pipelines.runners.endings import connections_end
from pipelines.runners.prism import Prism, locate
from pipelines.system.screen import tell

LOST = 2.0  # s from a broken connection of a worker to the end of its process
PRISM_LOST = 5.0  # s from one of Prism to its end
FOREVER = 10 * 365 * 86400  # s
STREAM = (
    "--runner=PortableRunner",
    "--environment_type=LOOPBACK",
    f"--job_server_timeout={FOREVER}",  # this limit of Beam cuts off the stream of the job's states, too
    "--experiments=prism_disable_sdf_split",  # a split would forget the watermark of the half that waits
    "--experiments=disable_logging_submission_environment",  # Beam would run pip for a list that nobody reads
)


class InProcess(Runner):
    """Beam's own runner for files, in this process or, with several workers, in processes that are watched."""

    local: ClassVar[bool] = True

    @property
    def ready(self) -> str:
        return f"the job runs here, in {self.execution.workers} process(es)"

    def added(self) -> list[str]:
        n = self.execution.workers
        return [f"--direct_num_workers={n}"] if n > 1 else []

    @contextmanager
    def started(self, options: PipelineOptions, to: TextIO) -> Iterator[Started]:
        if self.execution.workers == 1:
            yield Started(create_runner(self.name))
            return
        with connections_end(), workers.watched(self.execution.debug) as (runner, processes):
            yield Started(runner, lambda gone: processes.failed(LOST if gone else 0.0))


class OnPrism(Runner):
    """A Prism that ends with this process, which is its worker. A run over files by it is Beam's own affair."""

    place: ClassVar[str] = "Prism"
    local: ClassVar[bool] = True
    settles_early: ClassVar[bool] = False

    @property
    def ready(self) -> str:
        return f"Prism is {locate(self.given)}"

    def added(self) -> list[str]:
        return list(STREAM) if self.live else []

    def unreachable(self, name: str | None = None) -> Iterator[UserError]:
        try:
            locate(self.given)
        except UserError as problem:
            yield problem

    @contextmanager
    def started(self, options: PipelineOptions, to: TextIO) -> Iterator[Started]:
        """Says where strangers can reach it, which only one named by an option may allow."""
        if not self.live:
            with super().started(options, to) as started:
                yield started
            return
        named = options.view_as(PrismRunnerOptions).prism_location is not None
        with connections_end(), Prism(locate(options), exposed=named) as prism:
            if prism.warning:
                tell(to, f"warning     {prism.warning}")
            options.view_as(PortableOptions).job_endpoint = prism.endpoint
            yield Started(ended=lambda gone: prism.ended(PRISM_LOST if gone else 0.0))
