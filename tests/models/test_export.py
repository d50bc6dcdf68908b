"""An exported model is whole, of a version of its own, and never half there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.models.export import Origin, export
from pipelines.models.manifest import check, load_manifest
from pipelines.models.network import build
from tests.toy import DAY, export_toy, task

ORIGIN = Origin((10 * DAY, 20 * DAY), 30 * DAY, 40 * DAY, {"auc": 0.75}, 50 * DAY)


def test_writes_a_manifest_that_fits(tmp_path: Path) -> None:
    spec = export_toy(tmp_path / "deep" / "toy")
    manifest = load_manifest(tmp_path / "deep" / "toy")
    check(manifest, spec)
    assert manifest.task_digest == spec.digest
    assert manifest.version.startswith("19700121-")
    assert (manifest.train, manifest.metrics, manifest.created) == (ORIGIN.train, {"auc": 0.75}, 50 * DAY)
    assert "tensorflow" in manifest.libraries
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["toy", "toy.weights.h5"]


def test_the_version_is_that_of_the_weights(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = build(task())
    first = export(model, task(), ORIGIN, tmp_path / "a").version
    assert export(model, task(), replace(ORIGIN, created=60 * DAY), tmp_path / "a").version == first
    model.layers[-1].bias.assign_add(np.array([1, 0], np.float32))
    assert export(model, task(), ORIGIN, tmp_path / "a").version != first
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(task())
    old = export(model, task(), ORIGIN, tmp_path / "a")
    monkeypatch.setattr("pipelines.models.export.tf.saved_model.save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(model, task(), replace(ORIGIN, created=0), tmp_path / "a")
    assert load_manifest(tmp_path / "a") == old
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_never_replaces_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is there and is no model"):
        export(build(task()), task(), ORIGIN, tmp_path)
