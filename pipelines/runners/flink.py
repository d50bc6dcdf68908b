"""Flink as a runner: what its options need beyond what was given, whether somebody answers, and Beam's job server.

The runner is one of Beam's: `FlinkRunner` goes to a cluster through a job server of its own, which runs beside this
process for as long as it waits; `PortableRunner` to a job server that runs already. Workers come from a pool beside
each TaskManager (`pipelines.runners.worker_pool`), in whose environment this package is.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar, TextIO
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkJarJobServer, FlinkRunner

from pipelines.errors import Exit, UserError
from pipelines.google.leases import LONGEST
from pipelines.runners.base import Runner, Started
from pipelines.runners.flink_job import FlinkJob, ask, running
from pipelines.system.processes import bound, end, listens, reason

KEPT = "--environment_cache_millis=20000"  # workers outlive a stage by this; the next one would start and load anew
QUIET = ("--experiments=disable_logging_submission_environment",)  # Beam would run pip for a list that nobody reads
POOL = "localhost:50000"  # where the pool of a TaskManager listens
PLACE = re.compile(r"(\[[\da-fA-F:.]+\]|[\w.-]+):\d+")  # HOST:PORT, as the name of an image could be only by its tag
VERSION = "1.19"  # of Flink, that the job server of `make flink` is for
READY = 120.0  # s for a job server to come up
ENDING = 5.0  # s that it has to end by itself
STARTS = "Start one on this machine with `make flink`, or correct the address"
# Flink's settings of where it listens.
BINDINGS = ("jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SLOW_CHECKPOINT = LONGEST / 4  # s; an acknowledgement waits for up to three checkpoints
STREAM = (
    "--finish_bundle_before_checkpointing",  # else what a bundle gives as a checkpoint begins waits for the next bundle
    "--max_bundle_time_mills=200",  # bundles of a source end at this time only
    "--checkpoint_timeout_millis=3600000",  # a longer one restarts the job, and the first waits for the history
)
# Options that Flink's job server knows and Beam's Python does not. Some take no value.
FLAGS = (
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


def folder() -> Path:
    """The folder where `make flink` puts Flink and the job server: beside this Python."""
    return Path(sys.executable).parent.parent / "flink"


class OnPortable(Runner):
    """A job server that runs already, of Flink unless its options say otherwise."""

    place: ClassVar[str] = "Flink"
    flags: ClassVar[tuple[str, ...]] = FLAGS

    @property
    def ready(self) -> str:
        return "Flink answers, and what the job takes of it is there"

    def added(self) -> list[str]:
        """Workers are those of a pool, where --environment_config=HOST:PORT says or beside each TaskManager."""
        named = {arg.partition("=")[0] for arg in self.execution.beam_args}
        more = [arg for arg in (STREAM if self.live else ()) if arg.partition("=")[0] not in named] + list(QUIET)
        portable = self.given.view_as(PortableOptions)
        place = portable.environment_config
        if not portable.environment_type and not portable.environment_options:
            if place and PLACE.fullmatch(place):
                more.append("--environment_type=EXTERNAL")
            elif not place and (portable.job_endpoint or cluster(self.given)):
                more += ["--environment_type=EXTERNAL", f"--environment_config={POOL}"]
        if not self.live and KEPT.partition("=")[0] not in named:
            more.append(KEPT)
        return more

    def unreachable(self, name: str | None = None) -> Iterator[UserError]:
        options = PipelineOptions([*self.execution.beam_args, *self.added()])
        portable, url = options.view_as(PortableOptions), cluster(options)
        if portable.job_endpoint == "embed":
            return
        near = urlsplit(url or f"//{portable.job_endpoint}").hostname
        if portable.job_endpoint:
            yield from _of_service(portable.job_endpoint, "job server", "--job_endpoint")
        else:
            yield from self._unnamed()
        if url:
            yield from _of_cluster(url, options, _version(self.execution.beam_args), name)
        if portable.environment_type == "EXTERNAL" and near in LOOPBACK and portable.environment_config:
            yield from _of_service(portable.environment_config, "worker pool", "--environment_config")

    def check_live(self, arrival_attribute: str | None = None) -> None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--checkpointing_interval", "--checkpointingInterval", type=int, default=-1)
        try:
            interval = parser.parse_known_args(list(self.execution.beam_args))[0].checkpointing_interval
        except (argparse.ArgumentError, SystemExit):
            raise UserError("--checkpointing_interval takes a whole number of milliseconds") from None
        if interval <= 0:
            raise UserError(
                f"--runner={self.name} needs --checkpointing_interval=3000 (ms): without checkpoints {self._behind} "
                "never says that messages are kept, and none would be acknowledged"
            )
        if interval > SLOW_CHECKPOINT * 1_000:
            raise UserError(
                f"--checkpointing_interval={interval}: messages are kept leased for {LONGEST / 60:.0f} minutes, until "
                "a checkpoint",
                remedy=f"Take at most {SLOW_CHECKPOINT * 1_000:.0f}",
            )

    def _unnamed(self) -> Iterator[UserError]:
        """Where no job server is named."""
        yield UserError(f"--runner={self.name} needs --job_endpoint=HOST:PORT, where a job server listens")

    @property
    def _behind(self) -> str:
        return "Flink, which may be what is behind the job endpoint"


class OnFlink(OnPortable):
    """A cluster of Flink, through a job server of this machine, which is that of `make flink` where there is one; else
    Beam fetches it."""

    def added(self) -> list[str]:
        flink, portable = self.given.view_as(FlinkRunnerOptions), self.given.view_as(PortableOptions)
        jar = folder() / "job-server" / "job-server.jar"
        chosen = flink.flink_job_server_jar or flink.flink_submit_uber_jar or portable.job_endpoint
        ours = not chosen and _version(self.execution.beam_args) in (None, VERSION) and jar.is_file()
        return [*super().added(), *([f"--flink_job_server_jar={jar}"] if ours else [])]

    @contextmanager
    def started(self, options: PipelineOptions, to: TextIO) -> Iterator[Started]:
        with super().started(options, to) as started, job_server(options):
            yield started

    def works_here(self, options: PipelineOptions) -> bool:
        kind = options.view_as(PortableOptions).environment_type
        within = options.view_as(FlinkRunnerOptions).flink_master.strip("[]") in ("auto", "local")
        return super().works_here(options) or (kind is None and within)

    def followed(self, options: PipelineOptions) -> FlinkJob | None:
        """The cluster tells, where its address is known."""
        master, name = cluster(options), options.view_as(GoogleCloudOptions).job_name
        return FlinkJob(master, name) if master and name else None

    def _unnamed(self) -> Iterator[UserError]:
        return iter(())

    @property
    def _behind(self) -> str:
        return "Flink"


@contextmanager
def job_server(options: PipelineOptions) -> Iterator[None]:
    """A job server that ends with this process, whatever ends that one, and whose endpoint the options have in the
    block; none where they name one. Beam's own launcher would leave it behind.

    Raises:
      UserError: there is none, or it does not come up.
    """
    portable = options.view_as(PortableOptions)
    uber = options.view_as(FlinkRunnerOptions).flink_submit_uber_jar and cluster(options)
    if portable.job_endpoint or uber:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="job-server-") as artifacts, tempfile.TemporaryFile() as log:
        command, endpoint = _command(options, artifacts)
        process = bound(command, stdout=log, stderr=log, env=_environment(Path(artifacts)))
        try:
            _wait(process, endpoint, log)
            portable.job_endpoint = endpoint
            yield
        finally:
            portable.job_endpoint = None
            end(process, ENDING)


def cluster(options: PipelineOptions) -> str | None:
    """URL of the cluster's REST interface; None for one that the job server starts within itself."""
    master = FlinkRunner.add_http_scheme(options.view_as(FlinkRunnerOptions).flink_master)
    return None if master in MAGIC_HOST_NAMES else str(master).rstrip("/")


