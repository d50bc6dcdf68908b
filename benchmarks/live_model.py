"""Models of the benchmarks of a live job, exported untrained into a registry."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import feed
from benchmarks import workload as w
from benchmarks.model import Rows, export
from pipelines.task.file import load_task
from pipelines.task.spec import Task


@dataclass(frozen=True)
class Activity(Rows):
    """Tensors like those of the stream."""

    task: Task

    def tensor(self, rows: w.Ints) -> w.Floats:
        random, shape = np.random.default_rng(int(rows[0])), (len(rows), self.task.sequence.steps)
        count = random.poisson(0.5, shape)
        amount = random.normal(0, 20, shape)
        price = 100 * np.exp(np.cumsum(random.normal(0, 0.01, shape), axis=1))
        return np.stack([count, count * amount, price, amount], axis=2).astype(np.float32)


def put_models(root: Path, seeds: range) -> list[str]:
    """A registry with a version for each seed, none of which serves. Returns their names."""
    task, versions = load_task(feed.TASK), []
    for seed in seeds:
        spec = task.with_model(task.model.with_values({"seed": seed}))
        versions.append(export(spec, Activity(task), root / task.task / "new", time.time_ns() // 1000))
        (root / task.task / "new").rename(root / task.task / versions[-1])
    return versions
