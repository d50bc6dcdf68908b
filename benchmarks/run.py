"""`make bench`: every contestant in turn, alone, on the same events; a table with ratios. It measures and never judges.

`python -m benchmarks.run [--events N] [--quick]`. Writes `results.md` and `results.json` beside this file, or, with
another number of events than the usual one, into `data/`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import workload as w
from benchmarks.measure import Measured, measure
from benchmarks.report import Results, write

ROUNDS = 3


def contestants(events: int) -> Iterator[tuple[str, str, tuple[str | int, ...]]]:
    """(name, module, arguments) of everything that runs, in order. What is compared stands side by side.

    What takes seconds runs `ROUNDS` times and the least CPU counts: a first run pays for memory that lay idle.
    """
    for kind in ("parquet", "jsonl"):
        for _ in range(ROUNDS):
            yield f"ours {kind}", "ours", (kind, events)
            yield f"polars arrays {kind}", "features_polars", (kind, events)
            yield f"polars frame {kind}", "features_polars", (kind, events, "--how", "frame")
            yield f"naive start {kind}", "features_naive", (kind, 0)
            yield f"naive part {kind}", "features_naive", (kind, w.NAIVE)
    yield "sgemm", "sgemm", ()
    yield "ours tensorflow", "ours", ("parquet", events, "--engine", "tensorflow")
    yield "polars tensorflow", "infer_polars", ("parquet", events)
    yield "ours openvino-bf16", "ours", ("parquet", events, "--engine", "openvino-bf16")


def prepare(events: int) -> None:
    """Events and model, each in a process of its own, so that this one stays small."""
    for n in (events, w.NAIVE):
        subprocess.run([sys.executable, "-m", "benchmarks.generate", "--events", str(n)], check=True)
    if not (w.MODEL / "manifest.json").exists():
        subprocess.run([sys.executable, "-m", "benchmarks.model"], check=True)


def run(events: int) -> Results:
    """Measures all contestants. One that fails is left out of the results, and said."""
    prepare(events)
    measured: dict[str, Measured] = {}
    for name, module, args in contestants(events):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            result = measure(name, f"benchmarks.{module}", *args)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            continue
        if name not in measured or result.cpu < measured[name].cpu:
            measured[name] = result
    return Results(events, measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=w.EVENTS)
    parser.add_argument("--quick", action="store_true", help=f"{w.QUICK:,} events")
    args = parser.parse_args()
    events = w.QUICK if args.quick else args.events
    print(write(run(events), w.HERE if events == w.EVENTS else w.DATA))


if __name__ == "__main__":
    main()
