"""What a run takes of memory: the estimate against what commands take, and what is refused, warned of and explained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.errors import Exit, UserError
from pipelines.jobs import memory
from pipelines.jobs.memory import MB, Need, explained, scoring, streaming, training
from pipelines.system.machine import Room
from pipelines.task.spec import Task
from tests.support import small_shop
from tests.support.command_line import foretide
from tests.support.toy_models import untrained

GB = 1 << 30
DAY = small_shop.DAY * 1_000_000
HERE = Room(8 * GB, "free in a test")


def task(steps: int = 28, kinds: int = 2, every: str = "7d", **model: object) -> Task:
    document = yaml.safe_load(small_shop.TASK)
    document["events"]["categories"]["kind"] = [*("view", "buy"), *(f"k{i}" for i in range(kinds - 2))]
    document["sequence"]["steps"], document["score"]["every"] = steps, every
    document["model"] = model
    return Task.model_validate_json(json.dumps(document))


def need(given: Task, events: int = 1000, as_ofs: tuple[int, ...] = (0,), workers: int = 1, batch: int = 256) -> Need:
    return scoring(given, as_ofs, events, 8, workers, "tensorflow", batch, given.model.model_dump())


def test_each_number_makes_it_larger() -> None:
    base = need(task())
    for larger in (
        need(task(), events=10_000_000),
        need(task(), as_ofs=tuple(range(0, 10_000 * DAY, DAY))),
        need(task(), workers=2),
        need(task(), batch=65536),
        need(task(steps=1000)),
        need(task(kinds=3000)),
        need(task(network="gru", units=[512])),
    ):
        assert larger.likely > base.likely + 10 * MB
    assert training(task(), 1_000_000).likely > training(task(), 1_000).likely + 100 * MB
    assert training(task(units=[8192, 8192])).likely > training(task()).likely + GB
    model = task().model.model_dump()
    assert streaming(task(), 9_000_000, 16, "openvino", 256, model).likely > GB


@pytest.mark.parametrize(
    ("given", "what", "lower"),
    [
        (need(task(1000, 100), batch=1 << 16), "batches of the model", "Lower --batch-size (65536) or sequence.steps"),
        (need(task(), as_ofs=(0, 400_000_000 * DAY)), "a table of steps", "Narrow the range of --as-of"),
        (need(task(), workers=200), "200 more processes of it", "Lower --workers"),
        (training(task(units=[8192] * 32, members=16)), "weights", "Lower model.units, model.members or the vocab"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_surely_does_not_fit_is_refused_with_what_to_lower(given: Need, what: str, lower: str) -> None:
    with pytest.raises(UserError) as refused:
        given.lines(HERE)
    assert refused.value.exit == Exit.USAGE
    assert re.match(
        r"it takes at least \d+ [GT]B of memory.*, 8.6 GB free in a test; the most of it, \d+", str(refused.value)
    )
    assert f"is for {what}. {lower}" in str(refused.value)


def test_what_may_not_fit_is_warned_of_and_runs() -> None:
    given = need(task(), events=40_000_000)
    line, warning = given.lines(HERE)
    assert re.fullmatch(r"memory      about 9\.\d GB, 8\.6 GB free in a test \(\d.*about 40 M events, .*\)", line)
    assert re.match(r"warning     it takes about 9\.\d GB of memory, 8\.6 GB free in a test; the most", warning)
    assert "Give it less input at a time, or run it on Flink (--runner=FlinkRunner)" in warning
    assert len(given.lines(Room(16 * GB, "free in a test"))) == 1
    swapping = need(task(1000, 100), batch=1 << 15)  # it would be slow, and can be
    assert len(swapping.lines(Room(8 * GB, "free in a test", swap=64 * GB))) == 2


def test_of_workers_elsewhere_it_is_only_said_what_one_takes() -> None:
    given = task(1000, 100)
    there = scoring(given, (0,), 10**9, 8, 4, "openvino", 1 << 16, given.model.model_dump(), here=False)
    [line] = there.lines(Room(1, "free in a test"))
    assert re.match(r"memory      about \d+ GB of a worker's \(.*\); what workers have is not known here", line)


def test_a_lack_of_memory_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    given = need(task(), batch=1 << 18)
    for raised, said in (
        (MemoryError("Unable to allocate 9.0 GiB"), "Unable to allocate 9.0 GiB. It looks like a lack of memory"),
        (MemoryError(), "MemoryError. It looks"),
        (pa.ArrowMemoryError("malloc of size 64 failed"), "malloc of size 64 failed. It looks"),
        (UserError("the pipeline failed: numpy._core._exceptions._ArrayMemoryError: x", Exit.FAILED), "Error: x. It"),
        (UserError("the pipeline failed: ResourceExhaustedError: OOM when", Exit.FAILED), "OOM when. It looks"),
        (UserError("a worker ended by SIGKILL", Exit.FAILED), "a worker ended by SIGKILL. Unless somebody did"),
    ):
        with pytest.raises(UserError) as told, explained(given):
            raise raised
        assert said in str(told.value)
        assert re.search(
            r"about \d+\.\d GB were expected to do; the most of it, \d+ MB, is for batches", str(told.value)
        )
        assert told.value.exit == Exit.FAILED
    for other in (UserError("no room for improvement: a ROOM"), ValueError("x")):
        with pytest.raises(type(other), match=f"^{other}$"), explained(given):
            raise other


def test_a_run_that_nears_the_end_of_memory_says_so_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Callable[[], int]] = []

    class Beside:
        def __init__(self, work: Callable[[], int], every: float, name: str) -> None:
            looks.append(work)

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(memory, "repeating", Beside)
    monkeypatch.setattr(memory, "room", lambda: HERE)
    with explained(need(task())):
        for size in (GB, GB // 4, GB // 4):
            monkeypatch.setattr(memory, "left", lambda size=size: Room(size, "free in a test"))
            looks[0]()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning     only 268 MB of memory are free in a test; the most of it,")


def test_a_command_refuses_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, events = small_shop.write(tmp_path)
    given = Task.model_validate_json(json.dumps(yaml.safe_load(small_shop.TASK)))
    untrained(given, tmp_path / "model")
    what = ["--task", str(file), "--input", str(events)]
    score = [
        "score",
        *what,
        "--model",
        str(tmp_path / "model"),
        "--output",
        str(tmp_path / "out"),
        "--as-of",
        "2024-04-01",
    ]
    stores = ["--examples", str(tmp_path / "examples"), "--models", str(tmp_path / "models")]
    train = ["train", *what, *stores, "--test-as-of", "2024-05-06", "--train-as-ofs", "2", "--train-every", "7d"]
    make = ["examples", *what, "--as-of", "2024-04-01", "--output", str(tmp_path / "examples")]
    assert re.search(r"^memory      about \d+ MB, \d+ \w+ free|left", foretide(*score, "--dry-run"), re.MULTILINE)
    monkeypatch.setattr(memory, "room", lambda: Room(20 * MB, "free in a test"))
    for command in (score, train, make):
        for more in ([], ["--dry-run"]):
            told = foretide(*command, *more, expect=Exit.USAGE)
            assert f"foretide {command[0]}: it takes at least " in told
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "models").rglob("*.json"))


def events(folder: Path, n: int, entities: int) -> Path:
    """Files of that many events in 120 days."""
    random, names = np.random.default_rng(1), pa.array([f"user-{i}" for i in range(entities)])
    kinds = pa.array(["view", "buy", "return"])
    folder.mkdir()
    for i in range(4):
        size = n // 4
        user = names.take(pa.array(random.integers(0, entities, size)))
        table = pa.table(
            {
                "user": user,
                "at": small_shop.START + np.sort(random.integers(0, 120 * small_shop.DAY, size)),
                "id": np.arange(i * size, (i + 1) * size),
                "kind": kinds.take(pa.array(random.integers(0, 3, size))),
                "price": random.gamma(2, 10, size),
            }
        )
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=1 << 17)
    return folder


# A process that starts as a copy of a large one counts as having been as large: a small one stands between.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def measured(*command: object) -> tuple[float, float]:
    """(expected, largest) bytes of memory of a command in a process of its own: by the line that it prints, and by what
    the system counts."""
    arguments = [sys.executable, "-S", "-c", BETWEEN, sys.executable, "-m", "pipelines.cli", *map(str, command)]
    told = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = re.search(r"^memory      about ([\d.]+) ([kMG])B", told, re.MULTILINE)
    peak = re.search(r"^peak (\d+)$", told, re.MULTILINE)
    assert found, told
    assert peak, told
    return float(found[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}[found[2]], int(peak[1]) * 1024.0


def test_the_estimate_of_many_events_is_within_a_factor_of_two(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(small_shop.TASK)
    files = events(tmp_path / "events", 1_000_000, 20_000)
    what = ["--task", tmp_path / "task.yaml", "--as-of", "2024-04-17", "--output", tmp_path / "examples"]
    expected, largest = measured("examples", *what, "--input", files)
    assert largest > 350e6  # with no events it takes 250
    assert expected / 2 < largest < expected * 2


@pytest.mark.soak(only=True)
@pytest.mark.parametrize(
    ("model", "steps", "kinds", "batch", "least"),
    [({}, 1000, 50, 2048, 2e9), ({"network": "gru", "units": [256, 256]}, 28, 2, 2048, 1e9)],
)
def test_the_estimate_of_batches_is_within_a_factor_of_two(
    tmp_path: Path, model: dict[str, Any], steps: int, kinds: int, batch: int, least: float
) -> None:
    given = task(steps, kinds, **model)
    document = yaml.safe_load(small_shop.TASK)
    document["events"]["categories"]["kind"] = list(given.events.categories["kind"])
    document["sequence"]["steps"], document["model"] = steps, model
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(document))
    untrained(given, tmp_path / "model")
    what = ["--task", tmp_path / "task.yaml", "--as-of", "2024-04-17", "--output", tmp_path / "out"]
    files = events(tmp_path / "events", 1000, 50)
    expected, largest = measured("score", *what, "--input", files, "--model", tmp_path / "model", "--batch-size", batch)
    assert largest > least
    assert expected / 2 < largest < expected * 2
