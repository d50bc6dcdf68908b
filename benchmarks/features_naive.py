"""Reference (c): the pipeline one writes first, a dict an event: `python -m benchmarks.features_naive KIND EVENTS`.

EVENTS of 0 runs the same pipeline on no file: what it costs to start. Timestamps stay as Beam reads them: a datetime
from Parquet, text from JSON Lines. Turning the datetime into text first, as one does after profiling, halves the cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks import workload as w
from benchmarks.measure import Check, Meter, Tensor

Event = dict[str, Any]
Identity = tuple[str, str, str]  # user, time, event id
TYPE = {name: i for i, name in enumerate(w.TYPES)}
CHECK = Check()  # the pipeline runs in this process


def with_day(event: Event) -> Event:
    """Adds the step of an event: outside the history it is below 0 or not below STEPS."""
    time = event["timestamp"]
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return {**event, "day": int(moment.timestamp()) // 86_400 - w.FIRST_DAY}


def inside(event: Event) -> bool:
    return event["event_type"] in TYPE and 0 <= event["day"] < w.STEPS


def identity(event: Event) -> tuple[Identity, Event]:
    return (event["user_id"], str(event["timestamp"]), event["event_id"]), event


def first(same: tuple[Identity, Iterable[Event]]) -> Event:
    return next(iter(same[1]))


def by_user(event: Event) -> tuple[str, Event]:
    return event["user_id"], event


def tensor(user: tuple[str, Iterable[Event]]) -> Tensor:
    """The tensor of a user, event by event."""
    out = [[0.0] * w.FEATURES for _ in range(w.STEPS)]
    for event in user[1]:
        row, kind = out[event["day"]], TYPE[event["event_type"]]
        row[kind] += 1
        if kind < w.SUMMED and event["value"] is not None:
            row[w.COUNTED + kind] += event["value"]
    return np.array(out, np.float32)


def keep(batch: list[Tensor]) -> None:
    CHECK.add(np.stack(batch))


def read(p: beam.Pipeline, kind: str, paths: list[str]) -> beam.PCollection[Event]:
    """A dict for each row."""
    files = p | beam.Create(paths)
    if kind == "parquet":
        return files | beam.io.ReadAllFromParquet()
    return files | beam.io.ReadAllFromText() | beam.Map(json.loads)


def features(kind: str, paths: list[str]) -> None:
    """Adds every user's tensor to CHECK, in batches as the others do."""
    options = PipelineOptions(["--direct_running_mode=in_memory"])
    with beam.Pipeline("FnApiRunner", options) as p:
        _ = (
            read(p, kind, paths)
            | beam.Map(with_day)
            | beam.Filter(inside)
            | beam.Map(identity)
            | "Same" >> beam.GroupByKey()
            | beam.Map(first)
            | beam.Map(by_user)
            | "Users" >> beam.GroupByKey()
            | beam.Map(tensor)
            | beam.BatchElements(w.BATCH, w.BATCH)
            | beam.Map(keep)
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["parquet", "jsonl"])
    parser.add_argument("events", type=int)
    args = parser.parse_args()
    meter = Meter()
    features(args.kind, w.files(args.kind, args.events) if args.events else [])
    meter.report(CHECK)


if __name__ == "__main__":
    from benchmarks import features_naive

    features_naive.main()  # what belongs to __main__ would be pickled with the pipeline, CHECK too
