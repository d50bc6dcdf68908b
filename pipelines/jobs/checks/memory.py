"""Memory: what the launch takes of it, against what there is here."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import ok
from pipelines.system.machine import room


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether there is as much as it takes."""
    there = room()
    problem = facts.need.problem(there)
    yield problem or ok("memory", facts.need.line(there).partition(" ")[2].strip())
