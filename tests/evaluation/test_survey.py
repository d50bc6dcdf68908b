"""What is shared in judging: importance, drift, and the passes over the examples."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.baselines import PART
from pipelines.evaluation.survey import (
    Seen,
    Survey,
    entities,
    feature_drift,
    importance,
    known,
    means,
    number,
    score_drift,
    see,
)
from tests.support.labelled_examples import COUNTS, Floats, Ints, churn_task, in_memory, path_task
from tests.support.toy_models import DAY


def first_count(x: Floats) -> Floats:
    return x[:, -1, :1]


def surveyed(n: int = 400) -> Survey:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (n, 12, 2)).astype(np.float32)
    x[n // 2 :, :, 1] += 3  # the test rows are another world
    data, task = in_memory(x, x[:, -1, :1], as_of=np.repeat([10 * DAY, 20 * DAY], n // 2)), churn_task()
    train, test = (see(task, data, data.at(t * DAY), first_count) for t in (10, 20))
    return Survey(task, data, first_count, {"train": train, "test": test})


def test_a_pass_over_rows() -> None:
    random = np.random.default_rng(0)
    x = np.exp(random.normal(0, 1, (2 * PART + 3, 12, 2))).astype(np.float32)
    task = path_task(ahead=1)
    sizes: list[int] = []

    def predict(part: Floats) -> Floats:
        sizes.append(len(part))
        return np.repeat(part[:, -1, :1], 3, axis=1)

    seen = see(task, in_memory(x, x[:, -1, :1]), np.arange(len(x)), predict)
    assert sizes == [PART, PART, 3]
    assert seen.scores.shape == (len(x), 3)
    np.testing.assert_array_equal(seen.scores[:, 2], x[:, -1, 0])
    np.testing.assert_array_equal(seen.last, x[:, -1, 0])
    np.testing.assert_allclose(seen.means[:, 1], x[:, :, 1].mean(axis=1), rtol=1e-5)


def test_means_are_of_what_compares() -> None:
    """Of prices against the last one, of text the newest code, of the rest the plain mean."""
    features = [*COUNTS, {"agg": "last", "field": "price", "scale": "relative"}]
    task = churn_task([*features, {"agg": "last", "field": "device", "vocabulary": 9}], 2)
    x = np.array([[[1, -4, 50, 8], [3, 6, 100, 0]]], np.float32)
    assert means(task, x)[0].tolist() == pytest.approx([2, 1, np.log(0.5) / 2, 8])


def test_importance_is_what_shuffling_costs() -> None:
    survey = surveyed()
    label = survey.examples.label[:, 0]
    kept = survey.examples.tensor(np.arange(400)).copy()

    def quality(rows: Ints, x: Floats, scores: Floats) -> float:
        return -float(np.mean((label[rows] - scores[:, 0]) ** 2))

    found = importance(survey, quality)
    assert [r["feature"] for r in found] == ["count()", "sum(amount)"]
    assert found[0]["drop"] == pytest.approx(2 * label[200:].var(), rel=0.2)
    assert 0 < found[0]["low"] <= found[0]["drop"] <= found[0]["high"]
    assert found[1] == {"feature": "sum(amount)", "drop": 0, "low": 0, "high": 0}
    np.testing.assert_array_equal(survey.examples.tensor(np.arange(400)), kept)
    assert importance(survey, quality) == found


def test_features_that_moved_are_named_first() -> None:
    found = feature_drift(surveyed())
    assert [r["feature"] for r in found] == ["sum(amount)", "count()"]
    assert found[0]["psi"] > 1 > 0.2 > found[1]["psi"]


def test_a_histogram_of_scores() -> None:
    train, test = np.full(10, 0.52), np.array([0.52, 0.99, 1.0, 0.0])
    found = score_drift(train, test, 0, 1)
    assert len(found["edges"]) == 21
    assert (found["edges"][0], found["edges"][-1]) == (0, 1)
    assert found["train"] == [*[0] * 10, 1, *[0] * 9]
    assert found["test"] == [0.25, *[0] * 9, 0.25, *[0] * 8, 0.5]
    assert found["psi"] > 0.25


def test_each_as_of_of_each_set() -> None:
    survey = surveyed(8)
    seen = [(name, t, s.rows.tolist()) for name, t, s in survey.by_as_of()]
    assert seen == [("train", 10 * DAY, [0, 1, 2, 3]), ("test", 20 * DAY, [4, 5, 6, 7])]
    assert isinstance(survey.test, Seen)


def test_entities_are_told_apart() -> None:
    data = in_memory(np.zeros((4, 12, 2), np.float32), np.zeros((4, 1), np.float32), entity=np.array([3, 5, 3, 9]))
    found = entities(data, np.array([2, 1, 0]))
    assert found[0] == found[2] != found[1]


def test_numbers_of_a_report() -> None:
    assert number(np.float32(1 / 3)) == pytest.approx(1 / 3, abs=1e-6)
    assert number(123456789) == 123457000
    assert known(np.nan) is None
    assert known(-np.inf) is None
