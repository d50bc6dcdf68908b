"""Memory: what the launch takes of it, against what there is here."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import ok


def memory(facts: Facts) -> Iterator[Finding]:
    """Whether there is as much as it takes."""
    yield facts.need.problem() or ok("memory", facts.need.line().partition(" ")[2].strip())
