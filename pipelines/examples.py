"""The examples pipeline: event files -> labelled sequences -> Arrow files. The graph, and the run around it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from pipelines import execution
from pipelines.config import ExamplesConfig
from pipelines.errors import Exit, UserError
from pipelines.folders import replaceable, replacing
from pipelines.ledger import Ledger, total
from pipelines.models.examples import TIME, schema
from pipelines.progress import Progress, watch
from pipelines.report import describe_as_ofs, describe_input, ledger_lines
from pipelines.source import Source, find
from pipelines.taskfile import describe
from pipelines.transforms.decode import Span
from pipelines.transforms.files import ReadEvents
from pipelines.transforms.sequences import SequenceBatch, Sequences

SUMMARY = "examples.json"


@dataclass(frozen=True)
class Summary:
    """What a folder of examples holds."""

    task: str
    task_digest: str
    as_ofs: tuple[int, ...]
    examples: int
    ledger: Ledger


def write_examples(config: ExamplesConfig) -> int:
    """Writes the examples, prints what they are, and returns the exit code."""
    summary = make_examples(config)
    print(f"\ntask        {summary.task} as of {describe_as_ofs(summary.as_ofs)}")
    print("\n".join(ledger_lines(summary.ledger)))
    print(f"examples    {summary.examples:,} labelled sequences in {config.output}")
    return Exit.OK


def make_examples(config: ExamplesConfig) -> Summary:
    """Runs the pipeline to its end; the folder appears, or is replaced, whole.

    Raises:
      UserError: too many bad rows, sums that do not match, or what `find` and `run` raise.
    """
    source = find(config.task, config.input, config.execution)
    with replacing(replaceable(config.output, SUMMARY, "folder of examples")) as folder:
        progress = folder / "progress"
        progress.mkdir()
        with watch(progress, {"reading": source.size, "scoring": source.shards}):
            execution.run(config.execution, lambda p: build(p, config, source, folder))
        shutil.rmtree(progress)
        summary = read_summary(folder)
        _check(config, summary)
    return summary


def build(p: beam.Pipeline, config: ExamplesConfig, source: Source, folder: Path) -> None:
    """The graph."""
    span, progress = Span(config.as_ofs, config.task.horizon), Progress(str(folder / "progress"))
    events = p | "Read" >> ReadEvents(config.task, span, source.pieces, source.shards, progress)
    read = beam.pvalue.AsSingleton(events.ledger | "SumRead" >> beam.CombineGlobally(total))
    built = events.blocks | "Sequences" >> Sequences(config.task, span, read, config.input.max_bad_share, progress)
    ledger = (events.ledger, built.ledger) | "Ledgers" >> beam.Flatten() | "Sum" >> beam.CombineGlobally(total)
    parts = built.sequences | "WriteParts" >> beam.ParDo(_WritePart(str(folder)))
    start = p | "Last" >> beam.Create([(config.task.task, config.task.digest, config.as_ofs)], reshuffle=False)
    sides = beam.pvalue.AsList(parts), beam.pvalue.AsSingleton(ledger)
    _ = start | "Summary" >> beam.Map(_write_summary, str(folder), *sides)


def plan(config: ExamplesConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    source = find(config.task, config.input, config.execution)
    replaceable(config.output, SUMMARY, "folder of examples")
    print(describe(config.task))
    print(f"as of       {describe_as_ofs(config.as_ofs)}")
    print(describe_input(source, config.input))
    print(f"output      {config.output}\ndry run: nothing was written")
    return Exit.OK


def read_summary(folder: Path) -> Summary:
    """The summary in a folder of examples."""
    raw = json.loads((folder / SUMMARY).read_text())
    ledger = raw.pop("ledger")
    ledger["reasons"] = tuple((reason, count) for reason, count in ledger["reasons"])
    return Summary(**{**raw, "as_ofs": tuple(raw["as_ofs"])}, ledger=Ledger(**ledger))


def example_files(folder: str) -> list[Path]:
    """The Arrow files in a folder of examples."""
    return sorted(Path(folder).glob("*.arrow"))


def _check(config: ExamplesConfig, summary: Summary) -> None:
    if summary.ledger.bad_share > config.input.max_bad_share:
        raise UserError(
            f"{100 * summary.ledger.bad_share:.1f} % of the rows or files are bad, --max-bad-share is "
            f"{100 * config.input.max_bad_share:.1f} %:\n" + "\n".join(ledger_lines(summary.ledger)),
            Exit.REFUSED,
        )
    events = [d for d in summary.ledger.differences if "events" in d]
    if events:
        raise UserError("; ".join(events), Exit.UNBALANCED)


def record_batch(batch: SequenceBatch) -> pa.RecordBatch:
    """The rows of a labelled batch, with `schema`."""
    if batch.label is None:
        raise ValueError("the batch has no labels")
    n, outputs, width = len(batch.entities), batch.label.shape[1], batch.tensor[0].size
    arrays = [
        pa.array(batch.entities, pa.string()),
        pa.array(np.full(n, batch.as_of, np.int64), TIME),
        pa.array(batch.n_events, pa.int64()),
        pa.array(batch.last_event_time, TIME),
        pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(batch.label, np.float32).ravel(), outputs),
        pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(batch.tensor, np.float32).ravel(), width),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(outputs, width))


class _WritePart(beam.DoFn):
    """One Arrow file a bundle, under a name of its own: a bundle that is repeated leaves a file that nobody names."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def start_bundle(self) -> None:
        self.name, self.rows = f"{uuid.uuid4().hex}.arrow", 0
        self.writer: pa.ipc.RecordBatchFileWriter | None = None

    def process(self, batch: SequenceBatch) -> None:
        rows = record_batch(batch)
        if self.writer is None:
            self.writer = pa.ipc.new_file(f"{self.folder}/{self.name}", rows.schema)
        self.writer.write_batch(rows)
        self.rows += rows.num_rows

    def finish_bundle(self) -> Iterator[object]:
        if self.writer is not None:
            self.writer.close()
            yield GlobalWindows.windowed_value((self.name, self.rows))


def _write_summary(
    start: tuple[str, str, tuple[int, ...]], folder: str, parts: list[tuple[str, int]], ledger: Ledger
) -> None:
    named = {name for name, _ in parts}
    for file in Path(folder).glob("*.arrow"):
        if file.name not in named:
            file.unlink()
    task, digest, as_ofs = start
    summary = Summary(task, digest, as_ofs, sum(rows for _, rows in parts), ledger)
    (Path(folder) / SUMMARY).write_text(json.dumps(asdict(summary), indent=2))
