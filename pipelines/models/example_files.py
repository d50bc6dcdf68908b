"""Training examples in Arrow IPC files: their columns, and reading them. The tensors stay in their files.

Which files, and what is in them, is in `pipelines.models.example_store`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.models.engines.base import Floats
from pipelines.models.example_store import Stored, Use
from pipelines.task.spec import Task

Ints = npt.NDArray[np.int64]
TIME = pa.timestamp("us", tz="UTC")
VECTORS = 1024  # buffers that the system fills in one call, at most (IOV_MAX)


def schema(label: int, width: int) -> pa.Schema:
    """One row an entity and as-of: the label, and the tensor (width = steps * features), step by step."""
    return pa.schema(
        [
            ("entity_id", pa.string()),
            ("as_of", TIME),
            ("n_events", pa.int64()),
            ("last_event_time", TIME),
            ("label", pa.list_(pa.float32(), label)),
            ("tensor", pa.list_(pa.float32(), width)),
        ]
    )


@dataclass(frozen=True, eq=False)
class Examples:
    """n labelled sequences, by as-of and entity. Safe to read from several threads."""

    tensor: Callable[[Ints], Floats]  # rows -> f4 (len(rows), steps, features), a copy
    label: Floats  # (n, task.label.width): 1 for churn, or the levels of a path
    as_of: Ints  # (n) us
    n_events: Ints  # (n) events in the history
    last_event_time: Ints  # (n) us
    entity: pa.ChunkedArray  # (n) string

    def __len__(self) -> int:
        return len(self.as_of)

    def at(self, *as_ofs: int) -> Ints:
        """The rows of some as-ofs."""
        return np.flatnonzero(np.isin(self.as_of, as_ofs))


def load_examples(task: Task, stored: Stored) -> Examples:
    """The rows of a request, in one order however they lie in files; about 230 bytes a row are held in memory.

    Raises:
      UserError: there is no example in them, or what is stored does not fit together.
    """
    files: list[str] = []
    read = [(use, _rows(task, use, files)) for use in stored.uses]
    heads: list[pa.Table] = []
    places: list[list[_Place]] = [[] for _ in read]
    for as_of in sorted(stored.as_ofs):
        found = [(i, _at(rows, as_of)) for i, (use, rows) in enumerate(read) if as_of in use.as_ofs]
        head = found[0][1].drop_columns(["file", "byte"])
        if not all(rows.drop_columns(["file", "byte"]).equals(head) for _, rows in found[1:]):
            raise UserError(f"the layers in {stored.folder} do not hold the same rows: remove that folder")
        start = sum(len(h) for h in heads)
        for i, rows in found:
            places[i].append(_Place(start, rows["file"].to_numpy(), rows["byte"].to_numpy()))
        heads.append(head)
    table = pa.concat_tables(heads) if heads else None
    if not table:
        raise UserError(f"there are no examples for task {task.task}: no entity is in the label's scope at the as-ofs")
    parts = tuple(_part(use, at, len(table)) for (use, _), at in zip(read, places, strict=True))
    return Examples(
        StoredTensors(tuple(files), (task.sequence.steps, len(task.features)), parts),
        table["label"].combine_chunks().flatten().to_numpy().reshape(-1, task.label.width),
        _ints(table, "as_of"),
        _ints(table, "n_events"),
        _ints(table, "last_event_time"),
        table["entity_id"],
    )


class FeaturePart(NamedTuple):
    """Where some features of n rows lie."""

    file: npt.NDArray[np.int32]  # (n) index into the files, -1 for a row that has them elsewhere
    byte: Ints  # (n) of the first value
    width: int  # features that lie together
    columns: tuple[tuple[int, int], ...]  # (there, in the tensor)


@dataclass(frozen=True, eq=False)
class StoredTensors:
    """Reads the tensors of rows at their places in the files.

    Not through a memory map: pages that were read would count as the process's own memory, all of them after one epoch.
    """

    files: tuple[str, ...]
    shape: tuple[int, int]  # steps, features
    parts: tuple[FeaturePart, ...]

    def __call__(self, rows: Ints) -> Floats:
        out = np.empty((len(rows), *self.shape), np.float32)
        for part in self.parts:
            at = np.flatnonzero(part.file[rows] >= 0)
            in_files = np.lexsort((part.byte[rows[at]], part.file[rows[at]]))
            if part.columns == tuple((i, i) for i in range(part.width)) and part.width == self.shape[1]:
                self._read(part, rows[at[in_files]], out, at[in_files])
            elif len(at):
                read = np.empty((len(at), self.shape[0], part.width), np.float32)
                self._read(part, rows[at[in_files]], read, in_files)
                to = slice(None) if len(at) == len(rows) else at
                for there, here in _spans(part.columns):
                    out[to, :, here] = read[:, :, there]
        return out

    def _read(self, part: FeaturePart, rows: Ints, out: Floats, at: Ints) -> None:
        """Fills out[at] with the rows, which are in the order of the files."""
        size = self.shape[0] * part.width * 4
        edges = np.flatnonzero(np.diff(part.file[rows], prepend=-1, append=-1))
        for first, last in itertools.pairwise(edges.tolist()):
            path = self.files[part.file[rows[first]]]
            file = os.open(path, os.O_RDONLY)
            try:
                byte = part.byte[rows[first:last]]
                for start, end in _runs(byte, size):
                    views = [out[i] for i in at[first + start : first + end].tolist()]
                    if os.preadv(file, views, int(byte[start])) != (end - start) * size:
                        raise OSError(f"{path} is cut short: make the examples anew")
            finally:
                os.close(file)


def _spans(columns: tuple[tuple[int, int], ...]) -> Iterator[tuple[slice, slice]]:
    """Columns that lie side by side on both sides: copied together, ten times faster than one by one."""
    start = 0
    for end in range(1, len(columns) + 1):
        (a, b), n = columns[start], end - start
        if end == len(columns) or columns[end] != (a + n, b + n):
            yield slice(a, a + n), slice(b, b + n)
            start = end


def _runs(byte: Ints, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of rows of `size` bytes that follow each other in a file."""
    edges = [0, *(np.flatnonzero(np.diff(byte) != size) + 1).tolist(), len(byte)]
    for start, end in itertools.pairwise(edges):
        for first in range(start, end, VECTORS):
            yield first, min(first + VECTORS, end)


