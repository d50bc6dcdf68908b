"""Where rows go: folders that can be written to, and the tables of BigQuery."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import Finding
from pipelines.google import bigquery
from pipelines.google.tables import is_bigquery
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok


def output(facts: Facts) -> Iterator[Finding]:
    """Whether the output is one, and a folder can be written to."""
    place = facts.scoring.output
    assert facts.output  # what it cannot be is told here
    if not is_bigquery(place):
        yield _folder(place, "--output")


def archive(facts: Facts) -> Iterator[Finding]:
    """Whether the folder of messages can be written to."""
    if facts.stream.archive is not None:
        yield _folder(facts.stream.archive, "--archive")


def columns(facts: Facts) -> Iterator[Finding]:
    """Whether the output takes the columns of the scores."""
    place, outputs = facts.scoring.output, facts.task.outputs
    if is_bigquery(place):
        bigquery.check_emulator()
        facts.output.check(outputs)
        yield ok(place, f"{place} has the columns {', '.join(outputs)}")


def _folder(place: str, flag: str) -> Finding:
    if "://" in place:
        return error(flag, f"{flag} {place} is no folder of this machine, nor a table of BigQuery")
    folder = Path(os.path.realpath(place))
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        return error(flag, f"{flag} {place}: {there} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        return error(flag, f"{flag} {place}: cannot write to {there}: {problem.strerror or problem}")
    return ok(flag, f"{folder} can be {'written to' if there == folder else 'made'}")
