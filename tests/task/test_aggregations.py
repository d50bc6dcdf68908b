"""Aggregations: each has a class and a slow twin, and no other code asks which aggregation a feature has."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.task.aggregations import AGGREGATIONS, StepAggregation, WindowAggregation
from tests.support.oracle import OVER, REDUCED

PACKAGE = Path(__file__).parents[2] / "pipelines"


def test_every_aggregation_has_a_slow_twin() -> None:
    ways = {StepAggregation: REDUCED, WindowAggregation: OVER}
    for way, slow in ways.items():
        assert {name for name, aggregation in AGGREGATIONS.items() if isinstance(aggregation, way)} == slow.keys()


@pytest.mark.parametrize(
    ("name", "values", "made"),
    [
        ("count", [1, 1, 1], 3),
        ("sum", [16_777_216, 1, 1], 16_777_216),  # in 32 bits, from left to right
        ("mean", [16_777_216, 1, 3], np.float32(16_777_220 / 3)),
        ("min", [2, -1, 3], -1),
        ("max", [-2, -1, -3], -1),
        ("std", [1e6, 1e6 + 2], 1),
        ("first", [2, 0, 3], 2),
        ("last", [2, 3, 0], 0),
        ("distinct", [7, 8, 7], 2),
    ],
)
def test_steps_by_hand(name: str, values: Sequence[float], made: float) -> None:
    """The first cell has no event, the last one has one of the values alone; cells come in any order."""
    aggregation = AGGREGATIONS[name]
    assert isinstance(aggregation, StepAggregation)
    v = np.array([values[0], *values], np.uint64 if aggregation.reads == "hash" else np.float32)
    out, at = np.zeros(3, np.float32), np.array([2] + [1] * len(values))
    aggregation.add(out, at, v)
    alone = {"count": 1, "distinct": 1, "std": 0}.get(name, values[0])
    assert out.tolist() == [0, made, alone]


@pytest.mark.parametrize("name", REDUCED)
def test_no_events_change_nothing(name: str) -> None:
    aggregation, out = AGGREGATIONS[name], np.zeros(2, np.float32)
    assert isinstance(aggregation, StepAggregation)
    aggregation.add(out, np.zeros(0, np.int64), np.zeros(0, np.uint64 if aggregation.reads == "hash" else np.float32))
    assert out.tolist() == [0, 0]


def test_what_sees_the_window_takes_neither_field_nor_category() -> None:
    for name in OVER:
        assert AGGREGATIONS[name].reads == "nothing"
        assert AGGREGATIONS[name].whole


CLASSES = "|".join(type(each).__name__ for each in AGGREGATIONS.values())
TAKES = re.compile(rf"task\.aggregations import (\([^)]*|.*)\b({CLASSES})\b")


def asks(code: str) -> bool:
    """Whether a module compares the name of an aggregation, or takes the class of one."""
    compared: list[ast.AST] = []
    for node in ast.walk(ast.parse(code)):
        compared += [node] if isinstance(node, ast.Compare) else [node.subject] if isinstance(node, ast.Match) else []
    names = {name for c in compared for n in ast.walk(c) for name in (getattr(n, "attr", ""), getattr(n, "id", ""))}
    return "agg" in names or TAKES.search(code) is not None


def test_no_other_code_asks_which_aggregation_a_feature_has() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "task" / "aggregations.py":
            assert not asks(path.read_text()), f"{path}: an aggregation is asked for a trait, not told apart by name"


@pytest.mark.parametrize(
    "code",
    [
        "f.agg == 'recency'",
        "(f.agg, f.field) == ('last', field)",
        "agg in ('min', 'max')",
        "match f.agg:\n  case 'sum': pass",
        "from pipelines.task.aggregations import Sum",
        "from pipelines.task.aggregations import (\n    Last,\n)",
    ],
)
def test_a_name_that_is_compared_is_found(code: str) -> None:
    assert asks(code)
