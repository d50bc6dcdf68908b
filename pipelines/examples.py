"""The examples pipeline: event files -> labelled sequences -> Arrow files. The graph, and the run around it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from pipelines import execution
from pipelines.config import ExamplesConfig
from pipelines.errors import Exit, UserError
from pipelines.models.examples import record_batch
from pipelines.progress import Progress, watch
from pipelines.report import describe_as_ofs, describe_input, ledger_lines
from pipelines.source import Source, find
from pipelines.taskfile import describe
from pipelines.transforms.decode import Span
from pipelines.transforms.files import ReadEvents
from pipelines.transforms.ledger import Ledger, total
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
    target = replaceable(config.output, SUMMARY, "folder of examples")
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        _make(folder / "progress")
        with watch(folder / "progress", {"reading": source.size, "scoring": source.shards}):
            execution.run(config.execution, lambda p: build(p, config, source, folder))
        shutil.rmtree(folder / "progress")
        summary = read_summary(folder)
        _check(config, summary)
        replace_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
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


def replaceable(output: str, mark: str, what: str) -> Path:
    """The folder that a command writes whole: new, empty, or with the file `mark` of an earlier run of it.

    Raises:
      UserError: it is not local, or holds something else, which would be lost.
    """
    if "://" in output:
        raise UserError(f"--output {output}: the output must be a local folder")
    target = Path(output).resolve()
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output: {target} is there and is no {what}: name another folder, or empty it")
    return target


def read_summary(folder: Path) -> Summary:
    """The summary in a folder of examples."""
    raw = json.loads((folder / SUMMARY).read_text())
    ledger = raw.pop("ledger")
    ledger["reasons"] = tuple((reason, count) for reason, count in ledger["reasons"])
    return Summary(**{**raw, "as_ofs": tuple(raw["as_ofs"])}, ledger=Ledger(**ledger))


def example_files(folder: str) -> list[Path]:
    """The Arrow files in a folder of examples."""
    return sorted(Path(folder).glob("*.arrow"))


def replace_folder(new: Path, target: Path) -> None:
    """Moves a folder to where another may stand. Killed in between, the next call still finds the new one to make."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    target.parent.mkdir(parents=True, exist_ok=True)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder.parent.parent}: {error.strerror or error}. Choose another --output"
        ) from error


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
