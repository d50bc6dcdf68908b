"""Calibrated scores are probabilities, and keep the order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit

from pipelines.models.calibration import Calibration, calibrate
from pipelines.models.engines.base import Floats
from pipelines.models.metrics import reliability

N = 20_000


def sample(seed: int) -> tuple[Floats, Floats]:
    """Log odds that are too sure of themselves and too high, and what happened."""
    random = np.random.default_rng(seed)
    true = random.normal(-1, 1, N)
    return (2.5 * true + 1).astype(np.float32), (random.random(N) < expit(true)).astype(np.float32)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_makes_scores_probabilities(method: str) -> None:
    z, label = sample(1)
    fitted = calibrate(method, z, label)  # type: ignore[arg-type]
    new, happened = sample(2)
    before = expit(new)
    after = np.asarray(fitted.apply(tf.constant(new[:, None])))[:, 0]
    assert reliability(happened, before).error > 0.1
    assert reliability(happened, after).error < 0.015
    order = np.argsort(new)
    assert (np.diff(after[order]) >= 0).all()
    assert ((after >= 0) & (after <= 1)).all()


def test_platt_finds_slope_and_offset() -> None:
    fitted = calibrate("platt", *sample(1))
    assert fitted.x[0] == pytest.approx(0.4, abs=0.02)
    assert fitted.y[0] == pytest.approx(-0.4, abs=0.05)


def test_platt_is_never_certain_and_never_turns_the_order() -> None:
    apart = calibrate("platt", np.array([-1, -1, 1, 1], np.float32), np.array([0, 0, 1, 1], np.float32))
    assert np.isfinite([*apart.x, *apart.y]).all()
    turned = calibrate("platt", np.array([-1, -1, 1, 1], np.float32), np.array([1, 1, 0, 0], np.float32))
    assert turned.x[0] > 0


def test_none_and_identity() -> None:
    z = tf.constant([[-2.0], [3.0]])
    np.testing.assert_allclose(Calibration("none").apply(z), expit(np.asarray(z)), rtol=1e-6)
    assert Calibration("identity").apply(z) is z


def test_isotonic_of_what_does_not_rise_is_flat() -> None:
    fitted = calibrate("isotonic", np.array([0, 1, 2, 3], np.float32), np.array([1, 1, 0, 0], np.float32))
    np.testing.assert_allclose(fitted.apply(tf.constant([[-9.0], [1.0], [9.0]])), 0.5)
