"""Two small tasks and their models, exported, for tests of training and inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.models.example_files import Examples
from pipelines.task.spec import Task

if TYPE_CHECKING:
    import tensorflow as tf

    from pipelines.models.network import Preprocessing
    from pipelines.models.predictor import Predictor

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
            "model": {"network": "gru", "units": [8, 8], **model},
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


def plain(steps: int = STEPS, features: int = len(FEATURES)) -> Preprocessing:
    """Preprocessing without constants, for tests that are not about it."""
    import tensorflow as tf

    from pipelines.models.network import Shapes
    from pipelines.models.summary import signed_log

    class Plain(tf.Module):
        shapes: Shapes = {"sequence": ((None, steps, features), "float32"), "summary": ((None, features), "float32")}  # noqa: RUF012

        def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
            x = signed_log(raw)
            return {"sequence": x, "summary": tf.reduce_mean(x, axis=1)}

    return Plain()


def examples(
    label: npt.NDArray[np.float32], x: npt.NDArray[np.float32], as_of: npt.NDArray[np.int64] | None = None
) -> Examples:
    """In memory: tensors x (n, steps, features), labels (n, k) and as-ofs (n), each with an event on the day before."""
    n, when = len(x), np.full(len(x), 10 * DAY) if as_of is None else as_of
    names = pa.chunked_array([[f"user {i}" for i in range(n)]])
    return Examples(lambda rows: x[rows], label, when, np.ones(n, np.int64), when - DAY, names)


def export_toy(directory: Path, label: Mapping[str, object] = CHURN, **model: object) -> Task:
    """A model in a folder, as engines and the registry read it."""
    from pipelines.models.export import Origin, manifest_of, save

    predictor = toy_predictor(label, **model)
    directory.mkdir(parents=True)
    save(predictor, directory / "saved_model")
    manifest_of(predictor, Origin((10 * DAY, 20 * DAY), (30 * DAY,), (40 * DAY,), {"auc": 0.75}, 50 * DAY)).write(
        directory
    )
    return predictor.task


def toy_predictor(label: Mapping[str, object] = CHURN, **model: object) -> Predictor:
    """Untrained, with weights that leave no layer without effect."""
    from pipelines.models.calibration import Calibration
    from pipelines.models.network import build
    from pipelines.models.predictor import Predictor

    spec, random, transform = task(label, STEPS, **model), np.random.default_rng(1), plain()
    members = [build(spec, transform.shapes, seed) for seed in range(spec.model.members)]
    for layer in (layer for member in members for layer in member.layers):
        if layer.name.startswith("batch_normalization"):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
        if layer.name == "quantiles":
            layer.set_weights([random.normal(0, 0.2, w.shape) for w in layer.get_weights()])
    calibration = Calibration("identity") if label is PATH else Calibration("platt", (1.5,), (-0.5,))
    return Predictor(spec, transform, members, calibration)


def untrained(task: Task, folder: Path) -> None:
    """Exports a model of any task as its weights are drawn."""
    from pipelines.models.calibration import Calibration
    from pipelines.models.export import Origin, manifest_of, save
    from pipelines.models.network import build
    from pipelines.models.predictor import Predictor

    transform = plain(task.sequence.steps, len(task.features))
    members = [build(task, transform.shapes, 1)]
    folder.mkdir()
    predictor = Predictor(task, transform, members, Calibration("none"))
    save(predictor, folder / "saved_model")
    manifest_of(predictor, Origin((0,), (0,), (0,), {}, 0)).write(folder)
