"""Metrics against cases made by hand and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models.metrics import (
    POINTS,
    Doubles,
    Ranking,
    auc,
    average_precision,
    block_weights,
    bootstrap,
    brier,
    deciles,
    interval,
    log_error,
    log_return,
    precision_recall,
    psi,
    reliability,
    roc,
    shares,
)

ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=40)


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
    assert np.isnan(average_precision(np.zeros(3), np.arange(3)))


@given(ROWS)
def test_auc_is_the_share_of_pairs(rows: list[tuple[bool, int, int]]) -> None:
    label, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    pairs = [(a > b) + (a == b) / 2 for a in score[label].tolist() for b in score[~label].tolist()]
    if pairs:
        assert auc(label, score) == pytest.approx(sum(pairs) / len(pairs))


@given(ROWS)
def test_average_precision_is_the_mean_precision_at_the_positives(rows: list[tuple[bool, int, int]]) -> None:
    label, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if label.any():
        precision = [label[score >= s].mean() for s in score[label]]
        assert average_precision(label, score) == pytest.approx(np.mean(precision))


@given(ROWS)
def test_a_weight_is_so_many_rows(rows: list[tuple[bool, int, int]]) -> None:
    label, score, weight = (np.array(c) for c in zip(*rows, strict=True))
    repeated = Ranking.of(np.repeat(label, weight), np.repeat(score, weight)).areas() if weight.any() else np.nan
    np.testing.assert_allclose(Ranking.of(label, score).areas(weight[None]), np.broadcast_to(repeated, (1, 2)))


def test_curves_end_where_they_must_and_are_thinned() -> None:
    random = np.random.default_rng(0)
    label = random.random(5000) < 0.3
    score = label + random.normal(0, 1, 5000)
    curve, pr = roc(label, score), precision_recall(label, score)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(auc(label, score), abs=0.003)
    assert (pr.x[-1], pr.y[-1]) == (1, label.mean())
    assert np.trapezoid(pr.y, pr.x) == pytest.approx(average_precision(label, score), abs=0.02)
    assert len(curve.x) == len(pr.x) == POINTS


def test_reliability() -> None:
    """Scores of one value share a bin; the error is that of the bins, by their rows."""
    probability = np.repeat([0.1, 0.9], [30, 10])
    label = np.concatenate([np.zeros(30), np.ones(5), np.zeros(5)])
    found = reliability(label, probability)
    assert found.predicted.tolist() == pytest.approx([0.1, 0.9])
    assert found.actual.tolist() == [0, 0.5]
    assert found.rows.tolist() == [30, 10]
    assert found.error == pytest.approx((30 * 0.1 + 10 * 0.4) / 40)
    assert brier(label, probability) == pytest.approx((30 * 0.01 + 5 * 0.01 + 5 * 0.81) / 40)


def test_bins_of_reliability_have_as_many_rows() -> None:
    probability = np.random.default_rng(0).random(1000)
    assert reliability(probability, probability).rows.tolist() == [100] * 10
    assert reliability(probability, probability).error == 0


def test_deciles() -> None:
    rows, positives = deciles(np.arange(20) >= 16, np.arange(20))
    assert rows.tolist() == [2] * 10
    assert positives.tolist() == [2, 2, *[0] * 8]


@given(st.permutations(list(range(12))))
def test_deciles_do_not_depend_on_the_order_of_tied_rows(order: list[int]) -> None:
    label, score = np.arange(12) % 4 == 0, np.repeat([2, 1], [2, 10])
    rows, positives = deciles(label[order], score[order])
    assert rows.tolist() == [2, 2, *[1] * 8]
    assert positives.tolist() == pytest.approx([1, 0.4, *[0.2] * 8])


def test_psi_of_a_hand_made_shift() -> None:
    before = np.repeat([0, 1], 50)
    after = np.repeat([0, 1], [25, 75])
    assert psi(before, after) == pytest.approx((0.25 - 0.5) * np.log(0.25 / 0.5) + (0.75 - 0.5) * np.log(0.75 / 0.5))
    assert psi(before, before) == 0
    assert psi(np.zeros(9), np.zeros(9)) == 0
    assert psi(before, np.full(100, 5)) > 1


def test_shares_count_what_lies_outside() -> None:
    assert shares(np.array([-9, 0, 1, 5, 99]), np.array([0.0, 1.0, 2.0])).tolist() == [0.2, 0.2, 0.2, 0.4]


def test_the_interval_holds_the_value_and_is_seeded() -> None:
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 300).astype(np.float32)
    score = label + random.normal(0, 1, 300).astype(np.float32)
    draws = bootstrap(Ranking.of(label, score).areas, np.arange(300), 7)
    low, high = interval(draws[:, 0])
    assert draws.shape == (1000, 2)
    assert 0.5 < low < auc(label, score) < high < 1
    assert high - low == pytest.approx(2 * 1.96 * draws[:, 0].std(), rel=0.1)
    np.testing.assert_array_equal(draws, bootstrap(Ranking.of(label, score).areas, np.arange(300), 7))
    assert (draws != bootstrap(Ranking.of(label, score).areas, np.arange(300), 8)).any()


def test_rows_of_an_entity_are_drawn_together() -> None:
    groups = np.array(["b", "a", "b", "c", "a", "b"])

    def together(weights: Doubles) -> Doubles:
        assert (weights[:, [0, 2]] == weights[:, [5]]).all()
        assert (weights[:, 1] == weights[:, 4]).all()
        return weights[:, [0, 1, 3]]

    drawn = bootstrap(together, groups, 0)
    assert (drawn.sum(axis=1) == 3).all()
    assert set(drawn.ravel()) == {0, 1, 2, 3}


def test_repeated_rows_of_an_entity_narrow_no_interval() -> None:
    """Ten copies of an entity are no more news than one."""
    random = np.random.default_rng(0)
    label = np.repeat(random.integers(0, 2, 100), 10)
    score = label + np.repeat(random.normal(0, 1, 100), 10)
    areas, entity = Ranking.of(label, score).areas, np.repeat(np.arange(100), 10)
    honest, narrow = (np.diff(interval(bootstrap(areas, g, 0)[:, 0])) for g in (entity, np.arange(1000)))
    assert honest > 2.5 * narrow


def test_an_interval_of_nothing_is_unknown() -> None:
    assert np.isnan(interval(np.full(9, np.nan))).all()


def test_blocks_are_neighbours() -> None:
    weights = block_weights(12, 4, 0)
    assert weights.shape == (1000, 12)
    assert (weights.sum(axis=1) == 12).all()
    assert set(block_weights(5, 5, 0).ravel()) == {1}  # one block that goes round holds everything once
    alone = (weights > 0) & (np.roll(weights, 1, axis=1) == 0) & (np.roll(weights, -1, axis=1) == 0)
    assert not alone.any()


def test_the_error_leaves_out_what_has_no_level() -> None:
    actual = np.array([[100, 0], [200, 50]], np.float32)
    predicted = np.array([[110, 5], [100, 50]], np.float64)
    np.testing.assert_allclose(log_error(actual, predicted), np.array([[0.0953101798, np.nan], [0.6931471806, 0]]))


def test_a_forecast_of_nothing_costs_more_than_any_other() -> None:
    assert log_error(np.array([[1.0]]), np.array([[-3.0]])) > 80


def test_log_return() -> None:
    assert log_return(np.array([2, 3, 0]), np.array([1, 0, 5])).tolist() == pytest.approx([np.log(2), 0, 0])
