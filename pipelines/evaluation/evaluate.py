"""How good a model is on as-ofs after all it has seen, beside what is simpler: an evaluation, and what is told of it.

The figures are made in `churn` and `path`; their form is in `schema`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.evaluation import churn, path
from pipelines.evaluation.baselines import DAY, thin
from pipelines.evaluation.schema import Churn, Evaluation, Head, Path, PathModel, Set, Step, Tested
from pipelines.evaluation.survey import Predict, Survey, number, see
from pipelines.models.examples import Examples, Ints, check_rows
from pipelines.task import ChurnLabel, Task, format_time

SAMPLE = 1 << 15  # training rows, and validation rows, that the network is judged on, at most
LEAK = 0.05  # of a path's error that no model of the past takes away, as far as is known
SHOWN = 12  # steps of a path in the lines of a terminal


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows of the examples; each set's as-ofs are a horizon before those of the next."""

    train: Ints
    validation: Ints
    test: Ints


def evaluate(
    task: Task,
    examples: Examples,
    splits: Splits,
    predict: Predict,
    uncalibrated: Predict | None = None,
    *,
    version: str = "",
    method: str = "none",
    created: int = 0,
) -> Evaluation:
    """The network on the rows `test`, beside baselines that learn from the same rows as it did. Takes about as long as
    scoring the test rows and `SAMPLE` others, and the trees. The same arguments give the same numbers.

    Args:
      predict: the network, calibrated; a path's scores are in the order of the task's outputs.
      uncalibrated: of churn, before `method` was applied; without it the network counts as uncalibrated.
      version: of the model.
      created: us.

    Raises:
      UserError: there is nothing to judge by in the test rows, or LightGBM is not installed.
    """
    check_rows(task, examples, "test", splits.test)
    rows: dict[Set, Ints] = {
        "train": thin(splits.train, SAMPLE),
        "validation": thin(splits.validation, SAMPLE),
        "test": splits.test,
    }
    survey = Survey(task, examples, predict, {name: see(task, examples, r, predict) for name, r in rows.items()})
    head = _head(survey, version, created)
    if isinstance(task.label, ChurnLabel):
        return _churn(survey, splits, head, uncalibrated or predict, method)
    return _path(survey, splits, head)


def headline(evaluation: Evaluation) -> dict[str, float]:
    """What the manifest keeps. Churn: AUC with its interval, that of each baseline, and calibration. Path: the
    skill, and at the first, the middle and the last step the error in %, that of naive and the skill; with intervals
    where there are any."""
    rows = {"test_entities": float(evaluation["test"]["entities"])}
    if evaluation["kind"] == "path":
        return rows | _path_headline(evaluation)
    network, gradient, logistic, recency = evaluation["models"]
    after = evaluation["calibration"]["after"]
    return rows | {
        "test_share": evaluation["test"]["share"] or 0.0,
        "auc": network["auc"],
        "auc_low": network["auc_low"],
        "auc_high": network["auc_high"],
        "auc_lightgbm": gradient["auc"],
        "auc_logistic": logistic["auc"],
        "auc_recency": recency["auc"],
        "ap": network["ap"],
        "brier": after["brier"],
        "ece": after["ece"],
    }


def lines(evaluation: Evaluation) -> list[str]:
    """What the terminal shows of it: the network beside every baseline."""
    if evaluation["kind"] == "path":
        return _path_lines(evaluation)
    return _churn_lines(evaluation)


def _head(survey: Survey, version: str, created: int) -> Head:
    task, test = survey.task, survey.test
    as_ofs = sorted(set(survey.examples.as_of[test.rows].tolist()))
    label = survey.examples.label[test.rows]
    share = number(label.mean()) if isinstance(task.label, ChurnLabel) else None
    return Head(
        task=task.task,
        version=version,
        description=task.description,
        horizon_days=number(task.horizon / DAY),
        created=format_time(created),
        test=Tested(as_ofs=[format_time(t) for t in as_ofs], entities=len(test.rows), share=share),
    )


def _churn(survey: Survey, splits: Splits, head: Head, uncalibrated: Predict, method: str) -> Churn:
    compared = churn.compare(survey, splits.train, splits.validation)
    return Churn(
        **head,
        kind="churn",
        models=churn.models(survey, compared),
        calibration=churn.calibration(survey, uncalibrated, method),
        by_as_of=churn.by_as_of(survey),
        importance=churn.importance(survey),
        drift=churn.drift(survey),
    )


