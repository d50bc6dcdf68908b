"""`make bench`: every contestant in turn, alone, on the same events; a table with ratios. It measures and never judges.

`python -m benchmarks.run [--events N] [--quick] [--only PART]`. Writes `results.md` and `results.json` beside this
file, or, with another number of events than the usual one or one part only, into `data/`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from benchmarks import workload as w
from benchmarks.measure import Measured, measure
from benchmarks.report import Results, write

ROUNDS = 3

Contestants = Iterator[tuple[str, str, tuple[str | int, ...]]]


def features(events: int) -> Contestants:
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


def inference(events: int) -> Contestants:
    """What comes on top of the features, which are measured here too."""
    yield "sgemm", "sgemm", ()
    yield "ours parquet", "ours", ("parquet", events)
    yield "ours tensorflow", "ours", ("parquet", events, "--engine", "tensorflow")
    yield "polars tensorflow", "infer_polars", ("parquet", events)
    yield "ours openvino-bf16", "ours", ("parquet", events, "--engine", "openvino-bf16")


def training(_: int) -> Contestants:
    """On examples, so that the number of events plays no part."""
    yield "sgemm", "sgemm", ()
    yield "training steps", "train_steps", (max(w.EXAMPLES),)
    for n in w.EXAMPLES:
        yield f"training {n}", "train_whole", (n,)


def stream(_: int) -> Contestants:
    """The stateful path alone, and then a whole live job."""
    for _ in range(ROUNDS):
        for size in w.BUNDLES:
            yield f"live {size}", "live", (size,)
        yield "live naive", "live_naive", ()
    for rate in w.RATES:
        yield f"latency {rate}", "latency", (rate,)


def table(_: int) -> Contestants:
    """Score rows into an emulator of BigQuery, whose speed decides: one run of each."""
    for how in ("ours", "bare"):
        yield f"table {how}", "table", (how, w.SCORES)


def flink(events: int) -> Contestants:
    """A run over files on a cluster of this machine, and here."""
    for where in ("here", "flink"):
        yield f"run {where}", "flink", (where, events)


PARTS: Mapping[str, Callable[[int], Contestants]] = {
    "features": features,
    "inference": inference,
    "training": training,
    "stream": stream,
    "table": table,
    "flink": flink,
}
FILES = {"features", "inference", "flink"}  # the parts that read the generated events


def prepare(events: int, parts: list[str]) -> None:
    """What the parts need, made by a process each, so that this one stays small."""
    if FILES.intersection(parts):
        for n in (events, w.NAIVE):
            _make("generate", "--events", n)
    if "inference" in parts and not (w.MODEL / "manifest.json").exists():
        _make("model")
    if "training" in parts:
        for n in w.EXAMPLES:
            _make("examples", n)


def _make(module: str, *args: str | int) -> None:
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *map(str, args)], check=True)


def run(events: int, parts: list[str]) -> Results:
    """Measures all contestants. One that fails is left out of the results, and said."""
    prepare(events, parts)
    measured: dict[str, Measured] = {}
    for name, module, args in (contestant for part in parts for contestant in PARTS[part](events)):
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
    parser.add_argument("--only", choices=list(PARTS), help="measure this part alone")
    args = parser.parse_args()
    events = w.QUICK if args.quick else args.events
    results = run(events, [args.only] if args.only else list(PARTS))
    print(write(results, w.DATA if args.only or events != w.EVENTS else w.HERE))


if __name__ == "__main__":
    main()
