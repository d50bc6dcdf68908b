"""Shapes of the networks, and what holds of any weights."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipelines.models.network import Shapes, build, pick
from pipelines.task.spec import Task
from tests.support.toy_models import PATH, STEPS, plain, task, tensor


def output(spec: Task, n: int = 5) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    transform = plain()
    return np.asarray(build(spec, transform.shapes, 1)(pick(spec, transform(tf.constant(tensor(n))))))


@pytest.mark.parametrize("network", ["mlp", "gru", "lstm", "linear"])
def test_shapes(network: str) -> None:
    assert output(task(network=network)).shape == (5, 1)
    assert output(task(PATH, network=network)).shape == (5, 3, 3)


def test_the_layers_are_those_of_the_task() -> None:
    model = build(task(network="lstm", units=[50, 100], dropout=0.2), plain().shapes, 1)
    cells = [layer for layer in model.layers if isinstance(layer, keras.layers.LSTM)]
    assert [(c.units, c.return_sequences) for c in cells] == [(50, True), (100, False)]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2, 0.2]


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (build(task(), plain().shapes, seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_others_draw_meanwhile_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As threads of a client of Pub/Sub do between two layers."""
    alone = build(task(network="lstm"), plain().shapes, 1).get_weights()
    call = keras.layers.Layer.__call__

    def drawing(*given: object, **named: object) -> object:
        random.random()
        return call(*given, **named)

    monkeypatch.setattr(keras.layers.Layer, "__call__", drawing)
    beside = build(task(network="lstm"), plain().shapes, 1).get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))


def test_the_median_starts_at_the_naive_forecast() -> None:
    y = output(task(PATH))
    np.testing.assert_allclose(y, np.broadcast_to([-1.2815516, 0, 1.2815516], (5, 3, 3)), atol=1e-6)  # of a normal


def test_text_values_have_numbers_of_their_own() -> None:
    features = [{"agg": "count"}, {"agg": "last", "field": "shop", "vocabulary": 3}]
    sequence = {"step": "1d", "steps": STEPS, "features": features}
    spec = Task.model_validate({**task().model_dump(mode="json"), **raw_times(), "sequence": sequence}, strict=False)
    shapes: Shapes = {
        "sequence": ((None, STEPS, 1), "float32"),
        "summary": ((None, 2), "float32"),
        "codes_0": ((None, STEPS), "int64"),
    }
    model = build(spec, shapes, 1)
    same = {"sequence": np.ones((5, STEPS, 1), np.float32), "summary": np.ones((5, 2), np.float32)}
    codes = np.repeat(np.arange(5)[:, None], STEPS, axis=1)  # none, out of vocabulary, and the three
    y = np.asarray(model({**same, "codes_0": codes}, training=False))
    assert len(np.unique(y)) == 5


def raw_times() -> dict[str, object]:
    """Durations as a task file writes them."""
    return {
        "score": {"every": "1d"},
        "label": {"kind": "churn", "horizon": "7d", "active_within": "7d"},
        "events": {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"},
    }


def test_weights_are_in_32_bits_under_any_policy() -> None:
    half = build(task(), plain().shapes, 1, "mixed_float16")
    full = build(task(), plain().shapes, 1)
    assert {w.dtype for w in half.weights} == {"float32"}
    assert [w.shape for w in half.weights] == [w.shape for w in full.weights]
    assert half.outputs[0].dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
