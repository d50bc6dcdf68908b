"""From raw tensors to scores."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.support.toy_models import PATH, STEPS, tensor, toy_predictor


def test_churn_is_calibrated() -> None:
    predictor = toy_predictor(members=2)
    x = tensor(8)
    z = np.asarray(predictor.outputs(tf.constant(x)))
    np.testing.assert_allclose(predictor.score(x), 1 / (1 + np.exp(-(1.5 * z - 0.5))), rtol=1e-5)
    np.testing.assert_allclose(predictor.uncalibrated(x), 1 / (1 + np.exp(-z)), rtol=1e-5)


def test_any_finite_row_gives_finite_scores() -> None:
    x = np.zeros((3, STEPS, 4), np.float32)
    x[0], x[1], x[2] = 3e38, -3e38, 1e-45
    for label in (None, PATH):
        predictor = toy_predictor(label) if label else toy_predictor()
        y = predictor.score(x[1:] if label else x)  # a level of 3e38 has no room above it
        assert np.isfinite(y).all()
