"""What `tests/test_end_to_end.py` does not ask of scoring: backfills, lateness and models that are not there."""

from __future__ import annotations

import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.runners import bounded
from pipelines.task.fields import format_time, parse_time
from pipelines.task.file import load_task
from tests.support import hostile_models, small_shop
from tests.support.oracle import oracle
from tests.support.toy_models import untrained

LATE = small_shop.TASK.replace("  identity: [id]", "  arrival: {field: loaded, unit: s}\n  identity: [id]").replace(
    "  every: 7d", "  every: 7d\n  allowed_lateness: 14d"
)
AS_OFS = tuple(parse_time(t) for t in ("2024-04-01", "2024-04-08", "2024-04-15"))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task that has arrivals, its events, some up to three weeks late, and an untrained model."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "task.yaml").write_text(LATE)
    table, random = small_shop.events(users=60), np.random.default_rng(2)
    delay = np.where(random.random(len(table)) < 0.3, random.integers(0, 21 * small_shop.DAY, len(table)), 0)
    pq.write_table(table.append_column("loaded", [table["at"].to_numpy() + delay]), folder / "events.parquet")
    task = load_task(str(folder / "task.yaml"))
    untrained(task, folder / "model")
    return folder


def score(folder: Path, out: str, as_of: str, model: str = "model", expect: int = Exit.OK, *more: str) -> str:
    told = io.StringIO()
    flags = ["--task", str(folder / "task.yaml"), "--input", str(folder / "events.parquet"), "--as-of", as_of]
    with redirect_stdout(told), redirect_stderr(told):
        code = main(["score", *flags, "--model", str(folder / model), "--output", str(folder / out), *more])
    assert code == expect, told.getvalue()
    return told.getvalue()


def rows(out: Path) -> list[dict[str, Any]]:
    told = io.StringIO()
    sql = "SELECT * EXCLUDE (run_id, scored_at) FROM scores ORDER BY as_of, entity_id"
    with redirect_stdout(told):
        assert main(["query", "--output", str(out), "--format", "json", sql]) == 0
    return [json.loads(line) for line in told.getvalue().splitlines()]


def test_a_backfill_with_late_events_is_what_the_oracle_says(late: Path) -> None:
    score(late, "range", "2024-04-01..2024-04-15")
    events = [
        {**e, "at": e["at"] * 1_000_000, "loaded": e["loaded"] * 1_000_000}
        for e in pq.read_table(late / "events.parquet").to_pylist()
    ]
    want = oracle(load_task(str(late / "task.yaml")), events, AS_OFS)
    found = {(r["entity_id"], parse_time(r["as_of"])): r for r in rows(late / "range")}
    assert set(found) == set(want)
    for key, expected in want.items():
        assert found[key]["n_events"] == expected.n_events
        assert found[key]["revision"] == expected.revision
        assert parse_time(found[key]["last_event_time"]) == expected.last_event_time
    assert {r["revision"] for r in found.values()} == {0, 1, 2}


def test_a_range_is_the_same_as_its_as_ofs_one_by_one(late: Path) -> None:
    score(late, "range", "2024-04-01..2024-04-15")
    for t in AS_OFS:
        score(late, "single", format_time(t))
    assert rows(late / "single") == rows(late / "range")


def test_a_model_that_is_not_there_is_told_before_anything_is_written(late: Path) -> None:
    text = score(late, "none", "2024-04-01", model="nowhere", expect=Exit.MODEL)
    assert "nowhere is no model" in text
    assert not (late / "none").exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--engine", "openvino")])
def test_a_model_that_writes_a_file_is_told_before_anything_is_written(late: Path, more: tuple[str, ...]) -> None:
    victim, model = late / "victim", late / "program"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(late / "model", model)
    shutil.rmtree(model / "saved_model")
    hostile_models.put(model, hostile_models.write, victim, on_load=True)
    text = score(late, "none", "2024-04-01", "program", Exit.MODEL, *more)
    assert "operation WriteFile ('WriteFile' of function" in text
    assert not (late / "none").exists()
    assert not victim.exists()


def test_an_output_that_cannot_be_written(late: Path) -> None:
    text = score(late, "events.parquet/out", "2024-04-01", expect=Exit.USAGE)
    assert "events.parquet is a file, not a folder" in text


@pytest.mark.parametrize(("share", "workers"), [(0.36, 2), (1.5, 1)])
def test_a_file_that_changes_after_the_plan(
    late: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, workers: int
) -> None:
    """Cut off or grown: nothing is published, and the message names the file and the remedy."""
    table = pq.read_table(late / "events.parquet")
    lines = [json.dumps(row) + "\n" for row in table.to_pylist()]
    events = tmp_path / "events.jsonl"
    events.write_text("".join(lines))
    run = bounded.run

    def changed(*arguments: Any) -> None:
        events.write_text("".join([*lines, *lines][: int(share * len(lines))]))
        run(*arguments)

    monkeypatch.setattr(bounded, "run", changed)
    told = io.StringIO()
    flags = ["--task", str(late / "task.yaml"), "--input", str(events), "--as-of", "2024-04-01"]
    flags += ["--workers", str(workers), "--output", str(tmp_path / "out")]
    with redirect_stdout(told), redirect_stderr(told):
        code = main(["score", *flags, "--model", str(late / "model")])
    assert code == Exit.USAGE, told.getvalue()
    assert re.search(
        r"events\.jsonl: changed while it was read \(.*\), so nothing was published\. Run again", told.getvalue()
    )
    assert not list((tmp_path / "out").rglob("*.parquet"))
