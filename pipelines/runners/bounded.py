"""Running a pipeline over files to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable

import apache_beam as beam
import grpc

from pipelines.errors import Exit, UserError
from pipelines.runners.endings import cause
from pipelines.runners.execution import Execution
from pipelines.runners.kinds import resolve
from pipelines.runners.loopback import keep_beam_on_loopback


def run(execution: Execution, build: Callable[[beam.Pipeline], None]) -> None:
    """Builds a pipeline and runs it to its end. What interrupts this process cancels a job that runs elsewhere.

    Raises:
      UserError: it failed; the message is that of the error that caused it.
    """
    keep_beam_on_loopback()
    runner = resolve(execution)
    options = runner.options()
    with runner.started(options, sys.stderr) as started:
        pipeline = beam.Pipeline(started.runner, options)
        build(pipeline)
        try:
            result = pipeline.run()
            try:
                result.wait_until_finish()
            except KeyboardInterrupt:
                result.cancel()
                raise
        except Exception as error:
            if execution.debug:
                raise
            lost = started.ended(isinstance(error, grpc.RpcError))
            raise UserError(
                f"the pipeline failed: {lost or cause(error)}. Run again with --debug for the whole trace", Exit.FAILED
            ) from error
