"""Sentences against evaluations made by hand."""

from __future__ import annotations

from math import pi, sqrt

import pytest

from pipelines.evaluation.page import words
from pipelines.evaluation.schema import Difference
from tests.support import evaluations

AHEAD, LEVEL, BEHIND = ((-0.03, -0.01), (-0.01, 0.01), (0.01, 0.03))


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (words.number(-0.0125, 3), "\u22120.013"),
        (words.number(1016, 0), "1,016"),
        (words.number(None), "\u2013"),
        (words.signed(0.5, 1), "+0.5"),
        (words.signed(-0.5, 1), "\u22120.5"),
        (words.percent(0.23), "23\u00a0%"),
        (words.percent(0.0995), "10\u00a0%"),
        (words.percent(0.0412), "4.1\u00a0%"),
        (words.percent(0.2345, 1), "23.4\u00a0%"),
        (words.span(0.1, None), "\u2013"),
        (words.moment("2017-12-04"), "2017-12-04"),
        (words.moment("2017-12-04T00:00:00Z"), "2017-12-04"),
        (words.moment("2017-12-04T14:30:00+00:00"), "2017-12-04 14:30"),
        (words.days(1), "1\u00a0day"),
        (words.days(28), "28\u00a0days"),
        (words.days(0.25), "6\u00a0hours"),
        (words.level(61_234.4), "61,234"),
        (words.level(7.12345), "7.123"),
        (words.level(0.000421), "0.0004210"),
        (words.level(0), "0"),
        (words.points(0.0123), "1.2\u00a0points"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_as_text(made: str, text: str) -> None:
    assert made == text


@pytest.mark.parametrize(
    ("gaps", "text"),
    [
        ((AHEAD, AHEAD, AHEAD), "ahead of LightGBM on aggregates, logistic regression and recency alone"),
        ((LEVEL, AHEAD, AHEAD), "ahead of logistic regression and recency alone and level with LightGBM on aggregates"),
        ((BEHIND, LEVEL, AHEAD), "ahead of recency alone, level with logistic regression and behind LightGBM on"),
    ],
)
def test_a_difference_whose_interval_holds_0_is_none(gaps: list[tuple[float, float]], text: str) -> None:
    models = evaluations.churn()["models"]
    for model, (low, high) in zip(models[1:], gaps, strict=True):
        model["minus_network"] = Difference(auc=(low + high) / 2, low=low, high=high)
    assert text in words.against(models)


def test_where_most_leave_the_headline_is_about_those_who_stay() -> None:
    evaluation = evaluations.churn()
    evaluation["test"] |= {"share": 0.9, "entities": 1000}
    for tenth in evaluation["models"][0]["lift"]:
        stayed = 40 if tenth["decile"] == 10 else 60 / 9
        tenth |= {"entities": 100, "positives": 100 - stayed, "share": 1 - stayed / 100}
    text = words.churn_headline(evaluation).replace(words.SPACE, " ")
    assert "90 % fell silent" in text
    assert text.endswith("The tenth the model trusts most holds 40 % of those who stayed, 4.0 times as many as chance.")


@pytest.mark.parametrize(
    ("skill", "low", "high", "text"),
    [
        (0.03, 0.01, 0.05, "is 3.0 % closer to the outcome than the last level."),
        (0.003, -0.01, 0.02, "is no better and no worse than the last level within the uncertainty: 0.3 % closer to"),
        (-0.04, -0.06, -0.02, "is 4.0 % further from the outcome than the last level."),
        (0.0001, None, None, "the forecast is as far from the outcome as the last level."),
        (0.02, None, None, "is 2.0 % closer to the outcome than the last level."),
    ],
)
def test_the_headline_of_a_path(skill: float, low: float | None, high: float | None, text: str) -> None:
    evaluation = evaluations.path()
    evaluation["models"][0] |= {"skill": skill, "low": low, "high": high}
    assert text in words.path_headline(evaluation).replace(words.SPACE, " ")


def test_the_table_of_paths_says_who_is_closest() -> None:
    models = evaluations.path()["models"]
    models[0] |= {"skill": 0.01, "low": 0.002, "high": 0.02}
    assert words.path_verdict(models) == "The network came closest."
    models[2]["skill"] = 0.015
    models[0]["low"] = -0.001
    verdict = words.path_verdict(models)
    assert verdict == "Drift came closer than the network, and its distance to the last level may be luck."


def test_too_few_as_ofs_say_nothing_about_luck() -> None:
    models = evaluations.path()["models"]
    models[0] |= {"skill": 0.01, "low": None, "high": None}
    for step in models[0]["by_step"]:
        step |= {"low": None, "high": None, "skill": 0.01 if step["step"] < 3 else -0.01}
    assert words.path_verdict(models) == "The network came closest; the test as-ofs are too few to rule out luck."
    assert words.furthest(models[0]) == "At 2 of 7 steps the forecast is closer than the last level."


def test_steps_won_by_more_than_luck() -> None:
    network = evaluations.path()["models"][0]
    for step in network["by_step"]:
        step["low"] = 0.001 if step["step"] > 4 else -0.001
    assert words.furthest(network) == "At 3 of 7 steps the forecast is closer than the last level by more than luck."


def test_luck_is_the_deviation_of_a_share() -> None:
    bins = [{"predicted": 0.5, "actual": 0.4, "entities": 100}, {"predicted": 0.0, "actual": 0.0, "entities": 300}]
    reliability = {"brier": 0.0, "ece": 0.0, "bins": bins}
    assert words.luck(reliability) == pytest.approx(0.25 * 0.05 * sqrt(2 / pi))  # type: ignore[arg-type]


def test_drift_by_the_rule_of_thumb() -> None:
    evaluation = evaluations.churn()
    evaluation["drift"]["features"] = [{"feature": "a", "psi": 0.3}, {"feature": "b", "psi": 0.01}]
    said = []
    for psi in (0.05, 0.2, 0.4):
        evaluation["drift"]["scores"]["psi"] = psi
        said.append(words.drifted(evaluation))
    assert [text.split(" (")[0] for text in said] == [
        "Scores look as they did in training",
        "Scores have shifted a little since training",
        "Scores have shifted since training",
    ]
    assert all(text.endswith("and 1 of 2 features moved much.") for text in said)
