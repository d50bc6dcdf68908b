"""From raw tensors to scores: preprocessing, the mean of the networks, calibration. This is what is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipelines.models.calibration import Calibration, calibrate
from pipelines.models.engine import Floats
from pipelines.models.examples import Examples, Ints, level
from pipelines.models.network import Transform, pick
from pipelines.task import PathLabel, Task

ROWS = 1024  # of a call, when many are scored at once
STILL = 1e-3  # the least deviation of a step's log return: a price that never moved has a scale, too


class Predictor(tf.Module):
    """A trained model, whole.

    Args:
      members: networks, see `network.build`, whose outputs are averaged.
    """

    def __init__(
        self, task: Task, transform: Transform, members: Sequence[keras.Model], calibration: Calibration
    ) -> None:
        super().__init__()
        self.task, self.transform, self.calibration = task, transform, calibration
        self.members = list(members)
        shape = (None, task.sequence.steps, len(task.features))
        signature = [tf.TensorSpec(shape, tf.float32, name="sequence")]
        self.serve = tf.function(self._serve, autograph=False, input_signature=signature)
        self.preprocess = tf.function(
            lambda sequence: dict(transform(sequence)), autograph=False, input_signature=signature
        )
        self._outputs = tf.function(self.outputs, autograph=False, input_signature=signature)

    @classmethod
    def calibrated(
        cls, task: Task, transform: Transform, members: Sequence[keras.Model], examples: Examples, rows: Ints
    ) -> Predictor:
        """With the task's calibration, fitted on the rows, which the members have not learnt from."""
        if isinstance(task.label, PathLabel):
            return cls(task, transform, members, Calibration("identity"))
        plain = cls(task, transform, members, Calibration("none"))
        z = _by_parts(rows, lambda r: np.asarray(plain._outputs(tf.constant(examples.tensor(r))))[:, 0])
        return cls(task, transform, members, calibrate(task.model.calibration, z, examples.label[rows, 0]))

    def outputs(self, sequence: tf.Tensor) -> tf.Tensor:
        """f4 (B, steps, features) -> what `network.build` says, the mean of the members."""
        inputs = pick(self.task, self.transform(sequence))
        return tf.add_n([m(inputs, training=False) for m in self.members]) / float(len(self.members))

    def _serve(self, sequence: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": scores(self.task, sequence, self.calibration.apply(self.outputs(sequence)))}

    def score(self, x: Floats) -> Floats:
        """f4 (n, steps, features) -> f4 (n, outputs)."""
        return np.asarray(self.serve(tf.constant(x))["scores"])

    def uncalibrated(self, x: Floats) -> Floats:
        """f4 (n, steps, features) -> f4 (n, 1), of churn."""
        return np.asarray(tf.sigmoid(self._outputs(tf.constant(x))))


def scores(task: Task, sequence: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """f4 (B, outputs): the probability of churn, or the levels of a path in the order of the task's outputs.

    Args:
      sequence: f4 (B, steps, features), raw.
      y: probabilities f4 (B, 1), or quantiles f4 (B, label.steps, quantiles) in units of `spread`.
    """
    if not isinstance(task.label, PathLabel):
        return y
    at, middle = level(task), task.label.levels.index(0.5)
    levels = sequence[:, -1, at, None, None] * tf.exp(y * spread(task, sequence))
    around = tf.concat([levels[:, :, :middle], levels[:, :, middle + 1 :]], axis=2)
    return tf.concat([levels[:, :, middle], tf.reshape(around, [-1, task.label.steps * len(task.label.quantiles)])], 1)


def spread(task: Task, sequence: tf.Tensor) -> tf.Tensor:
    """f4 (B, steps, features), raw -> f4 (B, label.steps, 1): how far the log level goes in k steps by chance, the
    deviation of its steps in the history times the square root of k."""
    assert isinstance(task.label, PathLabel)
    x = sequence[:, :, level(task)]
    known = x > 0
    log = tf.math.log(tf.where(known, x, 1.0))
    both = tf.cast(known[:, 1:] & known[:, :-1], tf.float32)
    square = tf.reduce_sum(both * tf.square(log[:, 1:] - log[:, :-1]), axis=1)
    deviation = tf.sqrt(square / tf.maximum(tf.reduce_sum(both, axis=1), 1.0))
    ahead = np.sqrt(np.arange(1, task.label.steps + 1, dtype=np.float32))
    return tf.maximum(deviation, STILL)[:, None, None] * ahead[:, None]


def _by_parts(rows: Ints, of: Callable[[Ints], Floats]) -> Floats:
    return np.concatenate([of(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)])
