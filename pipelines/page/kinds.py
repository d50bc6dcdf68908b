"""What the report page says of each kind of label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.page import churn, path
from pipelines.page.parts import Content

KINDS: dict[str, Callable[[Any], Content]] = {"churn": churn.content, "path": path.content}
