"""How good probabilities of churn are, beside those of the baselines: the parts of a `schema.Churn`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.evaluation.baselines import Doubles, logistic, parts, recency, trees
from pipelines.evaluation.schema import (
    Bin,
    CalibrationFigures,
    Churn,
    ChurnAsOf,
    ChurnModel,
    Decile,
    Difference,
    Drift,
    EvaluationHead,
    Importance,
    Points,
    Reliability,
)
from pipelines.evaluation.survey import (
    Predict,
    Splits,
    Survey,
    entities,
    feature_drift,
    known,
    number,
    numbers,
    score_drift,
    tested,
)
from pipelines.evaluation.survey import importance as shuffled
from pipelines.models import metrics
from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Ints
from pipelines.models.metrics import Curve, Ranking, bootstrap, interval
from pipelines.task.fields import format_time

WEIGHTS, FEWEST = 50_000_000, 200  # draws x rows of a bootstrap, at most, which is seconds; but so many draws


class Scored(NamedTuple):
    """The test rows as one model sees them."""

    name: str
    score: Doubles
    probability: bool


def judge(survey: Survey, splits: Splits, head: EvaluationHead, uncalibrated: Predict, method: str) -> Churn:
    """Judges a model of churn: the whole evaluation."""
    compared = compare(survey, splits.train, splits.validation)
    return Churn(
        **head,
        kind="churn",
        models=models(survey, compared),
        calibration=calibration(survey, uncalibrated, method),
        by_as_of=by_as_of(survey),
        importance=importance(survey),
        drift=drift(survey),
    )


def headline(evaluation: Churn) -> dict[str, float]:
    """The figures that the manifest keeps: AUC with its interval, that of each baseline, and calibration."""
    network, gradient, linear, simple = evaluation["models"]
    after = evaluation["calibration"]["after"]
    return {
        "test_share": evaluation["test"]["share"] or 0.0,
        "auc": network["auc"],
        "auc_low": network["auc_low"],
        "auc_high": network["auc_high"],
        "auc_lightgbm": gradient["auc"],
        "auc_logistic": linear["auc"],
        "auc_recency": simple["auc"],
        "ap": network["ap"],
        "brier": after["brier"],
        "ece": after["ece"],
    }


def lines(evaluation: Churn) -> list[str]:
    """The lines that the terminal shows: the network beside every baseline."""
    test, shown = evaluation["test"], evaluation["models"]
    width = max(len(m["name"]) for m in shown)
    title = f"{tested(evaluation)}, {100 * (test['share'] or 0):.1f} % of them churned; in brackets 95 % intervals"
    out = [title, f"  {'':<{width}}  {'AUC':<26}  {'average precision':<26}  AUC, against the network"]
    for m in shown:
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


def compare(survey: Survey, train: Ints, validation: Ints) -> list[Scored]:
    """The network, and the baselines that learn from the rows `train`, from the strongest to the simplest.

    Raises:
      UserError: LightGBM is not installed.
    """
    task, examples, rows = survey.task, survey.examples, survey.test.rows
    return [
        Scored("network", survey.test.scores[:, 0].astype(np.float64), True),
        Scored("LightGBM on aggregates", trees(task, examples, train, validation, rows), True),
        Scored("logistic regression", logistic(task, examples, train, rows), True),
        Scored("recency alone", recency(examples, rows), False),
    ]


def models(survey: Survey, compared: Sequence[Scored]) -> list[ChurnModel]:
    """The figures of each model. Intervals and differences come from one bootstrap of the entities, the as-ofs of each
    drawn together."""
    label = survey.examples.label[survey.test.rows, 0]
    rankings = [Ranking.of(label, m.score) for m in compared]

    def areas(weights: Floats) -> Doubles:
        return np.stack([r.areas(weights) for r in rankings], axis=1)

    groups = entities(survey.examples, survey.test.rows)
    draws = bootstrap(areas, groups, survey.task.model.seed, max(FEWEST, min(metrics.DRAWS, WEIGHTS // len(label))))
    found = [_model(label, m, rankings[i].areas()[0], draws[:, i]) for i, m in enumerate(compared)]
    for i in range(1, len(found)):
        low, high = interval(draws[:, i, 0] - draws[:, 0, 0])
        gap = number(found[i]["auc"] - found[0]["auc"])
        found[i]["minus_network"] = Difference(auc=gap, low=number(low), high=number(high))
    return found


def _model(label: Floats, m: Scored, areas: Doubles, draws: Doubles) -> ChurnModel:
    """The figures of one model.

    Args:
      areas: (2) under the ROC and the precision-recall curve; `draws` (d, 2) those of the bootstrap.
    """
    (auc, ap), (auc_low, auc_high), (ap_low, ap_high) = areas, interval(draws[:, 0]), interval(draws[:, 1])
    return ChurnModel(
        name=m.name,
        auc=number(auc),
        auc_low=number(auc_low),
        auc_high=number(auc_high),
        ap=number(ap),
        ap_low=number(ap_low),
        ap_high=number(ap_high),
        brier=number(metrics.brier(label, m.score)) if m.probability else None,
        ece=number(metrics.reliability(label, m.score).error) if m.probability else None,
        roc=_points(metrics.roc(label, m.score)),
        pr=_points(metrics.precision_recall(label, m.score)),
        lift=_lift(label, m.score),
        minus_network=None,
    )


def calibration(survey: Survey, uncalibrated: Predict, method: str) -> CalibrationFigures:
    """The calibration of the test rows, before and after `method`."""
    task, rows = survey.task, survey.test.rows
    label = survey.examples.label[rows, 0]
    before = parts(task, rows, lambda part: uncalibrated(survey.examples.tensor(part))[:, 0])
    return CalibrationFigures(
        method=method, before=_reliability(label, before), after=_reliability(label, survey.test.scores[:, 0])
    )


def by_as_of(survey: Survey) -> list[ChurnAsOf]:
    """The network at each as-of of each set; no AUC where all churned, or none."""
    out = []
    for name, t, seen in survey.by_as_of():
        label = survey.examples.label[seen.rows, 0]
        ranking = Ranking.of(label, seen.scores[:, 0])
        low, high = interval(bootstrap(ranking.areas, np.arange(len(label)), survey.task.model.seed, FEWEST)[:, 0])
        out.append(
            ChurnAsOf(
                as_of=format_time(t),
                set=name,
                entities=len(label),
                share=number(label.mean()),
                auc=known(ranking.areas()[0, 0]),
                auc_low=known(low),
                auc_high=known(high),
            )
        )
    return out


def importance(survey: Survey) -> list[Importance]:
    """How important each feature is, by the fall of the AUC; nothing where all of the shuffled rows churned, or
    none."""
    label = survey.examples.label

    def quality(rows: Ints, _: Floats, scores: Floats) -> float:
        return float(np.nan_to_num(metrics.auc(label[rows, 0], scores[:, 0])))

    return shuffled(survey, quality)


def drift(survey: Survey) -> Drift:
    train, test = (survey.seen[name].scores[:, 0].astype(np.float64) for name in ("train", "test"))
    return Drift(scores=score_drift(train, test, 0, 1), features=feature_drift(survey))


def _lift(label: Floats, score: Doubles) -> list[Decile]:
    """Tenths that there are: fewer than ten rows make fewer."""
    share, all_positives = label.mean(), label.sum()
    return [
        Decile(
            decile=i + 1,
            entities=n,
            positives=number(positives),
            share=number(positives / n),
            lift=number(positives / n / share),
            captured=number(positives / all_positives),
        )
        for i, (n, positives) in enumerate(zip(*(v.tolist() for v in metrics.deciles(label, score)), strict=True))
        if n
    ]


def _reliability(label: Floats, probability: Floats) -> Reliability:
    found = metrics.reliability(label, probability)
    rows = zip(numbers(found.predicted), numbers(found.actual), found.rows.tolist(), strict=True)
    bins = [Bin(predicted=p, actual=a, entities=n) for p, a, n in rows]
    return Reliability(brier=number(metrics.brier(label, probability)), ece=number(found.error), bins=bins)


def _points(curve: Curve) -> Points:
    return Points(x=numbers(curve.x), y=numbers(curve.y))
