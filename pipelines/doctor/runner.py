"""Where the job is to run: options of the runner, whether it answers, and what its workers can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines.doctor.findings import Finding, error, ok, skipped, told, warning
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.google.subscription import EMULATOR
from pipelines.transforms import append_by_beam as beamtable

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def options(launch: Launch) -> Iterator[Finding]:
    """Options of the runner that no check of their names finds, and what else Dataflow takes of a launch."""
    found = [*_for_live(launch), *_for_dataflow(launch)]
    yield from found
    codes = {f.code for f in found}
    if "runner-options" not in codes:
        yield ok("runner-options", "--runner", f"{launch.runner.name} takes the options")
    if launch.runner.on_google and "worker-places" not in codes:
        yield ok("worker-places", "--runner", "the workers reach the places that are named")


def _for_live(launch: Launch) -> Iterator[Finding]:
    if not launch.config.live:
        return
    try:
        launch.runner.check_live(launch.arrival_attribute)
    except UserError as problem:
        yield told("runner-options", "--runner", problem)
    if launch.config.method == "beam":
        try:
            beamtable.check(launch.runner)
        except UserError as problem:
            yield told("runner-options", "--bigquery-method", problem)


def _for_dataflow(launch: Launch) -> Iterator[Finding]:
    for problem in launch.runner.problems(launch.config.job):
        yield told(problem.about or "runner-options", str(problem).partition(" ")[0], problem)
    region = launch.options.view_as(GoogleCloudOptions).region
    if launch.runner.on_google and region and not REGION.fullmatch(region):
        remedy = "Give a region such as europe-west1, not a zone"
        yield error("runner-options", "--region", f"--region={region} is no region", remedy)
    if launch.runner.on_google and launch.subscription and not launch.real_pubsub:
        said = f"{EMULATOR} is set: this process would ask the emulator, and the workers of Dataflow Pub/Sub itself"
        yield warning("worker-places", EMULATOR, said, f"Unset {EMULATOR}")


def reachable(launch: Launch) -> Iterator[Finding]:
    """Whether the runner is there. Dataflow is asked in `google`."""
    runner, code = launch.runner, "runner-reachable"
    found = list(runner.unreachable(launch.job_name))
    for problem in found:
        what, _, how = str(problem).partition("; ")
        if problem.about == code:
            yield error(code, runner.place, what, f"{how}, or correct the address")
        elif problem.about:
            yield told(problem.about, runner.place, problem)
        elif "--job_endpoint" in what:
            yield error("runner-options", runner.place, what, "Add --job_endpoint=HOST:PORT")
        else:
            what, _, how = str(problem).partition(". ")
            yield error(code, runner.place, what, how)
    if not found and runner.ready:
        yield ok(code, runner.place, runner.ready)
    elif not found and not launch.runner.on_google:
        yield skipped(code, "--runner", f"there is no telling whether {runner.name} would answer")