def _path(survey: Survey, splits: Splits, head: Head) -> Path:
    found = path.forecasts(survey, splits.train, splits.validation)
    return Path(
        **head,
        kind="path",
        models=path.models(survey, found),
        coverage=path.coverage(survey),
        by_as_of=path.by_as_of(survey),
        fan=path.fans(survey),
        importance=path.importance(survey),
        drift=path.drift(survey),
    )


def _path_headline(evaluation: Path) -> dict[str, float]:
    network, naive = evaluation["models"][:2]
    steps = network["by_step"]
    found: dict[str, float | None] = {
        "skill": network["skill"],
        "skill_low": network["low"],
        "skill_high": network["high"],
    }
    for i in sorted({0, len(steps) // 2, len(steps) - 1}):
        step, k = steps[i], f"step_{i + 1}"
        found |= {f"error_{k}": step["error"], f"error_naive_{k}": naive["by_step"][i]["error"]}
        found |= {f"skill_{k}": step["skill"], f"skill_low_{k}": step["low"], f"skill_high_{k}": step["high"]}
    inside = [c["actual"] for c in evaluation["coverage"]]
    found |= {"coverage": number(sum(inside) / len(inside)), "coverage_nominal": evaluation["coverage"][0]["nominal"]}
    return {name: value for name, value in found.items() if value is not None}


def _churn_lines(evaluation: Churn) -> list[str]:
    test, models = evaluation["test"], evaluation["models"]
    width = max(len(m["name"]) for m in models)
    title = f"{_tested(evaluation)}, {100 * (test['share'] or 0):.1f} % of them churned; in brackets 95 % intervals"
    out = [title, f"  {'':<{width}}  {'AUC':<26}  {'average precision':<26}  AUC, against the network"]
    for m in models:
        auc = f"{m['auc']:.4f} ({m['auc_low']:.4f} to {m['auc_high']:.4f})"
        ap = f"{m['ap']:.4f} ({m['ap_low']:.4f} to {m['ap_high']:.4f})"
        gap = m["minus_network"]
        against = f"{gap['auc']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f})" if gap else ""
        out.append(f"  {m['name']:<{width}}  {auc:<26}  {ap:<26}  {against}".rstrip())
    before, after = evaluation["calibration"]["before"], evaluation["calibration"]["after"]
    method = evaluation["calibration"]["method"]
    brier = f"Brier score {before['brier']:.4f}, then {after['brier']:.4f}"
    ece = f"expected error {before['ece']:.4f}, then {after['ece']:.4f}"
    return [*out, f"  calibration ({method}): {ece}; {brier}"]


def _path_lines(evaluation: Path) -> list[str]:
    models = evaluation["models"]
    network, width = models[0], 12
    names = "".join(f"{m['name'].split()[0]:>{width}}" for m in models)
    skills = "".join(f"{_percent(m['skill']):>{width}}" for m in models)
    out = [
        f"{_tested(evaluation)}: mean error of the log return in %",
        f"  step  {names}  skill of the network (95 %)",
    ]
    for i in thin(np.arange(len(network["by_step"])), SHOWN).tolist():
        errors = "".join(f"{m['by_step'][i]['error']:>{width}.3f}" for m in models)
        out.append(f"  {i + 1:<6}{errors}  {_skill(network['by_step'][i])}")
    out.append(f"  skill {skills}  {_skill(network)}")
    if network["low"] is None:
        out.append("  no intervals: the test as-ofs span too few horizons; give more of them, or further apart")
    if (network["skill"] or 0) > LEAK:
        out.append(
            f"  a skill above {100 * LEAK:.0f} % is a leak until shown otherwise: does a feature know the future?"
        )
    return out


def _skill(of: Step | PathModel) -> str:
    """`+1.2 % (-0.3 % to +2.5 %)`."""
    if of["low"] is None or of["high"] is None:
        return _percent(of["skill"])
    return f"{_percent(of['skill'])} ({_percent(of['low'])} to {_percent(of['high'])})"


def _percent(skill: float | None) -> str:
    return "-" if skill is None else f"{round(100 * skill, 2) + 0.0:+.2f} %"  # no -0.00


def _tested(evaluation: Evaluation) -> str:
    """`1,016 entities as of 2015-01-01`; with several as-ofs, rows of an entity and as-of are counted."""
    test = evaluation["test"]
    first, last, n = test["as_ofs"][0], test["as_ofs"][-1], len(test["as_ofs"])
    if n == 1:
        return f"{test['entities']:,} entities as of {first}"
    return f"{test['entities']:,} examples at {n} as-ofs from {first} to {last}"
