"""The value that came first in a step, or last."""

from __future__ import annotations

from pipelines.task.aggregations.base import Floats, Ints, StepAggregation, Values


class First(StepAggregation):
    """The value of the first event that has one."""

    words = True

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        out[at[::-1]] = v[::-1]  # the last write stays


class Last(StepAggregation):
    """The value of the last event that has one."""

    words = True

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        out[at] = v  # the last write stays
