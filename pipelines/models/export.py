"""From a trained model to a version in the registry: a SavedModel, its manifest, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.models.predictor import Predictor
from pipelines.models.saved.manifest import Manifest, signature
from pipelines.system.files import replacing
from pipelines.task.fields import format_time

LIBRARIES = ("tensorflow", "keras", "tensorflow-transform", "numpy", "apache-beam")


@dataclass(frozen=True)
class Origin:
    """Where a trained model comes from. Times are us since 1970 UTC."""

    train: tuple[int, ...]  # as-ofs
    validation: tuple[int, ...]
    test: tuple[int, ...]
    metrics: Mapping[str, float]
    created: int


def export(predictor: Predictor, origin: Origin, models: Path, beside: Mapping[str, Path | str]) -> Manifest:
    """Writes `<models>/<version>/` with saved_model, manifest.json, task.json and, under their names, what goes beside
    them: folders that are copied, or text. It appears whole.

    Raises:
      UserError: no folder can be made there.
    """
    manifest = manifest_of(predictor, origin)
    if (models / manifest.version).exists():  # made before, of the same: a version never changes
        return manifest
    task = json.dumps(predictor.task.model_dump(mode="json"), indent=2) + "\n"
    with replacing(models / manifest.version) as folder:
        save(predictor, folder / "saved_model")
        for name, what in {**beside, "task.json": task}.items():
            if isinstance(what, str):
                (folder / name).write_text(what, encoding="utf-8")
            else:
                shutil.copytree(what, folder / name)
        manifest.write(folder)
    return manifest


def save(predictor: Predictor, directory: Path) -> None:
    """Saves the SavedModel: `serving_default` takes `sequence` f4 (B, steps, features), raw, and gives `scores` f4 (B,
    outputs). A function `preprocess` gives what the networks see of it."""
    module = tf.Module()
    module.serve, module.preprocess, module.transform = predictor.serve, predictor.preprocess, predictor.transform
    module.weights = [w.value for m in predictor.members for w in m.weights]  # kept, and without the optimizer's
    tf.saved_model.save(module, str(directory), signatures={"serving_default": predictor.serve})


def version_of(predictor: Predictor, train: tuple[int, ...], test: tuple[int, ...]) -> str:
    """The last as-of it learnt from, and 8 hex digits of what its scores depend on and where it was tested, such as
    20150101-1a2b3c4d."""
    task = predictor.task
    seen = [(f.scale, f.vocabulary) for f in task.features]
    facts = sorted(signature(task).items()), seen, predictor.calibration, train, test
    digest = hashlib.sha256(repr(facts).encode())
    for weights in (w for member in predictor.members for w in member.get_weights()):
        digest.update(np.ascontiguousarray(weights).tobytes())
    return f"{format_time(max(train))[:10].replace('-', '')}-{digest.hexdigest()[:8]}"


def manifest_of(predictor: Predictor, origin: Origin) -> Manifest:
    """The manifest of a version."""
    task = predictor.task
    return Manifest(
        **signature(task),
        task_digest=task.digest,
        version=version_of(predictor, origin.train, origin.test),
        train=origin.train,
        validation=origin.validation,
        test=origin.test,
        model=task.model.model_dump(mode="json"),
        metrics=dict(origin.metrics),
        libraries={name: _version(name) for name in LIBRARIES},
        created=origin.created,
    )


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return "unknown"
