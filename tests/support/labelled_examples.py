"""Examples in memory and tasks of a few features, for tests of baselines and of evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.models.example_files import Examples
from pipelines.task.spec import Task
from tests.support.toy_models import CHURN, DAY, PATH

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Features = Sequence[Mapping[str, object]]
COUNTS: Features = [{"agg": "count"}, {"agg": "sum", "field": "amount"}]
PRICES: Features = [
    {"agg": "last", "field": "price", "fill": "forward", "scale": "relative"},
    {"agg": "sum", "field": "volume"},
]


def churn_task(features: Features = COUNTS, steps: int = 12) -> Task:
    return _task(features, steps, {**CHURN, "active_within": "1d"})


def path_task(steps: int = 12, step: str = "1d", ahead: int = 3) -> Task:
    return _task(PRICES, steps, {**PATH, "steps": ahead}, step)


def in_memory(
    x: Floats, label: Floats, as_of: Ints | None = None, away: Ints | None = None, entity: Ints | None = None
) -> Examples:
    """Examples of tensors x (n, steps, features) and labels (n, k): by default all at one as-of, each of another entity
    whose last event was a day before."""
    n = len(x)
    as_of = np.full(n, 30 * DAY) if as_of is None else as_of
    away = np.full(n, DAY) if away is None else away
    names = pa.chunked_array([[f"user {i}" for i in (np.arange(n) if entity is None else entity)]])
    return Examples(
        tensor=lambda rows: x[rows],
        label=label,
        as_of=as_of,
        n_events=np.full(n, 3),
        last_event_time=as_of - away,
        entity=names,
    )


def _task(features: Features, steps: int, label: object, step: str = "1d") -> Task:
    return Task.model_validate(
        {
            "task": "toy",
            "events": {
                "entity": "user",
                "time": {"field": "at", "unit": "s"},
                "identity": "none",
                "categories": {"kind": ["a", "b"]},
            },
            "sequence": {"step": step, "steps": steps, "features": features},
            "score": {"every": step},
            "label": label,
        },
        strict=False,
    )
