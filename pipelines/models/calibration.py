"""From log odds to probabilities that happen as often as they say, fitted on examples that the network has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import isotonic_regression, minimize

from pipelines.models.engines.base import Floats

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A function of the log odds. platt: sigmoid(x[0] z + y[0]); isotonic: straight lines between the points (x, y);
    none: sigmoid(z); identity: z, for what is no probability."""

    method: Literal["none", "platt", "isotonic", "identity"]
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def apply(self, z: tf.Tensor) -> tf.Tensor:
        """f4 (B, 1) -> f4 (B, 1); of any shape for identity."""
        if self.method == "identity":
            return z
        if self.method != "isotonic":
            slope, offset = (self.x[0], self.y[0]) if self.method == "platt" else (1.0, 0.0)
            return tf.sigmoid(slope * z + offset)
        x, y = np.array(self.x, np.float32), np.array(self.y, np.float32)
        # Each line adds its part of the climb: no search, which not every engine has.
        climbed = tf.clip_by_value((z - x[:-1]) / np.maximum(np.diff(x), 1e-6), 0.0, 1.0)
        return y[0] + tf.reduce_sum(climbed * np.diff(y), axis=1, keepdims=True)


def calibrate(method: Literal["none", "platt", "isotonic"], z: Floats, label: Floats) -> Calibration:
    """Fits on log odds z (n) and what happened (n), 0 or 1."""
    if method == "platt":
        return _platt(z.astype(np.float64), label.astype(np.float64))
    return _isotonic(z.astype(np.float64), label.astype(np.float64)) if method == "isotonic" else Calibration("none")


def _platt(z: Doubles, label: Doubles) -> Calibration:
    """Platt, 1999, with his targets, which keep few examples from certainty, and a slope that keeps the order."""
    positive = label.sum()
    target = np.where(label > 0, (positive + 1) / (positive + 2), 1 / (len(label) - positive + 2))

    def loss(w: Doubles) -> float:
        t = np.exp(w[0]) * z + w[1]
        return float((np.logaddexp(0, t) - target * t).mean())

    slope, offset = minimize(loss, np.zeros(2), method="BFGS").x
    return Calibration("platt", (float(np.exp(slope)),), (float(offset),))


def _isotonic(z: Doubles, label: Doubles) -> Calibration:
    """Zadrozny and Elkan, 2002: the closest rising steps, here joined by lines between the middles of the steps."""
    at = np.argsort(z, kind="stable")
    steps = isotonic_regression(label[at])
    edges = steps.blocks
    x = [float(z[at][a:b].mean()) for a, b in pairwise(edges)]
    y = [float(steps.x[a]) for a in edges[:-1]]
    if len(x) == 1:  # one flat line
        x, y = [x[0], x[0] + 1], y * 2
    return Calibration("isotonic", tuple(x), tuple(y))
