"""The head of each kind of label."""

from __future__ import annotations

from pipelines.models.heads.base import Head
from pipelines.models.heads.churn import ChurnHead
from pipelines.models.heads.path import PathHead
from pipelines.task.spec import Task

HEADS: dict[str, type[Head]] = {"churn": ChurnHead, "path": PathHead}


def head(task: Task) -> Head:
    """The head of a task's networks."""
    return HEADS[task.label.kind](task)
