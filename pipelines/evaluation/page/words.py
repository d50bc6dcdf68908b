"""What the report page says: numbers as text, and the sentences that a chart only illustrates. Plain text, not HTML."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import floor, log10, pi, sqrt
from typing import NamedTuple

from pipelines.evaluation.schema import (
    Churn,
    ChurnModel,
    Decile,
    Evaluation,
    Importance,
    Path,
    PathModel,
    Reliability,
    Step,
)

SPACE = "\u00a0"  # that no line breaks at
NONE, TIMES, MINUS = "\u2013", "\u00d7", "\u2212"  # dash, sign and real minus
CHURN_TERMS = (
    (
        "AUC",
        "The probability that an entity that fell silent has a higher score than one that did not. 0.5 is chance, 1 is "
        "perfect.",
    ),
    (
        "Average precision",
        "The mean share of right calls while going down the list until all are found. Chance is the share of all.",
    ),
    (
        "Brier score",
        "The mean squared distance between probability and outcome. 0 is perfect; saying the same of everyone gives "
        f"share {TIMES} (1 {MINUS} share).",
    ),
    (
        "Calibration error",
        "How far probability and what happened are apart, on average over groups of entities of similar score.",
    ),
    (
        "As-of",
        "A moment that scores are made for. Only what was known then is used; what came after is the outcome.",
    ),
    (
        "Stability index",
        "How much two distributions differ, over the tenths of the first (population stability index, PSI).",
    ),
)
PATH_TERMS = (
    (
        "Last level",
        "The forecast that nothing changes, which is hard to beat for prices. Every comparison is with it.",
    ),
    (
        "Closer",
        f"1 {MINUS} mean absolute error of the log return / that of the last level. 0 is no better, 100 % is perfect, "
        "below 0 is worse.",
    ),
    ("Error", "The mean absolute distance between the logarithms of forecast and outcome, in %."),
    ("Band", "From the lowest to the highest quantile that the model gives for a step."),
    *CHURN_TERMS[-2:],
)
STABLE, SHIFTED = 0.1, 0.25  # population stability index, the usual rule of thumb (Siddiqi, 2006)


def number(value: float | None, digits: int = 3) -> str:
    """`0.835`, with a real minus; a dash for what cannot be told."""
    return NONE if value is None else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign: `+0.012`."""
    return number(value, digits) if value is None or value < 0 else f"+{number(value, digits)}"


