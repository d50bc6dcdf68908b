"""What else a sample of the events shows, of files, tables and messages alike: would they be what is meant."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipelines.errors import Finding
from pipelines.events.block import EventBlock, Ints, Mask
from pipelines.events.decode import Since, Span, without_arrival
from pipelines.events.formats import payloads
from pipelines.events.formats.base import Unreadable
from pipelines.events.formats.registry import payload_format
from pipelines.events.messages import Messages
from pipelines.jobs.checks import data
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, skipped, warning
from pipelines.jobs.checks.sample import ROWS, Sample, joined
from pipelines.jobs.launch import Launch
from pipelines.task.fields import format_duration, format_time
from pipelines.task.spec import TimeField

TEXT = 1_000  # times written as text that are looked at
TYPED = re.compile(r" is (?!missing|later|infinite|out of)| does not match the format ")  # a reason of a column's type
ZONED = re.compile(r"[:T ][0-9]+.*(Z|[+-][0-9:]+)$")
ENOUGH = 100  # events that say something of entities and identity
OWN = 0.9  # entities for an event: from here on it is no name of an entity
COPIES, CONTRADICTIONS = 0.3, 0.01  # shares of the events
AHEAD = 600_000_000  # us of most events after their own arrival, which is no clock's error

Judge = Callable[[Launch, Sample], Iterator[Finding]]  # of a sample of at least one row


def rows(facts: Facts) -> Iterator[Finding]:
    """Whether there is a row at all."""
    files, tables = facts.files, set(facts.launch.tables)
    empty = not any(s.rows or s.broken for s in facts.samples if s.source not in tables)
    if files and empty and not any(looked.lacks for looked in facts.looked):
        named = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
        yield error(files[0].path, f"{named}: there is not a single row")
    for sample in facts.samples:
        if sample.source in tables and not sample.rows:
            yield error(sample.source, f"{sample.source}: there is not a single row with a time")


def of_input(judge: Judge, facts: Facts) -> Iterator[Finding]:
    """Of all files that are read alike, and of each table."""
    tables = set(facts.launch.tables)
    files = [s for s in facts.samples if s.source not in tables and s.rows]
    alike: dict[bool, list[Sample]] = {}
    for sample in files:
        alike.setdefault(sample.task.events.arrival is None, []).append(sample)
    for samples in alike.values():
        yield from judge(facts.launch, joined(facts.named, samples, facts.whole and len(samples) == len(files)))
    for sample in facts.samples:
        if sample.source in tables and sample.rows:
            yield from judge(facts.launch, sample)


def of_messages(facts: Facts, messages: Messages) -> Iterator[Finding]:
    """Of messages that wait in the subscription: all that is found of an input."""
    launch, source, payload = facts.launch, facts.subscription.name, facts.payload
    if launch.task is None:
        return
    sample = Sample(source, without_arrival(launch.task), whole=False)
    try:
        found = payloads.fields(messages, payload)
    except Unreadable as problem:
        yield error(source, f"{source}: {problem}")
        return
    if not found:
        yield skipped(source, f"{source}: the {len(messages)} messages hold no event")
        return
    yield ok(source, f"{source}: {len(messages)} messages can be read")
    events, sparse = sample.task.events, payload_format(facts.stream.payload).is_sparse
    needed = (events.entity, events.time.field) if sparse else tuple(sample.task.columns)
    columns = list(data.fields(source, found, sample.task, needed))
    yield from (replace(f, code="data-columns") for f in columns)
    if any(f.severity == "error" for f in columns):
        return
    sample.take(payloads.parse(sample.task, messages, payload), ROWS)
    if sample.rows:
        share = sample.refused / sample.rows
        yield from (replace(f, code="time-unit") for f in data.unit([sample], source))
        yield replace(data.verdict(sample, share, launch.config.max_bad_share), code="rows-refused")
        yield from (replace(f, code=code) for code, judge in JUDGES for f in judge(launch, sample))


def zones(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether times have their zone."""
    for spec in data.times(sample.task):
        if spec.kind == "text" and spec.format is None:
            yield from _written(sample, spec)
    early = [b.time - b.arrival for b in sample.blocks if b.arrival is not None and len(b)]
    ahead = int(np.median(np.concatenate(early))) if early else 0
    if ahead > AHEAD:
        name = sample.task.events.time.field
        said = (
            f"half of the events happen {format_duration(ahead // 60_000_000 * 60_000_000)} or more after they arrive"
        )
        yield warning(name, f"{sample.source}: {said}: {name} looks like local time without its zone")


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
        yield warning(spec.field, f"{sample.source}: some {spec.field} have a zone and others have none")
    elif zoned or plain:
        how = "has its zone" if zoned else "has no zone, and is read as UTC"
        yield ok(spec.field, f"{sample.source}: {spec.field} {how}")


