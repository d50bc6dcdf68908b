"""The head of a path: ascending quantiles, and levels in units of what chance does."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pipelines.models.heads import STILL, Ascending, PathHead
from tests.support.toy_models import PATH, STEPS, task, tensor


def test_quantiles_never_cross() -> None:
    wild = np.random.default_rng(1).normal(0, 50, (100, 3, 5)).astype(np.float32)
    ordered = np.asarray(Ascending(2)(wild))
    assert (np.diff(ordered, axis=2) >= 0).all()
    assert np.array_equal(ordered[:, :, 2], wild[:, :, 2])


def test_levels_stand_in_the_order_of_the_outputs() -> None:
    spec, x = task(PATH), tensor(4)
    y = np.arange(4 * 3 * 3, dtype=np.float32).reshape(4, 3, 3) / 100
    got = np.asarray(PathHead(spec).scores(tf.constant(x), tf.constant(y)))
    levels = x[:, -1, 2, None, None] * np.exp(y * np.asarray(PathHead(spec).spread(tf.constant(x))))
    columns = {"step_1": (0, 1), "step_3": (2, 1), "step_1_p10": (0, 0), "step_1_p90": (0, 2), "step_3_p90": (2, 2)}
    for name, (step, quantile) in columns.items():
        np.testing.assert_allclose(got[:, spec.outputs.index(name)], levels[:, step, quantile], rtol=1e-6)
    assert got.shape == (4, len(spec.outputs))


def test_spread_is_the_deviation_of_steps_by_the_root_of_time() -> None:
    x = np.zeros((3, STEPS, 4), np.float32)
    x[0, :, 2] = 100 * np.exp(0.1 * (np.arange(STEPS) % 2))  # one up, one down
    x[1, :, 2] = 5  # still
    x[2, -3:, 2] = [1, 2, 4]  # known lately only
    got = np.asarray(PathHead(task(PATH)).spread(tf.constant(x)))
    assert got.shape == (3, 3, 1)
    np.testing.assert_allclose(got[0, :, 0], 0.1 * np.sqrt([1, 2, 3]), rtol=1e-5)
    np.testing.assert_allclose(got[1, 0, 0], STILL)
    np.testing.assert_allclose(got[2, 0, 0], np.log(2), rtol=1e-5)
