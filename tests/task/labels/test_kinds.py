"""Kinds of labels: each is known wherever one is needed, and nowhere else is asked which kind a label is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from pipelines.evaluation.evaluate import KINDS as JUDGES
from pipelines.evaluation.page.page import KINDS as PAGES
from pipelines.models.heads import HEADS
from pipelines.task.labels.kinds import KINDS
from tests.support.oracle import LABELLED
from tests.support.random_tasks import LABELS

PACKAGE = Path(__file__).parents[3] / "pipelines"
CLASSES = "|".join(kind.__name__ for kind in KINDS.values())
ASKS = re.compile(rf"isinstance\([^)]*(label\b|Label\b)|label\.kind (==|in)|{CLASSES}")


def test_every_kind_is_registered_everywhere() -> None:
    assert KINDS.keys() == HEADS.keys() == JUDGES.keys() == PAGES.keys() == LABELLED.keys() == LABELS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_named_as_its_class_says(kind: str) -> None:
    assert get_args(KINDS[kind].model_fields["kind"].annotation) == (kind,)


def test_no_other_code_asks_which_kind_a_label_is() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "labels":
            found = [line for line in path.read_text().splitlines() if ASKS.search(line)]
            assert not found, f"{path.name}: a label is asked, not told apart: {found[0]}"
