"""Metrics against cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models.evaluation import auc, evaluate, interval, path_error
from tests.toy import DAY, PATH, examples, task, tensor


@pytest.mark.parametrize(
    ("label", "score", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([0, 1], [0.2, 0.9], 1.0),
        ([1, 0], [0.2, 0.9], 0.0),
        ([0, 1, 0, 1], [3, 3, 3, 3], 0.5),
        ([0, 1, 1], [1, 1, 2], 0.75),
    ],
)
def test_auc(label: list[int], score: list[float], expected: float) -> None:
    assert auc(np.array(label), np.array(score)) == expected


def test_auc_of_one_class_is_unknown() -> None:
    assert np.isnan(auc(np.ones(3), np.arange(3)))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs(rows: list[tuple[bool, int]]) -> None:
    label, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    pairs = [(a > b) + (a == b) / 2 for a in score[label].tolist() for b in score[~label].tolist()]
    if pairs:
        assert auc(label, score) == pytest.approx(sum(pairs) / len(pairs))


def test_the_interval_holds_the_value_and_is_seeded() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 300).astype(np.float32)
    score = label + random.normal(0, 1, 300).astype(np.float32)
    low, high = interval(label, score, 7)
    assert 0.5 < low < auc(label, score) < high < 1
    assert (low, high) == interval(label, score, 7)


def test_baselines_of_churn() -> None:
    """Who was active in more steps stays; when the last event was says nothing."""
    random = np.random.default_rng(0)
    n = 600
    x = np.zeros_like(tensor(n))
    busy = random.random(n)
    x[:, :, 0] = random.random(x.shape[:2]) < busy[:, None]
    label = (busy + random.normal(0, 0.02, n) < 0.5).astype(np.float32)[:, None]
    data = examples(label, x, np.repeat([10 * DAY, 30 * DAY], n // 2))
    test = data.at(30 * DAY)
    metrics = evaluate(task(), data, data.at(10 * DAY), test, label[test])
    assert metrics["auc"] == 1.0
    assert metrics["auc_recency"] == 0.5
    assert metrics["auc_logistic"] > 0.95
    assert metrics["test_entities"] == n // 2
    assert metrics["test_share"] == pytest.approx(label[test].mean())


def test_baselines_of_a_path() -> None:
    x = tensor(40)
    last = x[:, -1, 2:3]
    data = examples(last * np.array([1, 1.25, 2], np.float32), x, np.full(40, DAY))
    rows = data.at(DAY)
    metrics = evaluate(task(PATH), data, rows, rows, data.label * np.float32(1.1))
    assert metrics["error_step_1"] == pytest.approx(10, rel=1e-4)
    assert metrics["error_naive_step_1"] == 0
    assert metrics["error_naive_step_2"] == pytest.approx(20, rel=1e-4)
    assert metrics["error_naive_step_3"] == pytest.approx(50, rel=1e-4)


def test_path_error_leaves_out_what_has_no_level() -> None:
    actual = np.array([[100, 0], [200, 50]], np.float32)
    predicted = np.array([[110, 5], [100, 50]], np.float64)
    assert path_error(actual, predicted).tolist() == pytest.approx([30, 0])
