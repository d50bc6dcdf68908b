"""How good scores are, and how good the simplest rules would be on the same entities. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipelines.models.engine import Floats
from pipelines.models.examples import Examples, Ints, check_rows, level
from pipelines.task import ChurnLabel, Task

Doubles = npt.NDArray[np.float64]
CHUNK = 4096  # rows whose tensors are held at a time


def auc(label: npt.NDArray[np.generic], score: npt.NDArray[np.generic]) -> float:
    """The probability that a positive scores above a negative, ties counting half; NaN when one class is missing.

    Mann and Whitney's U by mid-ranks (Hanley and McNeil, 1982, https://doi.org/10.1148/radiology.143.1.7063747).

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    positive = label.astype(bool)
    n1, n0 = int(positive.sum()), int((~positive).sum())
    if not n1 or not n0:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((rank[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))


def interval(label: Floats, score: Floats, seed: int, draws: int = 200) -> tuple[float, float]:
    """The 95 % interval of the AUC over bootstrap samples of the entities (Efron, 1979)."""
    random = np.random.default_rng(seed)
    rows = (random.integers(0, len(label), len(label)) for _ in range(draws))
    values = [auc(label[r], score[r]) for r in rows]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def evaluate(task: Task, examples: Examples, train: Ints, test: Ints, scores: Floats) -> dict[str, float]:
    """Metrics of scores f4 (len(test), outputs) for the rows `test`, beside those of baselines.

    Churn: AUC with its interval, and that of recency alone and of a logistic regression fitted on the rows `train`.
    Path: mean absolute error in % at the first, middle and last step, and that of repeating the last level.

    Raises:
      UserError: there is nothing to judge by in the test rows.
    """
    check_rows(task, examples, "test", test)
    label = examples.label[test]
    if not isinstance(task.label, ChurnLabel):
        return _path(task, examples, test, scores)
    low, high = interval(label[:, 0], scores[:, 0], task.model.seed)
    recency = examples.as_of[test] - examples.last_event_time[test]
    return {
        "test_entities": float(len(test)),
        "test_share": float(label.mean()),
        "auc": auc(label[:, 0], scores[:, 0]),
        "auc_low": low,
        "auc_high": high,
        "auc_recency": auc(label[:, 0], recency),
        "auc_logistic": auc(label[:, 0], logistic(task, examples, train, test)),
    }


def _path(task: Task, examples: Examples, test: Ints, scores: Floats) -> dict[str, float]:
    at = level(task)
    last = _chunks(test, lambda rows: examples.tensor(rows)[:, -1, at, None].astype(np.float64))
    metrics = {"test_entities": float(len(test))}
    for name, levels in (("error", scores.astype(np.float64)), ("error_naive", np.broadcast_to(last, scores.shape))):
        errors = path_error(examples.label[test], levels)
        metrics |= {f"{name}_step_{i + 1}": float(errors[i]) for i in sorted({0, len(errors) // 2, len(errors) - 1})}
    return metrics


def path_error(actual: Floats, predicted: Doubles) -> Doubles:
    """(n, steps) levels each -> f8 (steps): mean absolute error in % of the actual level, where that is positive."""
    real = actual > 0
    error = np.abs(predicted - actual) / np.where(real, actual, 1)
    return 100 * np.where(real, error, 0).sum(axis=0) / np.maximum(real.sum(axis=0), 1)


def logistic(task: Task, examples: Examples, train: Ints, test: Ints) -> Doubles:
    """f8 (len(test)): log odds of churn by a logistic regression on what `summary` says of a sequence."""
    x, new = (_chunks(rows, lambda r: summary(task, examples, r)) for rows in (train, test))
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    weights = _newton(_with_one((x - mean) / spread), examples.label[train, 0].astype(np.float64))
    return _with_one((new - mean) / spread) @ weights


def summary(task: Task, examples: Examples, rows: Ints) -> Doubles:
    """f8 (n, 6), logarithms of 1 + recency, tenure within the history (both in steps), events, and active steps in the
    whole history, its last quarter and its last twelfth."""
    x = examples.tensor(rows)
    counts = [i for i, f in enumerate(task.features) if f.agg == "count"]
    active = np.any(x[:, :, counts] if counts else x, axis=2)
    steps = active.shape[1]
    recency = (examples.as_of[rows] - examples.last_event_time[rows]) / task.sequence.step
    tenure = steps - active.argmax(axis=1)
    lately = [active[:, -max(1, steps // part) :].sum(axis=1) for part in (1, 4, 12)]
    return np.log1p(np.stack([recency, tenure, examples.n_events[rows], *lately], axis=1).astype(np.float64))


def _newton(x: Doubles, y: Doubles, ridge: float = 1e-3, rounds: int = 25) -> Doubles:
    """Weights of a logistic regression by iteratively reweighted least squares (Hastie et al., 2009, section 4.4.1)."""
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (y - p) - ridge * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        change = np.linalg.solve(hessian, gradient)
        weights += change
        if np.abs(change).max() < 1e-8:
            break
    return weights


def _with_one(x: Doubles) -> Doubles:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def _chunks(rows: Ints, of: Callable[[Ints], Doubles]) -> Doubles:
    """`of` all rows, a part at a time."""
    return np.concatenate([of(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK)])
