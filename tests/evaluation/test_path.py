"""The figures of paths against data whose answer is known, weekends among it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipelines.evaluation.baselines import naive
from pipelines.evaluation.path import by_as_of, by_quantile, coverage, drift, fans, forecasts, importance, models
from pipelines.evaluation.survey import Survey, see
from pipelines.task.spec import Task
from tests.support.labelled_examples import Floats, in_memory, path_task
from tests.support.toy_models import DAY

TASK = path_task()  # three steps ahead; outputs: medians, then 10 % and 90 % of each step
STEPS = np.array([0.5, 1, 1.5])  # the spread of the steps


def walks(n: int, as_ofs: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Prices of n entities at each of the as-ofs: histories (n * as_ofs, 12, 2), and three steps ahead."""
    random = np.random.default_rng(seed)
    path = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (n * as_ofs, 15)), axis=1))
    return np.stack([path[:, :12], np.ones((n * as_ofs, 12))], axis=2).astype(np.float32), path[:, 12:].astype(
        np.float32
    )


def says(ahead: Callable[[Floats], Floats], width: float = 0.02) -> Callable[[Floats], Floats]:
    """A network whose median log returns are `ahead` of the tensor, with quantiles `width` around the first step's."""

    def predict(x: Floats) -> Floats:
        middle = x[:, -1, :1] * np.exp(ahead(x))
        ends = (middle * np.exp(s * width * 2 * STEPS) for s in (-1, 1))
        return np.concatenate([middle, np.stack(list(ends), axis=2).reshape(len(x), -1)], axis=1).astype(np.float32)

    return predict


def still(x: Floats) -> Floats:
    return np.zeros((len(x), 3), np.float32)


