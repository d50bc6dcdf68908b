"""The summary of a sequence: the same bits wherever in a batch the sequence stands."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from pipelines.models.summary import summary
from pipelines.task.spec import Task

STEPS = 40
FIELDS = tuple("abcdefghijk")


def task(amounts: int) -> Task:
    features = [{"agg": "recency"}, {"agg": "count"}, *({"agg": "sum", "field": f} for f in FIELDS[:amounts])]
    return Task.model_validate(
        {
            "task": "wide",
            "events": {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"},
            "sequence": {"step": "1d", "steps": STEPS, "features": tuple(features)},
            "score": {"every": "1d"},
            "label": {"kind": "churn", "horizon": "7d", "active_within": "7d"},
        },
        strict=False,
    )


@pytest.mark.parametrize("amounts", [2, 8, 11])
def test_a_summary_depends_on_its_row_alone(amounts: int) -> None:
    """Bit for bit. Widths around that of a vector register: a row then begins at any place of one."""
    spec, random = task(amounts), np.random.default_rng(amounts)
    x = random.gamma(1, 50, (64, STEPS, len(spec.features))).astype(np.float32)
    summarise = tf.function(lambda x: summary(spec, x), autograph=False)
    y = summarise(tf.constant(x)).numpy()
    for by in range(1, 9):
        assert np.array_equal(summarise(tf.constant(np.roll(x, by, axis=0))).numpy(), np.roll(y, by, axis=0)), by


def test_sums_over_periods() -> None:
    spec = task(1)
    x = np.zeros((1, STEPS, 3), np.float32)
    x[0, -1, 1:], x[0, -3, 1:] = (1, 5), (2, 7)
    out = summary(spec, tf.constant(x)).numpy()[0]
    expected = [np.log1p(n) for pair in ((1, 5), (1, 5), (3, 12)) for n in pair]  # the last step, two, three
    np.testing.assert_allclose(out[:6], expected, rtol=1e-6)
