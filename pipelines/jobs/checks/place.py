"""Where rows go: folders that can be written to, and the tables of BigQuery."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok
from pipelines.system.files import writable


def output(facts: Facts) -> Iterator[Finding]:
    """Whether the output is one, and a folder can be written to."""
    if facts.output.here:
        yield ok("--output", facts.output.check(()))


def archive(facts: Facts) -> Iterator[Finding]:
    """Whether the folder of messages can be written to."""
    place = facts.stream.archive
    if place is not None and "://" in place:
        yield error("--archive", f"--archive {place} is no folder of this machine")
    elif place is not None:
        yield ok("--archive", writable(place, "--archive"))


def columns(facts: Facts) -> Iterator[Finding]:
    """Whether tables take the columns of the scores."""
    if not facts.output.here:
        yield ok(str(facts.output), facts.output.check(facts.task.outputs))
