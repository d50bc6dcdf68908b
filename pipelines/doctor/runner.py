"""Where the job is to run: options of the runner, whether it answers, and what its workers can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines import dataflow, flink
from pipelines.doctor.findings import Finding, error, ok, skipped, told, warning
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.prism import locate
from pipelines.transforms import beamtable
from pipelines.transforms.subscription import EMULATOR, check_runner

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
PROBLEMS = {  # of a launch on Dataflow, by what its message is about; the others are of options
    "accelerators": "--accelerator|--device|--inference-ram",
    "worker-image": ".* --sdk_container_image|--setup_file",
    "worker-places": "--output|--archive|.* cannot read it here",
}
MENDABLE = {  # what `flink.check` may find before it has asked for all, by its words
    "flink-slots": "task slot",
    "flink-version": "is of version",
    "job-running": "already, as",
}


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
    if launch.method == "beam":
        try:
            beamtable.check(launch.runner, args)
        except UserError as problem:
            yield told("runner-options", "--bigquery-method", problem)


def _for_dataflow(launch: Launch) -> Iterator[Finding]:
    job = dataflow.Job(
        model=launch.model,
        output=launch.output,
        inputs=launch.input.patterns if launch.input else (),
        archive=launch.archive,
        streaming=launch.live,
        device=launch.device,
        accelerator=launch.execution.accelerator,
        ram=launch.execution.inference_ram,
    )
    for problem in dataflow.problems(launch.execution.beam_args, job):
        code = next((c for c, words in PROBLEMS.items() if re.match(words, str(problem))), "runner-options")
        yield told(code, str(problem).partition(" ")[0], problem)
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
    """All that `flink.check` finds, which stops at the first: it is asked again as if that had been mended."""
    args, name, found = list(launch.execution.beam_args), launch.job_name, 0
    while found <= len(MENDABLE):
        try:
            flink.check(args, name)
        except UserError as problem:
            code = next((c for c, words in MENDABLE.items() if words in str(problem)), None)
            if code is None:
                what, semicolon, how = str(problem).partition("; ")
                is_option = "needs --job_endpoint" in what
                remedy = f"{how}, or correct the address" if semicolon else "Add --job_endpoint=HOST:PORT"
                yield error("runner-options" if is_option else "runner-reachable", "Flink", what, remedy)
                return
            yield told(code, "Flink", problem)
            found += 1
            name = None if code == "job-running" else name
            args += ["--parallelism=1"] if code == "flink-slots" else []
            args += [str(problem).rpartition("add ")[2]] if code == "flink-version" else []
            continue
        if not found:
            yield ok("runner-reachable", "Flink", "Flink answers, and what the job takes of it is there")
        return
