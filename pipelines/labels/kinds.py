"""The kinds of labels, each of which is a class with a file of its own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipelines.labels.base import Label
from pipelines.labels.churn import ChurnLabel
from pipelines.labels.path import PathLabel

KINDS: dict[str, type[Label]] = {"churn": ChurnLabel, "path": PathLabel}
AnyLabel = Annotated[ChurnLabel | PathLabel, Field(discriminator="kind")]