def _version(args: Sequence[str]) -> str | None:
    """Of Flink, where one was asked for."""
    given = any(arg.partition("=")[0] == "--flink_version" for arg in args)
    return str(PipelineOptions(list(args)).view_as(FlinkRunnerOptions).flink_version) if given else None


def _of_service(address: str, what: str, flag: str) -> Iterator[UserError]:
    why = listens(address)
    if why is not None:
        told = f"no {what} answers at {address} ({flag}): {why}"
        yield UserError(told, remedy=STARTS, code="runner-reachable", subject="Flink")


def _of_cluster(master: str, options: PipelineOptions, version: str | None, name: str | None) -> Iterator[UserError]:
    try:
        found = ask(f"{master}/overview")
        slots, release = int(found["slots-total"]), str(found["flink-version"])
        same = running(master, name) if name is not None else None
    except (OSError, ValueError, KeyError) as error:
        told = f"no Flink cluster answers at {master} (--flink_master): {reason(error)}"
        yield UserError(told, remedy=STARTS, code="runner-reachable", subject="Flink")
        return
    flink, given = options.view_as(FlinkRunnerOptions), options.view_as(PortableOptions).job_endpoint is not None
    if not given and (flink.parallelism > slots or not slots):  # where others submit, slots may come when asked for
        told = f"--parallelism={max(1, flink.parallelism)} takes as many"
        told = f"the Flink cluster at {master} has {slots} task slot(s), and {told}"
        yield UserError(told, remedy="Start more TaskManagers", code="flink-slots", subject="Flink")
    own = flink.flink_job_server_jar == str(folder() / "job-server" / "job-server.jar")
    served = VERSION if own else version or (None if flink.flink_job_server_jar else flink.flink_version)
    if not given and served is not None and not release.startswith(f"{served}."):
        told = f"the Flink cluster at {master} is of version {release}, and the job server for {served}"
        remedy = f"Add --flink_version={'.'.join(release.split('.')[:2])}"
        yield UserError(told, remedy=remedy, code="flink-version", subject="Flink")
    if same is not None:
        told = f"the job {name} runs on the cluster at {master} already, as {same}"
        remedy = "Stop it with `foretide savepoint`, and go on from there with --savepoint_path"
        yield UserError(told, remedy=remedy, code="job-running", subject="Flink")


