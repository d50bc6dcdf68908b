"""Whole trainings through the command line: repeatable, honest about time, clear when there is nothing to learn."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.examples import example_files, read_summary
from pipelines.models.examples import load_examples
from pipelines.models.manifest import Manifest, load_manifest
from pipelines.task import parse_time
from pipelines.taskfile import load_task
from tests import small

TEST = "2024-05-06"
PRICES = """\
task: small_prices
events:
  entity: coin
  time: {field: date, unit: iso}
  identity: [date]
sequence:
  step: 1d
  steps: 20
  features:
    - {agg: last, field: close, fill: forward, scale: relative}
score:
  every: 1d
label: {kind: path, field: close, steps: 3}
model: {units: 4, epochs: 1, batch_size: 32}
"""


def foretide(*arguments: str, expect: int = Exit.OK) -> str:
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        code = main(arguments)
    assert code == expect, told.getvalue()
    return told.getvalue()


def train(shop: Path, out: str, *more: str, expect: int = Exit.OK, test: str = TEST) -> str:
    flags = ["--task", str(shop / "small_shop.yaml"), "--input", str(shop / "events"), "--output", str(shop / out)]
    every = ["--train-as-ofs", "4", "--train-every", "7d", "--epochs", "1"]
    return foretide("train", *flags, "--test-as-of", test, *every, *more, expect=expect)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    small.write(folder)
    (folder / "told").write_text(train(folder, "model"))
    return folder


def weights(model: Path) -> dict[str, bytes]:
    """Of all tensors; the graph beside them holds names that count up within a process."""
    import tensorflow as tf

    saved = tf.train.load_checkpoint(str(model / "saved_model" / "variables" / "variables"))
    names = [name for name in saved.get_variable_to_shape_map() if not name.startswith("_")]
    return {name: saved.get_tensor(name).tobytes() for name in names}


def manifest(shop: Path, out: str) -> Manifest:
    return load_manifest(shop / out)


def test_the_seed_decides_the_model(shop: Path) -> None:
    train(shop, "same")
    train(shop, "other", "--seed", "8")
    assert manifest(shop, "same").version == manifest(shop, "model").version
    same, other = weights(shop / "same"), weights(shop / "other")
    assert same == weights(shop / "model")
    assert len(same) > 10
    assert set(other) == set(same)
    assert other != same
    assert manifest(shop, "other").version != manifest(shop, "model").version
    assert manifest(shop, "other").seed == 8


def test_the_manifest_says_what_the_model_is(shop: Path) -> None:
    made = manifest(shop, "model")
    last = parse_time(TEST) - 28 * small.DAY * 1_000_000
    assert (made.test, made.validation) == (parse_time(TEST), parse_time("2024-04-22"))
    assert made.train == tuple(last - i * 7 * small.DAY * 1_000_000 for i in (3, 2, 1, 0))
    assert made.features == ("count()[kind=view]", "count()[kind=buy]", "sum(price)")
    assert made.outputs == ("churn",)
    assert 0 <= made.metrics["auc_low"] <= made.metrics["auc"] <= made.metrics["auc_high"] <= 1
    assert 0 < made.metrics["test_share"] < 1
    assert made.version.startswith("20240408-")


def test_labels_end_before_the_next_judge_begins(shop: Path) -> None:
    made, task = manifest(shop, "model"), load_task(str(shop / "small_shop.yaml"))
    assert max(made.train) + task.horizon <= made.validation
    assert made.validation + task.horizon <= made.test
    data = load_examples(task, example_files(str(shop / "model.examples")))
    assert set(data.as_of.tolist()) == {*made.train, made.validation, made.test}
    assert read_summary(shop / "model.examples").examples == len(data)
    assert made.metrics["test_entities"] == len(data.at(made.test))
    assert (data.last_event_time < data.as_of).all()


def test_the_epochs_asked_for_are_run(shop: Path) -> None:
    text = (shop / "told").read_text()
    assert "epoch 1/1: loss" in text
    assert text.count("epoch ") == 1
    assert "AUC       0." in text


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ("2030-01-07", "there are no examples for task small_shop"),
        ("2024-05-27", "test entities churned, so there is nothing to tell apart"),
        ("2024-06-17", "has no test examples: choose as-ofs that the input's events cover"),
        ("2024-02-19", "training entities stayed, so there is nothing to tell apart"),
    ],
)
def test_nothing_to_learn_from_is_told_and_nothing_is_trained(shop: Path, test: str, told: str) -> None:
    text = train(shop, f"none-{test}", "--train-as-ofs", "1", test=test, expect=Exit.USAGE)
    assert told in text
    assert "epoch 1/" not in text
    assert not (shop / f"none-{test}").exists()


def test_a_folder_with_something_else_is_refused_before_any_work(shop: Path) -> None:
    (shop / "mine").mkdir()
    (shop / "mine" / "photo").write_text("dear")
    assert "is there and is no model" in train(shop, "mine", expect=Exit.USAGE)
    assert not (shop / "mine.examples").exists()


def prices(coins: int = 12, days: int = 90) -> pa.Table:
    """Daily closes: random walks of very different levels."""
    random = np.random.default_rng(4)
    level = 10.0 ** np.linspace(-3, 4, coins)
    walk = level[:, None] * np.exp(np.cumsum(random.normal(0, 0.02, (coins, days)), axis=1))
    start = np.datetime64("2024-01-01")
    return pa.table(
        {
            "coin": np.repeat([f"c{i:02d}" for i in range(coins)], days),
            "date": pa.array(np.tile(start + np.arange(days), coins)),
            "close": walk.ravel(),
        }
    )


def test_a_path_of_prices_from_events_to_scores(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    table = prices()
    pq.write_table(table, tmp_path / "prices.parquet")
    flags = ["--task", str(tmp_path / "prices.yaml"), "--input", str(tmp_path / "prices.parquet")]
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    text = foretide("train", *flags, "--test-as-of", "2024-03-20", "--train-as-ofs", "5", "--output", model)
    assert "mean absolute error of the level in %" in text
    metrics = load_manifest(model).metrics
    assert {"error_step_1", "error_step_3", "error_naive_step_1", "error_naive_step_3"} <= set(metrics)
    foretide("score", *flags, "--as-of", "2024-03-20", "--model", model, "--output", out)
    answer = foretide("query", "--output", out, "--format", "json", "SELECT * FROM scores ORDER BY entity_id")
    scores = [json.loads(line) for line in answer.splitlines()]
    dates = table["date"].to_numpy()
    last = dict(
        zip(
            table["coin"].to_numpy()[dates == np.datetime64("2024-03-19")].tolist(),
            table["close"].to_numpy()[dates == np.datetime64("2024-03-19")].tolist(),
            strict=True,
        )
    )
    assert [s["entity_id"] for s in scores] == sorted(last)
    assert [k for k in scores[0] if k.startswith("step_")] == ["step_1", "step_2", "step_3"]
    for s in scores:
        path = np.array([s[f"step_{i}"] for i in (1, 2, 3)])
        assert np.isfinite(path).all()
        assert (np.abs(np.log(path / last[s["entity_id"]])) < 0.5).all()
