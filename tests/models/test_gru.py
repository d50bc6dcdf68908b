"""The fast form of a GRU layer is the layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from pipelines.models.gru import GRU, gru


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize(("steps", "units"), [(1, 4), (5, 1), (30, 16)])
def test_equals_keras(steps: int, units: int, sequences: bool) -> None:
    keras.utils.set_random_seed(1)
    layer = keras.layers.GRU(units, return_sequences=sequences, bias_initializer="random_normal")
    x = np.random.default_rng(2).normal(size=(7, steps, 3)).astype(np.float32)
    expected = layer(x)
    np.testing.assert_allclose(gru(layer, x), expected, atol=1e-6)
    assert gru(layer, x).shape == expected.shape


def test_learns_as_keras_and_scores_in_the_fast_form() -> None:
    layer = GRU(4)
    x = np.random.default_rng(2).normal(size=(7, 5, 3)).astype(np.float32)
    layer(x)
    same = keras.layers.GRU(4)
    same(x)
    same.set_weights(layer.get_weights())
    assert np.array_equal(layer(x, training=True), same(x, training=True))
    assert np.array_equal(layer(x), gru(layer, x))
