"""Whole trainings through the command line: repeatable, honest about time, clear when there is nothing to learn."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main, parser
from pipelines.commands.train import training
from pipelines.errors import Exit
from pipelines.jobs.config import TrainConfig
from pipelines.models import registry
from pipelines.models.saved.manifest import Manifest, load_manifest
from pipelines.task.fields import parse_time
from pipelines.task.file import load_task
from tests.support import small_shop

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
model: {network: lstm, units: [4, 4], epochs: 1, batch_size: 32}
"""


def foretide(*arguments: str, expect: int = Exit.OK) -> str:
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        code = main(arguments)
    assert code == expect, told.getvalue()
    return told.getvalue()


def train(shop: Path, models: str, *more: str, expect: int = Exit.OK, test: str = TEST) -> str:
    return foretide(*command(shop, models, *more, test=test), expect=expect)


def command(shop: Path, models: str, *more: str, test: str = TEST) -> tuple[str, ...]:
    flags = ["--task", str(shop / "small_shop.yaml"), "--input", str(shop / "events")]
    stores = ["--models", str(shop / models), "--examples", str(shop / "examples")]
    every = ["--train-as-ofs", "4", "--train-every", "7d", "--epochs", "2"]
    return ("train", *flags, *stores, "--test-as-of", test, *every, *more)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    small_shop.write(folder)
    (folder / "told").write_text(train(folder, "models"))
    return folder


@pytest.fixture(scope="module")
def told(shop: Path) -> str:
    """What a training with another seed says; the registry `two` then holds its version beside that of `models`."""
    shutil.copytree(shop / "models", shop / "two")
    return train(shop, "two", "--seed", "8")


def second(told: str) -> str:
    return next(line.split("/")[-1] for line in told.splitlines() if line.startswith("written"))


def serving(shop: Path, models: str) -> Path:
    return registry.resolve(shop / models / "small_shop")


def manifest(shop: Path, models: str) -> Manifest:
    return load_manifest(serving(shop, models))


def weights(model: Path) -> dict[str, bytes]:
    """Of all tensors; the graph beside them holds names that count up within a process."""
    import tensorflow as tf

    saved = tf.train.load_checkpoint(str(model / "saved_model" / "variables" / "variables"))
    names = [name for name in saved.get_variable_to_shape_map() if not name.startswith("_")]
    return {name: saved.get_tensor(name).tobytes() for name in names}


def test_the_seed_decides_the_model(shop: Path, told: str) -> None:
    assert "computed" not in train(shop, "same")
    assert manifest(shop, "same").version == manifest(shop, "models").version
    other_version = shop / "two" / "small_shop" / second(told)
    same, other = weights(serving(shop, "same")), weights(other_version)
    assert same == weights(serving(shop, "models"))
    assert len(same) == 4  # kernel and bias of two layers
    assert set(other) == set(same)
    assert other != same
    assert other_version.name != manifest(shop, "models").version
    assert load_manifest(other_version).model["seed"] == 8


def test_the_manifest_says_what_the_model_is(shop: Path) -> None:
    made = manifest(shop, "models")
    last = parse_time(TEST) - 28 * small_shop.DAY * 1_000_000
    assert (made.test, made.validation) == ((parse_time(TEST),), (parse_time("2024-04-22"),))
    assert made.train == tuple(last - i * 7 * small_shop.DAY * 1_000_000 for i in (3, 2, 1, 0))
    assert made.features == ("recency()", "count()[kind=view]", "count()[kind=buy]", "sum(price)")
    assert made.outputs == ("churn",)
    assert 0 <= made.metrics["auc_low"] <= made.metrics["auc"] <= made.metrics["auc_high"] <= 1
    assert 0 < made.metrics["test_share"] < 1
    assert made.version.startswith("20240408-")


def test_labels_end_before_the_next_judge_begins(shop: Path) -> None:
    task = load_task(str(shop / "small_shop.yaml"))
    for every in ("7d", "14d"):
        made = config(shop, every)
        assert max(made.train) + task.horizon <= min(made.validation)
        assert max(made.validation) + task.horizon <= min(made.test)
        assert len(made.validation) == 3
    assert manifest(shop, "models").train == config(shop, "7d", validation=1).train[-4:]


def config(shop: Path, every: str, validation: int = 3) -> TrainConfig:
    flags = ("--train-every", every, "--validation-as-ofs", str(validation))
    args, rest = parser().parse_known_args(command(shop, "models", *flags))
    return training(args, tuple(rest))