def _command(options: PipelineOptions, artifacts: str) -> tuple[list[str], str]:
    """What starts a job server, and where it will listen. Fetches it where there is none."""
    flink, settings = options.view_as(FlinkRunnerOptions), options.view_as(JobServerOptions)
    flink.flink_master = cluster(options) or flink.flink_master
    settings.artifacts_dir = settings.artifacts_dir or artifacts
    settings.expansion_port = settings.expansion_port or -1  # nobody asks it for transforms in Java
    try:
        command, endpoint = FlinkJarJobServer(options).subprocess_cmd_and_endpoint()
    except Exception as error:
        raise UserError(
            f"no job server for Flink {flink.flink_version}: it could not be fetched ({type(error).__name__}). Build "
            f"one for Flink {VERSION} with `make flink`, or name one with --flink_job_server_jar",
            Exit.FAILED,
        ) from error
    return [str(word) for word in command], str(endpoint)


def _environment(folder: Path) -> dict[str, str]:
    """Variables of a job server, whose own cluster, if it has one, is for this machine alone. A user's settings win."""
    (folder / "flink-conf.yaml").write_text("".join(f"{key}: 127.0.0.1\n" for key in BINDINGS))
    return {"FLINK_CONF_DIR": str(folder), **os.environ}


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: IO[bytes]) -> None:
    due = time.monotonic() + READY
    while listens(endpoint, 1.0) is not None:
        if process.poll() is not None or time.monotonic() > due:
            log.seek(0)
            said = log.read().decode(errors="replace").splitlines()[-1:]
            how = "did not come up" if process.returncode is None else f"ended with {process.returncode}"
            raise UserError(f"the job server of Flink {how}: {''.join(said)[:300]}", Exit.FAILED)
        time.sleep(0.05)
