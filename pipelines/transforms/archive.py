"""The archive: every message as it came, in Parquet files by day of arrival, and the merging of small files.

    <folder>/<YYYY-MM-DD>/<unique>.messages.parquet          of one bundle
    <folder>/<YYYY-MM-DD>/merged-<unique>.messages.parquet   of many; its metadata name the files that it replaces

A file is there whole or not at all. A bundle that is repeated leaves a copy of its messages, which is harmless: events
are told apart by their identity, or by the id of their message. For the same reason a merged file and the files that it
replaces may be there together: for a day, so that whoever has listed them can read them to the end.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.events.formats import parquet
from pipelines.events.formats.archived import EXTENSION, SCHEMA, table
from pipelines.events.messages import Messages, Payload
from pipelines.ledger.metrics import counter
from pipelines.system.background import repeating
from pipelines.system.files import create_private, locked, make_private, sync, writable, write_file
from pipelines.task.fields import format_time

BUNDLE = 64 << 20  # bytes of messages that wait for the end of their bundle
GROUP = 32 << 20  # bytes of messages in a row group
MERGED = "merged-"
REPLACES = b"foretide.replaces"  # key of a merged file's metadata: the names of the files it replaces
LARGE = 128 << 20  # bytes of a file that is not merged any more
AGE = 3_600.0  # seconds before a file is merged
GRACE = 86_400.0  # seconds before a file that was replaced is removed
HEARTBEATS = (b"", b"[]")
DAY = r"\d{4}-\d\d-\d\d"


@dataclass(eq=False)
class Archive(beam.PTransform):
    """Messages -> files of `folder`, on the disk when the bundle ends, so before its messages are acknowledged.

    Heartbeats and ticks are not kept. Raises UserError if the folder cannot be written to.
    """

    folder: str
    payload: Payload = field(default_factory=Payload)

    def expand(self, messages: beam.PCollection[Messages]) -> beam.PCollection[None]:
        _check(self.folder)
        return messages | "Write" >> beam.ParDo(_Archive(Path(self.folder), self.payload)).with_output_types(None)


class _Archive(beam.DoFn):
    def __init__(self, folder: Path, payload: Payload) -> None:
        self.folder, self.payload = folder, payload

    def start_bundle(self) -> None:
        self.held = list[Messages]()
        self.size = 0

    def process(self, messages: Messages) -> None:
        self.held.append(messages)
        self.size += sum(map(len, messages.data))
        if self.size > BUNDLE:
            self._write()

    def finish_bundle(self) -> None:
        self._write()

    def _write(self) -> None:
        written = write_messages(self.folder, joined(self.held), self.payload)
        if written:
            counter("archived").inc(written)
        self.start_bundle()


def write_messages(folder: Path, messages: Messages, payload: Payload | None = None) -> int:
    """Writes messages that are no heartbeats, a file for each day of arrival. Returns their number."""
    kept = np.flatnonzero([data.strip() not in HEARTBEATS for data in messages.data])
    day = messages.arrival[kept] // 86_400_000_000
    rows = table(messages, payload or Payload()).take(pa.array(kept))
    for d in np.unique(day).tolist():
        place = folder / format_time(d * 86_400_000_000)[:10]
        make_private(place)
        _write(place / f"{uuid.uuid4().hex}{EXTENSION}", rows.take(pa.array(np.flatnonzero(day == d))))
        sync(place)
    return len(kept)


def joined(parts: Sequence[Messages]) -> Messages:
    """The messages of all parts, without their ticks."""
    return Messages(
        tuple(data for p in parts for data in p.data),
        tuple(name for p in parts for name in p.id),
        np.concatenate([np.zeros(0, np.int64), *(p.arrival for p in parts)]),
        tuple(attributes for p in parts for attributes in p.attributes),
    )


@contextmanager
def compacting_archive(folder: str | os.PathLike[str], every: float = 600.0) -> Iterator[None]:
    """Merges in a thread until the end of the block. What goes wrong is logged, and tried again.

    Args:
      every: seconds between two looks when there was nothing to merge.
    """
    with repeating(lambda: compact_archive(folder), every, f"merging files of the archive {folder}"):
        yield


def compact_archive(
    folder: str | os.PathLike[str], now: float | None = None, age: float = AGE, grace: float = GRACE
) -> int:
    """Merges small files that are `age` seconds old, and removes those that were replaced `grace` seconds ago.

    May be killed at any point, and called by many: one works, the others do nothing. Files that cannot be read stay as
    they are. Returns the number of files that were merged.
    """
    root, now = Path(folder), time.time() if now is None else now
    with locked(root / ".lock", wait=False) as alone:
        days = sorted(d for d in root.iterdir() if re.fullmatch(DAY, d.name)) if alone else []
        return sum(_compact(day, now - age, now - grace) for day in days)


def _compact(day: Path, young: float, settled: float) -> int:
    """Of one day; times of the clock of files, seconds."""
    for left in day.glob(f".*{EXTENSION}*"):  # by a process that was killed while it wrote
        if left.stat().st_mtime <= settled:
            left.unlink()
    files = {path.name: path.stat() for path in sorted(day.glob(f"[!.]*{EXTENSION}"))}
    replaced = set[str]()
    for name in [name for name in files if name.startswith(MERGED)]:
        old = _replaces(day / name) & files.keys()
        if old and files[name].st_mtime <= settled:
            for each in old:
                (day / each).unlink()
        elif old:
            replaced |= {name, *old}
        files = {n: s for n, s in files.items() if n not in old or n in replaced}
    small = [n for n, s in files.items() if n not in replaced and s.st_size < LARGE / 2 and s.st_mtime <= young]
    return sum(_merge(day, names) for names in _batches(day, small))


def _batches(day: Path, names: Sequence[str]) -> Iterator[list[str]]:
    """Two or more files that are read in the same way and fit in one."""
    groups: dict[bytes, tuple[list[str], int]] = {}
    for name in names:
        try:
            how = pq.read_schema(day / name)
        except parquet.BROKEN:
            continue
        if how.names != SCHEMA.names:
            continue
        key = json.dumps({k.decode(): v.decode() for k, v in (how.metadata or {}).items() if k != REPLACES}).encode()
        held, size = groups.get(key, ([], 0))
        groups[key] = [*held, name], size + (day / name).stat().st_size
        if groups[key][1] >= LARGE:
            yield groups.pop(key)[0]
    yield from (held for held, _ in groups.values() if len(held) > 1)


def _merge(day: Path, names: Sequence[str]) -> int:
    """One file for many. It counts once it stands under its name; until then nothing has changed."""
    first = pq.read_schema(day / names[0])
    replaces = {REPLACES: json.dumps(names).encode()}
    target = day / f"{MERGED}{uuid.uuid4().hex}{EXTENSION}"
    hidden = day / f".{target.name}"
    with create_private(hidden) as raw:
        with pq.ParquetWriter(raw, first.with_metadata({**first.metadata, **replaces}), compression="zstd") as out:
            for rows in _groups(day, names):
                out.write_table(rows.replace_schema_metadata(out.schema.metadata))
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(hidden, target)
    sync(day)
    return len(names)


def _groups(day: Path, names: Sequence[str]) -> Iterator[pa.Table]:
    """All rows, in row groups of about `GROUP` bytes."""
    held: list[pa.Table] = []
    for name in names:
        with parquet.reader(str(day / name)) as file:
            for group in range(file.num_row_groups):
                held.append(file.read_row_group(group, use_threads=False))
                if sum(t.nbytes for t in held) >= GROUP:
                    yield pa.concat_tables(held)
                    held = []
    if held:
        yield pa.concat_tables(held)


def _write(path: Path, rows: pa.Table) -> None:
    """Under a hidden name first: a folder may be read while it is written to."""
    each = max(1, len(rows) * GROUP // max(rows.nbytes, 1))
    hidden = path.with_name(f".{path.name}")
    write_file(hidden, lambda f: pq.write_table(rows, f, row_group_size=each, compression="zstd"))
    os.replace(hidden, path)


def _replaces(path: Path) -> set[str]:
    try:
        return set(json.loads((pq.read_schema(path).metadata or {}).get(REPLACES, b"[]")))
    except parquet.BROKEN:
        return set()


def _check(folder: str) -> None:
    if "://" in folder:
        raise UserError(f"{folder}: the archive must be a local folder")
    writable(folder, "--archive")
    make_private(Path(folder))
