"""What a launch needs beside its input: a runner, a model, a place for rows, memory; a live job also a subscription."""

from __future__ import annotations

import re
from collections.abc import Iterator

from apache_beam.options.pipeline_options import GoogleCloudOptions

from pipelines.errors import Finding, UserError
from pipelines.google.subscription import EMULATOR
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import coded, error, ok, reported, skipped, warning
from pipelines.models.saved.manifest import check
from pipelines.models.saved.operations import check_operations
from pipelines.system.files import writable
from pipelines.transforms.publish_letters import check_topic

REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")


def runner(facts: Facts) -> Iterator[Finding]:
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


def live_runner(facts: Facts) -> Iterator[Finding]:
    """Whether a live job would lose messages there."""
    facts.launch.runner.check_live(facts.stream.arrival_attribute)
    yield from ()


def reachable(facts: Facts) -> Iterator[Finding]:
    """Whether the runner answers, and has what the job takes."""
    runner = facts.launch.runner
    found = [reported(p, subject=runner.place) for p in runner.unreachable(facts.launch.job_name)]
    yield from found
    if not found and runner.ready:
        yield ok(runner.place, runner.ready)
    elif not found and not runner.on_google:  # which the doctor asks
        yield skipped(runner.place, f"there is no telling whether {runner.name} would answer")


def model(facts: Facts) -> Iterator[Finding]:
    """Whether there is a model that serves."""
    name = facts.scoring.model
    if not facts.model_here:
        yield skipped(name, f"{name} is not of this machine, and not loaded here")
        return
    yield ok(name, f"{facts.manifest.version} of {facts.manifest.task} in {facts.model}")


def model_task(facts: Facts) -> Iterator[Finding]:
    """Whether the model was made for this task."""
    if facts.model_here:
        check(facts.manifest, facts.task)
        yield ok(facts.scoring.model, f"{facts.manifest.version} was made for this task")


def model_operations(facts: Facts) -> Iterator[Finding]:
    """Whether the model reaches nothing but its own files."""
    if facts.model_here:
        check_operations(facts.model / "saved_model", facts.model)
    yield from ()


def output(facts: Facts) -> Iterator[Finding]:
    """Whether the place for rows is there, and takes the columns of the scores."""
    place = facts.output
    subject = "--output" if place.here else str(place)
    try:
        yield ok(subject, place.check(facts.task.outputs), code=place.code)
    except UserError as error:
        raise coded(error, place.code, subject) from error.__cause__


def output_runner(facts: Facts) -> Iterator[Finding]:
    """Whether the rows of a live job can be written there by its runner."""
    facts.output.check_runner(facts.launch.runner)
    yield from ()


def archive(facts: Facts) -> Iterator[Finding]:
    """Whether the folder of messages can be written to."""
    if facts.stream.archive is not None:
        yield ok("--archive", writable(facts.stream.archive, "--archive"))


def subscription(facts: Facts) -> Iterator[Finding]:
    """Whether the subscription is there, and can be pulled from."""
    found = facts.subscription
    yield ok(found.name, f"{found.name} of {found.topic}, ack deadline {found.deadline} s")


def settings(facts: Facts) -> Iterator[Finding]:
    """What of the subscription's settings costs time or messages."""
    found = facts.subscription
    yield from found.warnings
    if not found.warnings:
        yield ok(found.name, f"{found.name}: nothing that costs time or messages")


def payload(facts: Facts) -> Iterator[Finding]:
    """Whether messages can be read as they are said to be."""
    assert facts.payload  # what it cannot be is told here
    yield from ()


def letters(facts: Facts) -> Iterator[Finding]:
    """Whether the topic of dead letters is there, where one is named."""
    topic = facts.stream.dead_letters
    if topic is not None:
        check_topic(topic)
        yield ok(topic, f"{topic} is there")


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether there is as much memory as the launch takes."""
    yield facts.need.problem() or ok("memory", facts.need.line().partition(" ")[2].strip())
