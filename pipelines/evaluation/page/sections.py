"""The sections of the report page: for each a finding, charts with how to read them, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from pipelines.evaluation import schema
from pipelines.evaluation.page import charts, parts, words
from pipelines.evaluation.page.charts import Figure
from pipelines.evaluation.page.words import number, percent, points, signed, span

MOVED = 10  # features in the chart of drift
NO_INTERVAL = "The test as-ofs are too few for an interval"


def churn_models(models: Sequence[schema.ChurnModel]) -> str:
    bounds = min(m["auc_low"] for m in models), max(m["auc_high"] for m in models)
    rows = []
    for m in models:
        gap = m["minus_network"]
        rows.append(
            [
                escape(m["name"]),
                parts.whisker((m["auc_low"], m["auc"], m["auc_high"]), bounds, m is models[0]),
                parts.cell(number(m["auc"]), span(m["auc_low"], m["auc_high"])),
                parts.cell(signed(gap["auc"]), span(gap["low"], gap["high"])) if gap else "",
                parts.cell(number(m["ap"]), span(m["ap_low"], m["ap_high"])),
                number(m["brier"], 4),
                words.NONE if m["ece"] is None else points(m["ece"]),
            ]
        )
    heads = ("", "", "AUC", "AUC against the network", "Average precision", "Brier score", "Calibration error")
    text = (
        "Under each number is its 95 % interval, from drawing the entities again and again. A difference whose "
        "interval holds 0 may be luck. All were judged on the same entities."
    )
    finding = words.against(models)
    return parts.section("Against simpler models", finding, parts.table(heads, rows, ours=0), parts.reading(text))


def path_models(models: Sequence[schema.PathModel]) -> str:
    bounds = charts.near(models)
    steps = sorted({0, (len(models[0]["by_step"]) - 1) // 2, len(models[0]["by_step"]) - 1})
    rows = [
        [
            escape(m["name"]),
            _skill(m, bounds, m is models[0]),
            parts.cell(percent(m["skill"], 1), words.interval(m)),
            *(f"{number(m['by_step'][i]['error'], 2)}{words.SPACE}%" for i in steps),
        ]
        for m in models
    ]
    heads = ("", "", "Closer than the last level", *(f"Error at step {models[0]['by_step'][i]['step']}" for i in steps))
    told = models[0]["low"] is not None
    under = "Under each number is its 95 % interval, from drawing the as-ofs again and again" if told else NO_INTERVAL
    text = f"{under}: prices of one day move together, so that many of them say little more than one."
    finding = words.path_verdict(models)
    return parts.section("Against simpler rules", finding, parts.table(heads, rows, ours=0), parts.reading(text))


def _skill(m: schema.PathModel, bounds: tuple[float, float], ours: bool) -> str:
    value, low, high = m["skill"], m["low"], m["high"]
    if value is None:
        return ""
    return parts.whisker((value if low is None else low, value, value if high is None else high), bounds, ours)


def ranking(e: schema.Churn) -> str:
    models, share = e["models"], e["test"]["share"] or 0.0
    return parts.section(
        "Ranking",
        words.picks(models[0]["auc"]),
        parts.legend([m["name"] for m in models]),
        parts.pair(
            parts.chart(
                "Found, against false alarms",
                charts.roc(models),
                "Each point is a threshold on the score. The closer a line comes to the upper left corner, the better; "
                "the dotted diagonal is chance.",
                "ROC curves. " + _each([(m["name"], m["auc"]) for m in models]),
            ),
            parts.chart(
                "Right, against found",
                charts.precision_recall(models, share),
                "How many of the entities above a threshold fell silent, against how many of all who did are above it. "
                f"Drawing lots is right in {percent(share)} of cases, the dotted line.",
                "Precision-recall curves. " + _each([(m["name"], m["ap"]) for m in models]),
            ),
        ),
    )


def lift(e: schema.Churn) -> str:
    tenths, share = e["models"][0]["lift"], e["test"]["share"] or 0.0
    rows = (
        (
            str(t["decile"]),
            f"{t['entities']:,}",
            number(t["positives"], 0),
            percent(t["share"], 1),
            number(t["lift"], 2),
            percent(t["captured"], 1),
        )
        for t in tenths
    )
    return parts.section(
        "Whom to call first",
        words.reached(tenths),
        parts.pair(
            parts.chart(
                "Who fell silent, by tenth",
                charts.lift(tenths, share),
                "The entities in ten groups of one size, by falling score. Bars that fall from left to right mean that "
                "the order can be relied on.",
                f"The share falls from {percent(tenths[0]['share'], 1)} to {percent(tenths[-1]['share'], 1)}.",
            ),
            parts.chart(
                "Reached by calling in order",
                charts.gain(tenths),
                "How many of those who fell silent are reached by calling the highest scores first. The dotted line is "
                "calling at random.",
                words.reached(tenths),
            ),
        ),
        parts.numbers(("Tenth", "Entities", "Fell silent", "Share", "Lift", "Of all who did"), rows),
    )


def calibration(e: schema.Churn) -> str:
    """One chart where nothing was calibrated."""
    method, before, after = e["calibration"]["method"], e["calibration"]["before"], e["calibration"]["after"]
    top = charts.end([100 * v for c in (before, after) for b in c["bins"] for v in (b["predicted"], b["actual"])])
    rows = [
        (when, percent(b["predicted"], 1), percent(b["actual"], 1), f"{b['entities']:,}")
        for when, c in (("after", after), ("before", before))[: 1 if method == "none" else 2]
        for b in c["bins"]
    ]
    calibrated = parts.chart(
        "As the network gives them" if method == "none" else f"After calibration ({method.capitalize()})",
        charts.calibration(after["bins"], top, accent=True),
        "Entities in groups of similar score. On the dotted line, of those told 30 % just 30 % fell silent; above it "
        "the model says too little, below it too much.",
        f"Brier score {number(after['brier'], 4)}, error {points(after['ece'])}.",
    )
    raw = parts.chart(
        "Before",
        charts.calibration(before["bins"], top, accent=False),
        f"As the network gives them: off by {points(before['ece'])} on average. The Brier score was "
        f"{number(before['brier'], 4)}, and is {number(after['brier'], 4)} after calibration; lower is better.",
        f"Brier score {number(before['brier'], 4)}, error {points(before['ece'])}.",
    )
    return parts.section(
        "Probabilities",
        words.honest(e),
        parts.pair(calibrated) if method == "none" else parts.pair(calibrated, raw),
        parts.numbers(("Calibration", "Predicted", "Happened", "Entities"), rows),
    )


def by_step(models: Sequence[schema.PathModel]) -> str:
    rows = (
        (m["name"], str(s["step"]), number(s["error"], 3), percent(s["skill"], 2), words.interval(s, digits=2))
        for m in models
        for s in m["by_step"]
    )
    first, last = models[0]["by_step"][0], models[0]["by_step"][-1]
    shade = "The shaded band is the 95 % interval of the network: where it holds 0, the gain may be luck."
    shade = f"{NO_INTERVAL}." if first["low"] is None else shade
    return parts.section(
        "Step by step",
        words.furthest(models[0]),
        parts.legend([m["name"] for m in models]),
        parts.pair(
            parts.chart(
                "Closer than the last level",
                charts.skill(models),
                f"Above 0 a forecast beats repeating the last level. {shade} What is far worse leaves the chart.",
                f"From {percent(first['skill'], 1)} at the first step to {percent(last['skill'], 1)} at the last.",
            ),
            parts.chart(
                "Error of the return",
                charts.error(models),
                "Mean distance between the logarithms of forecast and outcome, in %. It grows with the steps for every "
                "method.",
                f"From {number(first['error'], 2)} % at the first step to {number(last['error'], 2)} % at the last.",
            ),
        ),
        parts.numbers(("Model", "Step", "Error, %", "Closer", "95 %"), rows),
    )


def fans(e: schema.Path) -> str:
    band = percent(words.promised(e)) if words.promised(e) else ""
    marks = [(parts.stroke("accent"), "forecast"), (parts.stroke("ink"), "known")]
    marks += [(parts.stroke("ink", "dot"), "what came"), *([(parts.area("band"), f"{band} band")] if band else [])]
    kept = f"; {band} of the outcomes should stay inside the band" if band else ""
    return parts.section(
        "What a forecast looks like",
        f"From well to badly foreseen{kept}.",
        parts.keys(marks),
        parts.pair(*(_fan(f) for f in e["fan"])),
    )


def _fan(f: schema.Fan) -> str:
    levels = sorted(f["quantiles"], key=float)
    low, high = (words.level(f["quantiles"][q][-1]) for q in (levels[0], levels[-1]))
    said = low if len(levels) == 1 else f"{low} to {high}"
    title, text = f"{f['entity']}, {words.moment(f['as_of'])}", f"At the last step it said {said}; "
    return parts.chart(title, charts.fan(f), f"{text}{words.level(f['actual'][-1])} came.", "")


def coverage(e: schema.Path) -> str:
    rows = ((str(r["step"]), percent(r["nominal"], 1), percent(r["actual"], 1)) for r in e["coverage"])
    finding = words.banded(e)
    return parts.section(
        "How sure it is",
        finding,
        parts.wide(
            parts.chart(
                "Outcomes inside the band",
                charts.coverage(e["coverage"]),
                "How many outcomes fell between the lowest and the highest quantile. Below the dotted line the band is "
                "too narrow: the model is surer than it should be.",
                finding,
            )
        ),
        parts.numbers(("Step", "Promised", "Held"), rows),
    )


def churn_time(e: schema.Churn) -> str:
    rows = (
        (
            words.moment(r["as_of"]),
            r["set"],
            f"{r['entities']:,}",
            percent(r["share"], 1),
            number(r["auc"]),
            span(r["auc_low"], r["auc_high"]),
        )
        for r in e["by_as_of"]
    )
    drawing = charts.over_time(e["by_as_of"], "auc", "")
    heads = ("As-of", "Set", "Entities", "Fell silent", "AUC", "95 %")
    return _time(words.over_time(e), "AUC at each as-of", drawing, heads, rows)


def path_time(e: schema.Path) -> str:
    rows = (
        (
            words.moment(r["as_of"]),
            r["set"],
            f"{r['entities']:,}",
            number(r["error"], 3),
            number(r["error_naive"], 3),
            percent(r["skill"], 2),
        )
        for r in e["by_as_of"]
    )
    drawing = charts.over_time(e["by_as_of"], "skill", "Closer by, %", percent=True)
    heads = ("As-of", "Set", "Entities", "Error, %", "Last level's error, %", "Closer")
    return _time(words.lasting(e), "Closer than the last level, at each as-of", drawing, heads, rows)


def _time(finding: str, title: str, drawing: Figure, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = [(parts.dot("grey", "paper"), "train"), (parts.dot("grey", "grey", diamond=True), "validation")]
    reading = (
        "The model learned from the train as-ofs, and was chosen and calibrated on the validation as-ofs; those of "
        "test came after. A fall from left to right means that it learned what does not last."
    )
    return parts.section(
        "Over time",
        finding,
        parts.keys([(parts.dot("accent", "accent"), "test"), *marks[::-1]]),
        parts.wide(parts.chart(title, drawing, reading, finding)),
        parts.numbers(heads, rows),
    )


def importance(rows: Sequence[schema.Importance], title: str, change: str, unit: str) -> str:
    """`change` and `unit` stand around the number in the finding."""
    finding = words.leading(rows, change, unit)
    return parts.section(
        "What it looks at",
        finding,
        parts.wide(
            parts.chart(
                f"{title}, when a feature is shuffled between entities",
                charts.features(rows, "drop"),
                "A long bar: the model relies on the feature. Features that say the same share their importance, so "
                f"each looks less important than it is. Lines span the repeats.{_rest(rows, charts.MOST)}",
                finding,
            )
        ),
        parts.numbers(
            ("Feature", title, "Least to most"),
            ((r["feature"], number(r["drop"], 4), span(r["low"], r["high"], 4)) for r in rows),
        ),
    )


def drift(e: schema.Evaluation, score: str) -> str:
    drift, finding = e["drift"], words.drifted(e)
    return parts.section(
        "Has the world moved?",
        finding,
        parts.keys([(parts.stroke("accent"), "test"), (parts.area("pale"), "train")]),
        parts.pair(
            parts.chart(
                "Scores",
                charts.scores(drift["scores"], score),
                "Where the line leaves the grey area, entities now score unlike those that the model learned from.",
                f"Population stability index {number(drift['scores']['psi'], 2)}.",
            ),
            parts.chart(
                "Features, by how far they moved",
                charts.features(drift["features"], "psi", limits=(words.STABLE, words.SHIFTED), most=MOVED),
                f"Population stability index. Below the first dotted line ({words.STABLE}) is customarily little, "
                f"above the second ({words.SHIFTED}) much.{_rest(drift['features'], MOVED)}",
                finding,
            ),
        ),
        parts.numbers(("Feature", "Stability index"), ((r["feature"], number(r["psi"])) for r in drift["features"])),
    )


def _rest(rows: Sequence[object], most: int) -> str:
    return f" The first {most} of {len(rows)}." if len(rows) > most else ""


def _each(rows: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in rows) + "."
