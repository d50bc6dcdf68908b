"""Where the job is to run: options of the runner, and whether a cluster is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines.errors import Finding, UserError
from pipelines.google.subscription import EMULATOR, check_runner
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, reported, warning
from pipelines.runners import dataflow, flink

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def options(facts: Facts) -> Iterator[Finding]:
    """What no check of the names of options finds, and what else Dataflow takes of a launch."""
    launch = facts.launch
    job = dataflow.Job(
        model=launch.model or "",
        output=launch.output if not isinstance(launch.place, UserError) and launch.place.here else None,
        inputs=launch.input.local if launch.input else (),
        archive=launch.archive,
        streaming=launch.live,
        device=launch.device,
        accelerator=launch.execution.accelerator,
        ram=launch.execution.inference_ram,
    )
    args = launch.execution.beam_args
    found = [reported(p, subject=str(p).partition(" ")[0]) for p in dataflow.problems(args, job)]
    found += _of_dataflow(facts)
    yield from found
    if not any(f.code in ("", "runner-options") for f in found):
        yield ok("--runner", f"{launch.runner} takes the options")
    if launch.on_dataflow and not any(f.code == "worker-places" for f in found):
        yield ok("--runner", "the workers reach the places that are named", code="worker-places")


def _of_dataflow(facts: Facts) -> Iterator[Finding]:
    launch = facts.launch
    region = launch.options.view_as(GoogleCloudOptions).region
    if launch.on_dataflow and region and not REGION.fullmatch(region):
        remedy = "Give a region such as europe-west1, not a zone"
        yield error("--region", f"--region={region} is no region", remedy)
    if launch.on_dataflow and launch.subscription and not launch.real_pubsub:
        said = f"{EMULATOR} is set: this process would ask the emulator, and the workers of Dataflow Pub/Sub itself"
        yield warning(EMULATOR, said, f"Unset {EMULATOR}", code="worker-places")


def live(facts: Facts) -> Iterator[Finding]:
    """Whether a live job would lose messages there."""
    launch = facts.launch
    check_runner(launch.runner, launch.execution.beam_args, launch.arrival_attribute)
    yield from ()


def reachable(facts: Facts) -> Iterator[Finding]:
    """Whether Flink answers, and has what the job takes."""
    if facts.launch.runner in flink.RUNNERS:
        found = [reported(p) for p in flink.problems(facts.launch.execution.beam_args, facts.launch.job_name)]
        yield from found
        if not found:
            yield ok("Flink", "Flink answers, and what the job takes of it is there")
