"""From raw tensors to scores: preprocessing, the mean of the networks, calibration. This is what is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipelines.models.calibration import Calibration
from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Examples, Ints
from pipelines.models.heads import head
from pipelines.models.network import Preprocessing, pick
from pipelines.task.spec import Task

ROWS = 1024  # of a call, when many are scored at once


class Predictor(tf.Module):
    """A whole model: preprocessing, networks and calibration in one graph.

    Args:
      members: networks, see `network.build`, whose outputs are averaged.
    """

    def __init__(
        self, task: Task, transform: Preprocessing, members: Sequence[keras.Model], calibration: Calibration
    ) -> None:
        super().__init__()
        self.task, self.transform, self.calibration = task, transform, calibration
        self.members, self.head = list(members), head(task)
        shape = (None, task.sequence.steps, len(task.features))
        signature = [tf.TensorSpec(shape, tf.float32, name="sequence")]
        self.serve = tf.function(self._serve, autograph=False, input_signature=signature)
        self.preprocess = tf.function(
            lambda sequence: dict(transform(sequence)), autograph=False, input_signature=signature
        )
        self._outputs = tf.function(self.outputs, autograph=False, input_signature=signature)

    @classmethod
    def calibrated(
        cls, task: Task, transform: Preprocessing, members: Sequence[keras.Model], examples: Examples, rows: Ints
    ) -> Predictor:
        """The same with the task's calibration, fitted on the rows, which the members have not learnt from."""
        plain = cls(task, transform, members, Calibration("none"))

        def said() -> Floats:
            return _by_parts(rows, lambda r: np.asarray(plain._outputs(tf.constant(examples.tensor(r)))))

        return cls(task, transform, members, plain.head.calibrated(said, examples.label[rows]))

    def outputs(self, sequence: tf.Tensor) -> tf.Tensor:
        """f4 (B, steps, features) -> what `network.build` says, the mean of the members."""
        inputs = pick(self.task, self.transform(sequence))
        return tf.add_n([m(inputs, training=False) for m in self.members]) / float(len(self.members))

    def _serve(self, sequence: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": self.head.scores(sequence, self.calibration.apply(self.outputs(sequence)))}

    def score(self, x: Floats) -> Floats:
        """f4 (n, steps, features) -> f4 (n, outputs)."""
        return np.asarray(self.serve(tf.constant(x))["scores"])

    def uncalibrated(self, x: Floats) -> Floats:
        """f4 (n, steps, features) -> f4 (n, 1), of churn."""
        return np.asarray(tf.sigmoid(self._outputs(tf.constant(x))))


def _by_parts(rows: Ints, of: Callable[[Ints], Floats]) -> Floats:
    return np.concatenate([of(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)])
