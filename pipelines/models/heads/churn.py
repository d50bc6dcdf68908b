"""The head of churn: log odds, cross entropy, AUC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers

from pipelines.models.calibration import Calibration, calibrate
from pipelines.models.engines.base import Floats
from pipelines.models.heads.base import Head, Loss
from pipelines.models.metrics import auc


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
