"""What judging churn and judging paths share: the scores of the sets, what shuffling a feature costs, and drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.evaluation.baselines import Doubles, last_code, parts, thin
from pipelines.evaluation.schema import Evaluation, FeatureDrift, Importance, ScoreDrift, Set
from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Examples, Ints
from pipelines.models.metrics import log_return, psi, shares
from pipelines.task.spec import Task

Predict = Callable[[Floats], Floats]  # raw tensor f4 (n, steps, features) -> scores f4 (n, outputs)
SHUFFLED, REPEATS = 2000, 3  # rows whose features are shuffled, at most, and how often
SHUFFLED_CELLS = 1 << 23  # of their tensors, at most: 32 MiB
SCORED = 1 << 17  # rows that are scored for it, over all features and repeats, at most
BARS = 20  # of a histogram of scores


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of the examples; each set's as-ofs are a horizon before those of the next."""

    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network says of n rows, and what they look like."""

    rows: Ints
    scores: Floats  # (n, outputs)
    means: Doubles  # (n, features), see `means`
    last: Doubles  # (n) the level that the label starts from, see `Label.start`


@dataclass(frozen=True, eq=False)
class Survey:
    """The examples and the network's view of each set; of large training and validation sets a sample."""

    task: Task
    examples: Examples
    predict: Predict
    seen: Mapping[Set, Seen]

    @property
    def test(self) -> Seen:
        return self.seen["test"]

    def by_as_of(self) -> Iterator[tuple[Set, int, Seen]]:
        """Each set at each of its as-ofs, in order of time."""
        for name, seen in self.seen.items():
            as_ofs = self.examples.as_of[seen.rows]
            for t in np.unique(as_ofs).tolist():
                here = as_ofs == t
                yield name, t, Seen(seen.rows[here], seen.scores[here], seen.means[here], seen.last[here])


def see(task: Task, examples: Examples, rows: Ints, predict: Predict) -> Seen:
    """Asks the network about the rows, in one pass over their tensors."""

    def look(part: Ints) -> Doubles:
        x = examples.tensor(part)
        return np.concatenate(
            [predict(x), means(task, x), task.label.start(task, x)[:, None]], axis=1, dtype=np.float64
        )

    outputs, features = len(task.outputs), len(task.features)
    scores, looks, last = np.split(parts(task, rows, look), [outputs, outputs + features], axis=1)
    return Seen(rows, scores.astype(np.float32), looks, last[:, 0])


def means(task: Task, x: Floats) -> Doubles:
    """The mean of each feature, f8 (n, features): the mean of each feature over the steps; of a `relative` one the mean
    of log(x / last x), of a text feature the last code there is."""
    out = x.mean(axis=1, dtype=np.float64)
    for i, f in enumerate(task.features):
        if f.vocabulary:
            out[:, i] = last_code(x[:, :, i])
        elif f.scale == "relative" and f.quantity:
            out[:, i] = log_return(x[:, :, i], np.broadcast_to(x[:, -1:, i], x.shape[:2])).mean(axis=1)
    return out


def entities(examples: Examples, rows: Ints) -> Ints:
    """Numbers the entities of the rows, (len(rows))."""
    names = examples.entity.take(pa.array(rows)).combine_chunks()
    return names.dictionary_encode().indices.to_numpy().astype(np.int64)


def importance(survey: Survey, quality: Callable[[Ints, Floats, Floats], float]) -> list[Importance]:
    """What `quality` loses when one feature, all its steps together, is shuffled between test rows (Breiman, 2001): the
    mean, the least and the most of `REPEATS`, by falling mean.

    Args:
      quality: of rows, their tensor as it was changed, and the scores of that; higher is better.
    """
    task, examples = survey.task, survey.examples
    cells = task.sequence.steps * len(task.features)
    most = min(SHUFFLED, SHUFFLED_CELLS // cells, SCORED // (REPEATS * len(task.features)))
    rows = thin(survey.test.rows, max(2, most))
    x, random = examples.tensor(rows), np.random.default_rng(task.model.seed)

    def now() -> float:
        places = np.arange(len(rows))
        return quality(rows, x, parts(task, places, lambda part: survey.predict(x[part])))

    whole, out = now(), []
    for i, feature in enumerate(task.features):
        kept, drops = x[:, :, i].copy(), []
        for _ in range(REPEATS):
            x[:, :, i] = kept[random.permutation(len(rows))]
            drops.append(whole - now())
        x[:, :, i] = kept
        out.append(
            Importance(
                feature=feature.name, drop=number(np.mean(drops)), low=number(min(drops)), high=number(max(drops))
            )
        )
    return sorted(out, key=lambda r: -r["drop"])


def score_drift(train: Doubles, test: Doubles, low: float, high: float) -> ScoreDrift:
    """Scores in `BARS` bars from low to high; those outside count in the first and the last."""
    edges = np.linspace(low, high, BARS + 1)
    bars = (numbers(shares(v, edges[1:-1])) for v in (train, test))
    return ScoreDrift(psi=number(psi(train, test)), edges=numbers(edges), train=next(bars), test=next(bars))


def feature_drift(survey: Survey) -> list[FeatureDrift]:
    before, after = survey.seen["train"].means, survey.test.means
    out = [
        FeatureDrift(feature=f.name, psi=number(psi(before[:, i], after[:, i])))
        for i, f in enumerate(survey.task.features)
    ]
    return sorted(out, key=lambda r: -r["psi"])


def number(value: Any) -> float:
    """Rounds a number to six figures, which is more than is known of any metric."""
    return float(f"{float(value):.6g}")


def known(value: Any) -> float | None:
    """A number, or None for one that is not finite."""
    return number(value) if np.isfinite(value) else None


def numbers(values: npt.NDArray[Any]) -> list[float]:
    return [number(v) for v in values.tolist()]


def tested(evaluation: Evaluation) -> str:
    """`1,016 entities as of 2015-01-01`; with several as-ofs, rows of an entity and as-of are counted."""
    test = evaluation["test"]
    first, last, n = test["as_ofs"][0], test["as_ofs"][-1], len(test["as_ofs"])
    if n == 1:
        return f"{test['entities']:,} entities as of {first}"
    return f"{test['entities']:,} examples at {n} as-ofs from {first} to {last}"
