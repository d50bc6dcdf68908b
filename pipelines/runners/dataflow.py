"""Dataflow as a runner: what a job needs beside the options given, and what must be right before it is launched.

Accelerator and memory are asked for by two flags. In a backfill they are hints on the step of inference alone, for
which Dataflow then starts workers of their own (right fitting). A live job has one pool of workers, and all of them
have the accelerator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipelines.errors import UserError

RUNNER = "--runner=DataflowRunner"
PROJECT = re.compile(r"(?=.*[a-z])[a-z][-a-z0-9:.]+[a-z0-9]")
JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
BUCKET = re.compile(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/.*")
OPTION = r"(;[A-Za-z0-9_-]+(:[A-Za-z0-9._-]+)?)*"
ACCELERATOR = re.compile(rf"type:[a-z0-9-]+;count:[1-9][0-9]*{OPTION};install-nvidia-driver(:[a-z0-9]+)?{OPTION}")
RAM = re.compile(r"[0-9]+(\.[0-9]+)?([KMGT]i?)?B")
SHARED = "use_nvidia_mps"  # of an accelerator: processes share it
POOL = "worker_accelerator"
ONE_PROCESS = "no_use_multiple_sdk_containers"  # in a worker: TensorFlow takes all the memory of a GPU for itself


@dataclass(frozen=True)
class Job:
    """What a command asks for that Dataflow may not be able to do, by the flags that say it."""

    model: str
    output: str | None  # where it is a folder of this machine
    inputs: Sequence[str] = ()  # of this machine
    archive: str | None = None
    streaming: bool = False
    device: str = "auto"
    accelerator: str | None = None
    ram: str | None = None


def is_dataflow(args: Sequence[str]) -> bool:
    """Whether options of Beam name this runner, in any way in which Beam takes its name."""
    runner = PipelineOptions(list(args)).view_as(StandardOptions).runner or ""
    return str(runner).rpartition(".")[2].lower() in ("dataflowrunner", "dataflow")


def is_template(args: Sequence[str]) -> bool:
    """Whether the job is only described here, and launched by somebody else, as the launcher of a Flex template does:
    then it is not waited for."""
    return is_dataflow(args) and PipelineOptions(list(args)).view_as(GoogleCloudOptions).template_location is not None


def hints(accelerator: str | None, ram: str | None) -> dict[str, str]:
    """Resource hints for the step of inference of a backfill."""
    return {name: value for name, value in (("accelerator", accelerator), ("min_ram", ram)) if value}


def added(args: Sequence[str], accelerator: str | None = None, streaming: bool = False) -> list[str]:
    """The options that a job needs beside those given: none unless it is for Dataflow. Beam itself asks for Runner v2,
    and for Streaming Engine where the job is a live one."""
    if not is_dataflow(args):
        return []
    options = PipelineOptions(list(args))
    chosen = options.view_as(SetupOptions).save_main_session is not None
    more = [] if chosen else ["--no_save_main_session"]  # workers import this package, and need nothing else
    accelerators = [accelerator] if accelerator else list(_pool(options))
    if accelerator and streaming:
        more.append(f"--dataflow_service_options={POOL}={accelerator}")
    experiments = {ONE_PROCESS, ONE_PROCESS.removeprefix("no_")} & set(options.view_as(DebugOptions).experiments or [])
    if accelerators and not experiments and not any(SHARED in each for each in accelerators):
        more.append(f"--experiments={ONE_PROCESS}")
    return more


def check(args: Sequence[str], job: Job) -> None:
    """Looks whether a job for Dataflow has what Dataflow takes. Others pass, if they ask for nothing that only Dataflow
    has.

    Raises:
      UserError: something is missing, or cannot be had there.
    """
    problem = next(problems(args, job), None)
    if problem is not None:
        raise problem


def problems(args: Sequence[str], job: Job) -> Iterator[UserError]:
    """All that `check` would raise, were it not for what comes before."""
    if not is_dataflow(args):
        flag = next((flag for flag, value in _asked(job) if value), None)
        if flag:
            yield UserError(f"{flag} is for {RUNNER}: elsewhere a worker has what its machine has", code="accelerators")
        return
    yield from _of_library()
    options = PipelineOptions(list(args))
    yield from _of_cloud(options.view_as(GoogleCloudOptions), job.streaming)
    yield from _of_package(options)
    if not is_template(args):  # of Flex: its launcher runs in the image of the workers, which may hold anything
        yield from _of_inputs(job)
    yield from _of_outputs(job)
    yield from _of_resources(options, job)


def _of_library() -> Iterator[UserError]:
    try:
        import apache_beam.runners.dataflow.internal.apiclient  # noqa: F401
    except ImportError:
        yield UserError(f"{RUNNER} needs its libraries", remedy="Run pip install 'foretide[gcp]'")


def _of_cloud(cloud: GoogleCloudOptions, streaming: bool) -> Iterator[UserError]:
    """Beam would find some of this out by itself, after minutes of asking services, and in other words."""
    if not cloud.project or not PROJECT.fullmatch(cloud.project):
        given = f", and {cloud.project} is no name of one" if cloud.project else ""
        yield UserError(f"{RUNNER} needs --project=PROJECT, the name (not the number) of a project{given}")
    if not cloud.region and not os.environ.get("CLOUDSDK_COMPUTE_REGION"):
        yield UserError(f"{RUNNER} needs --region=REGION, where the workers run, such as europe-west1")
    if not cloud.temp_location:
        yield UserError(f"{RUNNER} needs --temp_location=gs://BUCKET/FOLDER, best in the region of the job")
    for flag, place in (("--temp_location", cloud.temp_location), ("--staging_location", cloud.staging_location)):
        if place and not BUCKET.fullmatch(place):
            yield UserError(f"{flag}={place}: must be a folder of a bucket, gs://BUCKET/FOLDER")
    if cloud.job_name and not JOB_NAME.fullmatch(cloud.job_name):
        yield UserError(f"--job_name={cloud.job_name}: takes a-z, 0-9 and -, and begins with a letter")
    if cloud.update and not streaming:
        yield UserError("--update is for live jobs: a backfill that is run again replaces its own scores")
    if cloud.transform_name_mapping and not cloud.update:
        yield UserError("--transform_name_mapping goes with --update")


def _of_package(options: PipelineOptions) -> Iterator[UserError]:
    setup = options.view_as(SetupOptions)
    brought = setup.setup_file or setup.extra_packages or setup.prebuild_sdk_container_engine
    if not (options.view_as(WorkerOptions).sdk_container_image or brought):
        yield UserError(
            f"{RUNNER} needs --sdk_container_image=IMAGE, built from templates/Dockerfile.cpu or Dockerfile.gpu: the "
            "workers of Beam's own image do not have this package",
            code="worker-image",
        )
    if setup.setup_file and not os.path.isfile(setup.setup_file):
        yield UserError(f"--setup_file={setup.setup_file}: no such file", code="worker-image")


def _of_inputs(job: Job) -> Iterator[UserError]:
    """Workers see nothing of this machine."""
    for place in (*job.inputs, *([f"--model {job.model}"] if "://" not in job.model else [])):
        what = f"{place}: workers of Dataflow cannot read it here"
        yield UserError(what, remedy="Copy it to gs://BUCKET/FOLDER", code="worker-places", subject=place)


def _of_outputs(job: Job) -> Iterator[UserError]:
    if job.output is not None:
        yield UserError(
            f"--output {job.output}: jobs on Dataflow write to BigQuery: bq://PROJECT.DATASET.TABLE",
            code="worker-places",
            subject="--output",
        )
    if job.archive is not None:
        yield UserError(
            f"--archive {job.archive}: workers of Dataflow cannot write it here",
            remedy="Leave it out, and let a subscription of the same topic write messages to BigQuery, for --bootstrap",
            code="worker-places",
            subject="--archive",
        )


def _of_resources(options: PipelineOptions, job: Job) -> Iterator[UserError]:
    cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    pool, accelerator = list(_pool(options)), job.accelerator
    if accelerator and not ACCELERATOR.fullmatch(accelerator):
        example = "'type:nvidia-tesla-t4;count:1;install-nvidia-driver'"
        yield UserError(
            f"--accelerator {accelerator}: must be such as {example}, in quotes for the shell", code="accelerators"
        )
    if accelerator and job.device == "cpu":
        yield UserError("--accelerator does not go with --device cpu, which would leave it idle", code="accelerators")
    if job.device == "gpu" and not (accelerator or pool or options.view_as(StandardOptions).resource_hints):
        yield UserError("--device gpu needs --accelerator: no worker of the job has one", code="accelerators")
    if (accelerator or pool) and not worker.sdk_container_image:
        yield UserError(
            "--accelerator needs --sdk_container_image=IMAGE with the libraries of GPUs, built from "
            "templates/Dockerfile.gpu",
            code="accelerators",
        )
    flag = next((flag for flag, value in _asked(job) if value), None)
    if flag and pool:
        yield UserError(
            f"{flag} does not go with --dataflow_service_options={POOL}",
            remedy="Give one of the two",
            code="accelerators",
        )
    if flag and cloud.flexrs_goal and not job.streaming:
        yield UserError(f"{flag} does not go with --flexrs_goal, whose workers are all alike", code="accelerators")
    if job.ram:
        yield from _of_ram(job.ram, job.streaming)


def _of_ram(ram: str, streaming: bool) -> Iterator[UserError]:
    if streaming:
        yield UserError(
            "--inference-ram is for backfills: the workers of a live job are all alike, as --machine_type says",
            code="accelerators",
        )
    if not RAM.fullmatch(ram):
        yield UserError(f"--inference-ram {ram}: must be such as 16GB", code="accelerators")


def _asked(job: Job) -> Iterator[tuple[str, str | None]]:
    yield "--accelerator", job.accelerator
    yield "--inference-ram", job.ram


def _pool(options: PipelineOptions) -> Iterator[str]:
    """Accelerators that all workers are to have, by Dataflow's own option."""
    for option in options.view_as(GoogleCloudOptions).dataflow_service_options or []:
        name, _, value = option.partition("=")
        if name == POOL:
            yield value
