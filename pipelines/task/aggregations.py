"""Aggregations: how the events of an entity become the numbers of one feature, one for each step.

Each kind is a class, pure and without a model; `AGGREGATIONS` gives each the name that it has in a task file. What
other code needs to know of a kind is a trait of its class: nothing else asks which aggregation a feature has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]
Reads = Literal["nothing", "number", "hash", "word"]


class Aggregation:
    """A kind of aggregation. It gives one column, f4, or one for each value of a category where a task says `by`.

    Attributes:
      reads: what it is given of an event: the `number` in its field, f4; the `hash` of the text in it, u8; or
        `nothing`, 1 for each event, and then a task gives it no field.
      words: whether it takes text with a `vocabulary`, too: it is then given a code for each `word`, f4.
      measures: a `count` of things in a step, 0 where nothing happened; an `age`, the steps since the last event; or
        any other `amount`. Models, baselines and reports treat a column accordingly.
      whole: why it takes no `by`; empty where it takes one.
    """

    reads: ClassVar[Reads] = "number"
    words: ClassVar[bool] = False
    measures: ClassVar[Literal["amount", "count", "age"]] = "amount"
    whole: ClassVar[str] = ""


class StepAggregation(Aggregation, ABC):
    """One that is computed from the events of each step alone, once for all as-ofs. A step without any is 0, or as the
    task's `fill` says."""

    @abstractmethod
    def add(self, out: Floats, at: Ints, v: Values) -> None:
        """Writes what n events make of the cells that they fall in.

        Args:
          out: f4 (cells), changed in place; 0 wherever `at` points. Other cells belong to other features.
          at: i8 (n) the cell of each event. The events of a cell are in order of time.
          v: (n) what it `reads` of each event; events without a value have been left out.
        """


class WindowAggregation(Aggregation, ABC):
    """One that is computed anew at each as-of, since it depends on where the window begins. It sees the times of events
    alone, so that `fill` has no meaning for it."""

    reads = "nothing"
    whole = "it is of all events of the window"

    @abstractmethod
    def over(self, last: Ints, has: Mask, start: int, step: int) -> Floats:
        """f4 (n, steps) of n entities.

        Args:
          last: (n, steps) us, the time of the last event of a step; of no meaning where there is none.
          has: (n, steps) which steps have events.
          start: us, where the window begins.
          step: us, how long a step is.
        """


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


class Recency(WindowAggregation):
    """Steps, with their fraction, from the last event of the window so far to the end of each step; before the first
    event, since the window began."""

    measures = "age"
    whole = "it is the time since the last event of any kind"

    def over(self, last: Ints, has: Mask, start: int, step: int) -> Floats:
        ends = start + step * np.arange(1, has.shape[1] + 1)
        since = ends - np.maximum.accumulate(np.where(has, last, start), axis=1)
        return (since / step).astype(np.float32)


AGGREGATIONS: Mapping[str, Aggregation] = {
    "count": Count(),
    "sum": Sum(),
    "mean": Mean(),
    "min": Min(),
    "max": Max(),
    "std": Std(),
    "first": First(),
    "last": Last(),
    "distinct": Distinct(),
    "recency": Recency(),
}

if TYPE_CHECKING:
    AggregationName = str
else:
    AggregationName = Literal[tuple(AGGREGATIONS)]  # as pydantic checks it, and tells it in errors and the schema

WORDED = " or ".join(name for name, aggregation in AGGREGATIONS.items() if aggregation.words)
