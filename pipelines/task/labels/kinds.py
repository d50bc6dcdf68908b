"""The kinds of labels, each of which is a class with a file of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.task.labels.base import Column, Label
from pipelines.task.labels.churn import ChurnLabel
from pipelines.task.labels.path import PathLabel

Kind = Literal["churn", "path"]
KINDS: dict[Kind, type[Label]] = {"churn": ChurnLabel, "path": PathLabel}
AnyLabel = Annotated[ChurnLabel | PathLabel, Field(discriminator="kind")]


def score_column(name: str) -> Column | None:
    """What a score column of this name holds; None where no kind of label has it."""
    return next((found for kind in KINDS.values() if (found := kind.column(name)) is not None), None)