def test_a_version_holds_all_that_tells_of_it(shop: Path) -> None:
    folder = serving(shop, "models")
    inside = {p.name for p in folder.iterdir()}
    assert inside == {
        "manifest.json",
        "saved_model",
        "transform",
        "evaluation.json",
        "report.html",
        "task.json",
        "logs",
    }
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["models"][0]["name"] == "network"
    assert evaluation["models"][0]["auc"] == manifest(shop, "models").metrics["auc"]
    assert evaluation["version"] == folder.name
    assert "<html" in (folder / "report.html").read_text()
    assert sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) == [folder.name]  # no work is left


def test_the_network_stands_beside_the_baselines(shop: Path) -> None:
    text = (shop / "told").read_text()
    assert text.count("epoch 2/2: loss") == 1
    for name in ("network", "LightGBM on aggregates", "logistic regression", "recency alone"):
        assert name in text


def test_a_second_version_serves_when_it_is_asked_for(shop: Path, told: str) -> None:
    first, other = serving(shop, "two").name, second(told)
    assert first == serving(shop, "models").name
    assert f"serves {first}" in told
    where = ("--models", str(shop / "two"))
    listed = foretide("models", *where)
    assert first in listed
    assert other in listed
    assert "seed" in foretide("models", *where, "compare", first, other)
    foretide("models", "promote", *where, other)
    assert serving(shop, "two").name == other
    foretide("models", *where, "rollback", "small_shop")
    assert serving(shop, "two").name == first


def test_a_training_that_is_killed_goes_on(shop: Path) -> None:
    """`kill -9` once the first checkpoint is there; --resume then gives the model of an undisturbed training."""
    work = shop / "killed" / "small_shop"
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *command(shop, "killed")])
    while not list(work.glob(".training-*/member-0/checkpoint.npz")):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    told = train(shop, "killed", "--resume")
    assert "going on in epoch " in told
    assert manifest(shop, "killed").version == manifest(shop, "models").version


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


def test_a_missing_package_is_told_before_any_work(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.jobs.train.PACKAGES", ("plotly", "no_such_package"))
    text = train(shop, "bare", expect=Exit.USAGE)
    assert text == "foretide train: training is not installed: pip install foretide[train]\n"


def test_features_that_say_too_little_are_refused(shop: Path) -> None:
    text = small_shop.TASK.replace("    - {agg: count, by: kind}\n    - {agg: sum, field: price}\n", "")
    (shop / "little.yaml").write_text(text)
    flags = [f if f != str(shop / "small_shop.yaml") else str(shop / "little.yaml") for f in command(shop, "little")]
    assert "add a feature that counts or measures" in foretide(*flags, expect=Exit.USAGE)


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
    models, out = str(tmp_path / "models"), str(tmp_path / "out")
    stores = ["--models", models, "--examples", str(tmp_path / "examples")]
    origins = ["--test-as-of", "2024-03-02..2024-03-20", "--test-every", "3d"]
    text = foretide("train", *flags, *stores, *origins, "--train-as-ofs", "5")
    model = f"{models}/small_prices"
    assert "mean error of the log return in %" in text
    metrics = load_manifest(registry.resolve(model)).metrics
    assert {"error_step_1", "error_step_3", "error_naive_step_1", "skill_step_3", "coverage"} <= set(metrics)
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
    bounds = [f"step_{k}_{q}" for k in (1, 2, 3) for q in ("p10", "p90")]
    assert [k for k in scores[0] if k.startswith("step_")] == ["step_1", "step_2", "step_3", *bounds]
    for s in scores:
        path = np.array([s[f"step_{i}"] for i in (1, 2, 3)])
        assert np.isfinite(path).all()
        assert (np.abs(np.log(path / last[s["entity_id"]])) < 0.5).all()
        assert all(s[f"step_{k}_p10"] < s[f"step_{k}"] < s[f"step_{k}_p90"] for k in (1, 2, 3))
    sql = "SELECT * FROM scores_forecasts ORDER BY entity_id, step"
    rows = foretide("query", "--output", out, "--format", "json", sql)
    first = json.loads(rows.splitlines()[0])
    assert (first["entity_id"], first["step"], first["p50"]) == ("c00", 1, scores[0]["step_1"])
