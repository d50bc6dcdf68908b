"""Rows that every sink writes, as Arrow tables, of what a pipeline gives: pure functions. Columns: `storage.rows`."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterable, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.ledger.counts import DeadLetter, Ledger, Status
from pipelines.storage.rows import DEAD_LETTERS, TIME, Run, live_schema, score_schema
from pipelines.task.spec import Task
from pipelines.transforms.infer import ScoreBlock

Inputs = tuple[beam.PCollection[ScoreBlock], beam.PCollection[DeadLetter], beam.PCollection[Ledger]]  # of a sink
Letter = tuple[str, str, str, str, int, str, bytes | None, str | None]  # the fields of a DeadLetter


def now() -> int:
    """The wall clock, us since 1970."""
    return time.time_ns() // 1000


def begun(task: Task, run_id: str, inputs: Sequence[str], model_version: str = "", max_bad_share: float = 1.0) -> Run:
    """What the rows say of a run over files, or of a live job, that begins now."""
    attempt = uuid.uuid4().hex[:8]
    of = (run_id, attempt, task.task, task.outputs, tuple(inputs), now(), model_version, max_bad_share)
    return Run(*of, *task.label.terms)


def score_id(task: str, entity: str, as_of: int) -> str:
    """md5 of `task|entity|as_of`, as_of in us: in SQL, md5(task || '|' || entity_id || '|' || epoch_us(as_of))."""
    return hashlib.md5(f"{task}|{entity}|{as_of}".encode(), usedforsecurity=False).hexdigest()


def block_table(block: ScoreBlock, outputs: Sequence[str]) -> pa.Table:
    """The columns in which the rows of a run differ; times as int64, us."""
    scores = {name: pa.array(block.scores[:, i]) for i, name in enumerate(outputs)}
    return pa.table(
        {
            "entity_id": pa.array(block.entities, pa.string()),
            "as_of": pa.array(block.as_of),
            "revision": pa.array(block.revision),
            **scores,
            "model_version": _repeated(block.version, len(block.entities)),
            "n_events": pa.array(block.n_events),
            "last_event_time": pa.array(block.last_event_time),
        }
    )


def score_rows(tables: Iterable[pa.Table], run: Run) -> pa.Table:
    """Whole score rows of `block_table`s, in the order of (as_of, entity_id, revision), whatever order they came in."""
    rows = pa.concat_tables(tables)
    version = rows.schema.get_field_index("model_version")
    rows = rows.set_column(version, "model_version", rows["model_version"].cast(pa.string()))
    rows = rows.sort_by([("as_of", "ascending"), ("entity_id", "ascending"), ("revision", "ascending")])
    pairs = zip(rows["entity_id"].to_pylist(), rows["as_of"].to_pylist(), strict=True)
    same = {"task": run.task, "run_id": run.run_id}
    columns = {
        "score_id": pa.array([score_id(run.task, *pair) for pair in pairs], pa.string()),
        **{name: pa.repeat(value, rows.num_rows) for name, value in same.items()},
        **{name: rows[name] for name in rows.column_names},
    }
    schema = score_schema(run.outputs)
    return pa.table({f.name: columns[f.name] for f in schema}).cast(schema).combine_chunks()


def letter_fields(letter: DeadLetter) -> Letter:
    """The fields of a dead letter, as text that UTF-8 can hold; attributes as a JSON object."""
    stage, source, position, reason, raw = map(
        _clean, (letter.stage, letter.source, letter.position, letter.reason, letter.raw)
    )
    attributes = _clean(json.dumps(dict(letter.attributes), ensure_ascii=False)) if letter.attributes else None
    return stage, source, position, reason, int(letter.rows), raw, letter.payload, attributes


def letter_rows(letters: Iterable[Letter], run_id: str) -> pa.Table:
    """Dead letter rows by source and position (`row 9` before `row 10`), whatever order they came in."""
    ordered = sorted(letters, key=_letter_order)
    columns = list(zip(*ordered, strict=True)) if ordered else [()] * (len(DEAD_LETTERS) - 1)
    return pa.table([*columns, [run_id] * len(ordered)], schema=DEAD_LETTERS)


def stamped(rows: pa.Table, at: int) -> pa.Table:
    """Rows of a live job's scores or dead letters, with the time when they are written, us."""
    schema = live_schema(rows.schema)
    return rows.append_column(schema.field(rows.num_columns), pa.repeat(pa.scalar(at, TIME), rows.num_rows))


def run_status(ledger: Ledger, max_bad_share: float) -> Status:
    """Refused for too many bad rows, unbalanced if the sums do not match, otherwise published."""
    if ledger.bad_share > max_bad_share:
        return "refused"
    return "unbalanced" if ledger.differences else "published"


def _clean(text: str) -> str:
    """Half surrogate pairs, which JSON allows and UTF-8 does not, as \\uNNNN."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _letter_order(letter: Letter) -> tuple[str, int, tuple[object, ...]]:
    number = re.search(r"\d{1,18}", letter[2])
    return letter[1], int(number[0]) if number else -1, (*letter[:6], letter[6] or b"", letter[7] or "")


def _repeated(value: str, n: int) -> pa.Array:
    """n times the same text, at a byte each."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), pa.array([value], pa.string()))
