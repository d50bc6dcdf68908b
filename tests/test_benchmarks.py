"""The benchmark's contestants build the same tensors, and a dictionary and a loop agree with them."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks import workload as w
from benchmarks.generate import generate
from benchmarks.measure import Check, Measured
from benchmarks.report import Results, markdown
from pipelines.taskfile import load_task

pytest.importorskip("polars")
from benchmarks import features_polars

EVENTS = 5_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the benchmark's events."""
    folder = tmp_path_factory.mktemp("events")
    generate(EVENTS, folder)
    return folder


def slow(paths: list[str]) -> Check:
    """The tensors of all users, event by event."""
    seen: set[tuple[str, str, str]] = set()
    users: dict[str, np.ndarray[tuple[int, int], np.dtype[np.float32]]] = defaultdict(
        lambda: np.zeros((w.STEPS, w.FEATURES), np.float32)
    )
    for event in (json.loads(line) for path in paths for line in Path(path).read_text().splitlines()):
        same = event["user_id"], event["timestamp"], event["event_id"]
        if same in seen:
            continue
        seen.add(same)
        day = (datetime.fromisoformat(event["timestamp"]) - datetime.fromisoformat("2025-01-01T00:00:00Z")).days
        kind = w.TYPES.index(event["event_type"])
        users[event["user_id"]][day, kind] += 1
        if kind < w.SUMMED and event["value"] is not None:
            users[event["user_id"]][day, w.COUNTED + kind] += event["value"]
    check = Check()
    check.add(np.stack(list(users.values())))
    return check


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("way", list(features_polars.WAYS))
def test_polars_builds_the_tensors_of_the_slow_loop(data: Path, kind: str, way: str) -> None:
    check = Check()
    for batch in features_polars.WAYS[way](w.files(kind, EVENTS, data)):
        check.add(batch.tensor)
    assert check.numbers() == slow(w.files("jsonl", EVENTS, data)).numbers()


def test_generated_events_have_duplicates(data: Path) -> None:
    lines = [line for path in w.files("jsonl", EVENTS, data) for line in Path(path).read_text().splitlines()]
    assert len(lines) == EVENTS
    assert len(set(lines)) == EVENTS - EVENTS // 100


def test_the_task_file_describes_the_workload() -> None:
    task = load_task(w.TASK)
    assert len(task.features) == w.FEATURES
    assert task.history == w.END - w.START
    assert task.model.units == (w.UNITS, w.UNITS)


def test_a_report_without_all_contestants_says_what_is_missing() -> None:
    m = Measured("ours parquet", 1.0, 1.0, 2.0, 2.0, 10**9)
    text = markdown(Results(EVENTS, {"ours parquet": m}))
    assert "no polars arrays parquet" in text
    assert "| peak memory of ours, GB" in text
