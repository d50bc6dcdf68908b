"""The report page of churn: its headline, tiles, sections and terms."""

from __future__ import annotations

from pipelines.evaluation import schema
from pipelines.evaluation.page import sections, words
from pipelines.evaluation.page.parts import Content
from pipelines.evaluation.page.words import number, percent, points, signed, span


def content(e: schema.Churn) -> Content:
    """Headline, tiles, sections and terms."""
    body = [
        sections.churn_models(e["models"]),
        sections.ranking(e),
        sections.lift(e),
        sections.calibration(e),
        sections.churn_time(e),
        sections.importance(e["importance"], "Fall of the AUC", "the AUC falls by ", ""),
        sections.drift(e, "Score"),
    ]
    return words.churn_headline(e), _tiles(e), "\n".join(body), words.CHURN_TERMS


def _tiles(e: schema.Churn) -> list[tuple[str, str, str]]:
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
