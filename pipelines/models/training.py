"""How a network learns from examples. What it is lies in `network`, how good it is in `evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from pipelines.models.engine import Floats
from pipelines.models.evaluation import auc
from pipelines.models.examples import Examples, Ints, check_rows, level
from pipelines.models.network import build, scores
from pipelines.task import PathLabel, Task


def fit(task: Task, examples: Examples, train: Ints, validation: Ints, log: Callable[[str], None]) -> keras.Model:
    """Trains on the rows `train` until the rows `validation` have not improved for the task's patience, and returns the
    network with its best weights. The same examples and seed give the same weights on the same machine.

    The rows come from different as-ofs: those of `train` end a horizon before the validation's, never a random split.

    Args:
      log: receives one line an epoch.

    Raises:
      UserError: nothing to learn from or to validate with.
    """
    check_rows(task, examples, "training", train)
    check_rows(task, examples, "validation", validation)
    spec = task.model
    keras.utils.set_random_seed(spec.seed)
    tf.config.experimental.enable_op_determinism()
    model = build(task)
    loss = keras.losses.Huber() if isinstance(task.label, PathLabel) else "sparse_categorical_crossentropy"
    model.compile(optimizer=keras.optimizers.Adam(spec.learning_rate), loss=loss)
    random = np.random.default_rng(spec.seed)
    best, best_epoch, weights = -np.inf, 0, model.get_weights()
    for epoch in range(1, spec.epochs + 1):
        error = _epoch(task, model, examples, random.permutation(train))
        value = quality(task, examples.label[validation], predict(task, model, examples, validation))
        log(f"epoch {epoch}/{spec.epochs}: loss {error:.4f}, validation {_named(task, value)}")
        if value > best:
            best, best_epoch, weights = value, epoch, model.get_weights()
        elif epoch - best_epoch >= spec.patience:
            log(f"no better for {spec.patience} epochs: keeping epoch {best_epoch}")
            break
    model.set_weights(weights)
    return model


def predict(task: Task, model: keras.Model, examples: Examples, rows: Ints) -> Floats:
    """f4 (len(rows), outputs): probabilities of churn, or levels."""
    parts = []
    for part in _batches(rows, 4 * task.model.batch_size):
        x = examples.tensor(part)
        parts.append(np.asarray(scores(task, x, model.predict_on_batch(x))))
    return np.concatenate(parts)


def quality(task: Task, label: Floats, predicted: Floats) -> float:
    """Higher is better: the AUC of churn, or the mean absolute error of a path's log returns, negative."""
    if not isinstance(task.label, PathLabel):
        return auc(label[:, 0], predicted[:, 0])
    real = (label > 0) & (predicted > 0)
    return -float(np.abs(np.log(label[real]) - np.log(predicted[real])).mean())


def _epoch(task: Task, model: keras.Model, examples: Examples, rows: Ints) -> float:
    """The mean loss of one pass."""
    total = 0.0
    for part in _batches(rows, task.model.batch_size):
        x = examples.tensor(part)
        total += len(part) * float(model.train_on_batch(x, _target(task, x, examples.label[part])))
    return total / len(rows)


def _target(task: Task, x: Floats, label: Floats) -> Floats:
    """What the network should say: the class (n, 1), or log returns (n, steps), 0 where there is no level."""
    if not isinstance(task.label, PathLabel):
        return label
    last = x[:, -1, level(task), None]
    real = (label > 0) & (last > 0)
    return np.log(np.where(real, label, 1) / np.where(real, last, 1))


def _batches(rows: Ints, size: int) -> Iterator[Ints]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _named(task: Task, value: float) -> str:
    return f"error of log returns {-value:.5f}" if isinstance(task.label, PathLabel) else f"AUC {value:.4f}"