class _Place(NamedTuple):
    start: int  # the first row
    file: npt.NDArray[np.int32]
    byte: Ints


def _part(use: Use, places: list[_Place], n: int) -> FeaturePart:
    file, byte = np.full(n, -1, np.int32), np.zeros(n, np.int64)
    for start, files, bytes_ in places:
        file[start : start + len(files)] = files
        byte[start : start + len(files)] = bytes_
    return FeaturePart(file, byte, use.width, use.columns)


def _rows(task: Task, use: Use, files: list[str]) -> pa.Table:
    """The rows that a request takes from a layer, with the file and byte of each tensor; its files join `files`."""
    wanted = schema(task.label.width, task.sequence.steps * use.width)
    columns = pa.schema([*list(wanted)[:-1], ("file", pa.int32()), ("byte", pa.int64())])
    batches: list[pa.RecordBatch] = []
    for path in sorted(use.folder.glob("*.arrow")):
        batches += _placed(path, len(files), wanted, columns)
        files.append(str(path))
    table = pa.Table.from_batches(batches, columns)
    table = table.filter(pc.is_in(table["as_of"], pa.array(use.as_ofs, pa.int64()).cast(TIME)))
    return table.take(pc.sort_indices(table, sort_keys=[("as_of", "ascending"), ("entity_id", "ascending")]))


def _placed(path: Path, file: int, wanted: pa.Schema, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The record batches of a file, with the places of the tensors instead of the tensors."""
    with pa.memory_map(str(path)) as source:
        whole = source.read_buffer(source.size())
    reader = pa.ipc.open_file(whole)
    if not reader.schema.equals(wanted):
        raise UserError(f"{path} holds examples of another task, or of an older version of it: remove its folder")
    row = 4 * wanted.field("tensor").type.list_size
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        start = batch.column("tensor").values.buffers()[1].address - whole.address
        byte = pa.array(start + row * np.arange(len(batch)), pa.int64())
        arrays = [*batch.columns[:-1], pa.array(np.full(len(batch), file, np.int32)), byte]
        yield pa.RecordBatch.from_arrays(arrays, schema=columns)


def _at(table: pa.Table, as_of: int) -> pa.Table:
    times = _ints(table, "as_of")
    start, end = np.searchsorted(times, [as_of, as_of + 1]).tolist()
    return table.slice(start, end - start)


def _ints(table: pa.Table, column: str) -> Ints:
    return table.column(column).cast(pa.int64()).to_numpy()


def check_rows(task: Task, examples: Examples, name: str, rows: Ints) -> None:
    """Checks that rows can be learnt from.

    Raises:
      UserError: nothing can be learnt from the rows, or judged on them; `name` says what they are for.
    """
    if not len(rows):
        raise UserError(f"task {task.task} has no {name} examples: choose as-ofs that the input's events cover")
    unfit = task.label.unfit(examples.label[rows])
    if unfit:
        raise UserError(
            f"task {task.task}: every one of the {len(rows)} {name} entities {unfit}: choose other as-ofs, or another "
            "horizon"
        )
