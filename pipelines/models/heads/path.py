"""The head of a path: quantiles of the log return of each step ahead, in units of what chance does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers, ops
from scipy.special import ndtri

from pipelines.models.calibration import Calibration
from pipelines.models.engines.base import Floats
from pipelines.models.heads.base import Head, Loss
from pipelines.task.labels.path import path_of
from pipelines.task.spec import Task

STILL = 1e-3  # the least deviation of a step's log return: a price that never moved has a scale, too


class PathHead(Head):
    by_summary, measure, sign = False, "pinball loss", -1

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.label, self.level = path_of(task), path_of(task).level(task)

    def output(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """f4 (B, label.steps, quantiles), ascending, in units of `spread`."""
        steps, levels = self.label.steps, self.label.levels
        # Learning starts at the naive forecast: the last level stays, and its returns are normal.
        start = keras.initializers.Constant(np.tile(_normal(levels), steps))
        zeros = {"kernel_initializer": "zeros", "bias_initializer": start}
        y = layers.Dense(steps * len(levels), name="quantiles", dtype="float32", **zeros)(x)
        return Ascending(levels.index(0.5), dtype="float32")(layers.Reshape((steps, len(levels)))(y))

    def loss(self, labels: Floats) -> Loss:
        return self.judged

    def judged(self, raw: tf.Tensor, label: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The mean pinball loss of the quantiles (Koenker and Bassett, 1978), in units of `spread`."""
        last = raw[:, -1, self.level, None]
        real = (label > 0) & (last > 0)
        returns = tf.math.log(tf.where(real, label, 1.0)) - tf.math.log(tf.where(last > 0, last, 1.0))
        error = returns[:, :, None] / self.spread(raw) - y
        q = np.array(self.label.levels, np.float32)
        loss = tf.where(real[:, :, None], tf.maximum(q * error, (q - 1) * error), 0.0)
        return tf.reduce_sum(loss) / tf.maximum(tf.reduce_sum(tf.cast(real, tf.float32)) * len(q), 1.0)

    def quality(self, judged: Sequence[tuple[int, npt.NDArray[Any]]], labels: Floats) -> float:
        return -float(sum(n * v for n, v in judged) / len(labels))

    def told(self, quality: float) -> str:
        return f"{self.measure} {-quality:.5f}"

    def calibrated(self, y: Callable[[], Floats], labels: Floats) -> Calibration:
        return Calibration("identity")

    def scores(self, raw: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The levels of the path in the order of the task's outputs."""
        middle = self.label.levels.index(0.5)
        levels = raw[:, -1, self.level, None, None] * tf.exp(y * self.spread(raw))
        around = tf.concat([levels[:, :, :middle], levels[:, :, middle + 1 :]], axis=2)
        flat = tf.reshape(around, [-1, self.label.steps * len(self.label.quantiles)])
        return tf.concat([levels[:, :, middle], flat], 1)

    def spread(self, raw: tf.Tensor) -> tf.Tensor:
        """f4 (B, label.steps, 1): how far the log level goes in k steps by chance, the deviation of its steps in the
        history times the square root of k."""
        x = raw[:, :, self.level]
        known = x > 0
        log = tf.math.log(tf.where(known, x, 1.0))
        both = tf.cast(known[:, 1:] & known[:, :-1], tf.float32)
        square = tf.reduce_sum(both * tf.square(log[:, 1:] - log[:, :-1]), axis=1)
        deviation = tf.sqrt(square / tf.maximum(tf.reduce_sum(both, axis=1), 1.0))
        ahead = np.sqrt(np.arange(1, self.label.steps + 1, dtype=np.float32))
        return tf.maximum(deviation, STILL)[:, None, None] * ahead[:, None]


def _normal(levels: Sequence[float]) -> npt.NDArray[np.float64]:
    """What `Ascending` makes the quantiles of a standard normal of."""
    quantiles, gaps = ndtri(levels), np.diff(ndtri(levels))
    softplus = np.log(np.expm1(gaps))  # inverse
    middle = levels.index(0.5)
    return np.concatenate([softplus[:middle], quantiles[middle : middle + 1], softplus[middle:]])


class Ascending(layers.Layer):
    """(B, steps, quantiles) of any values -> the same with the median as it is, and the others in order around it."""

    def __init__(self, median: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.median = median

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        m = self.median
        middle, gaps = x[..., m : m + 1], ops.softplus(x)
        below = ops.flip(ops.cumsum(ops.flip(gaps[..., :m], axis=-1), axis=-1), axis=-1)
        above = ops.cumsum(gaps[..., m + 1 :], axis=-1)
        return ops.concatenate([middle - below, middle, middle + above], axis=-1)
