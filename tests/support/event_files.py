"""Writes the same events in every format, and reads files whole. Shared by the tests of reading."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.events.block import EventBlock, concat
from pipelines.events.decode import Since, Span
from pipelines.events.formats.registry import named
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File, plan, read_piece

Record = Mapping[str, object]
DAY = 86_400_000_000
START = 1_704_067_200  # 2024-01-01, s
SPAN = Span((START * 1_000_000 + 40 * DAY,))
FIELDS = ("user", "ts", "kind", "amount", "id")


def task(**events: object) -> Task:
    """A task over `FIELDS`; `events` replaces keys of its section."""
    section = {
        "entity": "user",
        "time": {"field": "ts", "unit": "s"},
        "identity": ("id",),
        "categories": {"kind": ("buy", "view")},
        **events,
    }
    features = ({"agg": "count", "by": "kind"}, {"agg": "sum", "field": "amount"})
    return Task.model_validate(
        {
            "task": "test",
            "events": section,
            "sequence": {"step": "1d", "steps": 60, "features": features},
            "score": {"every": "1d"},
            "label": {"kind": "churn", "horizon": "7d", "active_within": "7d"},
        }
    )


def records(n: int, seed: int = 0) -> list[dict[str, object]]:
    """n good events, all inside the history of `SPAN`."""
    rng = np.random.default_rng(seed)
    users, times = rng.integers(0, 50, n), rng.integers(START, START + 30 * 86_400, n)
    kinds, amounts = rng.choice(["buy", "view", "other"], n), rng.integers(-4_000, 4_000, n) / 4
    return [
        {"user": f"u{u}", "ts": int(t), "kind": str(k), "amount": float(a), "id": f"e{seed}-{i}"}
        for i, (u, t, k, a) in enumerate(zip(users, times, kinds, amounts, strict=True))
    ]


def jsonl(rows: Iterable[Record]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def comma(rows: Iterable[Record], names: Sequence[str] = FIELDS) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if row.get(n) is None else row[n] for n in names] for row in rows])
    return out.getvalue().encode()


def parquet(rows: Sequence[Record], row_group: int = 100) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows]), out, row_group_size=row_group)
    return out.getvalue()


SCHEMA = {
    "type": "record",
    "name": "event",
    "fields": [
        {"name": "user", "type": ["null", "string"]},
        {"name": "ts", "type": ["null", "long", "double", "string"]},
        {"name": "kind", "type": ["null", "string"]},
        {"name": "amount", "type": ["null", "double", "string"]},
        {"name": "id", "type": ["null", "string"]},
    ],
}


def avro(rows: Iterable[Record], codec: str = "deflate", block: int = 2_000) -> bytes:
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, rows, codec=codec, sync_interval=block, sync_marker=b"0123456789abcdef")
    return out.getvalue()


WRITERS: dict[str, Callable[[Sequence[Record]], bytes]] = {
    "data.jsonl": jsonl,
    "data.csv": comma,
    "data.parquet": parquet,
    "data.avro": avro,
    "data.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "data.csv.gz": lambda rows: gzip.compress(comma(rows)),
}


class Result(NamedTuple):
    """All that came out of one file."""

    blocks: list[EventBlock]
    dead: list[DeadLetter]
    ledger: Ledger

    @property
    def events(self) -> list[tuple[object, ...]]:
        """(entity, time, id, codes, values) of all events, sorted; values as text, for NaN."""
        if not self.blocks:
            return []
        b = concat(self.blocks)
        names = b.keys.to_pylist()
        rows = zip(b.key.tolist(), b.time.tolist(), b.id.tolist(), b.codes.T.tolist(), b.values.T.tolist(), strict=True)
        return sorted((names[k], t, i, tuple(c), repr(v)) for k, t, i, c, v in rows)


def read(spec: Task, path: Path, span: Span | Since = SPAN) -> Result:
    """Reads a file with all its pieces; checks that each row is accounted for."""
    name = named(path.name)
    assert name is not None, "a file with a known ending"
    parts = [p for piece in plan([File(str(path), path.stat().st_size, name)]) for p in read_piece(spec, span, piece)]
    result = Result(
        [p for p in parts if isinstance(p, EventBlock)],
        [p for p in parts if isinstance(p, DeadLetter)],
        total(p for p in parts if isinstance(p, Ledger)),
    )
    ledger = result.ledger
    assert ledger.read == sum(map(len, result.blocks)) + ledger.rejected + ledger.outside + ledger.filtered
    assert ledger.rejected == sum(n for _, n in ledger.reasons) == sum(d.rows for d in result.dead)
    assert ledger.bad_files <= ledger.files == 1
    return result


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
