"""Running a stream: start a runner where it needs one, submit, show how it goes, and drain it when asked to stop.

On this machine the runner is Prism and the worker is this process. Elsewhere it is what --runner says, and the job does
not end with this process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, TextIO

import apache_beam as beam
import grpc
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipelines.errors import Exit, UserError
from pipelines.ledger.figures import FigureLines, Figures, collect
from pipelines.runners.endings import cause
from pipelines.runners.execution import Execution
from pipelines.runners.flink_job import FlinkJob
from pipelines.runners.kinds import resolve
from pipelines.runners.loopback import keep_beam_on_loopback
from pipelines.system import interrupts
from pipelines.system.versioned import StateError

State = Literal["drained", "cancelled", "detached"]

POLL = 0.1  # s between two looks at whether the job has ended
LOOK = 1.0  # s between two looks at its metrics
CANCELLING = 5.0  # s that a cancelled job has to end
CANCELLED = "JobCancellationException"  # in what Beam says of a job of Flink that somebody cancelled


@dataclass(frozen=True)
class StreamResult:
    """How a stream ended: all that it took is written (drained); what was under way is not acknowledged and comes
    again (cancelled); it runs on without this process (detached)."""

    state: State
    figures: Figures
    seconds: float


def run_stream(
    execution: Execution,
    build: Callable[[beam.Pipeline], None],
    stop: Path,
    name: str | None = None,
    wait: bool = True,
    drain: float = 3600.0,
    to: TextIO | None = None,
) -> StreamResult:
    """Runs a stream until its source ends.

    SIGTERM and SIGINT (Ctrl-C) drain: they make the file `stop`, at which the source must end, and wait for what is
    under way. A second one, or `drain` seconds, cancel. A job whose workers are elsewhere is left running instead.

    Args:
        execution: where; on this machine, in this process, without --runner.
        build: makes the graph, whose source watches `stop`.
        stop: what is there is removed at the start.
        name: of the job, on runners that have names for jobs.
        wait: False leaves a job elsewhere to itself as soon as it is submitted.
        drain: seconds from the request to stop until it is cancelled.
        to: where the status goes; standard error where None.

    Raises:
      UserError: there is no Prism, or the job failed.
    """
    runner, status, begun = resolve(execution, live=True), to or sys.stderr, time.monotonic()
    options = runner.options(name)
    keep_beam_on_loopback()
    stop.unlink(missing_ok=True)
    with ExitStack() as stack:
        if not execution.debug:  # workers print what they raise, and threads of Beam how their connections end
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        here = runner.works_here(options)
        stops = stack.enter_context(_stops(stop if here else None))
        started = stack.enter_context(runner.started(options, status))
        try:
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            if stops.count and here:
                return StreamResult("drained", Figures(), time.monotonic() - begun)
            job = _Job(pipeline.run(), here, stops, drain, status, runner.followed(options))
            leave = not wait or runner.template
            state = job.follow() if here or not leave else "detached"
        except UserError:
            raise
        except Exception as error:
            if execution.debug:
                raise
            reason = started.ended(isinstance(error, grpc.RpcError)) or cause(error)
            raise UserError(
                f"the stream failed: {reason}. Run again with --debug for the whole trace", Exit.FAILED
            ) from error
    return StreamResult(state, job.figures, time.monotonic() - begun)


@dataclass
class _Stops:
    """Requests to stop: the first one makes the file, if there is one to make."""

    path: Path | None
    count: int = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.path is not None:
            self.path.touch()


@contextmanager
def _stops(path: Path | None) -> Iterator[_Stops]:
    """Takes SIGTERM and SIGINT as requests to stop. Only the main thread can."""
    stops = _Stops(path)
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    with interrupts.taken(stops):
        yield stops


@dataclass
class _Job:
    """A job that was submitted, and what is known of it."""

    result: PipelineResult
    here: bool
    stops: _Stops
    drain: float
    to: TextIO
    cluster: FlinkJob | None
    figures: Figures = field(default_factory=Figures)
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> State:
        """Shows how it goes until it has ended, and stops it when asked to.

        Raises:
          Exception: it failed.
        """
        threading.Thread(target=self._wait, name="job", daemon=True).start()
        status = FigureLines(self.to, 2.0 if self.to.isatty() else 10.0, time.monotonic())
        try:
            state = self._attend(status)
            if self.cluster is None:
                self._look(status)
        finally:
            status.close()
        if state is not None:
            return state
        if self.error is not None and CANCELLED not in str(self.error):
            raise self.error
        return "drained" if self.result.state in (PipelineState.DONE, PipelineState.DRAINED) else "cancelled"

    def _attend(self, status: FigureLines) -> State | None:
        """Until it has ended (None), was cancelled, or is left to itself."""
        looked, due = 0.0, None
        while not self.ended.wait(POLL):
            now = time.monotonic()
            if now >= looked + (LOOK if self.here else 10 * LOOK):
                looked = now
                self._look(status)
            if self.stops.count and not self.here:
                return "detached"
            if self.cluster is not None and self.cluster.done:
                self.cluster.cancel()
                return "drained"
            if self.stops.count and due is None:
                due = now + self.drain
                status.note("draining: no more messages are taken; once more (Ctrl-C) cancels at once")
            if due is not None and (self.stops.count > 1 or now > due):
                self.result.cancel()
                self.ended.wait(CANCELLING)
                return "cancelled"
        return None

    def _wait(self) -> None:
        try:
            self.result.wait_until_finish()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()

    def _look(self, status: FigureLines) -> None:
        """Its metrics, or where its runner tells none while it runs, how it stands."""
        if self.cluster is not None:
            failures, line = self.cluster.look()
            for failure in failures:
                why = cause(RuntimeError(failure))
                if StateError.__name__ in why:
                    self.cluster.cancel()
                    raise UserError(why.partition(": ")[2])
                status.note(f"the job failed, and starts again from its last checkpoint: {why}")
            status.note(line)
            return
        if isinstance(self.result, portable_runner.PipelineResult):
            self.result._metrics = None  # Beam keeps the first answer
        try:
            self.figures = collect(self.result.metrics())
        except Exception:  # the job may be gone; how it ended says the rest
            return
        status.show(time.monotonic(), self.figures)
