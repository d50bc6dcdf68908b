"""What a label is: a question about the events after an as-of, and all that follows from its kind.

Each kind is a class in a file of its own here, pure and without a model; `kinds` lists them. What a kind needs of
TensorFlow (head, loss, calibration) is in `models.heads`, and how it is judged and told in `evaluation.evaluate` and
`evaluation.page.page`, which have a line for each kind, too. Nothing else asks which kind a label is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.task.fields import Spec

if TYPE_CHECKING:
    from pipelines.task.spec import Task

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Known(Protocol):
    """What is known of n entities at an as-of: a SequenceBatch."""

    @property
    def as_of(self) -> int:
        """The as-of, us."""

    @property
    def tensor(self) -> Floats:
        """The raw tensors, f4 (n, steps, features)."""

    @property
    def last_event_time(self) -> Ints:
        """The time of the last event of each entity, (n) us."""


@dataclass(frozen=True)
class Ahead:
    """The m events in the horizon of an as-of, in order of time."""

    entities: int
    entity: npt.NDArray[np.integer[Any]]  # (m) below `entities`
    step: Ints  # (m) in which step after the as-of, from 0
    values: Callable[[str], Floats]  # (m) of a field of `Label.reads`, NaN for null


class Labelled(NamedTuple):
    """The labels of n entities at an as-of."""

    label: Floats  # (n, width)
    meant: Mask  # (n) for whom the question is


class Column(NamedTuple):
    """What a score column holds."""

    description: str
    tracked: bool = False  # whether an entity's score is shown beside its last one
    silence: bool = False  # whether it is the probability of no event in the horizon, which later scores tell of
    step: int = 0  # of a path: how far ahead, from 1
    level: float = 50  # of a path, in %: 50 for the median


class View(NamedTuple):
    """What a user is shown first of the scores."""

    name: str  # of the view in SQL
    order: str


class Label(Spec):
    """The section `label` of a task file, without its kind."""

    kind: str

    @abstractmethod
    def horizon_of(self, step: int) -> int:
        """How far after the as-of the label looks, us, where a step of the sequence is `step` us."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers in the label of an example."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the score columns."""

    @classmethod
    @abstractmethod
    def column(cls, name: str) -> Column | None:
        """What a column of one of `outputs` holds, told by its name; None for what no label of this kind has."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields of numbers that the label reads."""
        return ()

    @property
    def starts_from(self) -> tuple[str, ...]:
        """Names of the features that it starts from."""
        return ()

    @property
    def terms(self) -> tuple[int | None, int | None]:
        """Horizon and activity, us, by which it can be told later from the events of scores what came true; None where
        it cannot."""
        return None, None

    @abstractmethod
    def check(self, task: Task) -> None:
        """Checks that it fits the rest of the task. Raises ValueError, which begins with the key, where it does not."""

    @abstractmethod
    def of(self, task: Task, known: Known, entity: Ints, ahead: Ahead) -> Labelled:
        """What came true of n entities.

        Args:
          entity: (n) their numbers in `ahead`.
        """

    def start(self, task: Task, x: Floats) -> Floats:
        """The level that a label starts from, f4 (n), of raw tensors (n, steps, features); 0 without one."""
        return np.zeros(len(x), np.float32)

    def unfit(self, labels: Floats) -> str:
        """Why nothing can be learnt from labels (n, width), after `every one of the n entities`; empty if it can."""
        return ""

    def share(self, labels: Floats) -> float | None:
        """What share of labels (n, width) came true; None where that is no question."""
        return None

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the labels of examples."""
        return self.model_dump()

    @property
    @abstractmethod
    def signature(self) -> Mapping[str, Any]:
        """What a manifest keeps of it: `label_field`, text, and `active_within`, us."""

    @property
    @abstractmethod
    def told(self) -> str:
        """The question in words."""

    @property
    @abstractmethod
    def told_outputs(self) -> str:
        """The score columns in words."""

    @property
    @abstractmethod
    def view(self) -> View:
        """What a user is shown first of the scores."""

    @classmethod
    @abstractmethod
    def cells(cls, metrics: Mapping[str, float]) -> dict[str, str]:
        """The few metrics of a manifest that a version is chosen by, as cells of a table."""


def cell(value: float | None) -> str:
    """A metric in a table; a count as such, else four decimals, which is what an interval of a few thousand entities
    can tell apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"
