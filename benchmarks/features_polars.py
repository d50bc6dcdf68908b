"""Reference (b): polars from files to tensors: `python -m benchmarks.features_polars KIND EVENTS [--how frame]`.

Both ways were the fastest of their kind; CPU seconds on 5 million events in Parquet, two noisy cores:
    arrays (here)   1.7-2.0  polars decodes and hashes; one sort of (entity, identity); numpy adds, batch by batch
    arrays, identity sorted alone, or is_first_distinct, and one scatter into all tensors   2.2-2.7
    arrays, sorted by (entity, time)   2.3; with np.argsort instead of polars' arg_sort   + 0.2
    frame (here)    2.6      polars expressions only, in one lazy streaming plan
    frame, unique and group_by in memory   3.4-4.4; unique on a hash of a struct and group_by of three columns   4.3;
    frame, unique on three text columns   8.4; replace_strict instead of an Enum   + 0.6
In JSON Lines, the day cut from the text of a timestamp that is always UTC costs 1.5 s less than parsing the timestamp.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks import workload as w
from benchmarks.measure import Check, Meter, Tensor

SCHEMA = {
    "user_id": pl.String,
    "event_type": pl.String,
    "value": pl.Float64,
    "timestamp": pl.String,
    "event_id": pl.String,
}
PLACES = w.STEPS * w.FEATURES
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Codes of n users (places in polars' categories) and their tensor (n, STEPS, FEATURES)."""

    users: Rows
    tensor: Tensor


def scan(paths: list[str]) -> pl.LazyFrame:
    """Rows of user (code), place (of the count in its tensor), value f4 and same, a hash of time and event id."""
    time = pl.col("timestamp")
    if paths[0].endswith(".parquet"):
        rows, date = pl.scan_parquet(paths), time.dt.date()
    else:
        rows, date = pl.scan_ndjson(paths, schema=SCHEMA), time.str.slice(0, 10).str.to_date("%Y-%m-%d")
    day = (date.to_physical() - w.FIRST_DAY).cast(pl.Int16, strict=False)
    kind = pl.col("event_type").cast(pl.Enum(w.TYPES), strict=False).to_physical().cast(pl.Int16)
    chosen = rows.select(
        user=pl.col("user_id").cast(pl.Categorical).to_physical(),
        place=day * w.FEATURES + kind,
        value=pl.col("value").cast(pl.Float32),
        same=pl.col("event_id").hash() ^ time.hash(1),
    )
    return chosen.filter(pl.col("place").is_between(0, PLACES - 1), pl.col("user").is_not_null())


def arrays(paths: list[str]) -> Iterator[Batch]:
    """One sort puts users together and duplicates side by side: by user, then as many bits of the identity as fit."""
    rows = scan(paths).collect(engine="streaming")
    user, same = rows["user"].to_numpy().astype(np.uint64), rows["same"].to_numpy()
    bits = int(user.max()).bit_length()
    key = user << np.uint64(64 - bits) | same >> np.uint64(bits)
    order = pl.Series(key).arg_sort().to_numpy()
    key = key[order]
    once = np.concatenate(([True], key[1:] != key[:-1]))
    order, user = order[once], (key[once] >> np.uint64(64 - bits)).astype(np.int64)
    yield from scatter(user, rows["place"].to_numpy()[order].astype(np.int64), rows["value"].to_numpy()[order])


def scatter(user: Rows, place: Rows, value: npt.NDArray[np.float32]) -> Iterator[Batch]:
    """Adds each event, in order of user, into the batch of its user."""
    summed = (place % w.FEATURES < w.SUMMED) & ~np.isnan(value)
    for users, rows, at in slots(user, place):
        flat = np.zeros(len(users) * PLACES, np.float32)
        np.add.at(flat, at, np.float32(1))
        pick = summed[rows]
        np.add.at(flat, at[pick] + w.COUNTED, value[rows][pick])
        yield Batch(users, flat.reshape(-1, w.STEPS, w.FEATURES))


def slots(user: Rows, place: Rows) -> Iterator[tuple[Rows, slice, Rows]]:
    """For each batch: its users, its rows, and where in the flat tensor each row belongs."""
    starts = np.flatnonzero(np.concatenate(([True], user[1:] != user[:-1])))
    edges = np.append(starts, len(user))
    for i in range(0, len(starts), w.BATCH):
        part = edges[i : i + w.BATCH + 1]
        rank = np.repeat(np.arange(len(part) - 1), np.diff(part))
        rows = slice(part[0], part[-1])
        yield user[part[:-1]], rows, rank * PLACES + place[rows]


def frame(paths: list[str]) -> Iterator[Batch]:
    """Polars expressions to the last: unique and group_by on single numbers, then one scatter of the sorted groups."""
    user = pl.col("user")
    cell, same = user.cast(pl.Int64) * PLACES + pl.col("place"), pl.col("same") ^ user.hash(2)
    once = scan(paths).select("value", cell=cell, same=same).unique("same")
    groups = once.group_by("cell").agg(pl.len().alias("n"), pl.col("value").sum())
    cells = groups.sort("cell").collect(engine="streaming")
    at, n, value = cells["cell"].to_numpy(), cells["n"].to_numpy(), cells["value"].to_numpy()
    for users, rows, slot in slots(at // PLACES, at % PLACES):
        flat = np.zeros(len(users) * PLACES, np.float32)
        flat[slot] = n[rows]
        pick = slot % w.FEATURES < w.SUMMED
        flat[slot[pick] + w.COUNTED] = value[rows][pick]
        yield Batch(users, flat.reshape(-1, w.STEPS, w.FEATURES))


WAYS = {"arrays": arrays, "frame": frame}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["parquet", "jsonl"])
    parser.add_argument("events", type=int)
    parser.add_argument("--how", choices=list(WAYS), default="arrays")
    args = parser.parse_args()
    meter, check = Meter(), Check()
    for batch in WAYS[args.how](w.files(args.kind, args.events)):
        check.add(batch.tensor)
    meter.report(check)


if __name__ == "__main__":
    main()
