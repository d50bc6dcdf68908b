"""Baselines against cases made by hand, and against data whose rule is known."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.evaluation.baselines import (
    PART,
    active_steps,
    aggregates,
    drift,
    last_code,
    logistic,
    naive,
    parts,
    recency,
    seasonal,
    summary_features,
    thin,
    tree_paths,
    trees,
)
from pipelines.models.metrics import auc, log_error
from tests.support.labelled_examples import COUNTS, Features, Floats, Ints, churn_task, in_memory, path_task
from tests.support.toy_models import DAY

AGE = {"agg": "recency"}
TEXT = {"agg": "last", "field": "device", "vocabulary": 50}


def learnable(n: int = 1200, seed: int = 0) -> tuple[Floats, Floats]:
    """Counts and amounts (n, 12, 2), and churn of those whose amounts of late are either small or large."""
    random = np.random.default_rng(seed)
    x = np.zeros((n, 12, 2), np.float32)
    x[:, :, 0] = 1 + random.poisson(1, (n, 12))
    x[:, :, 1] = random.normal(0, 3, (n, 1)) + random.normal(0, 0.2, (n, 12))
    return x, (np.abs(x[:, -4:, 1].mean(axis=1)) > 2).astype(np.float32)[:, None]


def test_recency_is_exact() -> None:
    away = np.array([5, 2, 7 * DAY])
    data = in_memory(np.zeros((3, 12, 2), np.float32), np.zeros((3, 1), np.float32), away=away)
    assert recency(data, np.array([2, 0])).tolist() == [7 * DAY, 5]


def test_trees_see_what_a_line_cannot() -> None:
    x, label = learnable()
    data, rows = in_memory(x, label), np.arange(len(x))
    train, validation, test = rows[:800], rows[800:1000], rows[1000:]
    probability = trees(churn_task(), data, train, validation, test)
    assert auc(label[test, 0], probability) > 0.98
    assert auc(label[test, 0], logistic(churn_task(), data, train, test)) < 0.7
    assert probability.mean() == pytest.approx(label[test].mean(), abs=0.05)
    np.testing.assert_array_equal(probability, trees(churn_task(), data, train, validation, test))


def test_trees_learn_text_by_its_codes() -> None:
    """Two devices of many lose their users, and the order of codes tells nothing."""
    random = np.random.default_rng(0)
    codes = random.permutation(1 << 23)[:20].astype(np.float32) + 1
    device = random.integers(0, 20, 1200)
    x = np.ones((1200, 12, 2), np.float32)
    x[:, :, 1] = 0
    x[:, 5, 1] = codes[device]
    label = np.isin(device, (3, 11)).astype(np.float32)[:, None]
    data, rows = in_memory(x, label), np.arange(1200)
    found = trees(churn_task([COUNTS[0], TEXT]), data, rows[:800], rows[800:1000], rows[1000:])
    assert auc(label[1000:, 0], found) > 0.99


def test_a_logistic_regression_finds_who_comes_less() -> None:
    random = np.random.default_rng(0)
    busy = random.random(600)
    x = np.zeros((600, 12, 2), np.float32)
    x[:, :, 0] = random.random((600, 12)) < busy[:, None]
    label = (busy + random.normal(0, 0.02, 600) < 0.5).astype(np.float32)[:, None]
    data, rows = in_memory(x, label), np.arange(600)
    probability = logistic(churn_task(), data, rows[:300], rows[300:])
    assert auc(label[300:, 0], probability) > 0.95
    assert probability.mean() == pytest.approx(label[300:].mean(), abs=0.05)


def test_without_lightgbm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    x, label = learnable(10)
    rows = np.arange(10)
    with pytest.raises(UserError, match=r"foretide\[train\]"):
        trees(churn_task(), in_memory(x, label), rows, rows, rows)
    with pytest.raises(UserError, match=r"foretide\[train\]"):
        tree_paths(path_task(), in_memory(x, label), rows, rows, rows)


@pytest.mark.parametrize(
    ("features", "first", "second", "expected"),
    [
        ([{"agg": "count"}, {"agg": "sum", "field": "amount"}], [0, 2, 1, 0], [0, -3, 0, 0], [0, 1, 1, 0]),
        ([{"agg": "distinct", "field": "shop"}, {"agg": "recency"}], [0, 2, 1, 0], [1, 0.5, 0.5, 0.5], [0, 1, 1, 0]),
        ([{"agg": "recency"}, {"agg": "sum", "field": "amount"}], [1, 0.3, 1, 1.2], [0, -3, 0, 0], [0, 1, 1, 0]),
        (
            [{"agg": "last", "field": "level", "fill": "forward"}, {"agg": "sum", "field": "amount"}],
            [0, 7, 7, 7],
            [0, -3, 1, 0],
            [0, 1, 1, 0],
        ),
        ([{"agg": "last", "field": "level", "fill": "forward"}], [0, 7, 7, 7], [0, 0, 0, 0], [0, 1, 1, 1]),
    ],
)
def test_active_steps(features: Features, first: list[float], second: list[float], expected: list[int]) -> None:
    x = np.stack([first, second], axis=1).astype(np.float32)[None, :, : len(features)]
    assert active_steps(churn_task(features, 4), x).astype(int).tolist() == [expected]


def test_the_summary_of_a_history() -> None:
    x = np.zeros((2, 12, 2), np.float32)
    x[0, [2, 3, 10], 0] = 1
    data = in_memory(x, np.zeros((2, 1), np.float32), away=np.array([36 * DAY // 24, DAY]))
    assert np.expm1(summary_features(churn_task(), data, np.arange(2))).tolist() == [
        pytest.approx([1.5, 10, 3, 3, 1, 0]),
        pytest.approx([1, 0, 3, 0, 0, 0]),
    ]


def test_aggregates_by_hand() -> None:
    """A history of four steps: periods of 1, 2, 3 and 4."""
    x = np.array([[[1, 5], [0, 0], [2, -3], [0, 0]]], np.float32)
    data = in_memory(x, np.zeros((1, 1), np.float32), away=np.array([2 * DAY]))
    found = aggregates(churn_task(steps=4), data, np.array([0]))[0].tolist()
    assert found[:8] == [2, 4, 3, 0.5, 2, 0, 2, 1]  # recency, tenure, events, density; gaps: mean, deviation, most
    assert found[8:12] == [0, 1, 1, 2]  # active steps
    one, two, three, four = found[12:24], found[24:36], found[36:48], found[48:]
    assert one == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, -3]  # sum, least, most, steps, mean, the period before; each of two
    assert two == [2, -3, 0, -3, 2, 0, 1, 1, 2, -3, 1, 5]
    assert three == [2, -3, 0, -3, 2, 0, 1, 1, 2, -3, 1, 5]
    assert four == [3, 2, 0, -3, 2, 5, 2, 2, 1.5, 1]


def test_aggregates_of_a_price_do_not_depend_on_its_unit() -> None:
    random = np.random.default_rng(0)
    x = np.exp(random.normal(0, 0.1, (5, 12, 2))).cumprod(axis=1).astype(np.float32)
    dear = x * np.array([1000, 1], np.float32)
    one, other = (aggregates(path_task(), in_memory(v, x[:, -3:, 0]), np.arange(5)) for v in (x, dear))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_last_code() -> None:
    assert last_code(np.array([[0, 7, 0, 9, 0], [3, 0, 0, 0, 0], [0] * 5], np.float32)).tolist() == [9, 3, 0]


def test_forecasts_of_a_price_that_grows() -> None:
    x = np.zeros((2, 12, 2), np.float32)
    x[:, :, 0] = 100 * 1.01 ** np.arange(12)
    x[1, :3, 0] = 0  # the second began later
    last = x[:, -1:, 0].astype(np.float64)
    ahead = 1.01 ** np.arange(1, 4)
    np.testing.assert_allclose(naive(path_task(), x), last * np.ones(3))
    np.testing.assert_allclose(drift(path_task(), x), last * ahead, rtol=1e-6)
    np.testing.assert_allclose(seasonal(path_task(), x), last * ahead, rtol=1e-6)


def test_the_season_of_days_is_a_week_so_that_weekends_fall_on_weekends() -> None:
    """A price that moves on five days of seven: what it did a week ago is what it does."""
    moves = np.tile([0.01, -0.02, 0.03, 0.01, 0.02, 0, 0], 4)
    path = 100 * np.exp(np.cumsum(moves))
    for as_of in range(15, 21):  # on any day of the week
        x = np.stack([path[as_of - 12 : as_of], np.ones(12)], axis=1).astype(np.float32)[None]
        found = seasonal(path_task(steps=12), x)
        np.testing.assert_allclose(found, path[None, as_of : as_of + 3], rtol=1e-5)


def test_the_season_of_other_steps_is_the_horizon() -> None:
    path = 100 * np.exp(np.cumsum(np.tile([0.1, 0, -0.05], 5)))
    x = np.stack([path[:12], np.ones(12)], axis=1).astype(np.float32)[None]
    np.testing.assert_allclose(seasonal(path_task(step="1h"), x), path[None, 12:15], rtol=1e-5)


def test_forecasts_of_a_single_step() -> None:
    x = np.full((2, 1, 2), 5, np.float32)
    for forecast in (naive, drift, seasonal):
        assert forecast(path_task(steps=1), x).tolist() == [[5, 5, 5]] * 2


def test_trees_learn_a_momentum() -> None:
    """A price that goes on as it went on its last day."""
    random = np.random.default_rng(0)
    moves = random.normal(0, 0.01, (1500, 12))
    level = 50 * np.exp(np.cumsum(moves, axis=1))
    x = np.stack([level, np.ones_like(level)], axis=2).astype(np.float32)
    task = path_task(ahead=7)
    ahead = np.exp(moves[:, -1:] * np.arange(1, 8) + random.normal(0, 0.002, (1500, 7)))
    label = (level[:, -1:] * ahead).astype(np.float32)
    data, rows = in_memory(x, label), np.arange(1500)
    found = tree_paths(task, data, rows[:1000], rows[1000:1200], rows[1200:])
    own, reference = (log_error(label[1200:], v).mean(axis=0) for v in (found, naive(task, x[1200:])))
    assert found.shape == (300, 7)
    assert (own < 0.5 * reference).all()  # also at steps 2 and 6, which have no trees of their own


def test_parts_are_bounded() -> None:
    sizes: list[int] = []
    rows = np.arange(2 * PART + 5)

    def of(part: Ints) -> Ints:
        sizes.append(len(part))
        return part

    assert parts(churn_task(), rows, of).tolist() == rows.tolist()
    assert sizes == [PART, PART, 5]


def test_thin_is_even() -> None:
    assert thin(np.arange(10), 20).tolist() == list(range(10))
    assert thin(np.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
