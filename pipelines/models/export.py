"""From a trained network to a folder that engines load: a SavedModel and its manifest, put in place in one move."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipelines.folders import replaceable, replacing
from pipelines.models.gru import gru
from pipelines.models.manifest import FILE, Manifest, signature
from pipelines.models.network import scores
from pipelines.task import Task, format_time

LIBRARIES = ("tensorflow", "keras", "numpy", "apache-beam")


@dataclass(frozen=True)
class Origin:
    """Where a trained model comes from. Times are us since 1970 UTC."""

    train: tuple[int, ...]  # as-ofs
    validation: int
    test: int
    metrics: Mapping[str, float]
    created: int


def export(model: keras.Model, task: Task, origin: Origin, directory: Path | str) -> Manifest:
    """Writes `<directory>/saved_model` and `<directory>/manifest.json`. An older model there is replaced.

    Raises:
      UserError: the folder is there, and holds something else.
    """
    manifest = _manifest(model, task, origin)
    module = tf.Module()
    module.serve = serving(model, task)
    module.weights = [w.value for w in model.weights]  # kept, and without the optimizer's
    with replacing(replaceable(directory, FILE, "model")) as folder:
        tf.saved_model.save(module, str(folder / "saved_model"), signatures={"serving_default": module.serve})
        manifest.write(folder)
    return manifest


def serving(model: keras.Model, task: Task) -> tf.types.experimental.PolymorphicFunction:
    """sequence f4 (B, steps, features) -> {"scores": f4 (B, outputs)}, with the faster form of the recurrent layers."""
    shape = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="sequence")

    @tf.function(input_signature=[shape])
    def serve(sequence: tf.Tensor) -> dict[str, tf.Tensor]:
        x = sequence
        for layer in model.layers[1:]:  # after the input, a chain
            x = gru(layer, x) if isinstance(layer, keras.layers.GRU) else layer(x, training=False)
        return {"scores": scores(task, sequence, x)}

    return serve


def _manifest(model: keras.Model, task: Task, origin: Origin) -> Manifest:
    last = format_time(max(origin.train))[:10].replace("-", "")
    return Manifest(
        **signature(task),
        task_digest=task.digest,
        version=f"{last}-{_digest(model, task)}",
        train=origin.train,
        validation=origin.validation,
        test=origin.test,
        metrics=dict(origin.metrics),
        libraries={name: _version(name) for name in LIBRARIES},
        seed=task.model.seed,
        created=origin.created,
    )


def _digest(model: keras.Model, task: Task) -> str:
    """8 hex digits of what the scores depend on: the weights and how the tensor is made and read."""
    digest = hashlib.sha256(repr((sorted(signature(task).items()), [f.scale for f in task.features])).encode())
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights).tobytes())
    return digest.hexdigest()[:8]


def _version(package: str) -> str:
    names = (package, f"{package}-cpu")
    for name in names:
        with suppress(PackageNotFoundError):
            return version(name)
    return "unknown"
