"""How good forecasts of paths are, beside the simplest ones: the parts of a `schema.Path`.

Skill is 1 - the mean absolute error of the log return / that of the naive forecast, which says that the last level
stays. Over a weekend a level is carried forward, in the label as in the forecast: at such a step naive makes no error,
and where it makes none at any as-of there is no skill to tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.evaluation import baselines
from pipelines.evaluation.baselines import Doubles, naive, parts, seasonal, thin, tree_paths
from pipelines.evaluation.schema import (
    Coverage,
    Drift,
    EvaluationHead,
    Fan,
    Importance,
    Path,
    PathAsOf,
    PathModel,
    Step,
)
from pipelines.evaluation.survey import (
    Predict,
    Splits,
    Survey,
    feature_drift,
    known,
    number,
    numbers,
    score_drift,
    tested,
)
from pipelines.evaluation.survey import importance as shuffled
from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Ints
from pipelines.models.metrics import block_weights, interval, log_error, log_return, ratio
from pipelines.task.fields import format_time
from pipelines.task.labels.path import path_of
from pipelines.task.spec import Task

BLOCKS = 4  # that do not overlap: with fewer of them, an interval says nothing
NAIVE = "naive last value"
FLAT = 1e-3  # returns in % that differ by less are one
LEAK = 0.05  # of the error that no model of the past takes away, as far as is known
SHOWN = 12  # steps in the lines of a terminal
FANS, HISTORY = 4, 60  # paths that are drawn, and the levels before them


def judge(survey: Survey, splits: Splits, head: EvaluationHead, uncalibrated: Predict, method: str) -> Path:
    """Judges a model of paths: the whole evaluation."""
    found = forecasts(survey, splits.train, splits.validation)
    return Path(
        **head,
        kind="path",
        models=models(survey, found),
        coverage=coverage(survey),
        by_as_of=by_as_of(survey),
        fan=fans(survey),
        importance=importance(survey),
        drift=drift(survey),
    )


def headline(evaluation: Path) -> dict[str, float]:
    """The figures that the manifest keeps: the skill, and at the first, the middle and the last step the error in %,
    that of naive and the skill; with intervals where there are any."""
    network, last = evaluation["models"][:2]
    steps = network["by_step"]
    found: dict[str, float | None] = {
        "skill": network["skill"],
        "skill_low": network["low"],
        "skill_high": network["high"],
    }
    for i in sorted({0, len(steps) // 2, len(steps) - 1}):
        step, k = steps[i], f"step_{i + 1}"
        found |= {f"error_{k}": step["error"], f"error_naive_{k}": last["by_step"][i]["error"]}
        found |= {f"skill_{k}": step["skill"], f"skill_low_{k}": step["low"], f"skill_high_{k}": step["high"]}
    inside = [c["actual"] for c in evaluation["coverage"]]
    found |= {"coverage": number(sum(inside) / len(inside)), "coverage_nominal": evaluation["coverage"][0]["nominal"]}
    return {name: value for name, value in found.items() if value is not None}


def lines(evaluation: Path) -> list[str]:
    """The lines that the terminal shows: the errors of each model at some steps."""
    shown = evaluation["models"]
    network, width = shown[0], 12
    names = "".join(f"{m['name'].split()[0]:>{width}}" for m in shown)
    skills = "".join(f"{_percent(m['skill']):>{width}}" for m in shown)
    out = [
        f"{tested(evaluation)}: mean error of the log return in %",
        f"  step  {names}  skill of the network (95 %)",
    ]
    for i in thin(np.arange(len(network["by_step"])), SHOWN).tolist():
        errors = "".join(f"{m['by_step'][i]['error']:>{width}.3f}" for m in shown)
        out.append(f"  {i + 1:<6}{errors}  {_told(network['by_step'][i])}")
    out.append(f"  skill {skills}  {_told(network)}")
    if network["low"] is None:
        out.append("  no intervals: the test as-ofs span too few horizons; give more of them, or further apart")
    if (network["skill"] or 0) > LEAK:
        out.append(
            f"  a skill above {100 * LEAK:.0f} % is a leak until shown otherwise: does a feature know the future?"
        )
    return out


def _told(of: Step | PathModel) -> str:
    """`+1.2 % (-0.3 % to +2.5 %)`."""
    if of["low"] is None or of["high"] is None:
        return _percent(of["skill"])
    return f"{_percent(of['skill'])} ({_percent(of['low'])} to {_percent(of['high'])})"


def _percent(skill: float | None) -> str:
    return "-" if skill is None else f"{round(100 * skill, 2) + 0.0:+.2f} %"  # no -0.00


def forecasts(survey: Survey, train: Ints, validation: Ints) -> dict[str, Doubles]:
    """The levels that each model forecasts, f8 (test rows, label.steps): the network's medians, the naive forecast, the
    others.

    Raises:
      UserError: LightGBM is not installed.
    """
    task, examples, rows = survey.task, survey.examples, survey.test.rows
    simple = parts(
        task,
        rows,
        lambda part: np.stack([f(task, examples.tensor(part)) for f in (naive, baselines.drift, seasonal)], axis=1),
    )
    return {
        "network": survey.test.scores[:, : task.label.width].astype(np.float64),
        **dict(zip((NAIVE, "drift", "seasonal naive"), np.moveaxis(simple, 1, 0), strict=True)),
        "LightGBM on lagged returns": tree_paths(task, examples, train, validation, rows),
    }


def models(survey: Survey, found: Mapping[str, Doubles]) -> list[PathModel]:
    """The figures of each model. Intervals come from a bootstrap of blocks of as-ofs: what is forecast at one as-of
    moves together, and so do as-ofs whose horizons overlap."""
    actual, as_of = survey.examples.label[survey.test.rows], survey.examples.as_of[survey.test.rows]
    times, place = np.unique(as_of, return_inverse=True)
    weights = _weights(survey.task, times)
    errors = {name: _by(place, log_error(actual, levels)) for name, levels in found.items()}
    return [
        _model(name, mean_error(actual, levels), errors[name], errors[NAIVE], weights) for name, levels in found.items()
    ]


def _model(name: str, error: Doubles, own: Doubles, reference: Doubles, weights: Ints | None) -> PathModel:
    """The figures of one model.

    Args:
      error: (steps); own, reference: (as-ofs, steps) sums of errors of the log return, of this model and of naive.
    """
    skills = _skill(own, reference, weights)
    [(skill, low, high)] = _skill(own.sum(axis=1, keepdims=True), reference.sum(axis=1, keepdims=True), weights)
    steps = [
        Step(step=i + 1, error=number(e), skill=s, low=worst, high=best)
        for i, (e, (s, worst, best)) in enumerate(zip(error, skills, strict=True))
    ]
    return PathModel(name=name, by_step=steps, skill=skill, low=low, high=high)


def mean_error(actual: Floats, predicted: Doubles) -> Doubles:
    """(n, steps) levels each -> f8 (steps): the mean of `log_error`, in %, over the rows that have a level."""
    error = 100 * log_error(actual, predicted)
    return np.nansum(error, axis=0) / np.maximum(np.isfinite(error).sum(axis=0), 1)


def coverage(survey: Survey) -> list[Coverage]:
    task, actual = survey.task, survey.examples.label[survey.test.rows]
    levels = by_quantile(task, survey.test.scores)
    low, high = min(levels), max(levels)
    inside, real = (levels[low] <= actual) & (actual <= levels[high]), actual > 0
    share = (inside & real).sum(axis=0) / np.maximum(real.sum(axis=0), 1)
    return [Coverage(step=i + 1, nominal=number(high - low), actual=a) for i, a in enumerate(numbers(share))]


def by_quantile(task: Task, scores: Floats) -> dict[float, Floats]:
    """Scores f4 (n, outputs), in the order of `Task.outputs` -> by ascending quantile, levels f4 (n, label.steps)."""
    label = path_of(task)
    steps, quantiles = label.steps, label.quantiles
    others = scores[:, steps:].reshape(len(scores), steps, len(quantiles))
    levels = {0.5: scores[:, :steps], **{q: others[:, :, i] for i, q in enumerate(quantiles)}}
    return {q: levels[q] for q in label.levels}


def by_as_of(survey: Survey) -> list[PathAsOf]:
    """The network at each as-of of each set, all steps together."""
    out, steps = [], survey.task.label.width
    for name, t, seen in survey.by_as_of():
        actual = survey.examples.label[seen.rows]
        levels = seen.scores[:, :steps].astype(np.float64), np.repeat(seen.last[:, None], steps, axis=1)
        own, reference = (np.array([[np.nansum(log_error(actual, v))]]) for v in levels)
        [(skill, _, _)] = _skill(own, reference, None)
        error, error_naive = (number(mean_error(actual, v).mean()) for v in levels)
        out.append(
            PathAsOf(
                as_of=format_time(t), set=name, entities=len(actual), error=error, error_naive=error_naive, skill=skill
            )
        )
    return out


def fans(survey: Survey) -> list[Fan]:
    """Test paths from well to badly foreseen: those at the first, third, ... of 2 * `FANS` parts by their error."""
    task, examples, test = survey.task, survey.examples, survey.test
    error = np.nansum(log_error(examples.label[test.rows], test.scores[:, : task.label.width]), axis=1)
    parts_of = (2 * np.arange(FANS) + 1) * len(error) // (2 * FANS)
    picked = np.argsort(error, kind="stable")[np.unique(parts_of)]
    x = examples.tensor(test.rows[picked])[:, -HISTORY:, path_of(task).level(task)]
    levels = by_quantile(task, test.scores[picked])
    return [
        Fan(
            entity=examples.entity[int(row)].as_py(),
            as_of=format_time(int(examples.as_of[row])),
            history=numbers(x[i][x[i] > 0]),
            actual=numbers(examples.label[row]),
            quantiles={f"{q:g}": numbers(v[i]) for q, v in levels.items()},
        )
        for i, row in enumerate(test.rows[picked].tolist())
    ]


def importance(survey: Survey) -> list[Importance]:
    """The rise of the mean absolute error of the log return, in %. A return is the forecast against the last level that
    the network was given: shuffling the level takes from it what the past says, not the unit of the forecast."""
    task, examples = survey.task, survey.examples
    at = path_of(task).level(task)

    def quality(rows: Ints, x: Floats, scores: Floats) -> float:
        last = examples.tensor(rows)[:, -1, at, None]
        ahead = log_return(
            scores[:, : task.label.width], np.broadcast_to(x[:, -1, at, None], (len(x), task.label.width))
        )
        came = log_return(examples.label[rows], np.broadcast_to(last, ahead.shape))
        return -100 * float(np.abs(came - ahead).mean())

    return shuffled(survey, quality)


def drift(survey: Survey) -> Drift:
    """The score is the log return of the last step, in %; its histogram spans all but 1 % of the training rows."""
    train, test = (
        100 * log_return(seen.scores[:, survey.task.label.width - 1], seen.last)
        for seen in (survey.seen["train"], survey.test)
    )
    low, high = np.percentile(train, [0.5, 99.5])
    scores = score_drift(train, test, *((low, high) if high - low > FLAT else (low - 1, high + 1)))
    return Drift(scores=scores, features=feature_drift(survey))


def _weights(task: Task, times: Ints) -> Ints | None:
    """(draws, as-ofs) of a block bootstrap, or None with fewer than `BLOCKS` blocks as long as the horizon."""
    length = -(-task.horizon // int(np.diff(times).min())) if len(times) > 1 else 1
    return None if len(times) < BLOCKS * length else block_weights(len(times), length, task.model.seed)


def _by(place: Ints, error: Doubles) -> Doubles:
    """(n, steps) -> (as-ofs, steps), sums."""
    out = np.zeros((place.max() + 1, error.shape[1]))
    np.add.at(out, place, np.nan_to_num(error))
    return out


def _skill(
    own: Doubles, reference: Doubles, weights: Ints | None
) -> list[tuple[float | None, float | None, float | None]]:
    """(as-ofs, k) sums of errors -> k times skill and its interval."""
    draws = ratio(weights @ own, weights @ reference) if weights is not None else np.full((1, own.shape[1]), np.nan)
    ends = [interval(1 - draws[:, i]) for i in range(own.shape[1])]
    skill = 1 - ratio(own.sum(axis=0), reference.sum(axis=0))
    return [(known(s), known(low), known(high)) for s, (low, high) in zip(skill, ends, strict=True)]
