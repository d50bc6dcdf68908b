"""An exported version is whole, named after what it is, and never half there or changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.models.export import Origin, export
from pipelines.models.predictor import Predictor
from pipelines.models.saved.manifest import check, load_manifest
from tests.support.toy_models import DAY, tensor, toy_predictor

ORIGIN = Origin((10 * DAY, 20 * DAY), (30 * DAY,), (40 * DAY, 41 * DAY), {"auc": 0.75}, 50 * DAY)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return toy_predictor(members=2)


def test_writes_all_of_a_version(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events").write_text("log")
    made = export(predictor, ORIGIN, tmp_path / "toy", {"logs": tmp_path / "logs", "report.html": "<p>good"})
    folder = tmp_path / "toy" / made.version
    assert load_manifest(folder) == made
    check(made, predictor.task)
    assert made.task_digest == predictor.task.digest
    assert made.version.startswith("19700121-")
    assert (made.train, made.test, made.metrics) == (ORIGIN.train, ORIGIN.test, {"auc": 0.75})
    assert made.model["members"] == 2
    assert "tensorflow-transform" in made.libraries
    assert sorted(p.name for p in folder.iterdir()) == [
        "logs",
        "manifest.json",
        "report.html",
        "saved_model",
        "task.json",
    ]
    assert (folder / "logs" / "events").read_text() == "log"
    assert [p.name for p in (tmp_path / "toy").iterdir()] == [made.version]


def test_what_is_served_is_what_was_trained(predictor: Predictor, tmp_path: Path) -> None:
    """Bit for bit: the scores, and what preprocessing gives the networks."""
    version = export(predictor, ORIGIN, tmp_path, {}).version
    loaded, x = tf.saved_model.load(str(tmp_path / version / "saved_model")), tf.constant(tensor(16))
    assert np.array_equal(loaded.signatures["serving_default"](sequence=x)["scores"], predictor.score(np.asarray(x)))
    seen = loaded.preprocess(x)
    for name, value in predictor.transform(x).items():
        assert np.array_equal(seen[name], value)


def test_the_version_is_that_of_weights_and_tests(predictor: Predictor, tmp_path: Path) -> None:
    first = export(predictor, ORIGIN, tmp_path, {"report.html": "old"}).version
    assert export(predictor, replace(ORIGIN, created=60 * DAY), tmp_path, {"report.html": "new"}).version == first
    assert (tmp_path / first / "report.html").read_text() == "old"
    assert export(predictor, replace(ORIGIN, test=(40 * DAY,)), tmp_path, {}).version != first
    other = toy_predictor(members=2)
    other.members[1].layers[-1].bias.assign_add(np.array([1], np.float32))
    assert export(other, ORIGIN, tmp_path, {}).version != first


def test_a_failure_leaves_nothing(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.models.export.tf.saved_model.save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(predictor, ORIGIN, tmp_path, {})
    assert list(tmp_path.iterdir()) == []