def types(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether most rows have a value that the task cannot use."""
    typed = {reason for reason, n in sample.reasons.items() if TYPED.search(reason) and 2 * n > sample.rows}
    for reason in typed:
        yield error(sample.source, f"{sample.source}: in most rows, {reason} ({sample.examples[reason]})")
    if not typed:
        yield ok(sample.source, f"{sample.source}: the columns are of types that the task can use")


def filtered(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether `events.where` leaves out every row."""
    if sample.filtered and not sum(map(len, sample.blocks)):
        where = ", ".join(f"{name} is {value}" for name, value in sample.task.events.where.items())
        report = error if sample.whole else warning
        yield report(sample.source, f"{sample.source}: events.where ({where}) leaves out every row")


def entities(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether the field of the entity looks like one."""
    names = {name for b in sample.blocks for name in b.keys.take(pa.array(np.unique(b.key))).to_pylist()}
    n, entity = sum(map(len, sample.blocks)), sample.task.events.entity
    said = f"{sample.source}: {len(names):,} different {entity} in {n:,} events"
    if not n:
        return
    if n >= ENOUGH and (len(names) == 1 or len(names) > OWN * n):
        yield warning(entity, said)
    else:
        yield ok(entity, said)


def identity(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether the identity tells events apart."""
    fields = sample.task.events.identity
    n = sum(map(len, sample.blocks))
    if fields == "none" or n < ENOUGH:
        return
    named = fields if isinstance(fields, str) else ", ".join(fields)
    copies, contradictions = _copies(sample.blocks)
    said = f"{sample.source}: {copies:,} of {n:,} events are copies of others by their identity ({named})"
    if copies > COPIES * n:
        yield warning(named, said)
    if contradictions > CONTRADICTIONS * n:
        yield warning(named, f"{said}, and {contradictions:,} of them have other values")
    elif copies <= COPIES * n:
        yield ok(named, said)


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


def future(_: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether events are newer than now."""
    name, now, times = sample.task.events.time.field, time.time_ns() // 1_000, _times(sample)
    if times is None:
        return
    late = int((times > now).sum())
    if not late:
        yield ok(name, f"{sample.source}: no event is newer than now")
        return
    report = error if 2 * late > len(times) else warning
    newest = _shown(int(times.max()))
    yield report(name, f"{sample.source}: {late:,} of {len(times):,} events are newer than now, up to {newest}")


def covered(launch: Launch, sample: Sample) -> Iterator[Finding]:
    """Whether there are events for every as-of."""
    span, task, source, times = launch.span, sample.task, sample.source, _times(sample)
    if span is None:
        yield skipped(source, f"{source}: the as-ofs are not known")
        return
    if times is None:
        yield skipped(source, f"{source}: the unit of its times is wrong, or it has no event")
        return
    reach = f"{source} goes from {_shown(int(times.min()))} to {_shown(int(times.max()))}"
    if isinstance(span, Since) and launch.stream is not None and source == launch.stream.subscription:
        if _usable(span, sample).any():
            yield ok(source, reach)
        else:
            yield warning(source, f"{reach}: all of it is too old for the first as-of, {_shown(span.first)}")
        return
    as_ofs = span.as_ofs if isinstance(span, Span) else (span.first,)
    ordered = np.sort(times)
    counts = [int(np.searchsorted(ordered, a) - np.searchsorted(ordered, a - task.history)) for a in as_ofs]
    bare = [a for a, n in zip(as_ofs, counts, strict=True) if not n]
    if bare:
        said = f"{reach}: nothing lies in the {format_duration(task.history)} before {_shown(bare[0])}"
        more = f", nor before {len(bare) - 1} other as-ofs" if len(bare) > 1 else ""
        report = error if sample.whole and isinstance(span, Span) else warning  # a live job goes on to newer events
        yield report(source, said + more)
    elif (
        isinstance(span, Span) and sample.whole and as_ofs[-1] - times.max() > max(task.sequence.step, task.score.every)
    ):
        gap = format_duration(int(as_ofs[-1] - times.max()) // 60_000_000 * 60_000_000)
        yield warning(source, f"{reach}, which is {gap} before the as-of {_shown(as_ofs[-1])}")
    else:
        yield ok(source, reach)


def _times(sample: Sample) -> Ints | None:
    """Of its events; None where there are none, or their unit is wrong."""
    times = np.concatenate([np.zeros(0, np.int64), *(b.time for b in sample.blocks)])
    return times if len(times) and all(f.severity == "ok" for f in data.unit([sample], "")) else None


def _usable(span: Since, sample: Sample) -> Mask:
    return np.concatenate([span.usable(sample.task, b.time, b.arrival) for b in sample.blocks])


def _shown(micros: int) -> str:
    """A time to the second; in words where no calendar has it."""
    return format_time(micros // 1_000_000 * 1_000_000)


JUDGES: tuple[tuple[str, Judge], ...] = (
    ("data-types", types),
    ("time-zone", zones),
    ("rows-filtered", filtered),
    ("entities", entities),
    ("identity", identity),
    ("time-future", future),
    ("as-of-covered", covered),
)
