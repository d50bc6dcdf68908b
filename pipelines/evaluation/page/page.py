"""The report page of a model: one HTML file that explains an evaluation to people, with charts and no network access.

Which sections there are and in which order is decided here for each kind of label. They are in `sections`, sentences
in `words`, charts in `charts`, the HTML in `parts` and the looks in `style`.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from pipelines.errors import UserError
from pipelines.evaluation import schema
from pipelines.evaluation.page import parts, sections, words
from pipelines.evaluation.page.parts import Content
from pipelines.evaluation.page.style import SCRIPT, STYLE
from pipelines.evaluation.page.words import number, percent, points, signed, span

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(evaluation: schema.Evaluation) -> str:
    """The whole file, about 5 MB: plotly's script is inside.

    Raises:
      UserError: plotly is not installed.
    """
    name = escape(f"{evaluation['task']} {evaluation['version']}")
    headline, tiles, body, terms = KINDS[evaluation["kind"]](evaluation)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{name}</p>
<h1>{parts.prose(headline)}</h1>
<p class="about">{parts.prose(words.about(evaluation))}</p>
<noscript><p class="about">Charts need JavaScript. The tables hold the same numbers.</p></noscript>
{parts.tiles(tiles)}
</header>
{body}
<footer>
{parts.terms(terms)}
<p class="made">Made by foretide, {escape(words.moment(evaluation["created"]))} UTC.</p>
</footer>
</main>
<script>{_plotly()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("the report page needs plotly: pip install foretide[train]") from None
    return str(get_plotlyjs())


def _churn(e: schema.Churn) -> Content:
    body = [
        sections.churn_models(e["models"]),
        sections.ranking(e),
        sections.lift(e),
        sections.calibration(e),
        sections.churn_time(e),
        sections.importance(e["importance"], "Fall of the AUC", "the AUC falls by ", ""),
        sections.drift(e, "Score"),
    ]
    return words.churn_headline(e), _churn_tiles(e), "\n".join(body), words.CHURN_TERMS


def _churn_tiles(e: schema.Churn) -> list[tuple[str, str, str]]:
    network, best = e["models"][0], words.best_baseline(e["models"])
    tenth, calibration = words.rarer(e), e["calibration"]
    tiles = [("AUC", number(network["auc"]), f"95 %: {span(network['auc_low'], network['auc_high'])}")]
    if best and (gap := best["minus_network"]):
        note = f"95 %: {signed(-gap['high'])} to {signed(-gap['low'])}"
        tiles.append((f"Against {best['name']}", signed(-gap["auc"]), note))
    held = f"holds {percent(tenth.held)} of {tenth.them}"
    tiles.append((f"Lift of the {tenth.place} tenth", f"{number(tenth.lift, 1)}{words.TIMES}", held))
    chance = f"{points(words.luck(calibration['after']))} would be luck"
    return [*tiles, ("Calibration error", points(calibration["after"]["ece"]), chance)]


def _path(e: schema.Path) -> Content:
    body = [
        sections.path_models(e["models"]),
        sections.by_step(e["models"]),
        sections.fans(e),
        *([sections.coverage(e)] if words.promised(e) else []),
        sections.path_time(e),
        sections.importance(e["importance"], "Rise of the error, %", "the error rises by ", f"{words.SPACE}%"),
        sections.drift(e, "Predicted return of the last step, %"),
    ]
    return words.path_headline(e), _path_tiles(e), "\n".join(body), words.PATH_TERMS


def _path_tiles(e: schema.Path) -> list[tuple[str, str, str]]:
    network, *baselines = e["models"]
    last = network["by_step"][-1]
    tiles = [("Closer than the last level", percent(network["skill"], 1), words.interval(network, "95 %: "))]
    naive = f"{number(baselines[0]['by_step'][-1]['error'], 2)} % for {baselines[0]['name']}" if baselines else ""
    tiles.append((f"Error at step {last['step']}", f"{number(last['error'], 2)}{words.SPACE}%", naive))
    if due := words.promised(e):
        tiles.append(("Outcomes inside the band", percent(words.inside(e), 1), f"{percent(due)} promised"))
    return [*tiles, ("Paths judged", f"{e['test']['entities']:,}", words.tested(e))]


KINDS: dict[str, Callable[[Any], Content]] = {"churn": _churn, "path": _path}
