"""Two small tasks and their models, exported, for tests of training and inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.models.examples import Examples
from pipelines.task import Task

DAY = 86_400_000_000
STEPS = 12
CHURN: Mapping[str, object] = {"kind": "churn", "horizon": "7d", "active_within": "7d"}
PATH: Mapping[str, object] = {"kind": "path", "field": "price", "steps": 3}
FEATURES = (
    {"agg": "count"},
    {"agg": "sum", "field": "amount"},
    {"agg": "last", "field": "price", "fill": "forward", "scale": "relative"},
    {"agg": "mean", "field": "amount", "scale": "none"},
)


def task(label: Mapping[str, object] = CHURN, steps: int = STEPS, **model: object) -> Task:
    """A task with one feature of each scale."""
    return Task.model_validate(
        {
            "task": "toy",
            "events": {"entity": "user", "time": {"field": "at", "unit": "s"}, "identity": "none"},
            "sequence": {"step": "1d", "steps": steps, "features": FEATURES},
            "score": {"every": "1d"},
            "label": label,
            "model": {"units": 8, **model},
        },
        strict=False,
    )


def tensor(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """f4 (n, STEPS, 4): counts, amounts of either sign, prices (0 before the first), means."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 50, (n, STEPS, len(FEATURES))).astype(np.float32)
    x[:, :, 0] = random.poisson(1, (n, STEPS))
    x[:, :, 2] = 100 * np.exp(np.cumsum(random.normal(0, 0.1, (n, STEPS)), axis=1))
    x[::5, :4, 2] = 0
    return x


def examples(label: npt.NDArray[np.float32], x: npt.NDArray[np.float32], as_of: npt.NDArray[np.int64]) -> Examples:
    """The rows as they are, each with an event on the day before."""
    n = len(x)
    names = pa.chunked_array([[f"user {i}" for i in range(n)]])
    return Examples((x,), np.arange(n), label, as_of, np.ones(n, np.int64), as_of - DAY, names)


def export_toy(directory: Path, label: Mapping[str, object] = CHURN) -> Task:
    """An untrained model, with weights that leave no layer without effect."""
    from pipelines.models.export import Origin, export
    from pipelines.models.network import build

    spec = task(label)
    model = build(spec)
    random = np.random.default_rng(1)
    for layer in model.layers:
        if layer.name.startswith("batch_normalization"):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        if layer.name == "log_returns":
            layer.set_weights([random.normal(0, 0.02, w.shape) for w in layer.get_weights()])
    export(model, spec, Origin((10 * DAY, 20 * DAY), 30 * DAY, 40 * DAY, {"auc": 0.75}, 50 * DAY), directory)
    model.save_weights(directory.with_suffix(".weights.h5"))
    return spec
