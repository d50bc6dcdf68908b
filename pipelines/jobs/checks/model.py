"""The model of a launch: is it there, was it made for this task, and can nothing in it do harm."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import ok, skipped
from pipelines.models.saved.manifest import check
from pipelines.models.saved.operations import check_operations
from pipelines.transforms.infer import InferBatches


def found(facts: Facts) -> Iterator[Finding]:
    """Whether there is a model that serves."""
    name = facts.scoring.model
    if not facts.model_here:
        yield skipped(name, f"{name} is not of this machine, and not loaded here")
        return
    yield ok(name, f"{facts.manifest.version} of {facts.manifest.task} in {facts.model}")


def fits(facts: Facts) -> Iterator[Finding]:
    """Whether it was made for this task."""
    if facts.model_here:
        check(facts.manifest, facts.task)
        yield ok(facts.scoring.model, f"{facts.manifest.version} was made for this task")


def operations(facts: Facts) -> Iterator[Finding]:
    """Whether it reaches nothing but its own files."""
    if facts.model_here:
        check_operations(facts.model / "saved_model", facts.model)
    yield from ()


def batch(facts: Facts) -> Iterator[Finding]:
    """Whether it can be called with batches of the size asked for."""
    asked = facts.scoring
    InferBatches(asked.model, facts.task, asked.engine, asked.device, asked.batch_size)
    yield from ()
