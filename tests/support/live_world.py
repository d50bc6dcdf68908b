"""A small stream of events, a task and a model for it, and live jobs in processes of their own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import Exit
from tests.support.services import Emulator
from tests.support.toy_models import export_toy

TASK = """\
task: toy
events:
  entity: user
  time: {field: at, unit: s}
  arrival: {field: arrived, unit: s}
  identity: [id]
sequence:
  step: 1d
  steps: 12
  features:
    - {agg: count}
    - {agg: sum, field: amount}
    - {agg: last, field: price, fill: forward, scale: relative}
    - {agg: mean, field: amount, scale: none}
score: {every: 1d, allowed_lateness: 2d}
label: {kind: churn, horizon: 7d, active_within: 7d}
model: {network: gru, units: [8, 8]}
"""
DAY = 86_400
START = 1_704_067_200  # 2024-01-01
PATIENCE = 600.0  # s for a job to come as far as a test waits for it, on a busy machine
ENGINE = ("--engine", "openvino")  # it is there ten times sooner than TensorFlow, in each process of a job
SEAM, END = START + 20 * DAY, START + 26 * DAY
AS_OFS = "2024-01-21..2024-01-27"


@dataclass(frozen=True)
class World:
    task: Path
    model: Path
    events: Path
    rows: Sequence[dict[str, Any]]  # in the order of arrival


def make_world(folder: Path) -> World:
    """Four weeks of events, of which every fifth arrives up to three days late and every twentieth comes twice."""
    (folder / "toy.yaml").write_text(TASK)
    export_toy(folder / "model")
    rng = np.random.default_rng(3)
    n = 2_000
    at = START + np.sort(rng.integers(0, 27 * DAY, n))
    late = np.where(rng.random(n) < 0.2, rng.integers(0, 3 * DAY, n), 0)
    table = pa.table(
        {
            "user": pa.array([f"user {u}" for u in rng.zipf(1.5, n) % 60]),
            "at": at,
            "arrived": at + late,
            "id": pa.array([f"e{i}" for i in range(n)]),
            "amount": rng.normal(0, 20, n).round(2),
            "price": 100 + rng.normal(0, 1, n).cumsum().round(2),
        }
    )
    again = table.take(pa.array(np.arange(0, n, 20)))
    again = again.set_column(2, "arrived", pa.array(again["arrived"].to_numpy() + 3600))
    table = pa.concat_tables([table, again]).sort_by("arrived")
    pq.write_table(table, folder / "events.parquet")
    return World(folder / "toy.yaml", folder / "model", folder / "events.parquet", table.to_pylist())


@contextmanager
def live(pubsub: Emulator, *arguments: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A live job in a process of its own, killed at the end of the block if it still runs."""
    command = [sys.executable, "-m", "pipelines.cli", "stream", *map(str, arguments)]
    with log.open("wb") as out:
        job = subprocess.Popen(command, env={**os.environ, **pubsub.environment}, stdout=out, stderr=out)
        try:
            yield job
        finally:
            job.kill()
            job.wait()


def drained(job: subprocess.Popen[bytes], log: Path) -> str:
    """Ends a job as an operator does; all that it said."""
    job.send_signal(signal.SIGTERM)
    code = job.wait(PATIENCE)
    told = log.read_text()
    assert code == Exit.OK, told
    assert "Traceback" not in told
    return told


def publish(pubsub: Emulator, topic: str, rows: Sequence[dict[str, Any]], clock: int | None = None) -> None:
    """Rows as messages; `clock`: the arrival, in s, that an empty message says has been reached."""
    payloads = [json.dumps({k: v for k, v in row.items() if k != "arrived"}).encode() for row in rows]
    arrivals = [row["arrived"] for row in rows] + ([] if clock is None else [clock])
    payloads += [] if clock is None else [b""]
    pubsub.publish(topic, payloads, [{"arrival": str(a * 1_000_000)} for a in arrivals])


def common(world: World, subscription: str, out: Path | str) -> list[object]:
    where = ["--subscription", subscription, "--arrival-attribute", "arrival"]
    return ["--task", world.task, "--model", world.model, *ENGINE, "--output", out, *where]


def split(world: World, *times: int) -> list[list[dict[str, Any]]]:
    """The rows that arrive before the first time, from there to the next one, and so on."""
    edges = [0, *times, 1 << 40]
    return [[r for r in world.rows if a <= r["arrived"] < b] for a, b in itertools.pairwise(edges)]
