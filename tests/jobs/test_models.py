"""Tables of models, and what two models differ in, word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.jobs.models import compare, table
from pipelines.models.registry import models, promote
from tests.support.weightless_models import DAY, TASK, A, B, C, network, put

STEPS = {"error_step_1": 1.5, "error_step_14": 4.25, "error_naive_step_14": 4.5, "skill": 0.0321}


def test_marks_what_serves_newest_first(tmp_path: Path) -> None:
    put(tmp_path, A, created=50 * DAY + 3_725_000_001)
    put(tmp_path, B, created=60 * DAY, test=(40 * DAY, 54 * DAY), model=network(units=(16, 8), members=3))
    (tmp_path / TASK / "junk").mkdir()
    promote(tmp_path / TASK, A)
    assert table(models(tmp_path)).splitlines() == [
        f"toy: 2 version(s), {A} serves",
        "        version            created           trained to  test                    AUC                      "
        "LightGBM  network",
        f"        {B}  1970-03-02        1970-01-21  1970-02-10..1970-02-24  0.7500 [0.7000, 0.8000]  "
        "0.7400    mlp 16-8, 3 members",
        f"serves  {A}  1970-02-20 01:02  1970-01-21  1970-02-10              0.7500 [0.7000, 0.8000]  0.7400    mlp 8",
        f"  not usable: {tmp_path}/toy/junk is no model: it has no manifest.json. Make one with foretide train",
    ]


def test_shows_the_last_step_of_a_path(tmp_path: Path) -> None:
    put(tmp_path, label="path", metrics=STEPS)
    assert table(models(tmp_path)).splitlines() == [
        "toy: 1 version(s), none serves; foretide models promote VERSION",
        "  version            created     trained to  test        error at step 14  naive   skill    network",
        f"  {A}  1970-02-20  1970-01-21  1970-02-10  4.2500            4.5000  +3.21 %  mlp 8",
    ]


def test_a_metric_that_a_model_lacks_is_left_empty(tmp_path: Path) -> None:
    put(tmp_path, metrics={"auc": 0.5})
    assert table(models(tmp_path)).splitlines()[-1].endswith("0.5000            mlp 8")


def test_what_a_manifest_says_stays_in_its_cell(tmp_path: Path) -> None:
    put(tmp_path, model={**network(), "network": "mlp\nserves  x\x1b[2J"})
    told = table(models(tmp_path))
    assert len(told.splitlines()) == 2
    assert "\x1b" not in told


def test_compares(tmp_path: Path) -> None:
    a = put(tmp_path, A)
    b = put(
        tmp_path,
        B,
        step=7 * DAY,
        features=("count()", "max(amount)"),
        test=(47 * DAY,),
        model=network(units=(16, 8), dropout=0.25),
        metrics={"auc": 0.7731, "auc_low": 0.69, "brier": 0.125, "test_entities": 1200.0},
    )
    *lines, note = compare(a, b).splitlines()
    assert lines == [
        f"                 {A}  {B}",
        "task",
        "  step           1d                 1w",
        "  features       sum(amount)",
        "                 last(price)",
        "                                    max(amount)",
        "data",
        "  test           1970-02-10 (1)     1970-02-17 (1)",
        "model",
        "  units          8                  16, 8",
        "  dropout        0.5                0.25",
        "libraries",
        "  no difference",
        "metrics                                                difference",
        "  auc            0.7500             0.7731             +0.0231",
        "  auc_low        0.7000             0.6900             -0.0100",
        "  auc_high       0.8000             -",
        "  auc_lightgbm   0.7400             -",
        "  test_entities  1,016              1,200              +184",
        "  brier          -                  0.1250",
    ]
    assert note.startswith("They were tested on other entities")


def test_compares_task_files(tmp_path: Path) -> None:
    a, b = put(tmp_path, A), put(tmp_path, B)
    count, last = {"agg": "count", "field": None}, {"agg": "last", "field": "price"}
    say(a, label={"kind": "churn", "horizon": DAY}, events={"where": {}}, features=[count, last], description="one")
    say(b, label={"kind": "churn", "horizon": 7 * DAY}, events={"where": {"kind": "buy"}}, features=[count], model={})
    assert compare(a, b).splitlines()[1:6] == [
        "task",
        "  label.horizon      1d                    1w",
        "  features           agg=last field=price",
        "  events.where.kind  -                     buy",
        "data",
    ]


def say(folder: Path, **task: object) -> None:
    (folder / "task.json").write_text(json.dumps(task))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_without_task_files_manifests_are_compared(content: str | None, tmp_path: Path) -> None:
    a, b = put(tmp_path, A), put(tmp_path, B, steps=24)
    say(a, steps=12)
    if content is not None:
        (b / "task.json").write_text(content)
    assert compare(a, b).splitlines()[2] == "  steps          12                 24"


def test_warns_of_metrics_from_other_tests(tmp_path: Path) -> None:
    a, same = put(tmp_path, A), put(tmp_path, B)
    note = "They were tested on other entities or at other as-ofs: the metrics do not compare directly."
    assert note not in compare(a, same)
    assert compare(a, put(tmp_path, C, test=(41 * DAY,))).endswith(note)


def test_the_order_of_features_is_a_difference(tmp_path: Path) -> None:
    a, b = put(tmp_path, A), put(tmp_path, B, features=("last(price)", "sum(amount)", "count()"))
    assert "  features       in another order" in compare(a, b)


def test_metrics_of_any_name_and_what_commands_a_terminal(tmp_path: Path) -> None:
    metrics = {"error_step_x": 1.0, "error_step_": 1.0, "auc_low": 0.1, "\x1b[31mred": 2.0, "auc": float("nan")}
    path = put(tmp_path, A, label="path", metrics=metrics, outputs=("a\x1b]0;title\x07",))
    churn = put(tmp_path, B, metrics=metrics)
    told = table(models(tmp_path)) + compare(path, churn)
    assert "\x1b" not in told
    assert "\\x1b[31mred" in told
    assert "a\\x1b]0;title\\x07" in told
