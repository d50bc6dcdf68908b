"""What an evaluation holds, as it is written to evaluation.json and drawn by the report page.

Numbers are finite; None stands for a number that cannot be told, such as the AUC of entities that all stayed.
"""

from __future__ import annotations

from typing import Literal, TypedDict

Set = Literal["train", "validation", "test"]


class Points(TypedDict):
    """A curve: false positive rate and recall (ROC), or recall and precision (PR)."""

    x: list[float]
    y: list[float]


class Decile(TypedDict):
    """A tenth of the entities, by falling score."""

    decile: int  # 1 has the highest scores
    entities: int
    positives: float  # tied scores share theirs evenly, so this may be a fraction
    share: float  # of the decile
    lift: float  # share / share of all
    captured: float  # share of all positives that are in this decile


class Difference(TypedDict):
    """How much better a baseline is than the network, with the 95 % interval of the paired bootstrap."""

    auc: float
    low: float
    high: float


class ChurnModel(TypedDict):
    """One way to score the test entities. The intervals are 95 %."""

    name: str
    auc: float
    auc_low: float
    auc_high: float
    ap: float  # average precision
    ap_low: float
    ap_high: float
    brier: float | None  # None where the score is no probability
    ece: float | None
    roc: Points
    pr: Points
    lift: list[Decile]
    minus_network: Difference | None  # None for the network


class Bin(TypedDict):
    """Entities of similar score: the mean score, and the share that churned."""

    predicted: float
    actual: float
    entities: int


class Reliability(TypedDict):
    brier: float
    ece: float  # expected calibration error
    bins: list[Bin]


class CalibrationFigures(TypedDict):
    """How well the scores of the network are calibrated on the test entities, before and after the method."""

    method: str
    before: Reliability
    after: Reliability


class ChurnAsOf(TypedDict):
    """The network at one as-of. `entities` are those judged: of a large training set a sample."""

    as_of: str
    set: Set
    entities: int
    share: float
    auc: float | None
    auc_low: float | None
    auc_high: float | None


class Importance(TypedDict):
    """What is lost when a feature is shuffled between test entities: AUC, or error of the log return in % of the
    level. Mean, least and most of the repeats."""

    feature: str
    drop: float
    low: float
    high: float


class ScoreDrift(TypedDict):
    """Histogram (shares) of the network's first output: the probability of churn, or the log return of the last step
    in %. `edges` has one more entry than the shares."""

    psi: float  # population stability index
    edges: list[float]
    train: list[float]
    test: list[float]


class FeatureDrift(TypedDict):
    """The drift of a feature: of its mean over an entity's history."""

    feature: str
    psi: float


class Drift(TypedDict):
    scores: ScoreDrift
    features: list[FeatureDrift]  # falling


class Tested(TypedDict):
    as_ofs: list[str]
    entities: int  # rows: an entity counts at every as-of
    share: float | None  # that churned; None for a path


class EvaluationHead(TypedDict):
    task: str
    version: str
    description: str
    horizon_days: float
    created: str  # ISO 8601, UTC
    test: Tested


class Churn(EvaluationHead):
    kind: Literal["churn"]
    models: list[ChurnModel]  # the network first
    calibration: CalibrationFigures
    by_as_of: list[ChurnAsOf]
    importance: list[Importance]  # falling
    drift: Drift


class Step(TypedDict):
    """A step ahead. `low` and `high` bound the skill, 95 % by bootstrap of the as-ofs; None with too few of them."""

    step: int  # 1 is the first
    error: float  # mean absolute error of the log return in %
    skill: float | None  # 1 - mean absolute error of the log return / that of the naive forecast
    low: float | None
    high: float | None


class PathModel(TypedDict):
    """One forecast of the test paths; `skill` is that of all steps together."""

    name: str
    by_step: list[Step]
    skill: float | None
    low: float | None
    high: float | None


class Coverage(TypedDict):
    """Share of the outcomes between the lowest and the highest quantile of a step."""

    step: int
    nominal: float
    actual: float


class PathAsOf(TypedDict):
    as_of: str
    set: Set
    entities: int
    error: float  # over all steps, of the log return in %
    error_naive: float
    skill: float | None


class Fan(TypedDict):
    """One test path: what came before, what came, and what was said."""

    entity: str
    as_of: str
    history: list[float]
    actual: list[float]
    quantiles: dict[str, list[float]]  # level, such as "0.1" -> steps


class Path(EvaluationHead):
    kind: Literal["path"]
    models: list[PathModel]  # the network first, the naive forecast second
    coverage: list[Coverage]
    by_as_of: list[PathAsOf]
    fan: list[Fan]
    importance: list[Importance]  # falling
    drift: Drift


Evaluation = Churn | Path
