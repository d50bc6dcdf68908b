"""Path: the levels of a field, step by step, such as the prices of the next ten days."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipelines.task.fields import LONGEST, Name
from pipelines.task.labels.base import Ahead, Column, Floats, Ints, Known, Label, Labelled, View, cell

if TYPE_CHECKING:
    from pipelines.task.spec import Task

COLUMN = re.compile(r"step_([0-9]+)(?:_p([0-9]+(?:_[0-9]+)?))?")


class PathLabel(Label):
    """The last value of `field` in each of the `steps` steps after the as-of."""

    kind: Literal["path"]
    field: Name
    steps: Annotated[int, Field(ge=1, le=1_000)]
    quantiles: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(max_length=99)] = Field(
        (0.1, 0.9), description="what is predicted of each step beside the median"
    )

    @model_validator(mode="after")
    def _ascending(self) -> PathLabel:
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 in self.quantiles:
            raise ValueError("quantiles: in ascending order, each once, without 0.5, which is always there")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles of a step, ascending, with the median."""
        return tuple(sorted((*self.quantiles, 0.5)))

    def horizon_of(self, step: int) -> int:
        return self.steps * step

    @property
    def width(self) -> int:
        return self.steps

    @property
    def outputs(self) -> tuple[str, ...]:
        """The median level of each step ahead, then the other quantiles, such as step_1_p10."""
        steps = [f"step_{i + 1}" for i in range(self.steps)]
        return (*steps, *(f"{s}_p{100 * q:g}".replace(".", "_") for s in steps for q in self.quantiles))

    @classmethod
    def column(cls, name: str) -> Column | None:
        match = COLUMN.fullmatch(name)
        if match is None:
            return None
        step, level = int(match[1]), (match[2] or "50").replace("_", ".")
        ahead = f"{match[1]} step{'' if step == 1 else 's'} after as_of"
        if match[2] is None:
            return Column(f"Median of the value {ahead}.", tracked=True, step=step)
        told = f"Value {ahead} that is not exceeded with a probability of {level} %."
        return Column(told, step=step, level=float(level))

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def starts_from(self) -> tuple[str, ...]:
        return (f"last({self.field})",)

    def level(self, task: Task) -> int:
        """The feature that holds the level that the path starts from."""
        return next(i for i, f in enumerate(task.features) if f.name in self.starts_from)

    def check(self, task: Task) -> None:
        if not any(f.name in self.starts_from and f.vocabulary is None for f in task.features):
            level = f"{{agg: last, field: {self.field}, fill: forward}}"
            raise ValueError(f"label.field: add the feature {level}, the level that the path starts from")
        if task.horizon > LONGEST:
            raise ValueError("label.steps: the horizon (sequence.step x steps) must be at most 100 years")

    def of(self, task: Task, known: Known, entity: Ints, ahead: Ahead) -> Labelled:
        """f4 (n, steps): the last value of the field in each step ahead, a step without one as the step before; meant
        are those with a positive level to start from and any value ahead."""
        value = ahead.values(self.field)
        real = ~np.isnan(value)
        path = np.full((ahead.entities, 1 + self.steps), np.nan, np.float32)
        path[entity, 0] = self.start(task, known.tensor)
        path[ahead.entity[real], 1 + ahead.step[real]] = value[real]
        path = path[entity]
        there = ~np.isnan(path)
        at = np.maximum.accumulate(np.where(there, np.arange(1 + self.steps), 0), axis=1)
        meant = (path[:, 0] > 0) & there[:, 1:].any(axis=1)
        return Labelled(np.take_along_axis(path, at, axis=1)[:, 1:], meant)

    def start(self, task: Task, x: Floats) -> Floats:
        return x[:, -1, self.level(task)]

    @property
    def asked(self) -> dict[str, Any]:
        """Not the quantiles, which are the model's."""
        return self.model_dump(exclude={"quantiles"})

    @property
    def signature(self) -> Mapping[str, Any]:
        return {"label_field": self.field, "active_within": 0}

    @property
    def told(self) -> str:
        return f"path: the last {self.field} in each of the next {self.steps} steps"

    @property
    def told_outputs(self) -> str:
        around = " and ".join(name.removeprefix("step_1_") for name in self.outputs if name.startswith("step_1_"))
        return f"step_1 to step_{self.steps}" + (f", and each as {around}" if around else "")

    @property
    def view(self) -> View:
        return View("forecasts", "ORDER BY entity_id, step")

    @classmethod
    def cells(cls, metrics: Mapping[str, float]) -> dict[str, str]:
        """Errors at the last step."""
        steps = (re.fullmatch(r"error_step_([0-9]{1,9})", name) for name in metrics)
        last = max((int(step[1]) for step in steps if step), default=0)
        return {
            f"error at step {last}": cell(metrics.get(f"error_step_{last}")),
            "naive": cell(metrics.get(f"error_naive_step_{last}")),
            "skill": _skill(metrics),
        }


def _skill(metrics: Mapping[str, float]) -> str:
    """Of all steps together, with its interval where there is one."""
    percent = {k: f"{100 * v:+.2f}" for k, v in metrics.items() if k in ("skill", "skill_low", "skill_high")}
    interval = f" [{percent['skill_low']}, {percent['skill_high']}]" if len(percent) == 3 else ""
    return f"{percent['skill']} %{interval}" if "skill" in percent else ""


def path_of(task: Task) -> PathLabel:
    """The label of a task that has a path for one."""
    assert isinstance(task.label, PathLabel), "what is asked of paths alone is asked of a path"
    return task.label
