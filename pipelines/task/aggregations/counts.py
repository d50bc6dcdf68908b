"""How many events there are in a step, and how many values they have."""

from __future__ import annotations

import numpy as np

from pipelines.task.aggregations.base import Floats, Ints, StepAggregation, Values


class Count(StepAggregation):
    """The number of events."""

    reads = "nothing"
    measures = "count"

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        np.add.at(out, at, v)


class Distinct(StepAggregation):
    """The number of different texts."""

    reads = "hash"
    measures = "count"

    def add(self, out: Floats, at: Ints, v: Values) -> None:
        rows = np.lexsort((v, at))
        at, v = at[rows], v[rows]
        new = np.concatenate(([True], (at[1:] != at[:-1]) | (v[1:] != v[:-1])))[: len(at)]
        np.add.at(out, at[new], np.float32(1))
