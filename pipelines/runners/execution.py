"""Running a pipeline: which runner, with which options, and what its failure looks like."""

from __future__ import annotations

import argparse
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.errors import Exit, UserError, unknown_option
from pipelines.jobs.config import Execution
from pipelines.runners import dataflow, flink, workers
from pipelines.runners.loopback import keep_beam_on_loopback
from pipelines.runners.workers import Workers

NAMED = re.compile(r"[\w.]*(Error|Exception): ")  # a line that says what kind of error it is
LOCAL = ("DirectRunner", "FnApiRunner")
ENDING = 1.0  # s that threads have to end; some of them never do
LOST = 2.0  # s from a broken connection of a worker to the end of its process
READERS = (
    "run_worker_",
    "read_state",
    "read_grpc_client_inputs",
    "wait_until_finish_read",
    "beam_control_read",
)  # names of Beam's threads
# Options that Flink's job server knows and Beam's Python does not. Some take no value.
FLINK = (
    "allow_non_restored_state",
    "auto_watermark_interval",
    "checkpoint_timeout_millis",
    "checkpointing_interval",
    "checkpointing_mode",
    "disable_metrics",
    "enable_stable_input_drain",
    "execution_retry_delay",
    "externalized_checkpoints_enabled",
    "faster_copy",
    "finish_bundle_before_checkpointing",
    "flink_conf_dir",
    "force_unaligned_checkpoint_enabled",
    "latency_tracking_interval",
    "max_bundle_size",
    "max_bundle_time_mills",
    "min_pause_between_checkpoints",
    "num_concurrent_checkpoints",
    "number_of_execution_retries",
    "object_reuse",
    "retain_externalized_checkpoints_on_cancellation",
    "savepoint_path",
    "shutdown_sources_after_idle_ms",
    "state_backend",
    "state_backend_storage_path",
    "unaligned_checkpoint_enabled",
)


# Beam's options that are secrets, and the variables that do as well.
SECRETS = {
    "azure_connection_string": "AZURE_STORAGE_CONNECTION_STRING",
    "s3_secret_access_key": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
}


def check_beam_args(args: Sequence[str]) -> None:
    """Refuses an option that no part of Beam knows, a secret, and one that would lose data. Raises UserError."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        if hasattr(options, "_add_argparse_args"):
            _add(options, known)
    if known.parse_known_args(list(args))[0].runner in ("FlinkRunner", "PortableRunner"):
        for name in FLINK:
            known.add_argument(f"--{name}", nargs="?")
    parsed, unknown = known.parse_known_args(list(args))
    secret = next((name for name in SECRETS if getattr(parsed, name, None) is not None), None)
    if secret is not None:
        raise UserError(
            f"--{secret}: a secret in the options of a job stands in the list of processes and in its runner's logs. "
            f"Leave it out, and set {SECRETS[secret]} in the environment of this command and of the workers"
        )
    if unknown:
        raise unknown_option(unknown, ": neither foretide nor Beam has it; see foretide --help")
    mode = getattr(parsed, "direct_running_mode", None)
    if mode == "multi_threading":
        raise UserError(
            "--direct_running_mode=multi_threading loses data in Beam: use --workers N, which takes processes"
        )
    if mode == "multi_processing":
        raise UserError(
            "--direct_running_mode=multi_processing takes processes that nobody watches: use --workers N, whose end "
            "with the run"
        )


def runner(execution: Execution) -> str:
    """The runner asked for. Beam's own default tries to download another one; bounded runs need none."""
    name = PipelineOptions(list(execution.beam_args)).get_all_options().get("runner") or "DirectRunner"
    return "FnApiRunner" if name in LOCAL else str(name)


def is_local(execution: Execution) -> bool:
    """Whether the workers are this machine's own processes."""
    return runner(execution) == "FnApiRunner"


def run(execution: Execution, build: Callable[[beam.Pipeline], None]) -> None:
    """Builds a pipeline and runs it to its end.

    Raises:
      UserError: it failed; the message is that of the error that caused it.
    """
    args, n = execution.beam_args, execution.workers
    keep_beam_on_loopback()
    if is_local(execution) and n > 1:
        with connections_end(), workers.watched(execution.debug) as (watched, processes):
            options = PipelineOptions([*args, f"--direct_num_workers={n}"])
            _finish(beam.Pipeline(watched, options), execution, build, processes)
        return
    if is_local(execution):
        _finish(beam.Pipeline(runner(execution), PipelineOptions([*args])), execution, build)
        return
    options = PipelineOptions([*args, *flink.added(args), *dataflow.added(args, execution.accelerator)])
    with connections_end(), flink.job_server(options):
        _finish(beam.Pipeline(runner(execution), options), execution, build)


def _finish(
    pipeline: beam.Pipeline,
    execution: Execution,
    build: Callable[[beam.Pipeline], None],
    processes: Workers | None = None,
) -> None:
    """Builds it and runs it to its end. What interrupts this process cancels a job that runs elsewhere."""
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
        lost = processes.failed(LOST if isinstance(error, grpc.RpcError) else 0.0) if processes else None
        raise UserError(
            f"the pipeline failed: {lost or cause(error)}. Run again with --debug for the whole trace", Exit.FAILED
        ) from error


@contextmanager
def connections_end() -> Iterator[None]:
    """Lets threads of Beam that read from a runner end with it; each would report that its connection is gone."""
    before, report = set(threading.enumerate()), threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, grpc.RpcError):
            report(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        end = time.monotonic() + ENDING
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith(READERS):
                thread.join(max(0.0, end - time.monotonic()))
        threading.excepthook = report


def cause(error: BaseException) -> str:
    """The last line of the innermost error, without a full stop: runners wrap it in the trace of the worker."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(" ")]
    picked = next(
        (line for line in reversed(lines) if "Error" in line or "Exception" in line), lines[-1] if lines else ""
    )
    return (picked if NAMED.match(picked) else f"{type(error).__name__}: {picked}")[:500].rstrip(".")


def _add(options: type[PipelineOptions], parser: argparse.ArgumentParser) -> None:
    try:
        options._add_argparse_args(parser)
    except argparse.ArgumentError:  # the same option in two classes
        return
