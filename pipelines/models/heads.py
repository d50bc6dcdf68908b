"""The head of a network, by the kind of label: its last layer, loss, quality, calibration, and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers, ops
from scipy.special import ndtri

from pipelines.models.calibration import Calibration, calibrate
from pipelines.models.engines.base import Floats
from pipelines.models.metrics import auc
from pipelines.task.labels.path import path_of
from pipelines.task.spec import Task

Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

STILL = 1e-3  # the least deviation of a step's log return: a price that never moved has a scale, too


class Head(ABC):
    """The head of a task's networks: shapes are those of B examples.

    A raw tensor is f4 (B, steps, features), a label f4 (B, width), and y what `output` gives.
    """

    by_summary = True  # whether the loss needs no raw tensor, so that an mlp may learn from summaries alone
    measure: str  # what `quality` is, in a word
    sign = 1  # of the quality as it is told: -1 where lower is better

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def output(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """The last layers of a network, on f4 (B, k)."""

    @abstractmethod
    def loss(self, labels: Floats) -> Loss:
        """(raw, label, y) -> the mean loss; `labels` (n, width) are those that are learnt from."""

    @abstractmethod
    def judged(self, raw: tf.Tensor, label: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """What `quality` needs of B examples."""

    @abstractmethod
    def quality(self, judged: Sequence[tuple[int, npt.NDArray[Any]]], labels: Floats) -> float:
        """How good a network is, higher is better: of what `judged` gave of parts of n examples each."""

    def told(self, quality: float) -> str:
        """The quality as text for people."""
        return f"{self.measure} {self.sign * quality:.4f}"

    @abstractmethod
    def calibrated(self, y: Callable[[], Floats], labels: Floats) -> Calibration:
        """The calibration learnt from what uncalibrated networks say of examples, and their labels."""

    @abstractmethod
    def scores(self, raw: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """f4 (B, outputs), of y after calibration."""


class ChurnHead(Head):
    measure = "AUC"

    def output(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.Dense(1, name="log_odds", dtype="float32")(x)

    def loss(self, labels: Floats) -> Loss:
        share = float(labels[:, 0].mean())
        balanced = self.task.model.class_weights == "balanced"
        stayed, left = (0.5 / (1 - share), 0.5 / share) if balanced else (1.0, 1.0)

        def mean(raw: tf.Tensor, label: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            loss = tf.nn.sigmoid_cross_entropy_with_logits(label, y)
            return tf.reduce_mean(tf.where(label > 0, left, stayed) * loss)

        return mean

    def judged(self, raw: tf.Tensor, label: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y[:, 0]

    def quality(self, judged: Sequence[tuple[int, npt.NDArray[Any]]], labels: Floats) -> float:
        return auc(labels[:, 0], np.concatenate([odds for _, odds in judged]))

    def calibrated(self, y: Callable[[], Floats], labels: Floats) -> Calibration:
        return calibrate(self.task.model.calibration, y()[:, 0], labels[:, 0])

    def scores(self, raw: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return y


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


HEADS: dict[str, type[Head]] = {"churn": ChurnHead, "path": PathHead}


def head(task: Task) -> Head:
    """The head of a task's networks."""
    return HEADS[task.label.kind](task)
