"""How good scores are: pure functions on arrays, and how sure one can be of them by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
DRAWS = 1000  # of a bootstrap
CELLS = 1 << 18  # of the weights that are held at a time: they stay in the cache
POINTS = 200  # of a curve
BINS = 10
RARE = 1e-4  # of a share of nothing, in a population stability index


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows by falling score. What depends on the order alone is the same for every weighting of them."""

    order: Ints  # (n)
    ends: Ints  # (k) the place of the last row of each distinct score
    positive: Doubles  # (n) 1 or 0, in order

    @classmethod
    def of(cls, label: Array, score: Array) -> Ranking:
        order = np.argsort(-score.astype(np.float64), kind="stable")
        ranked = score[order]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(score) - 1)
        return cls(order, ends, label[order].astype(bool).astype(np.float64))

    def counts(self, weights: Array | None = None) -> tuple[Doubles, Doubles]:
        """Positives and all rows at or above each distinct score, f8 (d, k) each, for weights (d, n) of the rows."""
        w = np.ones((1, len(self.order))) if weights is None else weights.take(self.order, axis=1)
        cumulated = (np.cumsum(v, axis=1, dtype=np.float64) for v in (w * self.positive, w))
        positives, rows = (c if len(self.ends) == len(self.order) else c.take(self.ends, axis=1) for c in cumulated)
        return positives, rows

    def areas(self, weights: Array | None = None) -> Doubles:
        """Two areas for each weighting, f8 (d, 2): the area under the ROC curve by trapezoids, and average precision,
        the area under the steps of the precision-recall curve, tied scores as one. NaN where a class that is needed is
        missing."""
        positives, rows = self.counts(weights)
        p, n = positives[:, -1], rows[:, -1] - positives[:, -1]
        new = np.diff(positives, axis=1, prepend=0)
        # Of the pairs of a negative and a positive: those whose negative is not above, half of those on a par.
        above = np.einsum("dk,dk->d", np.diff(rows, axis=1, prepend=0) - new, positives - new / 2)
        precision = np.divide(positives, rows, out=np.zeros_like(rows), where=rows > 0)
        return np.stack([ratio(above, p * n), ratio(np.einsum("dk,dk->d", new, precision), p)], axis=1)


