"""The specification of a task: durations and times, what is derived, and what does not go together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.task.fields import LONGEST, UNITS, format_duration, format_time, parse_duration, parse_time
from pipelines.task.spec import Task

DAY = UNITS["d"]
FIELDS: dict[str, Any] = {
    "task": "shop",
    "events": {
        "entity": "user",
        "time": {"field": "ts", "unit": "s"},
        "identity": ["event_id", "amount"],
        "where": {"bot": False},
        "categories": {"type": ["a", "b"], "unused": ["x"]},
    },
    "sequence": {
        "step": "1d",
        "steps": 30,
        "origin": "2024-01-01T06:00",
        "features": [
            {"agg": "count"},
            {"agg": "mean", "field": "price", "by": "type", "values": ["b"]},
            {"agg": "sum", "field": "amount"},
            {"agg": "distinct", "field": "item", "by": "type"},
        ],
    },
    "score": {"every": "2d"},
    "label": {"kind": "churn", "horizon": "1w", "active_within": "7d"},
}


def build(**sections: object) -> Task:
    return Task.model_validate_json(json.dumps(FIELDS | sections))


def why(**sections: object) -> str:
    with pytest.raises(ValidationError) as e:
        build(**sections)
    return str(e.value)


@pytest.mark.parametrize(
    ("text", "micros"),
    [("0s", 0), ("5ms", 5_000), ("90s", 90_000_000), ("12h", DAY // 2), ("7d", 7 * DAY), ("1w", 7 * DAY)],
)
def test_durations(text: str, micros: int) -> None:
    assert parse_duration(text) == micros


@pytest.mark.parametrize(
    "bad", ["", "7", "d", "7 d", "-7d", "1.5h", "7D", "7d\n", "\u0667d", "7y", 7, None, True, "9" * 30 + "d"]
)
def test_what_is_no_duration(bad: object) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        parse_duration(bad)


@given(st.integers(0, LONGEST // 1000))
def test_a_duration_survives_its_text(millis: int) -> None:
    assert parse_duration(format_duration(millis * 1000)) == millis * 1000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01", 0),
        ("2024-01-01", 1_704_067_200_000_000),
        ("2024-01-01T02:00+02:00", 1_704_067_200_000_000),
        ("2024-01-01T00:00:00.000001Z", 1_704_067_200_000_001),
        ("1969-12-31T23:59:59", -1_000_000),
    ],
)
def test_times(text: str, micros: int) -> None:
    assert parse_time(text) == micros
    assert parse_time(format_time(micros)) == micros


@pytest.mark.parametrize("bad", ["", "today", "2024-13-01", 0, None, "2024-01-01\n"])
def test_what_is_no_time(bad: object) -> None:
    with pytest.raises(ValueError, match="a time is"):
        parse_time(bad)


def test_features_in_order_one_for_each_value() -> None:
    names = [f.name for f in build().features]
    expected = ["count()", "mean(price)[type=b]", "sum(amount)", "distinct(item)[type=a]", "distinct(item)[type=b]"]
    assert names == expected


def test_fields_by_use() -> None:
    task = build()
    assert (task.numeric, task.categorical, task.hashed) == (("price", "amount"), ("type",), ("item",))
    assert task.columns == {
        **dict.fromkeys(["price"], "number"),
        **dict.fromkeys(["amount", "user", "event_id", "bot", "type", "item"], "text"),
        "ts": "epoch",
    }


def test_a_text_time_is_read_as_text() -> None:
    events = FIELDS["events"] | {
        "time": {"field": "ts", "format": "%d/%m/%Y"},
        "arrival": {"field": "in", "unit": "ms"},
    }
    columns = build(events=events).columns
    assert (columns["ts"], columns["in"]) == ("text", "epoch")


def test_spans_and_boundaries() -> None:
    task = build()
    assert (task.history, task.horizon, task.outputs) == (30 * DAY, 7 * DAY, ("churn",))
    assert task.label.terms == (7 * DAY, 7 * DAY)
    start = parse_time("2024-01-01T06:00")
    assert task.boundary(start)
    assert task.boundary(start - 400 * DAY)
    assert not task.boundary(start + 1)


def test_a_path_label() -> None:
    level = {"agg": "last", "field": "close", "fill": "forward", "scale": "relative"}
    sequence = FIELDS["sequence"] | {"features": [level]}
    task = build(sequence=sequence, label={"kind": "path", "field": "close", "steps": 3})
    assert (task.horizon, task.label.width, task.numeric) == (3 * DAY, 3, ("close",))
    assert task.label.terms == (None, None)
    bounds = ("step_1_p10", "step_1_p90", "step_2_p10", "step_2_p90", "step_3_p10", "step_3_p90")
    assert task.outputs == ("step_1", "step_2", "step_3", *bounds)
    odd = build(sequence=sequence, label={"kind": "path", "field": "close", "steps": 1, "quantiles": [0.025]})
    assert odd.outputs == ("step_1", "step_1_p2_5")
    for wrong in ([0.9, 0.1], [0.5], [0.1, 0.1]):
        label = {"kind": "path", "field": "close", "steps": 3, "quantiles": wrong}
        assert "quantiles: in ascending order, each once" in why(sequence=sequence, label=label)
    assert "label.field: add the feature {agg: last, field: price, fill: forward}" in why(
        sequence=sequence, label={"kind": "path", "field": "price", "steps": 3}
    )
    long = sequence | {"step": "520w", "steps": 1}
    far = {"label": {"kind": "path", "field": "close", "steps": 100}, "score": {"every": "520w"}}
    assert "label.steps: the horizon" in why(sequence=long, **far)


def test_features_of_text_and_time() -> None:
    text = {"agg": "last", "field": "shop", "vocabulary": 10}
    task = build(sequence=FIELDS["sequence"] | {"features": [{"agg": "count"}, {"agg": "recency"}, text]})
    assert [f.vocabulary for f in task.features] == [None, None, 10]
    assert (task.numeric, task.hashed) == ((), ("shop",))
    for wrong, says in (
        ({"agg": "recency", "field": "x"}, "recency takes no field"),
        ({"agg": "sum", "field": "x", "vocabulary": 3}, "vocabulary goes with first or last"),
    ):
        assert says in why(sequence=FIELDS["sequence"] | {"features": [{"agg": "count"}, wrong]})


def test_what_to_try() -> None:
    task = build(tune={"units": [[8], [16, 16]], "dropout": [0.1, 0.2]})
    assert [(t.units, t.dropout) for t in task.trials] == [((8,), 0.1), ((8,), 0.2), ((16, 16), 0.1), ((16, 16), 0.2)]
    assert task.digest == build().digest
    assert build().trials == (build().model,)
    assert "tune.width: not a key of model; there are network" in why(tune={"width": [1]})
    assert "tune.dropout: 2: Input should be less than 1" in why(tune={"dropout": [0.5, 2]})
    assert "tune.units: name at least one value" in why(tune={"units": []})


def test_another_model_is_another_task() -> None:
    task = build()
    other = task.with_model(task.model.with_values({"seed": 9}))
    assert (other.model.seed, task.model.seed) == (9, 7)
    assert other.digest != task.digest


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("score", {"every": "0d"}, "score.every: must be a multiple of sequence.step (1d)"),
        ("score", {"every": "36h"}, "score.every: must be a multiple of sequence.step (1d)"),
        ("score", {"allowed_lateness": "1d"}, "score.allowed_lateness: must be a multiple of score.every (2d)"),
        ("score", {"allowed_lateness": "2d"}, "score.allowed_lateness: lateness is judged by arrival"),
        ("label", {"horizon": "0d"}, "horizon: must be longer than nothing"),
        ("label", {"active_within": "0d"}, "active_within: must be longer than nothing"),
        ("label", {"active_within": "31d"}, "label.active_within: must fit in the history (step x steps, 30d)"),
        ("sequence", {"step": "0d"}, "step: must be longer than nothing"),
        ("sequence", {"step": "5w", "steps": 100_000}, "steps: the history (step x steps) must be at most 100 years"),
        ("events", {"identity": []}, "identity: name at least one field"),
        ("events", {"categories": {"type": []}}, "categories.type: list at least one value"),
        ("events", {"categories": {}}, "sequence.features.1: 'type' is not in events.categories, which is empty"),
    ],
)
def test_what_does_not_go_together(section: str, change: dict[str, object], says: str) -> None:
    assert says in why(**{section: FIELDS[section] | change})


def test_the_digest_is_of_everything_but_the_description() -> None:
    digest = build().digest
    assert len(digest) == 12
    assert build(description="other words").digest == digest
    assert build(model={"seed": 8}).digest != digest
    assert build(task="shop2").digest != digest
