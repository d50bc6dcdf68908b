"""What an aggregation is: how the events of an entity become the numbers of one feature, one for each step.

Each kind is a class here, pure and without a model; `kinds` gives each the name that it has in a task file. What other
code needs to know of a kind is a trait of its class: nothing else asks which aggregation a feature has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
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
