"""The input of a launch against its task: is it there, has it the fields, are its rows events. By a sample."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from pipelines.errors import Exit, Finding, UserError
from pipelines.events.columns import DecodeError
from pipelines.events.formats.base import shorten
from pipelines.events.times import micros
from pipelines.google import bigquery
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, reported, skipped, warning
from pipelines.jobs.checks.sample import Sample, bad_share, joined
from pipelines.task.fields import parse_time
from pipelines.task.spec import Task, TimeField
from pipelines.transforms.read_files import fitting

EPOCHS: tuple[Literal["s", "ms", "us", "ns"], ...] = ("s", "ms", "us", "ns")
SHOWN = 5  # reasons that a finding names


def found(facts: Facts) -> Iterator[Finding]:
    """Whether every file and table is there."""
    files = facts.files
    yield from (reported(problem, subject=pattern) for pattern, problem in facts.lacking.items())
    if files:
        yield ok(files[0].path, f"{len(files)} file(s), {sum(f.size for f in files):,} bytes")
    if facts.launch.tables:
        bigquery.answers()
        for path, table in facts.tables.items():
            if isinstance(table, UserError):
                yield reported(table, subject=path)
            else:
                yield ok(path, f"{path}: {len(table.fields)} column(s)")


def columns(facts: Facts) -> Iterator[Finding]:
    """Whether files can be opened, and have the fields of the task. Of several, the first must: a run takes the others
    for bad ones."""
    unreadable = [looked for looked in facts.looked if looked.problem]
    if unreadable and len(unreadable) == len(facts.looked):
        before = "" if len(facts.files) == 1 else f"none of the {len(facts.files)} files can be read; "
        yield error(unreadable[0].file.path, before + unreadable[0].problem, code="input-found")
        return
    yield from (warning(looked.file.path, looked.problem, code="input-found") for looked in unreadable)
    readable = [looked for looked in facts.looked if looked.fields]
    for looked in readable:
        yield from fields(looked.file.path, looked.fields, looked.task, looked.needed, looked is readable[0])
    for path, table in facts.tables.items():
        if not isinstance(table, UserError):
            task = fitting(facts.task, facts.span, table.fields)
            yield from fields(path, table.fields, task, tuple(task.columns))


def fields(
    source: str, there: Mapping[str, str], task: Task, needed: Sequence[str], must: bool = True
) -> Iterator[Finding]:
    """Whether a source has them; `needed`: those that rows may not leave out."""
    wrong = [lacking(source, there, name) for name in needed if name not in there]
    yield from (error(source, said) if must else warning(source, said) for said in wrong)
    for name in (name for name in task.columns if name not in (*needed, *there)):
        yield warning(source, lacking(source, there, name).replace("not there", "in none of the first rows"))
    if not wrong:
        yield ok(source, f"{source} has {', '.join(needed)}")


def lacking(source: str, there: Mapping[str, str], name: str) -> str:
    """That a field is not there, in words."""
    near = difflib.get_close_matches(name, there, 1)
    hint = f", did you mean {near[0]}?" if near else "."
    shown = [f"{f if f.isprintable() else ascii(f)} ({kind})" for f, kind in there.items()]
    listed = shorten(", ".join(shown), 1_000)
    return f"{source}: the task needs the field {name}, which is not there{hint} Fields: {listed}"


def units(facts: Facts) -> Iterator[Finding]:
    """Whether times make sense in the unit of the task."""
    yield from unit(facts.samples, facts.named, facts.archives)


def unit(samples: Sequence[Sample], named: str, archives: Collection[str] = ()) -> Iterator[Finding]:
    """
    Args:
      named: the samples in a few words.
      archives: sources of messages as they came, good or bad: a run does not stop for those.
    """
    epochs = [(s, spec) for s in samples if s.tables for spec in times(s.task) if spec.kind == "epoch"]
    for spec in dict.fromkeys(spec for _, spec in epochs):
        wrong = next((said for s, of in epochs if of == spec for said in _wrong(s, spec, archives)), None)
        yield wrong or ok(spec.field, f"{named}: {spec.field} can be times in {spec.unit}")


def _wrong(sample: Sample, spec: TimeField, archives: Collection[str]) -> Iterator[Finding]:
    for table in sample.tables:
        better = better_unit(spec, table)
        if better is not None:
            value = table[spec.field].drop_null()[0]
            report = warning if sample.source in archives else error
            remedy = f"Set the unit of {spec.field} to {better} in the task file"
            yield report(spec.field, f"{sample.source}: {spec.field} = {value} is no time in {spec.unit}", remedy)


def refused(facts: Facts) -> Iterator[Finding]:
    """Whether rows will be refused, and more of them than a run may have. A run over files stops at once where none of
    the first rows of its first source can be an event."""
    samples, tables = facts.samples, facts.launch.tables
    for opened in facts.opened:
        if not opened.readable:
            yield skipped(opened.found.path, f"{opened.found.path}: a query is not run to look at its rows")
    file = next((s for s in samples if s.tables and s.source not in tables), None)
    must = [s for s in samples if s is file or s.source in tables]
    hopeless = next((s for s in must if s.hopeless and s.source not in facts.archives), None)
    if hopeless is not None:
        yield error(hopeless.source, f"{hopeless.source}: {hopeless.hopeless}")
    elif any(s.rows for s in samples):
        full = sum(f.size > 0 for f in facts.files)
        sources = len(samples) * len(facts.files) / full if full else len(samples)
        together = joined(facts.named, samples, facts.whole)
        broken = sum(s.broken for s in samples)
        unread = f"{broken} of {len(samples)} files cannot be read" if broken else ""
        yield verdict(together, bad_share(samples, sources), facts.launch.config.max_bad_share, unread)


def verdict(sample: Sample, share: float, most: float, unread: str = "") -> Finding:
    """What becomes of the rows of a sample.

    Args:
      share: of what is bad, as a run would find it.
      most: of it that a run may have.
      unread: what cannot be read at all, in words.
    """
    source, n = sample.source, sample.refused
    if not n and not unread:
        return ok(source, f"{source}: none of {sample.rows:,} rows would be refused")
    shown = [f"{n:,} as {reason} ({sample.examples[reason]})" for reason, n in sample.reasons.most_common(SHOWN)]
    rows = f"{n:,} of {sample.rows:,} rows ({n / max(sample.rows, 1):.1%}) would be refused: {'; '.join(shown)}"
    said = f"{source}: {'; '.join([*([rows] if n else []), *([unread] if unread else [])])}"
    if share <= most:
        return warning(source, said)
    return error(source, f"{said}; --max-bad-share is {most:.1%}", exit=Exit.REFUSED)


def times(task: Task) -> list[TimeField]:
    return [task.events.time, *([task.events.arrival] if task.events.arrival else [])]


def better_unit(spec: TimeField, table: pa.Table) -> str | None:
    """The unit of numbers that make no sense in the unit of the task, and do in exactly one other; else None."""
    fits = [unit for unit in EPOCHS if _plausible(table, TimeField(field=spec.field, unit=unit))]
    wrong = len(fits) == 1 and spec.unit != fits[0] and not _plausible(table, spec, 1971, 2200)
    return fits[0] if wrong else None


def _plausible(table: pa.Table, spec: TimeField, first: int = 2000, last: int = 2100) -> bool:
    """Whether most times are between two years."""
    try:
        parts = [micros(chunk, spec) for chunk in table[spec.field].chunks]
    except DecodeError:
        return True
    times = np.concatenate([t[ok] for t, ok in parts])
    good = (times >= parse_time(f"{first}-01-01")) & (times < parse_time(f"{last}-01-01"))
    return bool(len(times) and good.mean() > 0.5)
