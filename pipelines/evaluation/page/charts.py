"""The charts of the report page, as figures in plotly's JSON. Pure functions of the evaluation; no plotly here.

Every text that comes from data is escaped: plotly reads labels as a kind of HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from math import ceil
from typing import Any

from pipelines.evaluation import schema
from pipelines.evaluation.page.style import ACCENT, BAND, COLOURS, DARK_GREY, FONT, GREY, INK, MUTED, PALE, PAPER, RULE

Figure = dict[str, Any]
Row = Mapping[str, Any]
MOST = 15  # bars of a chart of features
LEFT = 42  # margin, px

# Of the baselines, in order: told apart by dash as well as by grey.
BASELINES = (("dark-grey", "solid"), ("dark-grey", "dash"), ("grey", "dot"), ("grey", "dashdot"), ("pale", "solid"))
LINES = tuple((COLOURS[name], dash) for name, dash in BASELINES)
# Of the kinds of as-of: told apart by shape and fill.
MARKS: dict[str, Row] = {
    "train": {"color": PAPER, "symbol": "circle", "size": 8, "line": {"color": GREY, "width": 1.6}},
    "validation": {"color": GREY, "symbol": "diamond", "size": 9, "line": {"color": GREY, "width": 1.6}},
    "test": {"color": ACCENT, "symbol": "circle", "size": 10, "line": {"color": ACCENT, "width": 1.6}},
}


def roc(models: Sequence[schema.ChurnModel]) -> Figure:
    """True positives found against false alarms."""
    chance = _line([0, 100], [0, 100], PALE, "dot", 1.2)
    hover = "%{y:.0f} % found at %{x:.0f} % false alarms"
    return _figure([chance, *_curves(models, "roc", hover)], 400, "False alarms, %", "Found, %", square=True)


def precision_recall(models: Sequence[schema.ChurnModel], share: float) -> Figure:
    """Precision against recall; the dotted line is what drawing lots would give."""
    chance = _line([0, 100], [100 * share] * 2, PALE, "dot", 1.2)
    hover = "%{y:.0f} % right at %{x:.0f} % found"
    return _figure([chance, *_curves(models, "pr", hover)], 400, "Found, %", "Right, %", square=True)


def lift(rows: Sequence[schema.Decile], share: float) -> Figure:
    """The share of positives in each tenth of the entities, by falling score."""
    bars = _bar([r["decile"] for r in rows], [100 * r["share"] for r in rows], "tenth %{x}: %{y:.1f} %")
    average = _line([0.5, 10.5], [100 * share] * 2, INK, "dot", 1.4)
    figure = _figure([bars, average], 340, "Tenth of the entities, highest scores first", "Fell silent, %")
    figure["layout"] |= {"bargap": 0.34}
    figure["layout"]["xaxis"] |= {"dtick": 1, "range": [0.4, 10.6]}
    figure["layout"]["annotations"].append(_label(10.5, 100 * share, f"all: {100 * share:.1f} %", INK))
    return figure


def gain(rows: Sequence[schema.Decile]) -> Figure:
    """The share of the positives that are among the first tenths."""
    found = list(accumulate(100 * r["captured"] for r in rows))
    x = [0, *(10 * r["decile"] for r in rows)]
    curve = _line(x, [0, *found], ACCENT, "solid", 2.6) | _hover("first %{x} %: %{y:.0f} % of them")
    curve |= {"mode": "lines+markers", "marker": {"color": ACCENT, "size": 7}}
    chance = _line([0, 100], [0, 100], PALE, "dot", 1.2)
    return _figure([chance, curve], 340, "Entities called, highest scores first, %", "Reached, %", square=True)


def calibration(bins: Sequence[schema.Bin], top: float, accent: bool) -> Figure:
    """What happened against what was said, in groups of as many entities; `top` is the end of both axes, in %."""
    colour = ACCENT if accent else DARK_GREY
    points = _line([100 * b["predicted"] for b in bins], [100 * b["actual"] for b in bins], colour, "solid", 1.2)
    points |= {"mode": "lines+markers", "marker": {"color": colour, "size": 8}}
    points |= {"customdata": [b["entities"] for b in bins]}
    points |= _hover("predicted %{x:.1f} %, happened %{y:.1f} %, %{customdata:,} entities")
    figure = _figure([_line([0, top], [0, top], PALE, "dot", 1.2), points], 360, "Predicted, %", "Happened, %")
    for axis in ("xaxis", "yaxis"):
        figure["layout"][axis]["range"] = [-0.02 * top, 1.02 * top]
    return figure


def over_time(rows: Sequence[Row], key: str, title: str, percent: bool = False) -> Figure:
    """A metric at each as-of, with its interval where there is one; train, validation and test marked."""
    scale = 100 if percent else 1
    known = [r for r in rows if r[key] is not None]
    traces = [
        _points([r for r in known if r["set"] == kind], key, scale, mark, "%{y:.1f} %" if percent else "%{y:.3f}")
        for kind, mark in MARKS.items()
    ]
    figure = _figure(traces, 340, "", title)
    figure["layout"]["margin"]["b"] = 46  # a year or a day goes below the first of its months or hours
    figure["layout"]["yaxis"] |= {} if percent else {"tickformat": ".2f"}
    figure["layout"]["xaxis"] |= {"type": "date", "showgrid": False, "hoverformat": "%Y-%m-%d"}
    if percent:
        figure["layout"]["shapes"] = [_across(0, GREY)]
    return figure


def features(rows: Sequence[Row], key: str, limits: Sequence[float] = (), most: int = MOST) -> Figure:
    """Bars of features, the first on top, with intervals where there are some; `limits` are drawn across."""
    shown, places = rows[:most], list(range(min(most, len(rows))))
    bars = _bar([r[key] for r in shown], places, "%{customdata}: %{x:.4f}") | {"orientation": "h", "width": 0.56}
    bars |= {"customdata": [escape(str(r["feature"]), quote=False) for r in shown]}
    if shown and "low" in shown[0]:
        bars["error_x"] = _whisker(shown, key, 1, INK)
    figure = _figure([bars], 72 + 27 * len(shown), "", "")
    top = max([r.get("high", r[key]) for r in shown] + [1.2 * x for x in limits], default=1)
    low = min([r.get("low", 0) for r in shown] + [0])
    figure["layout"]["xaxis"] |= {"range": [1.06 * low, 1.06 * top or 1], "showline": False, "nticks": 6, "ticks": ""}
    figure["layout"]["xaxis"] |= {"zeroline": True, "zerolinecolor": PALE, "zerolinewidth": 1, "showgrid": True}
    names = [_name(str(r["feature"])) for r in shown]
    figure["layout"]["yaxis"] |= {"tickvals": places, "ticktext": names, "range": [len(shown) - 0.4, -0.6]}
    figure["layout"]["yaxis"] |= {"automargin": True, "showgrid": False, "tickfont": {"color": INK, "size": 13}}
    figure["layout"]["yaxis"]["ticklabelstandoff"] = 8
    figure["layout"]["shapes"] = [_down(x) for x in limits]
    return figure


def scores(row: schema.ScoreDrift, title: str) -> Figure:
    """The share of scores in each bin: train as an area, test as a line."""
    train, test = (
        _line(row["edges"], [100 * share for share in (*shares, shares[-1])], colour, "solid", width)
        for shares, colour, width in ((row["train"], PALE, 0), (row["test"], ACCENT, 2.4))
    )
    for trace, name in ((train, "train"), (test, "test")):
        trace["line"]["shape"] = "hv"
        trace |= _hover(f"{name}: %{{y:.1f}} % from %{{x:.3g}}")
    train |= {"fill": "tozeroy", "fillcolor": PALE}
    figure = _figure([train, test], 340, title, "Share, %")
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return figure


def skill(models: Sequence[schema.PathModel]) -> Figure:
    """The skill by step: how much closer than the last level, with the interval of the network."""
    ours = models[0]["by_step"]
    known = [
        (s["step"], 100 * s["low"], 100 * s["high"]) for s in ours if s["low"] is not None and s["high"] is not None
    ]
    traces = _band(*zip(*known, strict=True)) if known else []
    traces += _by_step(models, "skill", 100, "%{y:.1f} % closer at step %{x}")
    figure = _figure(traces, 360, "Step ahead", "Closer by, %")
    figure["layout"]["shapes"] = [_across(0, GREY)]
    figure["layout"]["yaxis"]["range"] = [100 * v for v in near(models)]
    return _steps(figure, len(ours))


def near(models: Sequence[schema.PathModel]) -> tuple[float, float]:
    """Which skills to show: those of the network and of every forecast that is not so far off that it would flatten
    the others."""
    rows = [(s["skill"], s["low"], s["high"]) for s in (models[0], *models[0]["by_step"])]
    core = [v for row in rows for v in row if v is not None]
    low, high = min([*core, 0.0]), max([*core, 0.01])
    far = low - (high - low)
    others = [s["skill"] for m in models[1:] for s in m["by_step"] if s["skill"] is not None and s["skill"] >= far]
    low, high = min([low, *others]), max([high, *others])
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def error(models: Sequence[schema.PathModel]) -> Figure:
    """Mean absolute error of the log return in %, by step."""
    figure = _figure(_by_step(models, "error", 1, "%{y:.2f} % at step %{x}"), 360, "Step ahead", "Error, %")
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return _steps(figure, len(models[0]["by_step"]))


def coverage(rows: Sequence[schema.Coverage]) -> Figure:
    """The share of outcomes inside the band, by step, against the share that it promises."""
    x = [r["step"] for r in rows]
    promised = _line(x, [100 * r["nominal"] for r in rows], INK, "dot", 1.4) | _hover("promised: %{y:.0f} %")
    actual = _line(x, [100 * r["actual"] for r in rows], ACCENT, "solid", 2.6) | _hover("%{y:.1f} % at step %{x}")
    actual |= {"mode": "lines+markers", "marker": {"color": ACCENT, "size": 7}}
    figure = _figure([promised, actual], 340, "Step ahead", "Inside the band, %")
    values = [100 * v for r in rows for v in (r["nominal"], r["actual"])]
    figure["layout"]["yaxis"]["range"] = [max(0, min(values) - 12), min(102, max(values) + 12)]
    return _steps(figure, len(rows))


def fan(row: schema.Fan) -> Figure:
    """One forecast: what was known, the quantiles, and what came."""
    history = row["history"][-max(20, 4 * len(row["actual"])) :]
    levels = sorted(row["quantiles"], key=float)
    start = history[-1:]
    past, ahead = list(range(1 - len(history), 1)), list(range(1 - len(start), len(row["actual"]) + 1))
    quantiles = {name: [*start, *row["quantiles"][name]] for name in levels}
    traces = []
    for low, high in zip(levels[: len(levels) // 2], levels[::-1], strict=False):
        traces += _band(ahead, quantiles[low], quantiles[high])
    traces.append(_line(past, history, INK, "solid", 1.6) | _hover("%{y:,.4~g}"))
    if "0.5" in quantiles:
        traces.append(_line(ahead, quantiles["0.5"], ACCENT, "solid", 2.4) | _hover("forecast: %{y:,.4~g}"))
    traces.append(_line(ahead, [*start, *row["actual"]], INK, "dot", 1.8) | _hover("came: %{y:,.4~g}"))
    figure = _figure(traces, 280, "Steps from the as-of", "")
    figure["layout"]["xaxis"] |= {"showgrid": False, "zeroline": True, "zerolinecolor": PALE}
    figure["layout"]["yaxis"] |= {"automargin": True, "nticks": 5}
    return figure


def _figure(data: Sequence[Row], height: int, x: str, y: str, square: bool = False) -> Figure:
    """Axes without boxes, the title of the vertical one written level above it. `square`: both from 0 to 100."""
    axis = {
        "fixedrange": True,
        "zeroline": False,
        "gridcolor": RULE,
        "linecolor": PALE,
        "tickcolor": PALE,
        "ticklabelstandoff": 4,
        "exponentformat": "none",
        "separatethousands": True,
    }
    span = {"range": [-1, 101.5], "dtick": 20} if square else {}
    return {
        "data": list(data),
        "layout": {
            "height": height,
            "autosize": True,
            "margin": {"l": LEFT, "r": 14, "t": 38 if y else 12, "b": 46 if x else 30},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 12, "color": MUTED},
            "showlegend": False,
            "dragmode": False,
            "hovermode": "closest",
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": PALE, "font": {"color": INK, "size": 13}},
            "xaxis": {**axis, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 4, **span}
            | {"title": {"text": x, "standoff": 12, "font": {"size": 13}}},
            "yaxis": {**axis, "showline": False, "ticks": "", "nticks": 7, **span},
            "annotations": [_title(y)] if y else [],
        },
    }


def _title(text: str) -> Row:
    return {
        "text": text,
        "showarrow": False,
        "align": "left",
        "font": {"size": 13, "color": MUTED},
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "xshift": -LEFT,
        "yshift": 10,
    }


def _label(x: float, y: float, text: str, colour: str) -> Row:
    place = {"x": x, "xanchor": "right", "y": y, "yanchor": "bottom"}
    return {"text": text, "showarrow": False, "font": {"size": 12, "color": colour}, **place}


def _line(x: Sequence[float], y: Sequence[float | None], colour: str, dash: str, width: float) -> Figure:
    line = {"color": colour, "dash": dash, "width": width}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "line": line, "hoverinfo": "skip"}


def _bar(x: Sequence[Any], y: Sequence[Any], hover: str) -> Figure:
    return {"type": "bar", "x": list(x), "y": list(y), "marker": {"color": ACCENT}} | _hover(hover)


def _hover(template: str) -> Figure:
    """`extra` would be the name of the trace in a box of its own."""
    return {"hovertemplate": template + "<extra></extra>", "hoverinfo": "all"}


def _curves(models: Sequence[Row], key: str, hover: str) -> list[Figure]:
    """The network last, so that it lies on top."""
    drawn = []
    for model, (colour, dash) in zip(models[1:], LINES, strict=False):
        drawn.append((model, colour, dash, 1.6))
    return [
        _line([100 * x for x in m[key]["x"]], [100 * y for y in m[key]["y"]], colour, dash, width)
        | _hover(f"{escape(str(m['name']), quote=False)}: {hover}")
        for m, colour, dash, width in [*drawn, (models[0], ACCENT, "solid", 2.8)]
    ]


def _by_step(models: Sequence[Row], key: str, scale: float, hover: str) -> list[Figure]:
    styles = [(ACCENT, "solid"), *LINES]
    lines = [
        _line(
            [s["step"] for s in m["by_step"]],
            [None if s[key] is None else scale * s[key] for s in m["by_step"]],
            colour,
            dash,
            1.6,
        )
        | _hover(f"{escape(str(m['name']), quote=False)}: {hover}")
        for m, (colour, dash) in zip(models, styles, strict=False)
    ]
    lines[0]["line"]["width"] = 2.8
    return [*lines[1:], lines[0]]


def _band(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[Figure]:
    fill = {"fill": "tonexty", "fillcolor": BAND}
    return [_line(x, low, BAND, "solid", 0), _line(x, high, BAND, "solid", 0) | fill]


def _points(rows: Sequence[Row], key: str, scale: float, mark: Row, value: str) -> Figure:
    points = {"type": "scatter", "mode": "markers", "marker": mark, "cliponaxis": False}
    points |= {"x": [r["as_of"] for r in rows], "y": [scale * r[key] for r in rows]}
    points |= {"customdata": [r["entities"] for r in rows]}
    if f"{key}_low" in (rows[0] if rows else {}):
        points["error_y"] = _whisker(rows, key, scale, mark["line"]["color"], f"{key}_")
    return points | _hover(f"%{{x}}: {value}, %{{customdata:,}} entities")


def _whisker(rows: Sequence[Row], key: str, scale: float, colour: str, prefix: str = "") -> Figure:
    ends = [(r[key], r[f"{prefix}low"], r[f"{prefix}high"]) for r in rows]
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if high is None else scale * (high - value) for value, _, high in ends],
        "arrayminus": [0 if low is None else scale * (value - low) for value, low, _ in ends],
        "color": colour,
        "thickness": 1.2,
        "width": 0,
    }


def _across(y: float, colour: str) -> Row:
    line = {"color": colour, "width": 1.2, "dash": "dot"}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": line, "layer": "below"}


def _down(x: float) -> Row:
    line = {"color": INK, "width": 1.2, "dash": "dot"}
    return {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x, "line": line}


def _steps(figure: Figure, steps: int) -> Figure:
    figure["layout"]["xaxis"] |= {"dtick": max(1, round(steps / 12)), "range": [0.6, steps + 0.4]}
    return figure


def end(values: Sequence[float]) -> float:
    """Where an axis for values in % ends: 10, 20, ... 100."""
    return min(100.0, 10.0 * ceil(max(values) / 10 + 0.01))


def _name(feature: str, most: int = 32) -> str:
    """Long ones without their middle: names of one feature by category differ at the end."""
    short = feature if len(feature) <= most else f"{feature[: most // 2]}…{feature[-(most // 2) :]}"
    return escape(short, quote=False)
