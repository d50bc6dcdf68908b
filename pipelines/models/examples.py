"""Training examples in Arrow IPC files: their columns, and reading them through memory maps: any number fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.models.engine import Floats
from pipelines.task import PathLabel, Task

Ints = npt.NDArray[np.int64]
TIME = pa.timestamp("us", tz="UTC")


def schema(outputs: int, width: int) -> pa.Schema:
    """One row an entity and as-of: the label (outputs), and the tensor (width = steps * features), step by step."""
    return pa.schema(
        [
            ("entity_id", pa.string()),
            ("as_of", TIME),
            ("n_events", pa.int64()),
            ("last_event_time", TIME),
            ("label", pa.list_(pa.float32(), outputs)),
            ("tensor", pa.list_(pa.float32(), width)),
        ]
    )


@dataclass(frozen=True, eq=False)
class Examples:
    """n labelled sequences, by as-of and entity. The tensors stay in their files until they are asked for."""

    tensors: tuple[Floats, ...]  # each (m, steps, features), n rows together, in the order of the files
    place: Ints  # (n) where the tensor of a row is among them
    label: Floats  # (n, k): 1 for churn, or the levels of a path
    as_of: Ints  # (n) us
    n_events: Ints  # (n) events in the history
    last_event_time: Ints  # (n) us
    entity: pa.ChunkedArray  # (n) string

    def __len__(self) -> int:
        return len(self.as_of)

    def at(self, *as_ofs: int) -> Ints:
        """The rows of some as-ofs."""
        return np.flatnonzero(np.isin(self.as_of, as_ofs))

    def tensor(self, rows: Ints) -> Floats:
        """f4 (len(rows), steps, features), a copy."""
        ends = np.cumsum([len(t) for t in self.tensors])
        place = self.place[rows]
        part = np.searchsorted(ends, place, side="right")
        out = np.empty((len(rows), *self.tensors[0].shape[1:]), np.float32)
        for i in np.unique(part).tolist():
            here = part == i
            out[here] = self.tensors[i][place[here] - (ends[i] - len(self.tensors[i]))]
        return out


def load_examples(task: Task, files: Iterable[Path | str]) -> Examples:
    """Maps Arrow IPC files into memory. Which rows are in which file makes no difference.

    Raises:
      UserError: a file was written for another task, or there is no example in them.
    """
    shape = (task.sequence.steps, len(task.features))
    wanted = schema(len(task.outputs), shape[0] * shape[1])
    batches = []
    for path in sorted(map(Path, files)):
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(wanted):
            raise UserError(f"{path} holds examples of another task, or of an older version of it: make them anew")
        batches += [b for i in range(reader.num_record_batches) if len(b := reader.get_batch(i))]
    if not batches:
        raise UserError(f"there are no examples for task {task.task}: no entity is in the label's scope at the as-ofs")
    table = pa.Table.from_batches(batches).drop_columns(["label", "tensor"])
    place = pc.sort_indices(table, sort_keys=[("as_of", "ascending"), ("entity_id", "ascending")])
    table, place = table.take(place), place.to_numpy().astype(np.int64)
    return Examples(
        tuple(_floats(b.column("tensor")).reshape(-1, *shape) for b in batches),
        place,
        np.concatenate([_floats(b.column("label")).reshape(-1, len(task.outputs)) for b in batches])[place],
        _ints(table, "as_of"),
        _ints(table, "n_events"),
        _ints(table, "last_event_time"),
        table.column("entity_id"),
    )


def _floats(lists: pa.FixedSizeListArray) -> Floats:
    return lists.flatten().to_numpy(zero_copy_only=True)


def _ints(table: pa.Table, column: str) -> Ints:
    return table.column(column).cast(pa.int64()).to_numpy()


def level(task: Task) -> int:
    """The feature that holds the last level of a path's field."""
    field = task.label.field if isinstance(task.label, PathLabel) else None
    return next(i for i, f in enumerate(task.features) if (f.agg, f.field, f.by) == ("last", field, None))


def check_rows(task: Task, examples: Examples, name: str, rows: Ints) -> None:
    """
    Raises:
      UserError: nothing can be learnt from the rows, or judged on them; `name` says what they are for.
    """
    if not len(rows):
        raise UserError(f"task {task.task} has no {name} examples: choose as-ofs that the input's events cover")
    if not isinstance(task.label, PathLabel) and len(np.unique(examples.label[rows])) < 2:
        all_did = "churned" if examples.label[rows[0], 0] else "stayed"
        raise UserError(
            f"task {task.task}: every one of the {len(rows)} {name} entities {all_did}, so there is nothing to tell "
            "apart: choose other as-ofs, or another horizon"
        )
