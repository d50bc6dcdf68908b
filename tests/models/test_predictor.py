"""From raw tensors to scores."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipelines.models.predictor import STILL, scores, spread
from tests.toy import PATH, STEPS, task, tensor, toy_predictor


def test_churn_is_calibrated() -> None:
    predictor = toy_predictor(members=2)
    x = tensor(8)
    z = np.asarray(predictor.outputs(tf.constant(x)))
    np.testing.assert_allclose(predictor.score(x), 1 / (1 + np.exp(-(1.5 * z - 0.5))), rtol=1e-5)
    np.testing.assert_allclose(predictor.uncalibrated(x), 1 / (1 + np.exp(-z)), rtol=1e-5)


def test_levels_stand_in_the_order_of_the_outputs() -> None:
    spec, x = task(PATH), tensor(4)
    y = np.arange(4 * 3 * 3, dtype=np.float32).reshape(4, 3, 3) / 100
    got = np.asarray(scores(spec, tf.constant(x), tf.constant(y)))
    levels = x[:, -1, 2, None, None] * np.exp(y * np.asarray(spread(spec, tf.constant(x))))
    columns = {"step_1": (0, 1), "step_3": (2, 1), "step_1_p10": (0, 0), "step_1_p90": (0, 2), "step_3_p90": (2, 2)}
    for name, (step, quantile) in columns.items():
        np.testing.assert_allclose(got[:, spec.outputs.index(name)], levels[:, step, quantile], rtol=1e-6)
    assert got.shape == (4, len(spec.outputs))


def test_spread_is_the_deviation_of_steps_by_the_root_of_time() -> None:
    x = np.zeros((3, STEPS, 4), np.float32)
    x[0, :, 2] = 100 * np.exp(0.1 * (np.arange(STEPS) % 2))  # one up, one down
    x[1, :, 2] = 5  # still
    x[2, -3:, 2] = [1, 2, 4]  # known lately only
    got = np.asarray(spread(task(PATH), tf.constant(x)))
    assert got.shape == (3, 3, 1)
    np.testing.assert_allclose(got[0, :, 0], 0.1 * np.sqrt([1, 2, 3]), rtol=1e-5)
    np.testing.assert_allclose(got[1, 0, 0], STILL)
    np.testing.assert_allclose(got[2, 0, 0], np.log(2), rtol=1e-5)


def test_any_finite_row_gives_finite_scores() -> None:
    x = np.zeros((3, STEPS, 4), np.float32)
    x[0], x[1], x[2] = 3e38, -3e38, 1e-45
    for label in (None, PATH):
        predictor = toy_predictor(label) if label else toy_predictor()
        y = predictor.score(x[1:] if label else x)  # a level of 3e38 has no room above it
        assert np.isfinite(y).all()
