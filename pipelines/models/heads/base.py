"""What a kind of label needs of TensorFlow: the last layer, the loss, the quality, calibration, and the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from pipelines.models.calibration import Calibration
from pipelines.models.engines.base import Floats
from pipelines.task.spec import Task

Loss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


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
