"""Drift: the arithmetic. That both places count the same is in `tests/test_airflow.py`."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.evaluation.drift import Limits, ScoreSpread, psi, psi_limit, reasons


def test_the_population_stability_index_is_that_of_the_formula() -> None:
    before, now = [50_000, 50_000], [40_000, 60_000]
    assert psi(before, now) == pytest.approx(-0.1 * np.log(0.8) + 0.1 * np.log(1.2), rel=1e-3)
    assert psi(before, before) == 0
    assert psi([10, 0], [0, 10]) > 5  # empty bins
    assert psi_limit(before, now, Limits()) == 0.25
    assert psi_limit([100], [400], Limits()) == pytest.approx(27.88 / 100 + 27.88 / 400)


def test_equal_populations_seldom_exceed_the_limit_and_shifted_ones_do() -> None:
    random = np.random.default_rng(0)
    edges = np.quantile(random.normal(size=100_000), np.linspace(0.1, 0.9, 9))

    def drifted(n: int, shift: float) -> bool:
        before, now = (
            np.bincount(np.digitize(random.normal(s, 1, n), edges), minlength=10).tolist() for s in (0, shift)
        )
        return psi(before, now) > psi_limit(before, now, Limits())

    for n in (60, 300, 5_000):
        assert sum(drifted(n, 0) for _ in range(1_000)) <= 5
        assert all(drifted(n, 1.5) for _ in range(20))


def test_fewer_or_more_scores_and_other_scores_are_drift() -> None:
    bins = {"score": [1_000] * 10, "events": [1_000] * 10}
    before = ScoreSpread(as_ofs=4, scored=10_000, recent=4_000, bins=bins)
    same = ScoreSpread(1, 2_500, 1_000, bins)
    assert reasons(before, same, Limits()) == []
    assert reasons(before, replace(same, scored=1_249), Limits()) == [
        "there are 1,249 scores, and 2,500 in the mean of 4 earlier as-ofs"
    ]
    assert reasons(before, replace(same, recent=2_001), Limits()) == [
        "there are 2,001 entities with events in the last 1d, and 1,000 in the mean of 4 earlier as-ofs"
    ]
    shifted = {"score": [0] * 5 + [500] * 5, "events": bins["events"]}
    [reason] = reasons(before, replace(same, bins=shifted), Limits())
    assert re.fullmatch(r"churn: the population stability index is \d\.\d\d, above 0\.25", reason)


@pytest.mark.parametrize(
    "wrong",
    [{"max_bad_share": 1.1}, {"psi": float("nan")}, {"ratio": 0.5}, {"earlier": 0}],
    ids=lambda w: next(iter(w)),
)
def test_numbers_that_are_no_limits_are_told(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')} .*: must be"):
        Limits(**wrong)  # type: ignore[arg-type]
