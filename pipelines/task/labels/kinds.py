"""The kinds of labels, each of which is a class with a file of its own. `KINDS` is the one list of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field

from pipelines.task.labels.base import Column, Label
from pipelines.task.labels.churn import ChurnLabel
from pipelines.task.labels.path import PathLabel

KINDS: Mapping[str, type[Label]] = {"churn": ChurnLabel, "path": PathLabel}

if TYPE_CHECKING:
    Kind = str
    AnyLabel = Label
else:  # as pydantic checks them, and tells them in errors and the schema
    Kind = Literal[tuple(KINDS)]
    AnyLabel = Annotated[Union[tuple(KINDS.values())], Field(discriminator="kind")]  # noqa: UP007


def score_column(name: str) -> Column | None:
    """What a score column of this name holds; None where no kind of label has it."""
    return next((found for kind in KINDS.values() if (found := kind.column(name)) is not None), None)
