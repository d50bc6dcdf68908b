"""A sweep tries every combination once, says which is best, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.errors import Exit
from pipelines.jobs import tune
from tests.jobs.test_train import command, foretide
from tests.support import small_shop

GRID = "tune: {units: [[4], [8]], dropout: [0.0, 0.9]}\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    task, _ = small_shop.write(tmp_path)
    task.write_text(task.read_text() + GRID)
    return tmp_path


def sweep(shop: Path, expect: int = Exit.OK) -> str:
    return foretide("tune", *command(shop, "models")[1:], expect=expect)


def test_tries_all_and_ranks_them(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, done = tune._write, 0

    def write_and_stop(*args: object) -> None:
        nonlocal done
        write(*args)  # type: ignore[arg-type]
        done += 1
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(tune, "_write", write_and_stop)
    assert "interrupted" in sweep(shop, expect=Exit.INTERRUPTED)
    told = sweep(shop)
    assert "4 trials, by validation AUC" in told
    assert done == 4
    table = told.split("by validation AUC\n")[1].splitlines()
    ranked = [float(line.split()[0]) for line in table[:4]]
    assert ranked == sorted(ranked, reverse=True)
    assert table[4].startswith("best        model: {units: [")
    results = [json.loads(p.read_text()) for p in (shop / "models").rglob("result.json")]
    assert sorted((r["model"]["units"][0], r["model"]["dropout"]) for r in results) == [
        (4, 0),
        (4, 0.9),
        (8, 0),
        (8, 0.9),
    ]
    assert round(max(r["quality"] for r in results), 5) == ranked[0]


def test_a_task_without_a_grid_has_nothing_to_try(shop: Path) -> None:
    task = shop / "small_shop.yaml"
    task.write_text(task.read_text().replace(GRID, ""))
    assert "has nothing to try: give it a section such as tune:" in sweep(shop, expect=Exit.USAGE)


def test_says_what_it_would_try(shop: Path) -> None:
    told = foretide("tune", *command(shop, "models")[1:], "--dry-run")
    assert told.count("trial       units: [") == 4
    assert not list((shop / "models").rglob("trial-*"))
