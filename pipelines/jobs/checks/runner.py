"""Where the job is to run: options of the runner, and whether a cluster is there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines.errors import Finding
from pipelines.google.subscription import EMULATOR
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, reported, skipped, warning

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def options(facts: Facts) -> Iterator[Finding]:
    """What no check of the names of options finds, and what else Dataflow takes of a launch."""
    launch = facts.launch
    found = [reported(p, subject=str(p).partition(" ")[0]) for p in launch.runner.problems(launch.job)]
    found += _of_dataflow(facts)
    yield from found
    if not any(f.code in ("", "runner-options") for f in found):
        yield ok("--runner", f"{launch.runner.name} takes the options")
    if launch.runner.on_google and not any(f.code == "worker-places" for f in found):
        yield ok("--runner", "the workers reach the places that are named", code="worker-places")


def _of_dataflow(facts: Facts) -> Iterator[Finding]:
    launch = facts.launch
    region = launch.options.view_as(GoogleCloudOptions).region
    if launch.runner.on_google and region and not REGION.fullmatch(region):
        remedy = "Give a region such as europe-west1, not a zone"
        yield error("--region", f"--region={region} is no region", remedy)
    if launch.runner.on_google and launch.stream and not launch.real_pubsub:
        said = f"{EMULATOR} is set: this process would ask the emulator, and the workers of Dataflow Pub/Sub itself"
        yield warning(EMULATOR, said, f"Unset {EMULATOR}", code="worker-places")


def live(facts: Facts) -> Iterator[Finding]:
    """Whether a live job would lose messages there."""
    facts.launch.runner.check_live(facts.stream.arrival_attribute)
    yield from ()


def reachable(facts: Facts) -> Iterator[Finding]:
    """Whether it answers, and has what the job takes."""
    runner = facts.launch.runner
    found = [reported(p, subject=runner.place) for p in runner.unreachable(facts.launch.job_name)]
    yield from found
    if not found and runner.ready:
        yield ok(runner.place, runner.ready)
    elif not found and not runner.on_google:  # which the doctor asks
        yield skipped(runner.place, f"there is no telling whether {runner.name} would answer")
