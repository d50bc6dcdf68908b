"""Contestants (a) and (d): Foretide's own stages. `python -m benchmarks.ours KIND EVENTS [--engine tensorflow]`.

Without an engine it stops at the tensors; with one it scores them.
"""

from __future__ import annotations

import argparse
import importlib
from typing import get_args

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks import workload as w
from benchmarks.measure import Check, Meter
from pipelines.events.decode import Span
from pipelines.events.sequences import SequenceBatch
from pipelines.models.engines.base import EngineName
from pipelines.system.progress import Progress
from pipelines.task.file import load_task
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.infer import InferBatches, ScoreBlock
from pipelines.transforms.read_files import ReadPieces, find, plan

SHARDS = 16
MAX_BAD_SHARE = 0.05
CHECK = Check()  # the pipeline runs in this process
SCORES: list[float] = []


def sequences(p: beam.Pipeline, paths: list[str]) -> beam.PCollection[SequenceBatch]:
    """What `foretide score` does up to the tensors, at the one as-of."""
    task, span = load_task(w.TASK), Span((w.END,))
    read = p | ReadPieces(task, span, plan(find(paths)), SHARDS, Progress())
    return ((read.blocks, read.ledger) | Sequences(task, span, MAX_BAD_SHARE)).sequences


def run(paths: list[str], engine: EngineName | None) -> None:
    """Adds each tensor to CHECK, or each score to SCORES."""
    with beam.Pipeline("FnApiRunner", PipelineOptions(["--direct_running_mode=in_memory"])) as p:
        built = sequences(p, paths)
        if engine:
            infer = InferBatches(str(w.MODEL), load_task(w.TASK), engine, "auto", w.BATCH)
            _ = (built | infer).scores | beam.Map(keep_scores)
        else:
            _ = built | beam.Map(keep_tensor)


def keep_tensor(batch: SequenceBatch) -> None:
    CHECK.add(batch.tensor)


def keep_scores(block: ScoreBlock) -> None:
    SCORES.extend(block.scores[:, 0].tolist())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["parquet", "jsonl"])
    parser.add_argument("events", type=int)
    parser.add_argument("--engine", choices=["", *get_args(EngineName)], default="")
    args = parser.parse_args()
    if args.engine:
        importlib.import_module(f"pipelines.models.{args.engine.partition('-')[0]}_engine")  # not counted as work
    meter = Meter()
    run(w.files(args.kind, args.events), args.engine or None)
    if args.engine:
        meter.report(None, scores=len(SCORES), mean=sum(SCORES) / len(SCORES))
    else:
        meter.report(CHECK)


if __name__ == "__main__":
    from benchmarks import ours

    ours.main()  # what belongs to __main__ would be pickled with the pipeline, CHECK too
