"""Churn: whether an entity that was active falls silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import model_validator

from pipelines.task.fields import Duration, format_duration
from pipelines.task.labels.base import Ahead, Column, Floats, Ints, Known, Label, Labelled, View, cell

if TYPE_CHECKING:
    from pipelines.task.spec import Task


class ChurnLabel(Label):
    """1 for an entity that was active in the last `active_within` before the as-of and silent in `horizon` after it."""

    kind: Literal["churn"]
    horizon: Duration
    active_within: Duration

    @model_validator(mode="after")
    def _positive(self) -> ChurnLabel:
        for key in ("horizon", "active_within"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: must be longer than nothing")
        return self

    def horizon_of(self, step: int) -> int:
        return self.horizon

    @property
    def width(self) -> int:
        return 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """The name of the one score column: the probability of churn."""
        return ("churn",)

    @classmethod
    def column(cls, name: str) -> Column | None:
        told = "Probability that the entity churns: no event in the horizon."
        return Column(told, tracked=True, silence=True) if name == "churn" else None

    @property
    def terms(self) -> tuple[int, int]:
        return self.horizon, self.active_within

    def check(self, task: Task) -> None:
        if self.active_within > task.history:
            history = format_duration(task.history)
            raise ValueError(f"label.active_within: must fit in the history (step x steps, {history})")

    def of(self, task: Task, known: Known, entity: Ints, ahead: Ahead) -> Labelled:
        """f4 (n, 1): 1 for silent in the horizon; meant are those who were active in time."""
        alive = np.zeros(ahead.entities, bool)
        alive[ahead.entity] = True
        silent = (~alive[entity]).astype(np.float32)[:, None]
        return Labelled(silent, known.last_event_time >= known.as_of - self.active_within)

    def unfit(self, labels: Floats) -> str:
        if len(np.unique(labels)) > 1:
            return ""
        return f"{'churned' if labels[0, 0] else 'stayed'}, so there is nothing to tell apart"

    def share(self, labels: Floats) -> float:
        return float(labels.mean())

    @property
    def signature(self) -> Mapping[str, Any]:
        return {"label_field": "", "active_within": self.active_within}

    @property
    def told(self) -> str:
        active, silent = format_duration(self.active_within), format_duration(self.horizon)
        return f"churn: silent for {silent} after the as-of, among those active in the {active} before it"

    @property
    def told_outputs(self) -> str:
        return self.outputs[0]

    @property
    def view(self) -> View:
        return View("current", "ORDER BY churn DESC")

    @classmethod
    def cells(cls, metrics: Mapping[str, float]) -> dict[str, str]:
        cells = {"AUC": cell(metrics.get("auc")), "LightGBM": cell(metrics.get("auc_lightgbm"))}
        if "auc_low" in metrics and "auc_high" in metrics:
            cells["AUC"] += f" [{metrics['auc_low']:.4f}, {metrics['auc_high']:.4f}]"
        return cells