def auc(label: Array, score: Array) -> float:
    """The probability that a positive scores above a negative, ties counting half; NaN when one class is missing
    (Hanley and McNeil, 1982, https://doi.org/10.1148/radiology.143.1.7063747).

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    return float(Ranking.of(label, score).areas()[0, 0])


def average_precision(label: Array, score: Array) -> float:
    """The area under the precision-recall curve as a sum of steps, tied scores as one; NaN without positives.

    >>> average_precision(np.array([1, 0, 1]), np.array([3, 2, 1]))
    0.8333333333333333
    """
    return float(Ranking.of(label, score).areas()[0, 1])


class Curve(NamedTuple):
    x: Doubles
    y: Doubles


def roc(label: Array, score: Array) -> Curve:
    """False positive rate and recall from (0, 0) to (1, 1), at most `POINTS` points; both classes are needed."""
    positives, rows = (np.append(0, c[0]) for c in Ranking.of(label, score).counts())
    negatives = rows - positives
    return _thinned(negatives / negatives[-1], positives / positives[-1])


def precision_recall(label: Array, score: Array) -> Curve:
    """Recall and precision from the highest score to the lowest, at most `POINTS` points; a positive is needed."""
    positives, rows = (c[0] for c in Ranking.of(label, score).counts())
    return _thinned(positives / positives[-1], positives / rows)


def brier(label: Array, probability: Array) -> float:
    """The mean squared error of a probability (Brier, 1950)."""
    return float(np.mean((probability.astype(np.float64) - label) ** 2))


class Reliable(NamedTuple):
    """Rows in `BINS` bins of as many rows, equal scores in the same: mean score, share of positives, rows."""

    predicted: Doubles
    actual: Doubles
    rows: Ints

    @property
    def error(self) -> float:
        """The expected calibration error: how far score and share are apart, over rows (Naeini et al., AAAI 2015)."""
        return float(np.average(np.abs(self.predicted - self.actual), weights=self.rows))


def reliability(label: Array, probability: Array) -> Reliable:
    at = np.searchsorted(_inner_quantiles(probability), probability, side="right")
    rows = np.bincount(at)
    sums = (np.bincount(at, v.astype(np.float64)) for v in (probability, label))
    predicted, actual = (s[rows > 0] / rows[rows > 0] for s in sums)
    return Reliable(predicted, actual, rows[rows > 0])


def deciles(label: Array, score: Array) -> tuple[Ints, Doubles]:
    """Rows and positives in each tenth of the rows by falling score, (10) each. Rows of one score are exchangeable:
    positives are what a random order of them gives on average."""
    ranking = Ranking.of(label, score)
    rows = np.diff(ranking.ends, prepend=-1)
    positives = np.add.reduceat(ranking.positive, np.append(0, ranking.ends[:-1] + 1))
    parts = np.array_split(np.repeat(positives / rows, rows), 10)
    return np.array([len(p) for p in parts]), np.array([p.sum() for p in parts])


def shares(values: Array, inner: Doubles) -> Doubles:
    """f8 (len(inner) + 1): the share of values in each of the bins between inner edges."""
    at = np.searchsorted(inner, values, side="right")
    return np.bincount(at, minlength=len(inner) + 1) / max(1, len(values))


def psi(expected: Array, actual: Array) -> float:
    """Population stability index over the deciles of `expected`, by which the two distributions differ: customarily
    below 0.1 is little, above 0.25 is much (Siddiqi, Credit Risk Scorecards, 2006)."""
    inner = _inner_quantiles(expected)
    e, a = (np.maximum(shares(v, inner), RARE) for v in (expected, actual))
    return float(np.sum((a - e) * np.log(a / e)))


def bootstrap(of: Callable[[Array], Doubles], groups: Array, seed: int, draws: int = DRAWS) -> Doubles:
    """What `of` gives, f8 (draws, ...), under bootstrap weights (d, n) of n rows, the rows of a group drawn together
    (Efron, 1979; Field and Welsh, 2007, for clusters). The same groups and seed give the same draws, so that two
    statistics differ draw by draw as they do on the same sample.

    Args:
      groups: (n) which group a row belongs to.
    """
    random = np.random.default_rng(seed)
    names, place = np.unique(groups, return_inverse=True)
    n, size = len(names), max(1, CELLS // len(groups))
    out = []
    for start in range(0, draws, size):
        d = min(size, draws - start)
        drawn = random.integers(0, n, (d, n)) + np.arange(d)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=d * n).reshape(d, n).astype(np.float32)
        out.append(of(counts.take(place, axis=1)))
    return np.concatenate(out)


def block_weights(n: int, length: int, seed: int, draws: int = DRAWS) -> Ints:
    """(draws, n): how often each of n values in order of time is drawn by the circular block bootstrap, whose blocks of
    `length` keep what neighbours share (Politis and Romano, 1992)."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, n, (draws, -(-n // length)))
    drawn = ((starts[:, :, None] + np.arange(length)) % n).reshape(draws, -1)[:, :n]
    return np.bincount((drawn + np.arange(draws)[:, None] * n).ravel(), minlength=draws * n).reshape(draws, n)


def interval(values: Doubles) -> tuple[float, float]:
    """The middle 95 % of bootstrap values; NaN where none is finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def log_return(later: Array, earlier: Array) -> Doubles:
    """The log return, f8, log(later / earlier) of levels of one shape; 0 where either is not positive."""
    real = (later > 0) & (earlier > 0)
    a, b = (np.log(np.where(real, v, 1).astype(np.float64)) for v in (later, earlier))
    return a - b


def log_error(actual: Array, predicted: Array) -> Doubles:
    """(n, steps) levels each -> f8 (n, steps): absolute error of the log return; NaN where the actual level is not
    positive. A prediction that is not positive counts as the least positive number."""
    least = np.finfo(np.float32).tiny
    return np.where(actual > 0, np.abs(log_return(actual, np.maximum(predicted, least))), np.nan)


def _inner_quantiles(values: Array) -> Doubles:
    return np.unique(np.quantile(values.astype(np.float64), np.arange(1, BINS) / BINS))


def _thinned(x: Doubles, y: Doubles) -> Curve:
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return Curve(x[at], y[at])


def ratio(a: Doubles, b: Doubles) -> Doubles:
    """a / b; NaN where b is not positive."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)
