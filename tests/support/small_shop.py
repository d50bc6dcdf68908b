"""A small shop: a task and events whose churn can be learnt, for tests of whole commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY = 86_400
START = 1_704_067_200  # 2024-01-01, a Monday
DAYS = 140

TASK = """\
task: small_shop
events:
  entity: user
  time: {field: at, unit: s}
  identity: [id]
  categories:
    kind: [view, buy]
sequence:
  step: 1d
  steps: 28
  features:
    - {agg: recency}
    - {agg: count, by: kind}
    - {agg: sum, field: price}
score:
  every: 7d
label: {kind: churn, horizon: 14d, active_within: 14d}
model: {units: [8], epochs: 3, batch_size: 64}
"""


def events(users: int = 150, seed: int = 1) -> pa.Table:
    """Users who come every few days, until a day of their own; in order of time, every 50th row twice."""
    rng = np.random.default_rng(seed)
    gap, last = rng.uniform(0.5, 4, users), rng.uniform(40, 260, users)
    at, user = [], []
    for u in range(users):
        times = np.cumsum(rng.exponential(gap[u], int(DAYS / gap[u] * 2)))
        times = times[times < min(last[u], DAYS)]
        at.append(START + (times * DAY).astype(np.int64))
        user.append(np.full(len(times), u))
    moment, who = np.concatenate(at), np.concatenate(user)
    order = np.argsort(moment, kind="stable")
    order = np.sort(np.concatenate([order, order[::50]]))
    kinds = np.array(["view", "buy", "return"])[rng.integers(0, 3, len(moment))]
    table = pa.table(
        {
            "user": pa.array([f"user-{u:03d}" for u in who]),
            "at": moment,
            "id": pa.array([f"e{i}" for i in range(len(moment))]),
            "kind": pa.array(kinds),
            "price": np.round(rng.gamma(2, 10, len(moment)), 2),
        }
    )
    return table.take(pa.array(order))


def write(folder: Path) -> tuple[Path, Path]:
    """(task file, folder of Parquet files)."""
    folder.mkdir(parents=True, exist_ok=True)
    task, files = folder / "small_shop.yaml", folder / "events"
    task.write_text(TASK)
    files.mkdir()
    table = events()
    for i in range(3):
        part = table.slice(i * len(table) // 3, (i + 1) * len(table) // 3 - i * len(table) // 3)
        pq.write_table(part, files / f"part-{i}.parquet", row_group_size=500)
    return task, files
