"""The store's bookkeeping: what makes two sets of examples the same, what is missing, and what fits together."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from pipelines.ledger.counts import Ledger
from pipelines.models.example_store import (
    FILE,
    InputFile,
    Layer,
    Rectangle,
    adding,
    choose,
    feature_id,
    key,
    missing,
    read_layers,
    sub_task,
    there,
    uses,
    write_layer,
)
from pipelines.task.spec import Task
from tests.support import toy_models

FILES = (InputFile("a", 10, 1.0), InputFile("b", 20, 2.0))
BAD = Ledger(read=5, rejected=2, reasons=(("amount is not a number", 2),))


def changed(**more: object) -> Task:
    """The toy task with other sections."""
    parts: dict[str, Any] = {
        "task": "toy",
        "events": {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"},
        "sequence": {"step": "1d", "steps": toy_models.STEPS, "features": toy_models.FEATURES},
        "score": {"every": "1d"},
        "label": toy_models.CHURN,
    }
    return Task.model_validate({**parts, **more}, strict=False)


def with_features(*features: Mapping[str, object], steps: int = toy_models.STEPS) -> dict[str, object]:
    return {"sequence": {"step": "1d", "steps": steps, "features": features}}


def layer(name: str, as_ofs: Sequence[int], features: Sequence[int], ledger: Ledger | None = None) -> Layer:
    """A layer of the toy task."""
    task = changed()
    ids = tuple(feature_id(task.features[i]) for i in features)
    columns = dict(sub_task(task, features).columns)
    return Layer(Path(name), tuple(as_ofs), ids, columns, (3,) * len(as_ofs), ledger or Ledger())


PATHS: dict[str, object] = {"label": toy_models.PATH}
SHOP = {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"}
LEVEL = {"agg": "last", "field": "price", "scale": "relative"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"events": {**SHOP, "identity": ("id",)}}),
        ({}, {"events": {**SHOP, "where": {"kind": "x"}}}),
        ({}, {"label": {**toy_models.CHURN, "horizon": "8d"}}),
        ({}, {"label": {**toy_models.CHURN, "active_within": "8d"}}),
        ({}, PATHS),
        (PATHS, {"label": {**toy_models.PATH, "steps": 4}}),
        ({**PATHS, **with_features(LEVEL)}, {**PATHS, **with_features({**LEVEL, "fill": "forward"})}),
        ({}, with_features(*toy_models.FEATURES, steps=13)),
    ],
)
def test_what_decides_the_rows_and_labels_changes_the_key(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert key(changed(**before), None, FILES) != key(changed(**after), None, FILES)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"description": "x"}),
        ({}, {"score": {"every": "2d"}}),
        ({}, {"model": {"seed": 8}}),
        ({}, {"events": {**SHOP, "categories": {"kind": ("a",)}}}),
        ({}, with_features({"agg": "recency"})),
        (PATHS, {"label": {**toy_models.PATH, "quantiles": (0.25,)}}),
    ],
)
def test_what_decides_neither_does_not(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert key(changed(**before), None, FILES) == key(changed(**after), None, FILES)


def test_the_input_is_a_part_of_the_key() -> None:
    first, second = FILES
    same = key(changed(), None, FILES)
    assert key(changed(), None, (second, first)) == same
    others = [(first,), (first, second._replace(size=21)), (first, second._replace(modified=3.0))]
    keys = {same, key(changed(), "csv", FILES), *(key(changed(), None, files) for files in others)}
    assert len(keys) == 5


def test_a_feature_is_another_when_its_values_can_be() -> None:
    kinds = {"events": {**SHOP, "categories": {"kind": ("a", "b")}}}

    def of(**spec: object) -> list[str]:
        return [feature_id(f) for f in changed(**kinds, **with_features(spec)).features]

    last: dict[str, object] = {"agg": "last", "field": "page"}
    assert of(**last, scale="none") == of(**last)
    assert of(**last, vocabulary=5) == of(**last, vocabulary=6)
    assert of(agg="recency", fill="forward") == of(agg="recency")
    assert of(agg="count", by="kind")[1:] == of(agg="count", by="kind", values=("b",))
    distinct = [of(**last), of(**last, fill="forward"), of(**last, vocabulary=5), of(agg="first", field="page")]
    assert len({f for ids in [*distinct, of(agg="count", by="kind")] for f in ids}) == 6


def test_a_sub_task_keeps_the_level_of_a_path() -> None:
    assert [f.name for f in sub_task(changed(), [3, 0]).features] == ["count()", "mean(amount)"]
    path = sub_task(changed(**PATHS), [3])
    assert [f.name for f in path.features] == ["last(price)", "mean(amount)"]
    assert path.features[0] == changed(**PATHS).features[2]
    assert path.columns == {"at": "epoch", "user": "text", "price": "number", "amount": "number"}
    assert sub_task(changed(), [0]).columns == {"at": "epoch", "user": "text"}


def test_what_is_missing_is_computed_in_few_rectangles() -> None:
    task, held = changed(), [layer("a", (1, 2), (0, 1, 2, 3)), layer("b", (3,), (0, 2))]
    assert missing(task, (1, 2, 3, 4, 5), held) == (Rectangle((3,), (1, 3)), Rectangle((4, 5), (0, 1, 2, 3)))
    assert there(task, (1, 2, 3, 4, 5), held) == (Rectangle((1, 2), (0, 1, 2, 3)), Rectangle((3,), (0, 2)))
    assert missing(task, (1, 2), held) == ()
    assert missing(task, (1, 2), []) == (Rectangle((1, 2), (0, 1, 2, 3)),)


def test_features_are_read_from_few_layers() -> None:
    held = [layer("a", (1, 2), (0, 1)), layer("b", (1, 2, 3), (3, 2, 1)), layer("c", (3,), (0,))]
    found = {(use.folder.name, use.as_ofs): (use.width, use.columns) for use in uses(changed(), (1, 2, 3), held)}
    assert found == {
        ("b", (1, 2, 3)): (3, ((0, 3), (1, 2), (2, 1))),
        ("a", (1, 2)): (2, ((0, 0),)),
        ("c", (3,)): (1, ((0, 0),)),
    }


def test_layers_that_refused_other_rows_are_not_joined() -> None:
    clean, bad = layer("clean", (1, 2), (0, 2)), layer("bad", (1,), (0, 1, 2, 3), BAD)
    assert choose(changed(), (1,), [clean, bad]) == [bad]
    assert choose(changed(), (2,), [clean, bad]) == [clean]
    worse = replace(bad, folder=Path("worse"), as_ofs=(2,), ledger=replace(BAD, reasons=(("amount is infinite", 2),)))
    assert choose(changed(), (2,), [bad, worse]) == [worse]


def test_a_layer_that_refused_rows_for_a_field_the_task_does_not_read_is_of_no_use() -> None:
    count = changed(**with_features({"agg": "count"}))
    assert choose(count, (1,), [layer("all", (1,), (0, 1, 2, 3))]) == [layer("all", (1,), (0, 1, 2, 3))]
    assert choose(count, (1,), [layer("all", (1,), (0, 1, 2, 3), BAD)]) == []


def test_a_layer_survives_its_file(tmp_path: Path) -> None:
    made = replace(layer("x", (1, 2), (0, 1), BAD), folder=tmp_path / "layer-1")
    made.folder.mkdir()
    write_layer(made)
    (tmp_path / ".layer-2.partial").mkdir()
    (tmp_path / ".layer-2.partial" / FILE).write_text("{")
    assert read_layers(tmp_path) == [made]
    assert read_layers(tmp_path / "none") == []


def test_one_adds_at_a_time_and_removes_what_the_dead_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with adding(tmp_path):
            order.append("second")

    (tmp_path / ".layer-dead.partial").mkdir()
    with adding(tmp_path):
        assert not (tmp_path / ".layer-dead.partial").exists()
        (tmp_path / ".layer-mine.partial").mkdir()
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert (tmp_path / ".layer-mine.partial").is_dir()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "waiting for another process" in capsys.readouterr().err


def test_a_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write to .*file/x: .*name another folder"),
        adding(tmp_path / "file" / "x"),
    ):
        pass
