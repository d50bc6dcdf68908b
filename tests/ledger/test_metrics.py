"""The table of metrics: its rows, and names that are not in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.ledger.metrics import METRICS, counter, distribution

ROOT = Path(__file__).parents[2]


def test_every_metric_is_told_once_in_full() -> None:
    assert len({m.name for m in METRICS}) == len(METRICS)
    assert all(m.unit and m.meaning.endswith(".") and m.remedy.endswith(".") for m in METRICS)
    assert not any("|" in m.meaning + m.remedy for m in METRICS)


def test_names_are_checked() -> None:
    counter("messages").inc(3)
    distribution("model_ms").update(7)
    with pytest.raises(KeyError, match="is a distribution, not a counter"):
        counter("model_ms")
    with pytest.raises(KeyError, match="massages"):
        distribution("massages")


def test_what_is_used_is_in_the_table_and_the_other_way_round() -> None:
    code = "".join(path.read_text() for path in (ROOT / "pipelines").rglob("*.py"))
    used = set(re.findall(r"""\b(?:counter|distribution)\(\s*f?["']([a-z_{}]+)["']""", code))
    assert used - {m.name for m in METRICS} <= {name for name in used if "{" in name}
