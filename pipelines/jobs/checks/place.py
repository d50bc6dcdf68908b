"""Where rows go: does the place take them. What that is, the outputs know themselves."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding, UserError
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import coded, ok
from pipelines.system.files import writable


def output(facts: Facts) -> Iterator[Finding]:
    """Whether there is such a place, and it takes the columns of the scores."""
    place = facts.output
    subject = "--output" if place.here else str(place)
    try:
        yield ok(subject, place.check(facts.task.outputs), code=place.code)
    except UserError as error:
        raise coded(error, place.code, subject) from error.__cause__


def archive(facts: Facts) -> Iterator[Finding]:
    """Whether the folder of messages can be written to."""
    if facts.stream.archive is not None:
        yield ok("--archive", writable(facts.stream.archive, "--archive"))


def runner(facts: Facts) -> Iterator[Finding]:
    """Whether the rows of a live job can be written there by its runner."""
    facts.output.check_runner(facts.launch.runner)
    yield from ()
