"""The network: from the raw tensor of a sequence to a probability or a path. How it learns is in `training`.

Scaling is a part of the network, so that what is exported takes exactly what `sequences` makes.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from pipelines.models.examples import level
from pipelines.task import PathLabel, Task

# Of the running mean and variance: a small set has few batches an epoch, and Keras' .99 would lag epochs behind.
MOMENTUM = 0.9


def build(task: Task) -> keras.Model:
    """f4 (B, steps, features) -> f4 (B, 2), the probabilities of staying and of churn; or, for a path, f4 (B,
    label.steps), the log returns against the last level in the history.

    Two GRU layers between normalisations, after the churn model of Plarium's talk at Beam College.
    """
    spec = task.model
    inputs = keras.Input((task.sequence.steps, len(task.features)), dtype="float32", name="sequence")
    x = Scale([f.scale for f in task.features], name="scale")(inputs)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.GRU(spec.units, return_sequences=True)(x)
    x = layers.Dropout(spec.dropout)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    x = layers.GRU(spec.units)(x)
    x = layers.Dropout(spec.dropout)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM)(x)
    if isinstance(task.label, PathLabel):
        # From zeros, learning starts at the naive forecast: the last level stays.
        out = layers.Dense(task.label.steps, kernel_initializer="zeros", name="log_returns")(x)
        return keras.Model(inputs, out)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="probabilities")(x))


def scores(task: Task, x: keras.KerasTensor, y: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor x (B, steps, features) and what the network makes of it -> scores f4 (B, outputs): the probability
    of churn, or the levels of a path."""
    if not isinstance(task.label, PathLabel):
        return y[:, 1:]
    at = level(task)
    return x[:, -1, at : at + 1] * ops.exp(y)


@keras.saving.register_keras_serializable(package="foretide")
class Scale(layers.Layer):
    """Each feature as the task says: log: sign(x) log(1 + |x|); relative: log(x / last positive x of the series), 0
    where x is not positive; none: as it is. f4 (B, steps, features) -> the same shape."""

    def __init__(self, scales: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scales = scales

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        out = x
        if "log" in self.scales:
            out = ops.where(self._features("log"), ops.sign(x) * ops.log1p(ops.abs(x)), out)
        if "relative" in self.scales:
            out = ops.where(self._features("relative"), _relative(x), out)
        return out

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scales": self.scales}

    def _features(self, scale: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([s == scale for s in self.scales])


def _relative(x: keras.KerasTensor) -> keras.KerasTensor:
    """Without a gather by index: sums of one value and zeros are exact."""
    positive = x > 0
    place = ops.cast(positive, "float32") * np.arange(1, x.shape[1] + 1, dtype=np.float32)[:, None]
    newest = ops.max(place, axis=1, keepdims=True)
    last = ops.sum(ops.where(positive & (place == newest), x, 0.0), axis=1, keepdims=True)
    return ops.where(positive, ops.log(ops.where(positive, x, 1.0)) - ops.log(ops.where(last > 0, last, 1.0)), 0.0)
