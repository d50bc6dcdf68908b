"""The benchmark's contestants build the same tensors, and a dictionary and a loop agree with them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks import examples, feed, live, live_naive, run, steady
from benchmarks import workload as w
from benchmarks.generate import generate
from benchmarks.measure import Check, Measured
from benchmarks.report import Results, markdown
from pipelines.events.block import unpack
from pipelines.ledger.figures import Distribution, Figures, last_screen
from pipelines.task.file import load_task

pytest.importorskip("polars")
from benchmarks import features_polars

EVENTS = 5_000
EXAMPLES = 160


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


def test_generated_examples_are_what_a_training_asks_for(tmp_path: Path) -> None:
    examples.generate(EXAMPLES, tmp_path)
    config = examples.training(tmp_path)
    data = examples.load(config.task, EXAMPLES, tmp_path)
    sets = [data.at(*as_ofs) for as_ofs in (config.train, config.validation, config.test)]
    assert [len(rows) for rows in sets] == [EXAMPLES * 6 // 8, EXAMPLES // 8, EXAMPLES // 8]
    assert sorted(set(data.label[:, 0].tolist())) == [0, 1]
    x = data.tensor(np.arange(EXAMPLES))
    assert x.shape == (EXAMPLES, w.STEPS, w.FEATURES)
    counts = x[:, :, : w.COUNTED]
    np.testing.assert_array_equal(counts.sum(axis=(1, 2)), data.n_events)
    away = (data.as_of - data.last_event_time - 1) // w.DAY  # whole days
    assert away.max() < examples.MONTH  # in the label's scope
    np.testing.assert_array_equal(away, (counts.sum(axis=2) > 0)[:, ::-1].argmax(axis=1))
    assert (x[:, :, w.COUNTED :] * 4 % 1 == 0).all()  # sums are exact


def test_examples_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    examples.generate(EXAMPLES, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    examples.generate(EXAMPLES, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("size", [7, 1_000])
def test_a_consumer_with_dicts_builds_the_tensors_of_a_live_job(size: int) -> None:
    messages = feed.stream(25_000)
    ours, naive = live.run(messages, size, live.Spent()), live_naive.run(messages)
    assert ours.sequences > 2 * feed.ENTITIES * 0.8
    assert ours.corrected > 0
    np.testing.assert_allclose(ours.numbers(), naive.numbers(), rtol=1e-4)  # prices of one ms are told apart by id


def test_a_trend_is_that_of_the_means_of_minutes() -> None:
    seconds = list(range(0, 1800, 5))
    noise = [math.sin(7 * s) for s in seconds]  # far faster than a minute
    assert steady.trend(seconds, noise).flat
    growing = steady.trend(seconds, [300 + n + 36 * s / 3600 for n, s in zip(noise, seconds, strict=True)])
    assert growing.per_hour == pytest.approx(36, abs=3 * growing.error)
    assert not growing.flat
    assert steady.trend(seconds[:20], noise[:20]).error == np.inf


def test_the_last_screen_of_a_job_is_read_as_numbers() -> None:
    figures = Figures({"events": 1234567, "late": 3}, {"model_ms": Distribution(2, 3000, 1000, 2000)})
    assert steady.said(last_screen(figures, 10)) == {"events": [1234567], "late": [3], "model_ms": [1500, 1000, 2000]}


def test_what_a_state_should_hold_is_what_a_packed_block_holds() -> None:
    job = live.Job()
    ((_, raw), *_) = job.blocks(feed.stream(5_000))
    block = unpack(raw)
    name = sum(map(len, block.keys.to_pylist())) / len(block.keys)
    assert steady.packed(len(block), len(block.keys), name) == pytest.approx(len(raw), abs=8)


def test_a_part_runs_what_its_ratios_need() -> None:
    names = {part: {name for name, *_ in contestants(EVENTS)} for part, contestants in run.PARTS.items()}
    assert names["training"] == {"sgemm", "training steps", "training 20000", "training 80000"}
    assert {"sgemm", "ours parquet", "ours tensorflow", "polars tensorflow"} <= names["inference"]
    assert names["stream"] == {"live 10", "live 100", "live 1000", "live naive", "latency 500", "latency 2000"}


def test_training_is_told_as_a_share_of_sgemm_and_by_the_growth_of_its_memory() -> None:
    cpu = 100 * 3 * w.FLOP / 70e9  # seconds that 100 examples take at 70 GFLOP a second
    few, many = (Measured(f"training {n}", 1.0, 1.0, 2.0, 2.0, 1000 + n // 1600) for n in w.EXAMPLES)
    steps = Measured("training steps", cpu, 1.0, 2.0, 2.0, 10**9, extra={"samples": 100})
    sgemm = Measured("sgemm", 1.0, 1.0, 2.0, 2.0, 10**9, extra={"gflops_cpu": 100})
    text = markdown(Results(EVENTS, {m.name: m for m in (few, many, steps, sgemm)}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["training on four times as many examples: peak memory", "≤ 1.1", "1.04", "yes"] in rows
    assert ["training of ours, share of the sgemm rate", "", "0.70", ""] in rows


def test_a_stream_is_told_by_event_and_in_seconds() -> None:
    parts = {"intake": 2.0, "receive": 0.5, "boundary": 0.5}
    ours = Measured("live 100", 3.0, 3.0, 4.0, 4.0, 10**9, extra={"messages": 60_000, **parts})
    naive = Measured("live naive", 1.5, 1.5, 2.0, 2.0, 10**9, extra={"messages": 60_000})
    waits = Measured(
        "latency 500", 9.0, 60.0, 9.0, 60.0, 10**9, extra={"p50": 1.4, "p99": 2.2, "most": 3, "tracked": 9}
    )
    text = markdown(Results(EVENTS, {m.name: m for m in (ours, naive, waits)}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["live, bundles of 100 messages: CPU of ours / a consumer with dicts", "", "2.00", ""] in rows
    assert ["100", "20,000", "50.0", "33.3", "8.3", "8.3"] in rows
    assert ["a consumer with dicts", "40,000", "25.0", "", "", ""] in rows
    assert ["500", "1.40", "2.20", "3.00", "9"] in rows


def test_a_report_without_all_contestants_says_what_is_missing() -> None:
    m = Measured("ours parquet", 1.0, 1.0, 2.0, 2.0, 10**9)
    text = markdown(Results(EVENTS, {"ours parquet": m}))
    assert "no polars arrays parquet" in text
    assert "| peak memory of ours, GB" in text
