"""What a run reads: files, pieces and the number of shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipelines import source
from pipelines.config import Execution, Input
from pipelines.errors import UserError
from pipelines.task import Task
from pipelines.transforms.files import File
from tests import small

TASK = Task.model_validate_json(json.dumps(yaml.safe_load(small.TASK)))


def shards(monkeypatch: pytest.MonkeyPatch, sizes: list[int], asked: int | None = None) -> int:
    files = [File(f"{i}.csv", size, "csv") for i, size in enumerate(sizes)]
    monkeypatch.setattr(source, "find_files", lambda patterns, format: files)
    monkeypatch.setattr(source, "preflight", lambda task, found, arrival: None)
    monkeypatch.setattr(source, "plan", lambda found: ())
    return source.find(TASK, Input(("x",), None, 0.05), Execution(1, asked, (), False)).shards


@pytest.mark.parametrize(
    ("sizes", "want"),
    [
        ([0], 8),
        ([100 << 20], 8),
        ([8 * (16 << 20), 16 << 20], 9),
        ([1 << 30] * 10, 640),
        ([1 << 40], 4096),
    ],
)
def test_more_input_means_more_shards_within_bounds(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], want: int
) -> None:
    assert shards(monkeypatch, sizes) == want


@pytest.mark.parametrize("asked", [1, 3, 10_000])
def test_shards_that_were_asked_for_win(monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    assert shards(monkeypatch, [1 << 40], asked) == asked


def test_size_and_files_are_those_of_the_pieces(tmp_path: Path) -> None:
    _, events = small.write(tmp_path)
    found = source.find(
        TASK, Input((str(events), str(events / "*.parquet")), None, 0.05), Execution(1, None, (), False)
    )
    files = sorted(events.iterdir())
    assert found.files == len(files) == len({p.path for p in found.pieces})
    assert found.size == sum(p.size for p in found.pieces) > 0


def test_files_that_do_not_fit_are_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user": "u", "when": 1}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: the task needs the field"):
        source.find(TASK, Input((str(tmp_path),), None, 0.05), Execution(1, None, (), False))
