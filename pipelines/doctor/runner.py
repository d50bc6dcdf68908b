"""Where the job is to run: options of the runner, whether it answers, and what its workers can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines.doctor.findings import Finding, error, ok, skipped, told, warning
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.google.subscription import EMULATOR, check_runner
from pipelines.runners import dataflow, flink
from pipelines.runners.prism import locate

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def options(launch: Launch) -> Iterator[Finding]:
    """Options of the runner that no check of their names finds, and what else Dataflow takes of a launch."""
    found = [*_for_live(launch), *_for_dataflow(launch)]
    yield from found
    codes = {f.code for f in found}
    if "runner-options" not in codes:
        yield ok("runner-options", "--runner", f"{launch.runner} takes the options")
    if launch.on_dataflow and "worker-places" not in codes:
        yield ok("worker-places", "--runner", "the workers reach the places that are named")


def _for_live(launch: Launch) -> Iterator[Finding]:
    if not launch.live:
        return
    args = launch.execution.beam_args
    try:
        check_runner(launch.runner, args, launch.arrival_attribute)
    except UserError as problem:
        yield told("runner-options", "--runner", problem)
    if not isinstance(launch.place, UserError):
        try:
            launch.place.check_runner(launch.runner, args)
        except UserError as problem:
            yield told("runner-options", "--bigquery-method", problem)


def _for_dataflow(launch: Launch) -> Iterator[Finding]:
    job = dataflow.Job(
        model=launch.model,
        output=launch.output if not isinstance(launch.place, UserError) and launch.place.here else None,
        inputs=launch.input.local if launch.input else (),
        archive=launch.archive,
        streaming=launch.live,
        device=launch.device,
        accelerator=launch.execution.accelerator,
        ram=launch.execution.inference_ram,
    )
    for problem in dataflow.problems(launch.execution.beam_args, job):
        yield told(problem.about or "runner-options", str(problem).partition(" ")[0], problem)
    region = launch.options.view_as(GoogleCloudOptions).region
    if launch.on_dataflow and region and not REGION.fullmatch(region):
        remedy = "Give a region such as europe-west1, not a zone"
        yield error("runner-options", "--region", f"--region={region} is no region", remedy)
    if launch.on_dataflow and launch.subscription and not launch.real_pubsub:
        said = f"{EMULATOR} is set: this process would ask the emulator, and the workers of Dataflow Pub/Sub itself"
        yield warning("worker-places", EMULATOR, said, f"Unset {EMULATOR}")


def reachable(launch: Launch) -> Iterator[Finding]:
    """Whether the runner is there. Dataflow is asked in `google`."""
    if launch.runner == "PrismRunner":
        try:
            yield ok("runner-reachable", "Prism", f"Prism is {locate(launch.options)}")
        except UserError as problem:
            what, _, how = str(problem).partition(". ")
            yield error("runner-reachable", "Prism", what, how)
    elif launch.runner in flink.RUNNERS:
        yield from _flink(launch)
    elif launch.runner == "FnApiRunner":
        yield ok("runner-reachable", "--runner", f"the job runs here, in {launch.execution.workers} process(es)")
    elif not launch.on_dataflow:
        yield skipped("runner-reachable", "--runner", f"there is no telling whether {launch.runner} would answer")


def _flink(launch: Launch) -> Iterator[Finding]:
    found = list(flink.problems(launch.execution.beam_args, launch.job_name))
    for problem in found:
        what, _, how = str(problem).partition("; ")
        if problem.about == "runner-reachable":
            yield error(problem.about, "Flink", what, f"{how}, or correct the address")
        elif not problem.about:
            yield error("runner-options", "Flink", what, "Add --job_endpoint=HOST:PORT")
        else:
            yield told(problem.about, "Flink", problem)
    if not found:
        yield ok("runner-reachable", "Flink", "Flink answers, and what the job takes of it is there")
