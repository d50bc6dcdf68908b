"""What a network has to beat: rules that need no training, a logistic regression, and boosted trees on aggregates.

Every baseline sees the same histories as the network, and of what came after an as-of only the labels of the training
and validation rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.errors import UserError
from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Examples, Ints
from pipelines.models.metrics import log_return
from pipelines.task.fields import parse_duration
from pipelines.task.labels.path import path_of
from pipelines.task.spec import Feature, Task

if TYPE_CHECKING:
    import lightgbm

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
DAY = parse_duration("1d")
PART, PART_CELLS = 1024, 1 << 23  # rows, and cells of their tensors (32 MiB), that are held at a time, at most
REGRESSION_ROWS = 1 << 18  # that a logistic regression learns from, at most
TREE_CELLS = 1 << 25  # of the table that trees learn from, at most: 128 MiB, and a quarter of it as bins
CHECKED = 4  # of the rows that trees learn from, one in so many decides when they stop
THREAD_CELLS = 1 << 20
TREE_STEPS = 5  # steps of a path that have trees of their own
CATEGORIES = 254  # of a text feature that trees tell apart, at most
PERIODS = (1, 2, 3, 4, 6, 8, 13, 18, 26, 39, 52, 78, 104, 156, 208, 365)  # the last so many steps

# Chosen at four as-ofs of the task churn_mathoverflow that are before its test: trees of 7 or 31 leaves, the mean of
# five seeds, linear leaves, and extremely random splits gained nothing (AUC 0.853 to 0.855, this one 0.855).
TREES: Mapping[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 15,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
ROUNDS, PATIENCE = 1000, 50


def recency(examples: Examples, rows: Ints) -> Doubles:
    """Scores by recency, f8 (len(rows)): us since the last event. Who was away longest leaves first."""
    return (examples.as_of[rows] - examples.last_event_time[rows]).astype(np.float64)


def logistic(task: Task, examples: Examples, train: Ints, rows: Ints) -> Doubles:
    """Probability of churn, f8 (len(rows)), by a logistic regression on the `summary_features` of a history.

    It learns from the rows `train`, from `REGRESSION_ROWS` evenly spaced ones at most."""
    learn = thin(train, REGRESSION_ROWS)
    x, new = (parts(task, r, lambda part: summary_features(task, examples, part)) for r in (learn, rows))
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-9
    weights = _newton(_with_one((x - mean) / spread), examples.label[learn, 0].astype(np.float64))
    return 1 / (1 + np.exp(-_with_one((new - mean) / spread) @ weights))


def summary_features(task: Task, examples: Examples, rows: Ints) -> Doubles:
    """What a history says in six numbers, f8 (n, 6): logarithms of 1 + recency, tenure within the history (both in
    steps), events, and active steps in the whole history, its last quarter and its last twelfth."""
    present = active_steps(task, examples.tensor(rows))
    steps = present.shape[1]
    lately = [present[:, -max(1, steps // part) :].sum(axis=1) for part in (1, 4, 12)]
    away = recency(examples, rows) / task.sequence.step
    return np.log1p(np.stack([away, _tenure(present), examples.n_events[rows], *lately], axis=1).astype(np.float64))


def active_steps(task: Task, x: Floats) -> Mask:
    """The steps in which something happened, bool (n, steps), as far as the features tell: by the counts; without any,
    by the recency; else by whatever is not carried forward; else by any feature."""
    counts = _columns(task, lambda f: f.aggregation.measures == "count")
    ages = _columns(task, lambda f: f.aggregation.measures == "age")
    if ages and not counts:  # at the first step 1 is also what the recency of no event is
        return (x[:, :, ages[0]] <= 1) & ((np.arange(x.shape[1]) > 0) | (x[:, :, ages[0]] < 1))
    fresh = counts or _columns(task, lambda f: f.zero)
    return np.any(x[:, :, fresh] if fresh else x, axis=2)


def trees(task: Task, examples: Examples, train: Ints, validation: Ints, rows: Ints) -> Doubles:
    """Probability of churn, f8 (len(rows)), by LightGBM on `aggregates`, trained on the rows `train` (as many of them,
    evenly spaced, as `TREE_CELLS` has room for) until the rows `validation` (a quarter of that, at most) are described
    no better. The same rows give the same trees.

    Raises:
      UserError: LightGBM is not installed.
    """
    _lightgbm()
    table, label = _Table(task, examples, train), examples.label[:, 0].astype(np.float64)
    check = thin(validation, table.most // CHECKED)
    return table.predict([table.boost("binary", label[table.rows], (table(check), label[check]))], rows)[:, 0]


def naive(task: Task, x: Floats) -> Doubles:
    """The last level repeated: raw tensor f4 (n, steps, features) -> levels f8 (n, label.steps)."""
    return np.repeat(x[:, -1, path_of(task).level(task), None].astype(np.float64), task.label.width, axis=1)


def drift(task: Task, x: Floats) -> Doubles:
    """The last level, growing as it did on average since the first level of the history. Shapes as of `naive`."""
    series, known = _carried(x[:, :, path_of(task).level(task)])
    growth = (series[:, -1] - series[:, 0]) / np.maximum(known.sum(axis=1) - 1, 1)
    return naive(task, x) * np.exp(growth[:, None] * np.arange(1, task.label.width + 1))


def seasonal(task: Task, x: Floats) -> Doubles:
    """The log returns of the last season repeated: of seven steps where a step is a day, so that weekends fall on
    weekends, else of as many as the path has. Shapes as of `naive`. The seasonal naive method of Hyndman and
    Athanasopoulos, Forecasting, 3rd ed., section 5.2, applied to returns."""
    returns = np.diff(_carried(x[:, :, path_of(task).level(task)])[0], axis=1)
    season = min(7 if task.sequence.step == DAY else task.label.width, returns.shape[1])
    if not season:
        return naive(task, x)
    ahead = np.arange(task.label.width) % season
    return naive(task, x) * np.exp(np.cumsum(returns[:, returns.shape[1] - season :][:, ahead], axis=1))


def tree_paths(task: Task, examples: Examples, train: Ints, validation: Ints, rows: Ints) -> Doubles:
    """Levels f8 (len(rows), label.steps): the last level and medians of the log return by LightGBM on `aggregates`,
    which hold the returns over many lags. `TREE_STEPS` steps have trees; log returns between them are interpolated.

    Raises:
      UserError: LightGBM is not installed.
    """
    _lightgbm()
    table = _Table(task, examples, train)
    check = thin(validation, table.most // CHECKED)
    last, learnt, checked = (
        parts(task, r, lambda part: naive(task, examples.tensor(part))) for r in (rows, table.rows, check)
    )
    y, y_check = log_return(examples.label[table.rows], learnt), log_return(examples.label[check], checked)
    x_check = table(check)
    fitted = np.unique(np.linspace(1, task.label.width, min(TREE_STEPS, task.label.width)).round().astype(np.int64))
    boosters = [table.boost("regression_l1", y[:, i], (x_check, y_check[:, i])) for i in fitted - 1]
    known = table.predict(boosters, rows)
    places, ahead = np.append(0, fitted), np.arange(1, task.label.width + 1)
    between = np.stack([np.interp(ahead, places, unit) for unit in np.eye(len(places))[1:]])
    return last * np.exp(known @ between)


def aggregates(task: Task, examples: Examples, rows: Ints) -> Floats:
    """f4 (n, columns). Of the history: see `_rhythm`. Of every plain feature, over each of the last `PERIODS`: sum,
    least, most, active steps, the mean of those, and the sum of as many steps before. Of every `relative` one:
    log(last / level that many steps ago), and the deviation of the one-step returns since. Last comes the newest code
    of each text feature."""
    x = examples.tensor(rows)
    periods = sorted({p for p in PERIODS if p < x.shape[1]} | {x.shape[1]})
    columns = _rhythm(task, examples, rows, active_steps(task, x), periods)
    plain = _columns(task, lambda f: f.quantity and f.scale != "relative")
    columns += _totals(x[:, ::-1, plain], periods) if plain else []
    for i in _columns(task, lambda f: f.quantity and f.scale == "relative"):
        columns += _returns(x[:, :, i], periods)
    for i in _columns(task, lambda f: bool(f.vocabulary)):
        columns.append(last_code(x[:, :, i])[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float32)


def parts(task: Task, rows: Ints, of: Callable[[Ints], Array]) -> Array:
    """Calls `of` on all rows, and concatenates what it gives; it is given as many at a time as `PART` and `PART_CELLS`
    allow."""
    size = max(1, min(PART, PART_CELLS // (task.sequence.steps * len(task.features))))
    return np.concatenate([of(rows[i : i + size]) for i in range(0, len(rows), size)])


def thin(rows: Ints, most: int) -> Ints:
    """Picks at most `most` of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _rhythm(task: Task, examples: Examples, rows: Ints, present: Mask, periods: list[int]) -> list[Array]:
    """Exact recency, tenure, events, share of active steps; of the gaps between active steps the mean, the deviation
    and the longest, and how many mean gaps the recency is; active steps in each period."""
    steps = present.shape[1]
    away, tenure, total = recency(examples, rows) / task.sequence.step, _tenure(present), present.sum(axis=1)
    before = np.maximum.accumulate(np.where(present, np.arange(steps), -1), axis=1)[:, :-1]
    gap = np.where(present[:, 1:] & (before >= 0), np.arange(1, steps) - before, 0).astype(np.float64)
    gaps = np.maximum((gap > 0).sum(axis=1), 1)
    mean, square = gap.sum(axis=1) / gaps, (gap**2).sum(axis=1) / gaps
    deviation, longest = np.sqrt(np.maximum(square - mean**2, 0)), gap.max(axis=1, initial=0)
    within = np.cumsum(present[:, ::-1], axis=1)
    history = [away, tenure, examples.n_events[rows], total / np.maximum(tenure, 1)]
    rhythm = [mean, deviation, longest, away / np.maximum(mean, 1)]
    return [c[:, None] for c in (*history, *rhythm, *(within[:, p - 1] for p in periods))]


