"""How long ago the last event was."""

from __future__ import annotations

import numpy as np

from pipelines.task.aggregations.base import Floats, Ints, Mask, WindowAggregation


class Recency(WindowAggregation):
    """Steps, with their fraction, from the last event of the window so far to the end of each step; before the first
    event, since the window began."""

    measures = "age"
    whole = "it is the time since the last event of any kind"

    def over(self, last: Ints, has: Mask, start: int, step: int) -> Floats:
        ends = start + step * np.arange(1, has.shape[1] + 1)
        since = ends - np.maximum.accumulate(np.where(has, last, start), axis=1)
        return (since / step).astype(np.float32)