def surveyed(
    x: Floats, label: Floats, test_as_ofs: int, predict: Callable[[Floats], Floats], task: Task = TASK
) -> Survey:
    """The test rows are all, at as-ofs a day apart; train and validation see them, too."""
    as_of = np.repeat(np.arange(test_as_ofs) * DAY, len(x) // test_as_ofs)
    data = in_memory(x, label, as_of=as_of, entity=np.arange(len(x)) % (len(x) // test_as_ofs))
    seen = see(task, data, np.arange(len(x)), predict)
    return Survey(task, data, predict, {"train": seen, "validation": seen, "test": seen})


def test_skill_is_the_share_of_the_error_that_is_gone() -> None:
    """A network that knows a third of every return."""
    x, label = walks(40, 24)
    third = np.log(label / x[:, -1, :1]) / 3
    survey = surveyed(x, label, 24, says(still))
    found = {"network": x[:, -1, :1] * np.exp(third), "naive last value": naive(TASK, x)}
    network, reference = models(survey, {name: v.astype(np.float64) for name, v in found.items()})
    assert network["skill"] == pytest.approx(1 / 3, abs=1e-4)
    assert [s["step"] for s in network["by_step"]] == [1, 2, 3]
    assert [s["skill"] for s in network["by_step"]] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert network["low"] == pytest.approx(1 / 3, abs=1e-4)  # at every as-of it is the same
    assert reference["skill"] == 0
    assert reference["by_step"][0]["error"] == pytest.approx(
        100 * np.abs(x[:, -1, 0] / label[:, 0] - 1).mean(), rel=1e-3
    )
    assert reference["by_step"][0]["error"] < reference["by_step"][2]["error"]


def test_the_interval_is_over_as_ofs_not_over_entities() -> None:
    """Every entity moves as the others: forty are no more news than one."""
    x, label = walks(1, 24)
    x, label = np.repeat(x, 40, axis=0), np.repeat(label, 40, axis=0)
    up = (x[:, -1, :1] * np.exp(np.full((1, 3), 0.005))).astype(np.float64)
    survey = surveyed(x, label, 24, says(still))
    network, _ = models(survey, {"network": up, "naive last value": naive(TASK, x)})
    assert network["skill"] is not None
    assert network["low"] is not None
    assert network["high"] is not None
    assert network["low"] < network["skill"] < network["high"]
    assert network["high"] - network["low"] > 0.1


def test_too_few_horizons_make_no_interval() -> None:
    x, label = walks(40, 11)  # daily as-ofs, three days ahead: less than four horizons
    survey = surveyed(x, label, 11, says(still))
    network, _ = models(survey, {"network": 1.01 * naive(TASK, x), "naive last value": naive(TASK, x)})
    assert network["skill"] is not None
    assert (network["low"], network["high"], network["by_step"][0]["low"]) == (None, None, None)


def test_a_weekend_has_no_skill_to_tell() -> None:
    """As of Saturdays only: two days carry the level forward, and naive makes no error there."""
    x, label = walks(40, 2)
    label[:, :2] = x[:, -1, :1]
    survey = surveyed(x, label, 2, says(lambda x: np.full((len(x), 3), 0.01, np.float32)))
    found = forecasts_without_trees(survey)
    network, reference = models(survey, found)
    assert [s["skill"] for s in network["by_step"][:2]] == [None, None]
    assert [s["error"] for s in network["by_step"][:2]] == pytest.approx([1.0, 1.0], abs=0.001)
    assert [s["error"] for s in reference["by_step"][:2]] == [0, 0]
    assert network["by_step"][2]["skill"] is not None
    assert network["skill"] is not None
    assert network["skill"] < network["by_step"][2]["skill"]  # what is said of a weekend counts


def forecasts_without_trees(survey: Survey) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    x = survey.examples.tensor(survey.test.rows)
    return {"network": survey.test.scores[:, :3].astype(np.float64), "naive last value": naive(TASK, x)}


def test_every_forecast_is_there() -> None:
    x, label = walks(40, 4)
    survey = surveyed(x, label, 4, says(still))
    rows = np.arange(160)
    found = forecasts(survey, rows[:80], rows[80:])
    assert list(found) == ["network", "naive last value", "drift", "seasonal naive", "LightGBM on lagged returns"]
    assert {v.shape for v in found.values()} == {(160, 3)}
    np.testing.assert_allclose(found["network"], found["naive last value"], rtol=1e-6)


def test_quantiles_stand_as_the_task_names_them() -> None:
    task = path_task()
    numbered = np.arange(len(task.outputs), dtype=np.float32)[None]
    levels = by_quantile(task, numbered)
    assert list(levels) == [0.1, 0.5, 0.9]
    for q, name in ((0.1, "_p10"), (0.5, ""), (0.9, "_p90")):
        assert [task.outputs[int(i)] for i in levels[q][0]] == [f"step_{k}{name}" for k in (1, 2, 3)]


def test_coverage() -> None:
    """Ends at two deviations of the first step, and as far for the square root of the others as they walk."""
    x, label = walks(500, 4)
    survey = surveyed(x, label, 4, says(still))
    first, second, third = coverage(survey)
    assert (first["step"], first["nominal"]) == (1, 0.8)
    ends = [np.abs(np.log(label[:, k] / x[:, -1, 0])) <= 0.04 * STEPS[k] for k in range(3)]
    assert [c["actual"] for c in (first, second, third)] == pytest.approx([e.mean() for e in ends], abs=0.001)


def test_each_as_of_of_each_set() -> None:
    x, label = walks(40, 2)
    found = by_as_of(surveyed(x, label, 2, says(still)))
    assert [(r["set"], r["as_of"]) for r in found[-2:]] == [("test", "1970-01-01"), ("test", "1970-01-02")]
    assert len(found) == 6
    for r in found:
        assert r["skill"] == pytest.approx(0, abs=1e-5)
        assert r["error"] == pytest.approx(r["error_naive"], rel=1e-5)
        assert r["entities"] == 40


def test_fans_go_from_well_to_badly_foreseen() -> None:
    x, label = walks(40, 2)
    x[0, :5, 0] = 0
    found = fans(surveyed(x, label, 2, says(still)))
    assert len(found) == 4
    errors = [np.abs(np.log(np.divide(f["actual"], f["quantiles"]["0.5"]))).sum() for f in found]
    assert errors == sorted(errors)
    assert list(found[0]["quantiles"]) == ["0.1", "0.5", "0.9"]
    assert all(len(f["history"]) <= 12 and min(f["history"]) > 0 for f in found)
    assert {f["entity"] for f in found} <= {f"user {i}" for i in range(40)}


def test_shuffling_a_price_takes_the_past_not_the_unit() -> None:
    """Prices of all sizes; the network follows the last day's return, which is a part of the price's past."""
    random = np.random.default_rng(0)
    x, _ = walks(300, 1)
    x[:, :, 0] *= np.exp(random.normal(0, 3, (300, 1)))

    def last_return(x: Floats) -> Floats:
        return np.log(x[:, -1, :1] / x[:, -2, :1]) * np.ones((1, 3), np.float32)

    label = x[:, -1, :1] * np.exp(last_return(x))
    first, second = importance(surveyed(x, label, 1, says(last_return)))
    assert (first["feature"], second["feature"]) == ("last(price)", "sum(volume)")
    assert second["drop"] == 0
    returns = last_return(x)[:, 0]
    assert first["drop"] == pytest.approx(100 * np.abs(returns - random.permutation(returns)).mean(), rel=0.15)


def test_drift_of_scores_is_that_of_the_last_return() -> None:
    x, label = walks(100, 1)
    found = drift(surveyed(x, label, 1, says(lambda x: np.full((len(x), 3), 0.03, np.float32))))["scores"]
    assert found["psi"] == 0
    assert found["edges"][0] < 3 < found["edges"][-1]
    assert sum(found["train"]) == sum(found["test"]) == pytest.approx(1)
