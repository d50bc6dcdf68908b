"""Dataflow as a runner: what a job needs beside the options given, and what must be right before it is launched.

Accelerator and memory are asked for by two flags. In a backfill they are hints on the step of inference alone, for
which Dataflow then starts workers of their own (right fitting). A live job has one pool of workers, and all of them
have the accelerator.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipelines.errors import UserError
from pipelines.runners.base import Runner
from pipelines.runners.execution import ACCELERATOR, RAM, Job

RUNNER = "--runner=DataflowRunner"
PROJECT = re.compile(r"(?=.*[a-z])[a-z][-a-z0-9:.]+[a-z0-9]")
JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
BUCKET = re.compile(r"gs://[a-z0-9][-_a-z0-9.]+[a-z0-9]/.*")
SHARED = "use_nvidia_mps"  # of an accelerator: processes share it
POOL = "worker_accelerator"
ONE_PROCESS = "no_use_multiple_sdk_containers"  # in a worker: TensorFlow takes all the memory of a GPU for itself


class OnDataflow(Runner):
    """Dataflow, in a project of Google Cloud."""

    shares_folders: ClassVar[bool] = False
    on_google: ClassVar[bool] = True
    reads_pubsub: ClassVar[bool] = True
    replaces_jobs: ClassVar[bool] = True
    has_beam_sink: ClassVar[bool] = True

    @property
    def template(self) -> bool:
        """As the launcher of a Flex template has it."""
        return self.given.view_as(GoogleCloudOptions).template_location is not None

    @property
    def hints(self) -> Mapping[str, str]:
        """Of a backfill; the workers of a live job are all alike."""
        wanted = {"accelerator": self.execution.accelerator, "min_ram": self.execution.inference_ram}
        return {} if self.live else {name: value for name, value in wanted.items() if value}

    @property
    def accelerators(self) -> list[str]:
        """Those that workers are to have, by our flag or by Dataflow's own option."""
        own = self.execution.accelerator
        return [*([own] if own else []), *_pool(self.given)]

    def added(self) -> list[str]:
        """Beam itself asks for Runner v2, and for Streaming Engine where the job is a live one."""
        options, accelerator = self.given, self.execution.accelerator
        chosen = options.view_as(SetupOptions).save_main_session is not None
        more = [] if chosen else ["--no_save_main_session"]  # workers import this package, and need nothing else
        if accelerator and self.live:
            more.append(f"--dataflow_service_options={POOL}={accelerator}")
        processes = {ONE_PROCESS, ONE_PROCESS.removeprefix("no_")} & set(
            options.view_as(DebugOptions).experiments or []
        )
        accelerators = self.accelerators[:1] if accelerator else self.accelerators
        if accelerators and not processes and not any(SHARED in each for each in accelerators):
            more.append(f"--experiments={ONE_PROCESS}")
        return more

    def problems(self, job: Job) -> Iterator[UserError]:
        yield from _of_library()
        yield from _of_cloud(self.given.view_as(GoogleCloudOptions), self.live)
        yield from _of_package(self.given)
        if not self.template:  # of Flex: its launcher runs in the image of the workers, which may hold anything
            yield from _of_inputs(job)
        yield from _of_outputs(job)
        yield from self._of_resources(job.device)

    def check_live(self, arrival_attribute: str | None = None) -> None:
        if arrival_attribute is not None:
            raise UserError(
                "--arrival-attribute does not work on Dataflow: its own read, which is used there, takes whole numbers "
                "for ms and does not tell how far a replay has come",
                remedy="Replay with another runner",
            )

    def _of_resources(self, device: str) -> Iterator[UserError]:
        options, accelerator, ram = self.given, self.execution.accelerator, self.execution.inference_ram
        cloud, worker, pool = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions), list(_pool(options))
        if accelerator and not ACCELERATOR.fullmatch(accelerator):
            example = "'type:nvidia-tesla-t4;count:1;install-nvidia-driver'"
            yield UserError(
                f"--accelerator {accelerator}: must be such as {example}, in quotes for the shell", code="accelerators"
            )
        if accelerator and device == "cpu":
            yield UserError(
                "--accelerator does not go with --device cpu, which would leave it idle", code="accelerators"
            )
        if device == "gpu" and not (accelerator or pool or options.view_as(StandardOptions).resource_hints):
            yield UserError("--device gpu needs --accelerator: no worker of the job has one", code="accelerators")
        if (accelerator or pool) and not worker.sdk_container_image:
            yield UserError(
                "--accelerator needs --sdk_container_image=IMAGE with the libraries of GPUs, built from "
                "templates/Dockerfile.gpu",
                code="accelerators",
            )
        flag = next(self._asked(), None)
        if flag and pool:
            yield UserError(
                f"{flag} does not go with --dataflow_service_options={POOL}",
                remedy="Give one of the two",
                code="accelerators",
            )
        if flag and cloud.flexrs_goal and not self.live:
            yield UserError(f"{flag} does not go with --flexrs_goal, whose workers are all alike", code="accelerators")
        if ram:
            yield from _of_ram(ram, self.live)


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


def _of_ram(ram: str, streaming: bool) -> Iterator[UserError]:
    if streaming:
        yield UserError(
            "--inference-ram is for backfills: the workers of a live job are all alike, as --machine_type says",
            code="accelerators",
        )
    if not RAM.fullmatch(ram):
        yield UserError(f"--inference-ram {ram}: must be such as 16GB", code="accelerators")


def _pool(options: PipelineOptions) -> Iterator[str]:
    """Accelerators that all workers are to have, by Dataflow's own option."""
    for option in options.view_as(GoogleCloudOptions).dataflow_service_options or []:
        name, _, value = option.partition("=")
        if name == POOL:
            yield value
