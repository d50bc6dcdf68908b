"""Foretide in Python: what the commands do, as functions that return values, and steps for pipelines of Beam.

A name is loaded when it is first used, so that `import pipelines` alone takes no time. See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.api import Trained, query, score, train
    from pipelines.errors import UserError
    from pipelines.steps import Accounted, BuildSequences, Infer, ReadEvents, ScoreRows, WriteScores
    from pipelines.task.file import load_task
    from pipelines.task.spec import Task

__all__ = [
    "Accounted",
    "BuildSequences",
    "Infer",
    "ReadEvents",
    "ScoreRows",
    "Task",
    "Trained",
    "UserError",
    "WriteScores",
    "load_task",
    "query",
    "score",
    "train",
]
MODULES = {"UserError": "errors", "load_task": "task.file", "Task": "task.spec"} | dict.fromkeys(
    ("Trained", "query", "score", "train"), "api"
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{MODULES.get(name, 'steps')}"), name)
