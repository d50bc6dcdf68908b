"""Memory: what the launch takes of it, against what there is here."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.doctor.findings import Finding, error, ok, skipped, warning
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.events.decode import Span
from pipelines.jobs import memory as needs
from pipelines.jobs.config import LIVE_SHARDS
from pipelines.jobs.extent import rows
from pipelines.jobs.source import shards
from pipelines.models import registry
from pipelines.models.saved.manifest import load_manifest
from pipelines.system.machine import Room, room
from pipelines.task.spec import Task
from pipelines.transforms.read_files import find

CODE = "memory"


def memory(launch: Launch, there: Room | None = None) -> Iterator[Finding]:
    """
    Args:
      there: this machine's where None.
    """
    if launch.task is None or launch.span is None:
        yield skipped(CODE, "--task", "what the launch takes of memory is not known without its task and arguments")
        return
    need, there = _need(launch, launch.task), there or room()
    problem = need.problem(there)
    if problem is None:
        yield ok(CODE, "memory", need.lines(there)[0].partition(" ")[2].strip())
        return
    report = error if need.impossible(there) else warning
    what, _, how = problem.rpartition(": ")
    yield report(CODE, "memory", what, f"{how[0].upper()}{how[1:]}")


def _need(launch: Launch, task: Task) -> needs.Need:
    events, size = _extent(launch)
    if isinstance(launch.span, Span):
        return needs.scoring(
            task,
            launch.span.as_ofs,
            events,
            shards(launch.config.execution, size),
            launch.config.execution.workers,
            launch.config.engine,
            launch.config.batch_size,
            _model(launch, task),
            launch.runner.local,
        )
    divided = launch.config.execution.shards or LIVE_SHARDS
    return needs.streaming(
        task, events, divided, launch.config.engine, launch.config.batch_size, _model(launch, task), launch.runner.local
    )


def _extent(launch: Launch) -> tuple[int, int]:
    """About how many events the files have, and their bytes; what cannot be found counts as none."""
    try:
        files = find(launch.files, launch.input.format if launch.input else None)
    except UserError:  # told by `events`
        return 0, 0
    return rows(files), sum(f.size for f in files)


def _model(launch: Launch, task: Task) -> dict[str, object]:
    """The manifest's ModelSpec; the task's where there is no model to be read here."""
    if "://" not in launch.config.model:
        try:
            return dict(load_manifest(registry.resolve(launch.config.model)).model)
        except UserError:  # told by `model`
            pass
    return task.model.model_dump()
