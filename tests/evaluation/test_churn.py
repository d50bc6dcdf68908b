"""The figures of churn against data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.churn import Scored, by_as_of, calibration, drift, importance, models
from pipelines.evaluation.survey import Survey, see
from pipelines.models.metrics import auc
from tests.support.labelled_examples import Floats, churn_task, in_memory
from tests.support.toy_models import DAY


def chance(x: Floats) -> Floats:
    return x[:, -1, :1]


def surveyed(n: int = 1200) -> Survey:
    """A probability that is right stands in the last step; three as-ofs, of which the first is wholly of one class."""
    random = np.random.default_rng(0)
    x = random.random((n, 12, 2)).astype(np.float32)
    label = (random.random(n) < x[:, -1, 0]).astype(np.float32)[:, None]
    label[: n // 3] = 0
    data, task = in_memory(x, label, as_of=np.repeat([10 * DAY, 20 * DAY, 30 * DAY], n // 3)), churn_task()
    train, validation, test = (see(task, data, data.at(t * DAY), chance) for t in (10, 20, 30))
    return Survey(task, data, chance, {"train": train, "validation": validation, "test": test})


def test_models_beside_one_another() -> None:
    survey = surveyed()
    rows, label = survey.test.rows, survey.examples.label[survey.test.rows, 0]
    score = survey.test.scores[:, 0].astype(np.float64)
    noise = np.random.default_rng(1).random(len(rows))
    network, same, worse = models(
        survey, [Scored("network", score, True), Scored("same", score, True), Scored("noise", -3 * noise, False)]
    )
    assert network["auc"] == pytest.approx(auc(label, score), abs=1e-5)
    assert network["auc_low"] < network["auc"] < network["auc_high"]
    assert network["ap_low"] < network["ap"] < network["ap_high"]
    assert network["brier"] == pytest.approx(np.mean((score - label) ** 2), abs=1e-5)
    assert network["ece"] is not None
    assert network["ece"] < 0.06
    assert network["minus_network"] is None
    assert same["minus_network"] == {"auc": 0, "low": 0, "high": 0}  # the same draws
    gap = worse["minus_network"]
    assert gap is not None
    assert gap["auc"] == pytest.approx(worse["auc"] - network["auc"], abs=1e-5)
    assert gap["low"] < gap["auc"] < gap["high"] < 0
    assert (worse["brier"], worse["ece"]) == (None, None)


def test_lift() -> None:
    survey = surveyed()
    share = survey.examples.label[survey.test.rows].mean()
    tenths = models(survey, [Scored("network", survey.test.scores[:, 0].astype(np.float64), True)])[0]["lift"]
    assert [t["decile"] for t in tenths] == list(range(1, 11))
    assert sum(t["entities"] for t in tenths) == 400
    assert sum(t["captured"] for t in tenths) == pytest.approx(1, abs=1e-5)
    assert tenths[0]["share"] == pytest.approx(tenths[0]["positives"] / 40)
    assert tenths[0]["lift"] == pytest.approx(tenths[0]["share"] / share, rel=1e-5)
    assert tenths[0]["lift"] > 1.5 > 0.5 > tenths[-1]["lift"]


def test_calibration_before_and_after() -> None:
    found = calibration(surveyed(), lambda x: x[:, -1, :1] ** 3, "platt")
    assert found["method"] == "platt"
    assert found["before"]["ece"] > 0.15 > 0.06 > found["after"]["ece"]
    assert found["before"]["brier"] > found["after"]["brier"]
    assert sum(b["entities"] for b in found["after"]["bins"]) == 400
    first, last = found["after"]["bins"][0], found["after"]["bins"][-1]
    assert first["predicted"] < 0.1 < 0.9 < last["predicted"]
    assert last["actual"] > 0.8


def test_each_as_of() -> None:
    train, validation, test = by_as_of(surveyed())
    assert train == {
        "as_of": "1970-01-11",
        "set": "train",
        "entities": 400,
        "share": 0,
        "auc": None,
        "auc_low": None,
        "auc_high": None,
    }
    assert (validation["set"], validation["as_of"], test["set"], test["as_of"]) == (
        *("validation", "1970-01-21"),
        *("test", "1970-01-31"),
    )
    assert test["auc"] is not None
    assert test["auc_low"] is not None
    assert test["auc_high"] is not None
    assert 0.5 < test["auc_low"] < test["auc"] < test["auc_high"] < 1


def test_the_feature_that_matters() -> None:
    first, second = importance(surveyed())
    assert (first["feature"], second["feature"], second["drop"]) == ("count()", "sum(amount)", 0)
    assert 0.2 < first["low"] <= first["drop"] <= first["high"] < 0.5


def test_scores_that_did_not_move() -> None:
    assert drift(surveyed())["scores"]["psi"] < 0.1
