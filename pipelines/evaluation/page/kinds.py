"""What the report page says of each kind of label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.evaluation.page import churn, path
from pipelines.evaluation.page.parts import Content

KINDS: dict[str, Callable[[Any], Content]] = {"churn": churn.content, "path": path.content}
