"""What is drawn, as numbers."""

from __future__ import annotations

import pytest

from pipelines.evaluation.page import charts
from pipelines.evaluation.page.style import ACCENT
from tests.support import evaluations


def test_gain_ends_with_everyone() -> None:
    rows = evaluations.churn()["models"][0]["lift"]
    curve = charts.gain(rows)["data"][-1]
    assert curve["x"] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert curve["y"][:2] == [0, 100 * rows[0]["captured"]]
    assert curve["y"][-1] == pytest.approx(100)


def test_the_network_lies_on_top() -> None:
    evaluation = evaluations.churn()
    for figure in (charts.roc(evaluation["models"]), charts.skill(evaluations.path()["models"])):
        assert figure["data"][-1]["line"]["color"] == ACCENT


def test_an_as_of_without_a_metric_is_not_drawn() -> None:
    rows = evaluations.churn()["by_as_of"]
    traces = charts.over_time(rows, "auc", "")["data"]
    assert [len(t["x"]) for t in traces] == [15, 2, 6]
    first = rows[0]
    assert first["auc"] is not None
    assert first["auc_low"] is not None
    assert traces[0]["error_y"]["arrayminus"][0] == pytest.approx(first["auc"] - first["auc_low"])


def test_features_come_from_the_top_and_no_more_than_asked() -> None:
    rows = evaluations.churn()["importance"]
    figure = charts.features(rows, "drop", most=4)
    names, bars = figure["layout"]["yaxis"], figure["data"][0]
    assert names["ticktext"] == [r["feature"] for r in rows[:4]]
    assert names["tickvals"] == bars["y"]
    assert names["range"][0] > names["range"][1]
    assert bars["x"] == [r["drop"] for r in rows[:4]]


def test_long_names_of_one_beginning_are_told_apart() -> None:
    rows = [{"feature": "count[department=" + "x" * 40 + end, "psi": 0.1} for end in "ab"]
    figure = charts.features(rows, "psi")
    assert len(set(figure["layout"]["yaxis"]["ticktext"])) == len(set(figure["data"][0]["y"])) == 2


def test_a_forecast_far_off_does_not_flatten_the_others() -> None:
    models = evaluations.path()["models"]
    low, high = charts.near(models)
    for model in models[:3]:
        assert all(low < (s["skill"] or 0) < high for s in model["by_step"])
    assert low > -0.1 > min(s["skill"] or 0 for s in models[3]["by_step"])


def test_a_fan_starts_at_the_last_level() -> None:
    row = evaluations.path()["fan"][0]
    low, high, past, middle, came = charts.fan(row)["data"]
    assert past["x"][-1] == middle["x"][0] == came["x"][0] == 0
    assert past["y"][-1] == middle["y"][0] == low["y"][0] == row["history"][-1]
    assert high["y"][1:] == row["quantiles"]["0.9"]
    assert high["fill"] == "tonexty"
    assert came["y"][1:] == row["actual"]


def test_a_fan_without_history_has_only_what_is_ahead() -> None:
    row = evaluations.path()["fan"][0] | {"history": []}
    assert charts.fan(row)["data"][-1]["x"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("values", "top"), [([3.0, 8.0], 10), ([10.0], 20), ([99.9], 100), ([100.0], 100)])
def test_where_an_axis_ends(values: list[float], top: float) -> None:
    assert charts.end(values) == top
