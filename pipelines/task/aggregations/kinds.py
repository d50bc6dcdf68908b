"""The aggregations of a task file by their names there, each an object of its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pipelines.task.aggregations.base import Aggregation
from pipelines.task.aggregations.counts import Count, Distinct
from pipelines.task.aggregations.numbers import Max, Mean, Min, Std, Sum
from pipelines.task.aggregations.ordered import First, Last
from pipelines.task.aggregations.recency import Recency

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
