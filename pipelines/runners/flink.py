"""Flink as a runner: what its options need beyond what was given, whether somebody answers, and Beam's job server.

The runner is one of Beam's: `FlinkRunner` goes to a cluster through a job server of its own, which runs beside this
process for as long as it waits; `PortableRunner` to a job server that runs already. Workers come from a pool beside
each TaskManager (`pipelines.runners.worker_pool`), in whose environment this package is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkJarJobServer, FlinkRunner

from pipelines.errors import Exit, UserError
from pipelines.system.processes import bound, end, listens, reason

RUNNERS = ("FlinkRunner", "PortableRunner")
KEPT = "--environment_cache_millis=20000"  # workers outlive a stage by this; the next one would start and load anew
QUIET = ("--experiments=disable_logging_submission_environment",)  # Beam would run pip for a list that nobody reads
POOL = "localhost:50000"  # where the pool of a TaskManager listens
PLACE = re.compile(r"(\[[\da-fA-F:.]+\]|[\w.-]+):\d+")  # HOST:PORT, as the name of an image could be only by its tag
VERSION = "1.19"  # of Flink, that the job server of `make flink` is for
ANSWER = 5.0  # s that a service has to answer
READY = 120.0  # s for a job server to come up
ENDING = 5.0  # s that it has to end by itself
STARTS = "Start one on this machine with `make flink`, or correct the address"
# Flink's settings of where it listens.
BINDINGS = ("jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address")
ENDED = ("FINISHED", "CANCELED", "FAILED")  # states of a job
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def folder() -> Path:
    """The folder where `make flink` puts Flink and the job server: beside this Python."""
    return Path(sys.executable).parent.parent / "flink"


def added(args: Sequence[str], streaming: bool = False) -> list[str]:
    """The options that a job needs beside those given, and that it was not given: none unless it is for Flink.

    Workers are those of a pool, where --environment_config=HOST:PORT says or beside each TaskManager; the job server is
    the one of `make flink` where there is one, else Beam fetches it.
    """
    options = PipelineOptions(list(args))
    runner, flink = options.view_as(StandardOptions).runner, options.view_as(FlinkRunnerOptions)
    portable, more = options.view_as(PortableOptions), list(QUIET)
    if runner not in RUNNERS:
        return []
    place = portable.environment_config
    if not portable.environment_type and not portable.environment_options:
        if place and PLACE.fullmatch(place):
            more.append("--environment_type=EXTERNAL")
        elif not place and (portable.job_endpoint or cluster(options)):
            more += ["--environment_type=EXTERNAL", f"--environment_config={POOL}"]
    jar = folder() / "job-server" / "job-server.jar"
    if not streaming and KEPT.partition("=")[0] not in {arg.partition("=")[0] for arg in args}:
        more.append(KEPT)
    chosen = flink.flink_job_server_jar or flink.flink_submit_uber_jar or portable.job_endpoint
    if runner == "FlinkRunner" and not chosen and _version(args) in (None, VERSION) and jar.is_file():
        more.append(f"--flink_job_server_jar={jar}")
    return more


def check(args: Sequence[str], name: str | None = None) -> None:
    """Looks whether a job for Flink would find what it asks for. Other jobs pass.

    Args:
      name: of a job that must not run twice.

    Raises:
      UserError: nobody answers, the cluster has too few slots or another version, or the job runs already.
    """
    problem = next(problems(args, name), None)
    if problem is not None:
        raise problem


def problems(args: Sequence[str], name: str | None = None) -> Iterator[UserError]:
    """All that `check` would raise, were it not for what comes before."""
    options = PipelineOptions([*args, *added(args)])
    runner, portable = options.view_as(StandardOptions).runner, options.view_as(PortableOptions)
    if runner not in RUNNERS or portable.job_endpoint == "embed":
        return
    url = cluster(options)
    near = urlsplit(url or f"//{portable.job_endpoint}").hostname
    if portable.job_endpoint:
        yield from _of_service(portable.job_endpoint, "job server", "--job_endpoint")
    elif runner == "PortableRunner":
        yield UserError("--runner=PortableRunner needs --job_endpoint=HOST:PORT, where a job server listens")
    if url:
        yield from _of_cluster(url, options, _version(args), name)
    if portable.environment_type == "EXTERNAL" and near in LOOPBACK and portable.environment_config:
        yield from _of_service(portable.environment_config, "worker pool", "--environment_config")


@contextmanager
def job_server(options: PipelineOptions) -> Iterator[None]:
    """Starts a job server for FlinkRunner, which ends with this process, whatever ends that one. The options have its
    endpoint in the block. Beam's own launcher would leave it behind. Options for another runner stay as they are.

    Raises:
      UserError: there is none, or it does not come up.
    """
    portable = options.view_as(PortableOptions)
    uber = options.view_as(FlinkRunnerOptions).flink_submit_uber_jar and cluster(options)
    if options.view_as(StandardOptions).runner != "FlinkRunner" or portable.job_endpoint or uber:
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


def ask(url: str, method: str = "GET", body: object = None) -> Any:
    """Asks the REST interface of a cluster. Raises OSError or ValueError.

    https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/ops/rest_api/
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=ANSWER) as answer:
        return json.load(answer)


def running(master: str, name: str) -> str | None:
    """The ID of the job of that name or ID which has not ended. Raises OSError or ValueError."""
    jobs = [job for job in ask(f"{master}/jobs/overview")["jobs"] if job["state"] not in ENDED]
    return next((str(job["jid"]) for job in jobs if name in (job["name"], job["jid"])), None)


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
