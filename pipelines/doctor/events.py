"""A sample of the events, of files, tables and messages alike, held against the task: would they be what is meant."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.doctor.findings import Finding, error, ok, skipped, told, warning
from pipelines.doctor.google import Google
from pipelines.doctor.launch import Launch
from pipelines.doctor.place import refused
from pipelines.doctor.subscription import Peeked
from pipelines.errors import UserError
from pipelines.events.block import EventBlock, Mask
from pipelines.events.decode import Since, Span, decode, without_arrival
from pipelines.events.formats import bigquery, payloads
from pipelines.events.formats.base import Refusal, Rows, Unreadable, explain
from pipelines.events.formats.registry import format_of
from pipelines.events.times import FARTHEST
from pipelines.task.fields import format_duration, format_time
from pipelines.task.spec import Task, TimeField
from pipelines.transforms.read_files import File, better_unit, check_fields, find

FILES = 8  # that are looked into
ROWS = 50_000  # of the sample
TEXT = 1_000  # times written as text that are looked at
TYPED = re.compile(r" is (?!missing|later|infinite|out of)| does not match the format ")  # a reason of a column's type
ZONED = re.compile(r"[:T ][0-9]+.*(Z|[+-][0-9:]+)$")
ENOUGH = 100  # events that say something of entities and identity
OWN = 0.9  # entities for an event: from here on it is no name of an entity
COPIES, CONTRADICTIONS = 0.3, 0.01  # shares of the events
AHEAD = 600_000_000  # us of most events after their own arrival, which is no clock's error


@dataclass
class Sample:
    """Rows of one source, as they were read with a task."""

    source: str
    task: Task
    rows: int = 0
    whole: bool = True  # every row of the source
    filtered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # why rows are refused
    examples: dict[str, str] = field(default_factory=dict)  # reason -> what stood where
    blocks: list[EventBlock] = field(default_factory=list)  # of all events, whenever they were
    tables: list[pa.Table] = field(default_factory=list)

    def add(self, part: Rows | Refusal, most: int) -> None:
        """Takes at most some rows of a part."""
        if isinstance(part, Refusal):
            self.rows += part.rows
            self._refuse(part.reason, part.position, part.value, part.rows)
            return
        self.whole &= len(part) <= most
        lines = None if part.lines is None else part.lines[:most]
        arrival = None if part.arrival is None else part.arrival[:most]
        ids = None if part.ids is None else part.ids[:most]
        table = part.table.slice(0, most)
        decoded = decode(_timeless(self.task), table, Span((FARTHEST,)), lines, arrival, ids)
        for row, (reason, value) in decoded.refused.items():
            self._refuse(reason, part.position(row), value)
        self.rows += len(table)
        self.filtered += decoded.filtered
        self.blocks.append(decoded.block)
        self.tables.append(table)

    @property
    def refused(self) -> int:
        return self.reasons.total()

    def _refuse(self, reason: str, position: str, value: str, rows: int = 1) -> None:
        self.reasons[reason] += rows
        self.examples.setdefault(reason, f"{value} at {position}" if value else position)


def _timeless(task: Task) -> Task:
    """The task with a history of all times, so that no event lies outside."""
    sequence = task.sequence.model_copy(update={"steps": (2 * FARTHEST) // task.sequence.step + 1})
    return Task.model_construct(**{**{name: getattr(task, name) for name in Task.model_fields}, "sequence": sequence})


def events(launch: Launch, google: Google) -> Iterator[Finding]:
    """The input of a run over files, or the history that a live job starts from."""
    if launch.input is None:
        return
    if launch.task is None:
        yield skipped("data-columns", "task", "the data is not held against the task, which cannot be read")
    files: list[File] = []
    for pattern in launch.files:
        try:
            files += find([pattern], launch.input.format)
        except UserError as problem:
            yield told("input-found", pattern, problem)
    if files:
        yield ok("input-found", files[0].path, f"{len(files)} file(s), {sum(f.size for f in files):,} bytes")
        if launch.task is not None:
            yield from _files(launch, launch.task, files)
    for table in launch.tables:
        yield from _table(launch, table, google)


def _files(launch: Launch, task: Task, files: Sequence[File]) -> Iterator[Finding]:
    full = [f for f in files if f.size]
    chosen = (
        [full[i] for i in np.unique(np.linspace(0, len(full) - 1, min(FILES, len(full))).astype(int))] if full else []
    )
    samples: dict[bool, Sample] = {}  # by whether rows have the task's arrival
    for file in chosen:
        form = format_of(file.format)
        try:
            found = form.fields(file.path)
        except (Unreadable, OSError) as problem:
            yield error("input-found", file.path, f"{file.path}: not a readable {file.format} file: {explain(problem)}")
            continue
        fit = _fitting(launch, task, found, form.is_archive)
        if found:
            lacking = list(_columns(file.path, found, fit, form.is_sparse))
            yield from lacking
            if any(f.severity == "error" for f in lacking):
                continue
        sample = samples.setdefault(fit is task, Sample(_named(files), fit, whole=len(chosen) == len(full)))
        _read(sample, file, ROWS // len(chosen))
    if not chosen or (samples and not any(s.rows for s in samples.values())):
        yield error("input-rows", files[0].path, f"{_named(files)}: there is not a single row")
    for sample in samples.values():
        if sample.rows:
            yield from judged(launch, sample)


def _named(files: Sequence[File]) -> str:
    return files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"


def _fitting(launch: Launch, task: Task, found: Mapping[str, str], arrival_known: bool) -> Task:
    """The task as a source is read with: where arrival is known otherwise, rows need not have it."""
    arrival = task.events.arrival
    without = arrival is not None and launch.live and arrival.field not in found
    return without_arrival(task) if arrival_known or without else task


def _columns(source: str, found: Mapping[str, str], task: Task, loose: bool) -> Iterator[Finding]:
    """Args: loose: a row may leave out what is null, so that only entity and time must show."""
    must = (task.events.entity, task.events.time.field) if loose else tuple(task.columns)
    lacking = [*_lacking(source, found, must)]
    for problem in lacking:
        yield told("data-columns", source, problem)
    for problem in _lacking(source, found, [c for c in task.columns if c not in must]):
        yield warning("data-columns", source, str(problem).replace("not there", "in none of the first rows"))
    if not lacking:
        yield ok("data-columns", source, f"{source} has {', '.join(must)}")


def _lacking(source: str, found: Mapping[str, str], needed: Collection[str]) -> Iterator[UserError]:
    for name in needed:
        try:
            check_fields(source, found, [name])
        except UserError as problem:
            yield problem


def _read(sample: Sample, file: File, most: int) -> None:
    """Rows of the first and of the last piece of a file."""
    form = format_of(file.format)
    pieces = form.pieces(file.path, file.size)
    ends = pieces if len(pieces) < 3 else [pieces[0], pieces[-1]]
    sample.whole &= len(ends) == len(pieces)
    for piece in ends:
        left = most // len(ends)
        for part in form.read(piece, sample.task):
            if left <= 0:
                sample.whole = False
                break
            sample.add(part, left)
            left -= len(part) if isinstance(part, Rows) else part.rows


def _table(launch: Launch, path: str, google: Google) -> Iterator[Finding]:
    try:
        found = bigquery.look(path)
    except UserError as problem:
        yield from refused("input-found", path, problem, google)
        return
    yield ok("input-found", path, f"{path}: {len(found.fields)} column(s)")
    if launch.task is None:
        return
    fit = _fitting(launch, launch.task, found.fields, False)
    lacking = list(_columns(path, found.fields, fit, False))
    yield from lacking
    if any(f.severity == "error" for f in lacking):
        return
    if found.table is None or found.table.table_type not in bigquery.READABLE:
        yield skipped("rows-refused", path, f"{path}: a query is not run to look at its rows")
        return
    sample, left = Sample(path, fit), ROWS
    try:
        opened = bigquery.open_session(found, fit, launch.span or Span((0,)), 1, dry_run=True)
        for part in opened.sample:
            sample.add(part, left)
            left -= len(part)
            if left <= 0:
                sample.whole = False
                break
    except UserError as problem:
        yield from refused("input-found", path, problem, google)
        return
    if sample.rows:
        yield from judged(launch, sample)
    else:
        yield error("input-rows", path, f"{path}: there is not a single row with a time")


def messages(launch: Launch, peeked: Peeked) -> Iterator[Finding]:
    """The messages that wait in the subscription."""
    yield from peeked.findings
    if launch.task is None or peeked.messages is None or peeked.payload is None or not len(peeked.messages):
        return
    source = launch.subscription or ""
    sample = Sample(source, without_arrival(launch.task), whole=False)
    try:
        found = payloads.fields(peeked.messages, peeked.payload)
    except Unreadable as problem:
        yield error("messages", source, f"{source}: {problem}")
        return
    if not found:
        yield skipped("messages", source, f"{source}: the {len(peeked.messages)} messages hold no event")
        return
    yield ok("messages", source, f"{source}: {len(peeked.messages)} messages can be read")
    lacking = list(_columns(source, found, sample.task, launch.payload == "json"))
    yield from lacking
    if any(f.severity == "error" for f in lacking):
        return
    for part in payloads.parse(sample.task, peeked.messages, peeked.payload):
        sample.add(part, ROWS)
    if sample.rows:
        yield from judged(launch, sample)


def judged(launch: Launch, sample: Sample) -> Iterator[Finding]:
    """All that a sample of at least one row shows."""
    wrong_unit = list(_units(sample))
    yield from wrong_unit
    yield from _zones(sample)
    yield from _refusals(launch, sample)
    times = np.concatenate([np.zeros(0, np.int64), *(b.time for b in sample.blocks)])
    if not len(times):
        yield from _filter(sample)
        return
    yield from _entities(sample)
    yield from _identity(sample)
    if any(f.severity == "error" for f in wrong_unit):
        yield skipped("as-of-covered", sample.source, f"{sample.source}: the unit of its times is wrong")
        return
    yield _future(sample, times)
    yield from _coverage(launch, sample, times)


def _specs(task: Task) -> list[TimeField]:
    return [task.events.time, *([task.events.arrival] if task.events.arrival else [])]


def _units(sample: Sample) -> Iterator[Finding]:
    for spec in _specs(sample.task):
        if spec.kind != "epoch" or not sample.tables:
            continue
        better = ((better_unit(spec, table), table) for table in sample.tables)  # files may differ
        unit, table = next(((unit, table) for unit, table in better if unit is not None), (None, sample.tables[0]))
        if unit is None:
            yield ok("time-unit", spec.field, f"{sample.source}: {spec.field} can be times in {spec.unit}")
        else:
            value = table[spec.field].drop_null()[0]
            problem = f"{sample.source}: {spec.field} = {value} is no time in {spec.unit}"
            yield error("time-unit", spec.field, problem, f"Set the unit of {spec.field} to {unit} in the task file")


def _zones(sample: Sample) -> Iterator[Finding]:
    for spec in _specs(sample.task):
        if spec.kind == "text" and spec.format is None:
            yield from _written(sample, spec)
    early = [b.time - b.arrival for b in sample.blocks if b.arrival is not None and len(b)]
    ahead = int(np.median(np.concatenate(early))) if early else 0
    if ahead > AHEAD:
        name = sample.task.events.time.field
        said = (
            f"half of the events happen {format_duration(ahead // 60_000_000 * 60_000_000)} or more after they arrive"
        )
        yield warning("time-zone", name, f"{sample.source}: {said}: {name} looks like local time without its zone")


def _written(sample: Sample, spec: TimeField) -> Iterator[Finding]:
    zoned = plain = 0
    for table in sample.tables:
        column = table[spec.field]
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            stamped = pa.types.is_timestamp(column.type) and column.type.tz is not None
            zoned, plain = zoned + stamped, plain + (not stamped)
            continue
        texts = [str(v) for v in column.slice(0, TEXT).to_pylist() if v]
        n = sum(ZONED.search(v) is not None for v in texts)
        zoned, plain = zoned + n, plain + len(texts) - n
    if zoned and plain:
        yield warning("time-zone", spec.field, f"{sample.source}: some {spec.field} have a zone and others have none")
    elif zoned or plain:
        how = "has its zone" if zoned else "has no zone, and is read as UTC"
        yield ok("time-zone", spec.field, f"{sample.source}: {spec.field} {how}")


def _refusals(launch: Launch, sample: Sample) -> Iterator[Finding]:
    typed = {reason for reason, n in sample.reasons.items() if TYPED.search(reason) and 2 * n > sample.rows}
    for reason in typed:
        example = sample.examples[reason]
        yield error("data-types", sample.source, f"{sample.source}: in most rows, {reason} ({example})")
    if not typed:
        yield ok("data-types", sample.source, f"{sample.source}: the columns are of types that the task can use")
    if not sample.refused:
        yield ok("rows-refused", sample.source, f"{sample.source}: none of {sample.rows:,} rows would be refused")
        return
    shown = [f"{n:,} as {reason} ({sample.examples[reason]})" for reason, n in sample.reasons.most_common(5)]
    share = sample.refused / sample.rows
    report = error if share > launch.max_bad_share else warning
    said = f"{sample.refused:,} of {sample.rows:,} rows ({share:.1%}) would be refused: {'; '.join(shown)}"
    yield report("rows-refused", sample.source, f"{sample.source}: {said}")


def _filter(sample: Sample) -> Iterator[Finding]:
    if sample.filtered:
        where = ", ".join(f"{name} is {value}" for name, value in sample.task.events.where.items())
        report = error if sample.whole else warning
        yield report("rows-filtered", sample.source, f"{sample.source}: events.where ({where}) leaves out every row")


def _entities(sample: Sample) -> Iterator[Finding]:
    names = {name for b in sample.blocks for name in b.keys.take(pa.array(np.unique(b.key))).to_pylist()}
    n, entity = sum(map(len, sample.blocks)), sample.task.events.entity
    said = f"{sample.source}: {len(names):,} different {entity} in {n:,} events"
    if n >= ENOUGH and (len(names) == 1 or len(names) > OWN * n):
        yield warning("entities", entity, said)
    else:
        yield ok("entities", entity, said)


def _identity(sample: Sample) -> Iterator[Finding]:
    fields = sample.task.events.identity
    n = sum(map(len, sample.blocks))
    if fields == "none" or n < ENOUGH:
        return
    named = fields if isinstance(fields, str) else ", ".join(fields)
    copies, contradictions = _copies(sample.blocks)
    said = f"{sample.source}: {copies:,} of {n:,} events are copies of others by their identity ({named})"
    if copies > COPIES * n:
        yield warning("identity", named, said)
    if contradictions > CONTRADICTIONS * n:
        yield warning("identity", named, f"{said}, and {contradictions:,} of them have other values")
    elif copies <= COPIES * n:
        yield ok("identity", named, said)


def _copies(blocks: Iterable[EventBlock]) -> tuple[int, int]:
    """Events that are copies of another by entity, time and identity; and those of them with other values."""
    first: dict[tuple[str, int, int], bytes] = {}
    copies = contradictions = 0
    for b in blocks:
        names = b.keys.take(pa.array(b.key)).to_pylist()
        for i, key in enumerate(zip(names, b.time.tolist(), b.id.tolist(), strict=True)):
            held = b.values[:, i].tobytes() + b.codes[:, i].tobytes() + b.hashes[:, i].tobytes()
            known = first.setdefault(key, held)
            if known is not held:
                copies += 1
                contradictions += known != held
    return copies, contradictions


def _future(sample: Sample, times: npt.NDArray[np.int64]) -> Finding:
    name, now = sample.task.events.time.field, time.time_ns() // 1_000
    late = int((times > now).sum())
    if not late:
        return ok("time-future", name, f"{sample.source}: no event is newer than now")
    report = error if 2 * late > len(times) else warning
    newest = _shown(int(times.max()))
    return report(
        "time-future", name, f"{sample.source}: {late:,} of {len(times):,} events are newer than now, up to {newest}"
    )


def _coverage(launch: Launch, sample: Sample, times: npt.NDArray[np.int64]) -> Iterator[Finding]:
    span, task, source = launch.span, sample.task, sample.source
    if span is None:
        yield skipped("as-of-covered", source, f"{source}: the as-ofs are not known")
        return
    reach = f"{source} goes from {_shown(int(times.min()))} to {_shown(int(times.max()))}"
    if isinstance(span, Since) and source == launch.subscription:
        if _usable(span, sample).any():
            yield ok("as-of-covered", source, reach)
        else:
            yield warning(
                "as-of-covered", source, f"{reach}: all of it is too old for the first as-of, {_shown(span.first)}"
            )
        return
    as_ofs = span.as_ofs if isinstance(span, Span) else (span.first,)
    ordered = np.sort(times)
    counts = [int(np.searchsorted(ordered, a) - np.searchsorted(ordered, a - task.history)) for a in as_ofs]
    bare = [a for a, n in zip(as_ofs, counts, strict=True) if not n]
    if bare:
        said = f"{reach}: nothing lies in the {format_duration(task.history)} before {_shown(bare[0])}"
        more = f", nor before {len(bare) - 1} other as-ofs" if len(bare) > 1 else ""
        report = error if sample.whole and isinstance(span, Span) else warning  # a live job goes on to newer events
        yield report("as-of-covered", source, said + more)
    elif (
        isinstance(span, Span) and sample.whole and as_ofs[-1] - times.max() > max(task.sequence.step, task.score.every)
    ):
        gap = format_duration(int(as_ofs[-1] - times.max()) // 60_000_000 * 60_000_000)
        yield warning("as-of-covered", source, f"{reach}, which is {gap} before the as-of {_shown(as_ofs[-1])}")
    else:
        yield ok("as-of-covered", source, reach)


def _usable(span: Since, sample: Sample) -> Mask:
    return np.concatenate([span.usable(sample.task, b.time, b.arrival) for b in sample.blocks])


def _shown(micros: int) -> str:
    """A time to the second; in words where no calendar has it."""
    return format_time(micros // 1_000_000 * 1_000_000)
