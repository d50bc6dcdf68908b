"""Whole evaluations of toy models: that they have the form of the schema, and what is told of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.evaluation.evaluate import evaluate, headline, lines
from pipelines.evaluation.schema import Churn, Evaluation, Path
from pipelines.evaluation.survey import Splits
from tests.support.labelled_examples import Floats, churn_task, in_memory, path_task
from tests.support.toy_models import DAY


def conforms(value: object, form: Any) -> bool:
    """Whether a value read from JSON has the type of a TypedDict: its keys, no other, and theirs."""
    origin, inner = get_origin(form), get_args(form)
    if is_typeddict(form):
        fields = get_type_hints(form)
        return (
            isinstance(value, dict)
            and value.keys() == fields.keys()
            and all(conforms(value[k], f) for k, f in fields.items())
        )
    if origin is list:
        return isinstance(value, list) and all(conforms(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(conforms(v, inner[1]) for v in value.values())
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(conforms(value, i) for i in inner)
    return isinstance(value, (int, float) if form is float else NoneType if form is None else form)


def churned(n: int = 300) -> Evaluation:
    """Members whose counts of late are low leave; the network sees it, and says it too strongly before calibration."""
    random = np.random.default_rng(0)
    as_of = np.repeat([10 * DAY, 20 * DAY, 30 * DAY, 40 * DAY], n)
    busy = random.random(4 * n)
    x = random.poisson(4 * busy[:, None, None], (4 * n, 12, 2)).astype(np.float32)
    label = (random.random(4 * n) > busy).astype(np.float32)[:, None]
    data = in_memory(x, label, as_of, entity=np.arange(4 * n) % n)

    def predict(x: Floats) -> Floats:
        return (1 - np.minimum(x.mean(axis=(1, 2)) / 4, 1))[:, None]

    splits = Splits(data.at(10 * DAY), data.at(20 * DAY), data.at(30 * DAY, 40 * DAY))
    return evaluate(
        churn_task(), data, splits, predict, lambda x: predict(x) ** 4, version="v1", method="platt", created=50 * DAY
    )


def forecast(ahead: float, days: int = 24, n: int = 20) -> Evaluation:
    """Prices that grow by 1 % a day and some chance, and a network that says by how much they grow."""
    random = np.random.default_rng(0)
    path = 100 * np.exp(np.cumsum(random.normal(0.01, 0.004, (n * (days + 2), 15)), axis=1))
    x = np.stack([path[:, :12], np.ones((len(path), 12))], axis=2).astype(np.float32)
    data = in_memory(x, path[:, 12:].astype(np.float32), np.repeat(np.arange(days + 2) * DAY, n))

    def predict(x: Floats) -> Floats:
        middle = x[:, -1, :1] * np.exp(ahead * np.arange(1, 4))
        return np.concatenate([middle, np.stack([0.9 * middle, 1.1 * middle], axis=2).reshape(len(x), -1)], axis=1)

    splits = Splits(data.at(0), data.at(DAY), data.at(*(np.arange(2, days + 2) * DAY)))
    return evaluate(path_task(), data, splits, predict, created=50 * DAY)


@pytest.mark.parametrize(("evaluation", "form"), [(churned, Churn), (lambda: forecast(0.01, 4), Path)])
def test_an_evaluation_survives_json_and_has_the_form_of_the_schema(
    evaluation: Callable[[], Evaluation], form: type
) -> None:
    found = evaluation()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert conforms(again, form)
    assert json.dumps(found) == json.dumps(evaluation())


def test_churn() -> None:
    e = churned()
    assert e["kind"] == "churn"
    assert (e["task"], e["version"], e["horizon_days"], e["created"]) == ("toy", "v1", 7, "1970-02-20")
    assert e["test"]["as_ofs"] == ["1970-01-31", "1970-02-10"]
    assert e["test"]["entities"] == 600
    names = ["network", "LightGBM on aggregates", "logistic regression", "recency alone"]
    assert [m["name"] for m in e["models"]] == names
    network, gradient, _, recency = e["models"]
    assert min(network["auc"], gradient["auc"]) > 0.7
    assert recency["auc"] == 0.5  # all were last seen a day ago
    assert e["calibration"]["before"]["ece"] > e["calibration"]["after"]["ece"]
    assert [r["set"] for r in e["by_as_of"]] == ["train", "validation", "test", "test"]
    h = headline(e)
    assert (h["auc"], h["auc_low"], h["auc_high"]) == (network["auc"], network["auc_low"], network["auc_high"])
    assert (h["auc_lightgbm"], h["auc_recency"]) == (gradient["auc"], 0.5)
    assert (h["test_entities"], h["test_share"]) == (600, e["test"]["share"])
    assert (h["brier"], h["ece"]) == (e["calibration"]["after"]["brier"], e["calibration"]["after"]["ece"])


def test_lines_of_churn_show_every_baseline_with_its_interval() -> None:
    e = churned()
    assert e["kind"] == "churn"
    title, _, *rows, calibration = lines(e)
    assert title.startswith("600 examples at 2 as-ofs from 1970-01-31 to 1970-02-10, ")
    for row, model in zip(rows, e["models"], strict=True):
        assert row.split("  ")[1] == model["name"]
        assert f"{model['auc']:.4f} ({model['auc_low']:.4f} to {model['auc_high']:.4f})" in row
    gap = e["models"][3]["minus_network"]
    assert gap is not None
    assert rows[3].endswith(f"{gap['auc']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})")
    assert calibration.startswith("  calibration (platt): expected error 0.")
    assert max(map(len, lines(e))) <= 120


def test_a_path_foreseen() -> None:
    e = forecast(0.002)
    assert e["kind"] == "path"
    assert (e["test"]["share"], e["test"]["entities"], len(e["by_as_of"])) == (None, 480, 26)
    network, naive = e["models"][:2]
    assert (network["name"], naive["name"], naive["skill"]) == ("network", "naive last value", 0)
    assert network["skill"] == pytest.approx(0.2, abs=0.02)
    assert e["models"][2]["by_step"][2]["error"] < network["by_step"][2]["error"]  # drift knows it all
    assert [c["nominal"] for c in e["coverage"]] == [0.8] * 3
    h = headline(e)
    assert h["skill"] == network["skill"]
    for k in (1, 2, 3):
        step = network["by_step"][k - 1]
        assert h[f"skill_step_{k}"] == step["skill"]
        assert (h[f"skill_low_step_{k}"], h[f"skill_high_step_{k}"]) == (step["low"], step["high"])
        assert (h[f"error_step_{k}"], h[f"error_naive_step_{k}"]) == (step["error"], naive["by_step"][k - 1]["error"])


def test_lines_of_a_path_show_every_step_and_doubt_a_large_skill() -> None:
    e = forecast(0.002)
    assert e["kind"] == "path"
    shown = lines(e)
    assert shown[1].split()[:6] == ["step", "network", "naive", "drift", "seasonal", "LightGBM"]
    for k in (1, 2, 3):
        step = e["models"][0]["by_step"][k - 1]
        assert shown[1 + k].split()[:2] == [str(k), f"{step['error']:.3f}"]
        assert step["low"] is not None
        assert f"({100 * step['low']:+.2f} % to " in shown[1 + k]
    assert "is a leak until shown otherwise" in shown[-1]
    assert max(map(len, shown)) <= 120


def test_lines_of_a_modest_path_without_intervals() -> None:
    e = forecast(0.0001, 3)
    assert e["kind"] == "path"
    assert not any(k.startswith("skill_low") for k in headline(e))
    assert lines(e)[-1].startswith("  no intervals: ")


def test_nothing_to_judge_by() -> None:
    x = np.ones((4, 12, 2), np.float32)
    data, rows = in_memory(x, np.ones((4, 1), np.float32)), np.arange(4)
    with pytest.raises(UserError, match="every one of the 4 test entities churned"):
        evaluate(churn_task(), data, Splits(rows, rows, rows), lambda x: x[:, -1, :1])