def _tenure(present: Mask) -> Ints:
    """Steps since the first active one, it included; 0 without any."""
    return np.where(present.any(axis=1), present.shape[1] - present.argmax(axis=1), 0)


def _totals(back: Floats, periods: list[int]) -> list[Array]:
    """Columns (n, k) of `back` (n, steps, k), which runs from the last step to the first."""
    total, nonzero = np.cumsum(back, axis=1, dtype=np.float64), np.cumsum(back != 0, axis=1)
    least, most = np.minimum.accumulate(back, axis=1), np.maximum.accumulate(back, axis=1)
    out: list[Array] = []
    for p in periods:
        sums, n = total[:, p - 1], nonzero[:, p - 1]
        out += [sums, least[:, p - 1], most[:, p - 1], n, sums / np.maximum(n, 1)]
        if p < back.shape[1]:
            out.append(total[:, min(2 * p, back.shape[1]) - 1] - sums)
    return out


def _returns(series: Floats, periods: list[int]) -> list[Array]:
    """Columns (n, 1) of levels (n, steps)."""
    levels = _carried(series)[0]
    steps = np.diff(levels, axis=1)
    lately = [steps[:, -p:] for p in periods if p < levels.shape[1]]
    return [c[:, None] for r in lately for c in (r.sum(axis=1), r.std(axis=1))]


