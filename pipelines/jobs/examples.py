"""The examples pipeline: event files -> labelled sequences -> a layer of the store. The graph, and the run around it.

What a store holds, and what of it a request can use, is in `models.example_store`.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from pipelines.errors import Exit, UserError
from pipelines.events.decode import Span
from pipelines.events.sequences import SequenceBatch
from pipelines.jobs import memory
from pipelines.jobs.checks.before import checked
from pipelines.jobs.config import ExamplesConfig
from pipelines.jobs.launch import Launch
from pipelines.jobs.report import describe_as_ofs, describe_input, ledger_lines
from pipelines.jobs.source import InputSource, rows
from pipelines.ledger.counts import Ledger, total
from pipelines.models.example_files import TIME, schema
from pipelines.models.example_store import (
    PREFIX,
    InputFile,
    Layer,
    Rectangle,
    Stored,
    adding,
    choose,
    feature_id,
    key,
    missing,
    read_layer,
    read_layers,
    sub_task,
    there,
    uses,
    write_layer,
)
from pipelines.runners import bounded
from pipelines.system.files import create_private, make_private, replacing
from pipelines.system.progress import Progress, watch
from pipelines.task.file import describe
from pipelines.task.spec import Task
from pipelines.transforms import coders
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.read_files import ReadPieces

NAMED = 3  # features that a line names

Parts = tuple[str, tuple[tuple[int, int], ...]]  # a file, and its rows at each as-of


def write_examples(config: ExamplesConfig) -> int:
    """Makes the examples, prints what they are, and returns the exit code."""
    stored = make_examples(config)
    print(f"\ntask        {stored.task} as of {describe_as_ofs(stored.as_ofs)}")
    print("\n".join([*ledger_lines(stored.ledger), *stored_lines(config.task, stored)]))
    return Exit.OK


def make_examples(config: ExamplesConfig) -> Stored:
    """Computes what the store lacks of the examples; when it returns, all of them are there.

    Features that read a field with bad values can change which rows are events; then everything is computed anew.

    Raises:
      UserError: too many bad rows, sums that do not match, or what `find` and `run` raise.
    """
    source, warnings = _find(config)
    folder = _folder(config, source)
    layers = choose(config.task, config.as_ofs, read_layers(folder))
    if not missing(config.task, config.as_ofs, layers):
        return _stored(config, folder, layers, (), there(config.task, config.as_ofs, layers))
    need = _need(config, source)
    lines = [*need.lines(), *warnings]
    with adding(folder), memory.explained(need):
        print("\n".join(lines), flush=True)
        layers = choose(config.task, config.as_ofs, read_layers(folder))
        reused, computed = (of(config.task, config.as_ofs, layers) for of in (there, missing))
        layers += [_add(config, source, folder, gap) for gap in computed]
        if len({layer.ledger.reasons for layer in layers}) > 1:
            reused, computed = (), (Rectangle(config.as_ofs, tuple(range(len(config.task.features)))),)
            layers = [_add(config, source, folder, computed[0])]
    return _stored(config, folder, layers, computed, reused)


def plan(config: ExamplesConfig) -> int:
    """Checks all that a run checks, and prints what it would do."""
    print("\n".join(plan_lines(config)))
    print("dry run: nothing was written")
    return Exit.OK


def plan_lines(config: ExamplesConfig) -> list[str]:
    """What the examples are, and what of them would be computed."""
    source, warnings = _find(config, dry_run=True)
    folder = _folder(config, source)
    layers = choose(config.task, config.as_ofs, read_layers(folder))
    lacking = missing(config.task, config.as_ofs, layers)
    gaps = (
        *_lines(config.task, "to compute", lacking),
        *_lines(config.task, "in store", there(config.task, config.as_ofs, layers)),
    )
    return [
        describe(config.task),
        f"as of       {describe_as_ofs(config.as_ofs)}",
        describe_input(source, config.input),
        *gaps,
        *([*_need(config, source).lines(), *warnings] if lacking else ()),
        f"examples    {folder}",
    ]


def stored_lines(task: Task, stored: Stored) -> list[str]:
    """What was computed, what was there before, and how many examples that makes."""
    return [
        *_lines(task, "computed", stored.computed),
        *_lines(task, "reused", stored.reused),
        f"examples    {stored.examples:,} labelled sequences in {stored.folder}",
    ]


def _lines(task: Task, word: str, rectangles: Sequence[Rectangle]) -> list[str]:
    """A line for each, such as `reused      12 features as of 2024-01-01`."""
    lines = []
    for as_ofs, features in rectangles:
        names = [task.features[i].name for i in features]
        what = ", ".join(names) if len(names) <= NAMED else f"{len(names)} features"
        lines.append(f"{word:<11} {what} as of {describe_as_ofs(as_ofs)}")
    return lines


def build(
    p: beam.Pipeline, config: ExamplesConfig, task: Task, gap: Rectangle, source: InputSource, folder: Path
) -> None:
    """The graph that writes one layer: the features of `task` at the as-ofs of a gap."""
    coders.install()
    span, progress = Span(gap.as_ofs, task.horizon), Progress(str(folder / "progress"))
    events = p | "Read" >> ReadPieces(task, span, source.pieces, source.shards, progress)
    read = events.blocks, events.ledger
    built = read | "Sequences" >> Sequences(task, span, config.max_bad_share, progress)
    ledger = (
        (events.ledger, built.ledger)
        | "Ledgers" >> beam.Flatten()
        | "Sum" >> beam.CombineGlobally(total).with_output_types(Ledger)
    )
    parts = built.sequences | "WriteParts" >> beam.ParDo(_WritePart(str(folder)))
    start = p | "Last" >> beam.Create([gap.as_ofs], reshuffle=False)
    sides = beam.pvalue.AsList(parts), beam.pvalue.AsSingleton(ledger)
    _ = start | "Describe" >> beam.Map(_describe, task, str(folder), *sides)


def _add(config: ExamplesConfig, source: InputSource, folder: Path, gap: Rectangle) -> Layer:
    """Runs the pipeline to its end; the layer appears whole."""
    task = sub_task(config.task, gap.features)
    target = folder / f"{PREFIX}{uuid.uuid4().hex}"
    with replacing(target, private=True) as partial:
        progress = partial / "progress"
        make_private(progress)
        with watch(progress, {"reading": source.size, "scoring": source.shards}), source.unchanged():
            bounded.run(config.execution, lambda p: build(p, config, task, gap, source, partial))
        shutil.rmtree(progress)
        _check(config, read_layer(partial).ledger)
        if _folder(config, source) != folder:
            raise UserError("the input changed while it was read: run the command again")
    return read_layer(target)


def _stored(
    config: ExamplesConfig,
    folder: Path,
    layers: Sequence[Layer],
    computed: tuple[Rectangle, ...],
    reused: tuple[Rectangle, ...],
) -> Stored:
    used = uses(config.task, config.as_ofs, layers)
    of = {layer.folder: layer for layer in layers}
    for use in used:
        _check(config, of[use.folder].ledger)
    counts = {t: n for use in used for t, n in zip(of[use.folder].as_ofs, of[use.folder].examples, strict=True)}
    ledger = layers[-1].ledger if computed else of[used[-1].folder].ledger
    examples = sum(counts[t] for t in config.as_ofs)
    return Stored(folder, config.task.task, config.as_ofs, examples, ledger, computed, reused, used)


def _find(config: ExamplesConfig, dry_run: bool = False) -> tuple[InputSource, list[str]]:
    """What is read, and warnings. Raises UserError where a check does not pass."""
    if not config.runner.shares_folders:
        raise UserError(
            "examples are kept in a folder, which workers of Dataflow cannot write", remedy="Leave out --runner"
        )
    facts, warnings = checked(Launch.of(config), dry_run)
    return facts.source, warnings


def _need(config: ExamplesConfig, source: InputSource) -> memory.Need:
    where = config.execution
    here, events = config.runner.local, rows(source.pieces)
    return memory.making(config.task, config.as_ofs, events, source.shards, where.workers, here)


def _folder(config: ExamplesConfig, source: InputSource) -> Path:
    """Where the layers of a request are."""
    if "://" in config.output:
        raise UserError(f"{config.output}: examples are kept in a local folder: name one")
    tables = {table.path for table in source.tables}
    files = [*source.tables, *(_file(path) for path in {p.path for p in source.pieces} - tables)]
    return Path(os.path.realpath(config.output)) / config.task.task / key(config.task, config.input.format, files)


def _file(path: str) -> InputFile:
    try:
        facts = FileSystems.get_filesystem(path).metadata(path)
    except (BeamIOError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return InputFile(path, facts.size_in_bytes, facts.last_updated_in_seconds)


def _check(config: ExamplesConfig, ledger: Ledger) -> None:
    if ledger.bad_share > config.max_bad_share:
        raise UserError(
            f"{100 * ledger.bad_share:.1f} % of the rows or files are bad, --max-bad-share is "
            f"{100 * config.max_bad_share:.1f} %:\n" + "\n".join(ledger_lines(ledger)),
            Exit.REFUSED,
        )
    events = [d for d in ledger.differences if "events" in d]
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
        self.name, self.rows = f"{uuid.uuid4().hex}.arrow", Counter[int]()
        self.writer: pa.ipc.RecordBatchFileWriter | None = None

    def process(self, batch: SequenceBatch) -> None:
        rows = record_batch(batch)
        if self.writer is None:
            file = Path(self.folder, self.name)
            create_private(file).close()
            self.writer = pa.ipc.new_file(str(file), rows.schema)
        self.writer.write_batch(rows)
        self.rows[batch.as_of] += rows.num_rows

    def finish_bundle(self) -> Iterator[object]:
        if self.writer is not None:
            self.writer.close()
            yield GlobalWindows.windowed_value((self.name, tuple(self.rows.items())))


def _describe(as_ofs: tuple[int, ...], task: Task, folder: str, parts: list[Parts], ledger: Ledger) -> None:
    """Removes the files that nobody names, and writes what is in the others."""
    rows = Counter[int]()
    for _, counts in parts:
        rows.update(dict(counts))
    named = {name for name, _ in parts}
    for file in Path(folder).glob("*.arrow"):
        if file.name not in named:
            file.unlink()
    features = tuple(feature_id(f) for f in task.features)
    examples = tuple(rows[t] for t in as_ofs)
    write_layer(Layer(Path(folder), as_ofs, features, dict(task.columns), examples, ledger))
