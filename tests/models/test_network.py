"""Shapes of the network, and how it scales what it sees."""

from __future__ import annotations

import keras
import numpy as np

from pipelines.models.network import Scale, build, scores
from tests.toy import PATH, STEPS, task, tensor


def test_churn_is_a_probability() -> None:
    y = np.asarray(build(task())(tensor(5)))
    assert y.shape == (5, 2)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    assert np.array_equal(scores(task(), tensor(5), y), y[:, 1:])


def test_a_path_starts_from_the_last_level() -> None:
    x = tensor(5)
    y = np.asarray(build(task(PATH))(x))
    assert y.shape == (5, 3)
    np.testing.assert_allclose(scores(task(PATH), x, y), x[:, -1, 2:3] * np.exp(y), rtol=1e-6)


def test_the_layers_are_those_of_the_talk() -> None:
    names = [type(layer).__name__ for layer in build(task()).layers]
    assert names == [
        *("InputLayer", "Scale", "BatchNormalization", "GRU", "Dropout", "BatchNormalization", "GRU", "Dropout"),
        *("BatchNormalization", "Dense"),
    ]


def test_scales() -> None:
    x = np.zeros((2, 3, 3), np.float32)
    x[0, :, 0] = [0, 9, -9]  # log
    x[0, :, 1] = [0, 50, 100]  # relative, nothing before the first price
    x[1, :, 1] = [100, 200, 0]  # the last positive value is the base
    x[0, :, 2] = [-3, 0, 1e6]  # none
    y = np.asarray(Scale(["log", "relative", "none"])(x))
    np.testing.assert_allclose(y[0, :, 0], [0, np.log(10), -np.log(10)], rtol=1e-6)
    np.testing.assert_allclose(y[0, :, 1], [0, -np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(y[1, :, 1], [-np.log(2), 0, 0], rtol=1e-6)
    assert np.array_equal(y[0, :, 2], x[0, :, 2])
    assert np.array_equal(y[1, :, [0, 2]], np.zeros((2, 3)))


def test_any_finite_value_gives_a_finite_score() -> None:
    x = np.zeros((16, STEPS, 4), np.float32)
    x[0], x[1], x[2] = 3e38, -3e38, 1e-45
    assert np.isfinite(np.asarray(Scale(["log", "log", "relative", "log"])(x))).all()


def test_survives_keras_own_file() -> None:
    layer = Scale(["log", "none", "relative", "log"])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert np.array_equal(again(tensor(3)), layer(tensor(3)))
