"""Statistics of the numbers in a step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.task.aggregations.base import Floats, Ints, StepAggregation, Values

Doubles = npt.NDArray[np.float64]


class Sum(StepAggregation):
    """The sum, added in order of time in 32 bits."""

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        np.add.at(out, at, v)


class Mean(StepAggregation):
    """The mean, added in order of time in 64 bits."""

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        cells, place, n = np.unique(at, return_inverse=True, return_counts=True)
        out[cells] = _mean(place, v.astype(np.float64), n)


class Std(StepAggregation):
    """The population standard deviation, in 64 bits: of large values it would be lost in 32."""

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        cells, place, n = np.unique(at, return_inverse=True, return_counts=True)
        mean = _mean(place, v.astype(np.float64), n)
        out[cells] = np.sqrt(_mean(place, (v - mean[place]) ** 2, n))


class Min(StepAggregation):
    """The least."""

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        out[at] = np.inf
        np.minimum.at(out, at, v)


class Max(StepAggregation):
    """The largest."""

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        out[at] = -np.inf
        np.maximum.at(out, at, v)


def _mean(place: Ints, v: Doubles, n: Ints) -> Doubles:
    """(cells) means of values (events) by the place of each event's cell, of which n (cells) have that one."""
    total = np.zeros(len(n))
    np.add.at(total, place, v)
    return total / n
