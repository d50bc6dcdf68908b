"""The report page of a path: its headline, tiles, sections and terms."""

from __future__ import annotations

from pipelines.evaluation import schema
from pipelines.evaluation.page import sections, words
from pipelines.evaluation.page.parts import Content
from pipelines.evaluation.page.words import number, percent


def content(e: schema.Path) -> Content:
    """Headline, tiles, sections and terms."""
    body = [
        sections.path_models(e["models"]),
        sections.by_step(e["models"]),
        sections.fans(e),
        *([sections.coverage(e)] if words.promised(e) else []),
        sections.path_time(e),
        sections.importance(e["importance"], "Rise of the error, %", "the error rises by ", f"{words.SPACE}%"),
        sections.drift(e, "Predicted return of the last step, %"),
    ]
    return words.path_headline(e), _tiles(e), "\n".join(body), words.PATH_TERMS


def _tiles(e: schema.Path) -> list[tuple[str, str, str]]:
    network, *baselines = e["models"]
    last = network["by_step"][-1]
    tiles = [("Closer than the last level", percent(network["skill"], 1), words.interval(network, "95 %: "))]
    naive = f"{number(baselines[0]['by_step'][-1]['error'], 2)} % for {baselines[0]['name']}" if baselines else ""
    tiles.append((f"Error at step {last['step']}", f"{number(last['error'], 2)}{words.SPACE}%", naive))
    if due := words.promised(e):
        tiles.append(("Outcomes inside the band", percent(words.inside(e), 1), f"{percent(due)} promised"))
    return [*tiles, ("Paths judged", f"{e['test']['entities']:,}", words.tested(e))]