def percent(share: float | None, digits: int | None = None) -> str:
    """`23 %` of 0.23, `4.1 %` of 0.041: two figures unless told how many after the point."""
    if share is None:
        return NONE
    return number(100 * share, (0 if abs(share) >= 0.0995 else 1) if digits is None else digits) + SPACE + "%"


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval: `0.810 to 0.859`."""
    return NONE if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def level(value: float) -> str:
    """`61,234`, `7.123`, `0.0004213`: at least four figures."""
    return number(value, max(0, 3 - floor(log10(abs(value)))) if value else 0)


def interval(row: PathModel | Step, before: str = "", digits: int = 1) -> str:
    """The interval of a skill, in %: `0.4 to 3.1 %`; empty where there is none or no width."""
    low, high = row["low"], row["high"]
    if low is None or high is None or low == high:
        return ""
    return f"{before}{number(100 * low, digits)} to {percent(high, digits)}"


def moment(iso: str) -> str:
    """`2017-12-04` for a midnight, else `2017-12-04 14:30`; UTC."""
    day, _, time = iso.partition("T")
    return day if time[:8] in ("", "00:00:00", "00:00") else f"{day} {time[:5]}"


def days(count: float) -> str:
    """A duration in words: `30 days`, `6 hours`."""
    size, unit = (count, "day") if count >= 1 else (24 * count, "hour")
    return f"{size:,.4g}{SPACE}{unit}{'' if size == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Words as a list: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tested(evaluation: Evaluation) -> str:
    """`as of 2017-12-04`, or how many as-ofs from when to when."""
    as_ofs = sorted(evaluation["test"]["as_ofs"])
    if len(as_ofs) == 1:
        return f"as of {moment(as_ofs[0])}"
    return f"at {len(as_ofs)} as-ofs from {moment(as_ofs[0])} to {moment(as_ofs[-1])}"


def about(evaluation: Evaluation) -> str:
    """What is predicted, and what the numbers below rest on."""
    what = evaluation["description"].strip().rstrip(".")
    what = f"{what[:1].upper()}{what[1:]}. " if what else ""
    return f"{what}Judged {tested(evaluation)}, later than anything that the model was made from."


class Tenth(NamedTuple):
    """The tenth of the entities where the rarer outcome is expected."""

    place: str
    trusted: str
    held: float  # share of all with that outcome
    lift: float
    them: str


def rarer(evaluation: Churn) -> Tenth:
    """The first tenth and those who fell silent; where most do, the last tenth and those who stayed."""
    share, tenths = evaluation["test"]["share"] or 0.0, evaluation["models"][0]["lift"]
    if share <= 0.5:
        return Tenth("first", "least", tenths[0]["captured"], tenths[0]["lift"], "those who fell silent")
    stayed = [t["entities"] - t["positives"] for t in tenths]
    lift = (1 - tenths[-1]["share"]) / ((1 - share) or 1)
    return Tenth("last", "most", stayed[-1] / (sum(stayed) or 1), lift, "those who stayed")


def churn_headline(evaluation: Churn) -> str:
    """How many fell silent, and how many of the rarer kind are in the tenth where the model expects them."""
    test, tenth = evaluation["test"], rarer(evaluation)
    them = "them" if tenth.place == "first" else tenth.them
    many = f"Of the {test['entities']:,} entities active {tested(evaluation)}, {percent(test['share'])} fell silent"
    return (
        f"{many} in the next {days(evaluation['horizon_days'])}. The tenth the model trusts {tenth.trusted} holds "
        f"{percent(tenth.held)} of {them}, {number(tenth.lift, 1)} times as many as chance."
    )


def path_headline(evaluation: Path) -> str:
    """How much closer than repeating the last level, and whether that may be luck."""
    network = evaluation["models"][0]
    ahead = f"Over the next {days(evaluation['horizon_days'])}, the forecast is"
    held, due = inside(evaluation), promised(evaluation)
    band = f" {percent(held)} of the outcomes fell inside its {percent(due)} band." if due else ""
    return f"{ahead} {_closer(network)}.{band}"


def _closer(network: PathModel) -> str:
    skill, low, high = network["skill"], network["low"], network["high"]
    if skill is None:
        return "made for levels that never moved, so there is nothing to compare"
    if abs(skill) < 0.0005:
        return "as far from the outcome as the last level"
    size = f"{percent(abs(skill), 1)} {'closer to' if skill >= 0 else 'further from'} the outcome"
    if low is not None and high is not None and low <= 0 <= high:
        return f"no better and no worse than the last level within the uncertainty: {size}"
    return f"{size} than the last level"


def promised(evaluation: Path) -> float:
    """The mean share of outcomes that the band between the outer quantiles should hold; 0 is a model of medians."""
    rows = evaluation["coverage"]
    return sum(r["nominal"] for r in rows) / len(rows)


def inside(evaluation: Path) -> float:
    """The mean share of outcomes that it held."""
    rows = evaluation["coverage"]
    return sum(r["actual"] for r in rows) / len(rows)


def against(models: Sequence[ChurnModel]) -> str:
    """Which baselines the network beats by more than luck, which it does not."""
    groups: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
    for model in models[1:]:
        if (gap := model["minus_network"]) is not None:
            side = "ahead of" if gap["high"] < 0 else "behind" if gap["low"] > 0 else "level with"
            groups[side].append(model["name"])
    parts = [f"{side} {listed(names)}" for side, names in groups.items() if names]
    return f"The network is {listed(parts)}." if parts else "There is no baseline to compare with."


def path_verdict(models: Sequence[PathModel]) -> str:
    """Where the network stands among the forecasts, and whether that may be luck."""
    network = models[0]
    if (skill := network["skill"]) is None:
        return "There is nothing to compare: the levels never moved."
    better = [m["name"] for m in models[1:] if m["skill"] is not None and m["skill"] > skill]
    first = f"{listed(better)} came closer than the network" if better else "The network came closest"
    return f"{first[:1].upper()}{first[1:]}{_doubt(network)}."


def _doubt(network: PathModel) -> str:
    low, high = network["low"], network["high"]
    if low is None or high is None:
        return "; the test as-ofs are too few to rule out luck"
    return "" if low > 0 or high < 0 else ", and its distance to the last level may be luck"


def furthest(network: PathModel) -> str:
    """At how many steps the network beats the last level, by more than luck where that can be told."""
    steps = network["by_step"]
    told = all(s["low"] is not None for s in steps)
    won = sum(((s["low"] if told else s["skill"]) or 0) > 0 for s in steps)
    luck = " by more than luck" if told else ""
    return f"At {won or 'none'} of {len(steps)} steps the forecast is closer than the last level{luck}."


def leading(rows: Sequence[Importance], change: str, unit: str) -> str:
    """The feature that the model relies on most."""
    if not rows or rows[0]["drop"] < 0.0005:
        return "It relies on no feature alone: when one is shuffled, next to nothing changes."
    first = rows[0]
    return f"It relies most on {first['feature']}: when that is shuffled, {change}{number(first['drop'])}{unit}."


def best_baseline(models: Sequence[ChurnModel]) -> ChurnModel | None:
    return max(models[1:], key=lambda m: m["auc"], default=None)


def picks(auc: float) -> str:
    """The AUC in words."""
    return (
        "Shown one entity that fell silent and one that did not, "
        f"the model tells which is which {round(100 * auc)} times in 100."
    )


def reached(tenths: Sequence[Decile]) -> str:
    """What calling the first fifth or half brings."""
    held = list(accumulate(t["captured"] for t in tenths))
    fifth, half = percent(held[1]), percent(held[4])
    return f"The first fifth by score holds {fifth} of those who fell silent, the first half {half}."


def honest(evaluation: Churn) -> str:
    """How far probabilities are from what happens, and how far those of a perfect model would seem to be."""
    after = evaluation["calibration"]["after"]
    chance = luck(after)
    trust = "can be taken at their word" if after["ece"] <= 1.5 * chance else "are to be taken with care"
    return (
        f"Probabilities {trust}: they are off by {points(after['ece'])} on average, "
        f"where luck alone would make {number(100 * chance, 1)}."
    )


def luck(reliability: Reliability) -> float:
    """The calibration error to expect if every entity's probability were right: the mean absolute deviation of a
    binomial share, sqrt(2/pi p(1 - p)/n) by the normal approximation, over the bins."""
    bins = reliability["bins"]
    spread = (b["entities"] * sqrt(2 / pi * b["predicted"] * (1 - b["predicted"]) / b["entities"]) for b in bins)
    return sum(spread) / sum(b["entities"] for b in bins)


def points(share: float) -> str:
    """A difference of shares in points: 0.012 is `1.2 points`."""
    return f"{number(100 * share, 1)}{SPACE}points"


def over_time(evaluation: Churn) -> str:
    """The AUC of each set, averaged over its as-ofs."""
    means = {
        kind: [r["auc"] for r in evaluation["by_as_of"] if r["set"] == kind and r["auc"] is not None]
        for kind in ("test", "validation", "train")
    }
    parts = [f"{number(sum(v) / len(v))} in {kind}" for kind, v in means.items() if v]
    return f"By as-of, the AUC is {listed(parts)} on average." if parts else "No as-of has both kinds of entities."


def lasting(evaluation: Path) -> str:
    """At how many of the test as-ofs the forecast was closer than the last level."""
    rows = [r for r in evaluation["by_as_of"] if r["set"] == "test" and r["skill"] is not None]
    won = sum((r["skill"] or 0) > 0 for r in rows)
    return f"The forecast was closer than the last level at {won} of {len(rows)} test as-ofs."


def banded(evaluation: Path) -> str:
    """Whether the band holds as many outcomes as it should."""
    held, due = inside(evaluation), promised(evaluation)
    fit = "as wide as it should be" if abs(held - due) <= 0.03 else "too wide" if held > due else "too narrow"
    return f"The band is {fit}: it held {percent(held, 1)} of the outcomes, for {percent(due)} promised."


def drifted(evaluation: Evaluation) -> str:
    """Whether the scores of the test entities still look like those of the train entities."""
    psi = evaluation["drift"]["scores"]["psi"]
    moved = [f["feature"] for f in evaluation["drift"]["features"] if f["psi"] >= SHIFTED]
    state = "look as they did" if psi < STABLE else "have shifted a little" if psi < SHIFTED else "have shifted"
    some = f"{len(moved)} of {len(evaluation['drift']['features'])} features" if moved else "no feature"
    since = "in training" if psi < STABLE else "since training"
    return f"Scores {state} {since} (stability index {number(psi, 2)}), and {some} moved much."