def _carried(series: Floats) -> tuple[Doubles, Mask]:
    """(n, steps) levels -> their logarithms, where one is not positive that of the last before it, or of the first; and
    which steps have a level at or before them."""
    real = series > 0
    at = np.maximum.accumulate(np.where(real, np.arange(series.shape[1]), real.argmax(axis=1)[:, None]), axis=1)
    logs = np.log(np.where(real, series, 1).astype(np.float64))
    return np.take_along_axis(logs, at, axis=1), np.maximum.accumulate(real, axis=1)


def last_code(codes: Floats) -> Floats:
    """(n, steps) codes -> (n) the last that is not 0."""
    back = codes[:, ::-1]
    return np.take_along_axis(back, (back != 0).argmax(axis=1)[:, None], axis=1)[:, 0]


class _Table:
    """`aggregates` with the codes of text features numbered 1, 2, ... where they are among the `CATEGORIES` most
    frequent of the training rows, 0 elsewhere.

    Attributes:
      rows: those of the training rows, evenly spaced, that `TREE_CELLS` has room for.
      x: f4 (len(rows), columns).
    """

    def __init__(self, task: Task, examples: Examples, train: Ints) -> None:
        self.task, self.examples = task, examples
        self.most = TREE_CELLS // aggregates(task, examples, train[:1]).shape[1]
        self.rows = thin(train, self.most)
        raw = parts(task, self.rows, lambda part: aggregates(task, examples, part))
        limits = [min(f.vocabulary, CATEGORIES) for f in task.features if f.vocabulary]
        self.codes = range(raw.shape[1] - len(limits), raw.shape[1])
        self.known = [_frequent(raw[:, i], n) for i, n in zip(self.codes, limits, strict=True)]
        self.x = self._numbered(raw)

    def __call__(self, rows: Ints) -> Floats:
        """f4 (len(rows), columns)."""
        return parts(self.task, rows, lambda part: self._numbered(aggregates(self.task, self.examples, part)))

    def predict(self, boosters: Sequence[lightgbm.Booster], rows: Ints) -> Doubles:
        """What each booster says of the rows, f8 (len(rows), len(boosters)), in one pass over them."""

        def by_each(part: Ints) -> Doubles:
            x = self(part)
            return np.stack([np.asarray(b.predict(x, num_threads=_threads(self.x))) for b in boosters], axis=1)

        return parts(self.task, rows, by_each)

    def boost(self, objective: str, y: Doubles, check: tuple[Floats, Doubles]) -> lightgbm.Booster:
        """Trains trees that say y of x, stopped early by the loss on another (x, y)."""
        lgb = _lightgbm()
        data = lgb.Dataset(self.x, y, categorical_feature=list(self.codes))
        settings = {**TREES, "objective": objective, "seed": self.task.model.seed, "num_threads": _threads(self.x)}
        settings |= {"min_data_in_leaf": min(100, max(5, len(y) // 100))}
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        return lgb.train(settings, data, ROUNDS, [data.create_valid(*check)], callbacks=[stop])

    def _numbered(self, x: Floats) -> Floats:
        for column, known in zip(self.codes, self.known, strict=True):
            at = np.minimum(np.searchsorted(known, x[:, column]), len(known) - 1)
            x[:, column] = np.where(known[at] == x[:, column], at + 1, 0)
        return x


def _frequent(codes: Floats, most: int) -> Floats:
    """The codes but 0 that are most frequent, ascending; one that there is not, when there are none."""
    values, counts = np.unique(codes[codes != 0], return_counts=True)
    return np.sort(values[np.argsort(-counts, kind="stable")[:most]]) if len(values) else np.array([-1], np.float32)


def _lightgbm() -> ModuleType:
    try:
        import lightgbm
    except ImportError:
        raise UserError(
            "LightGBM, which a network is compared with, is missing: pip install 'foretide[train]'"
        ) from None
    return lightgbm


def _threads(x: Floats) -> int:
    """One for each `THREAD_CELLS` of the table, on half of the processors at most: LightGBM's threads spin while they
    wait for one another, and two of them on two busy processors took 17 times as long as one alone."""
    return max(1, min(x.size // THREAD_CELLS, len(os.sched_getaffinity(0)) // 2))


def _columns(task: Task, which: Callable[[Feature], bool]) -> list[int]:
    return [i for i, f in enumerate(task.features) if which(f)]


def _newton(x: Doubles, y: Doubles, ridge: float = 1e-3, rounds: int = 25) -> Doubles:
    """Weights of a logistic regression by iteratively reweighted least squares (Hastie et al., 2009, section 4.4.1).

    Of 262,144 rows it takes 0.14 s of one processor. scikit-learn's `newton-cholesky` solver gives the same
    probabilities to 2e-9 in 0.19 to 0.21 s, and scipy's L-BFGS to 1e-7 in 0.7 to 1.1 s: neither is worth a dependency.
    """
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
