"""Makes the benchmark's events, once, the same on every machine: `python -m benchmarks.generate --events 5000000`.

Entities are as uneven as users are (log-normal), event types follow a power law, 5 % of the values are missing and 1 %
of the events come twice, the second time up to two days later. Values are multiples of 0.25, so every sum is exact in
f4 and the tensors of different programs can be compared bit for bit.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import workload as w

FILES = 8
DUPLICATES = 0.01
DELAY = 2 * w.DAY
ROW_GROUP = 131_072
DONE = "complete"

Rows = npt.NDArray[np.int64] | slice


@dataclass(frozen=True)
class Events:
    """Columns in order of delivery: entity and type numbers, time in microseconds, id, value (NaN for none)."""

    entity: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    id: npt.NDArray[np.uint64]
    value: npt.NDArray[np.float64]

    def take(self, rows: Rows) -> Events:
        return Events(self.entity[rows], self.kind[rows], self.time[rows], self.id[rows], self.value[rows])


def draw(events: int) -> Events:
    """So many events, those that come twice included."""
    rng = np.random.default_rng(1)
    twice = int(events * DUPLICATES)
    n = events - twice
    weights = rng.lognormal(0, 1, max(1, events // w.PER_ENTITY))
    kind = _choose(rng, 1 / np.arange(1, w.COUNTED + 1) ** 0.8, n)
    value = np.round(rng.gamma(2, 10, n) * 4) / 4
    value[(kind >= w.SUMMED) | (rng.random(n) < 0.05)] = np.nan
    time = np.sort(rng.integers(w.START, w.END, n))
    once = Events(_choose(rng, weights, n), kind, time, rng.integers(0, 2**64, n, np.uint64), value)
    again = rng.choice(n, twice, replace=False)
    delivered = np.concatenate([time, time[again] + rng.integers(0, DELAY, twice)])
    return once.take(np.concatenate([np.arange(n), again])[np.argsort(delivered, kind="stable")])


def _choose(rng: np.random.Generator, weights: npt.NDArray[np.float64], n: int) -> npt.NDArray[np.int64]:
    edges = np.cumsum(weights / weights.sum())
    return np.minimum(np.searchsorted(edges, rng.random(n)), len(weights) - 1)


def to_table(events: Events) -> pa.Table:
    """The columns user_id, event_type, value, timestamp and event_id."""
    users = pa.array([f"u{i * 2654435761 % 2**32:010d}" for i in range(int(events.entity.max()) + 1)])
    return pa.table(
        {
            "user_id": users.take(pa.array(events.entity)),
            "event_type": pa.array(w.TYPES).take(pa.array(events.kind)),
            "value": pa.array(events.value, mask=np.isnan(events.value)),
            "timestamp": pa.array(events.time, pa.timestamp("us", tz="UTC")),
            "event_id": pa.array(_hex(events.id)),
        }
    )


def _hex(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.str_]:
    digits = np.array([f"{i:02x}" for i in range(256)], "S2")
    return digits[numbers.astype(">u8").view(np.uint8)].view("S16").astype("U16")


def to_lines(table: pa.Table) -> pa.ChunkedArray:
    """One JSON object a row, ended by a newline."""
    time = pc.replace_substring(table["timestamp"].cast(pa.string()), " ", "T")
    value = pc.fill_null(table["value"].cast(pa.string()), "null")
    pieces = [
        '{"user_id":"', table["user_id"], '","event_type":"', table["event_type"], '","value":', value,
        ',"timestamp":"', time, '","event_id":"', table["event_id"], '"}\n', "",
    ]  # fmt: skip
    return pc.binary_join_element_wise(*pieces)


def write_lines(lines: pa.ChunkedArray, path: Path) -> None:
    """The bytes of all strings: they lie one after the other in Arrow's buffers."""
    with path.open("wb") as out:
        for chunk in lines.chunks:
            out.write(chunk.buffers()[2])


def generate(events: int, data: Path = w.DATA) -> None:
    """Writes both formats under `data`, unless a complete copy is there."""
    home = data / str(events)
    if (home / DONE).exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    for kind in ("parquet", "jsonl"):
        (home / kind).mkdir(parents=True)
    drawn, edges = draw(events), np.linspace(0, events, FILES + 1).astype(int)
    for i in range(FILES):
        table = to_table(drawn.take(slice(edges[i], edges[i + 1])))
        pq.write_table(table, home / "parquet" / f"part-{i:03d}.parquet", row_group_size=ROW_GROUP)
        write_lines(to_lines(table), home / "jsonl" / f"part-{i:03d}.jsonl")
    (home / DONE).touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=w.EVENTS)
    generate(parser.parse_args().events)


if __name__ == "__main__":
    main()
