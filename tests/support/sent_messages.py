"""Events as messages of every kind, and what becomes of them. Shared by the tests of messages."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence

import fastavro
import numpy as np

from pipelines.events.block import EventBlock
from pipelines.events.decode import Since, Span, without_arrival
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import Messages, Payload
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.task.spec import Task
from tests.support.event_files import DAY, SCHEMA, SPAN, START, Record, Result, avro

NOW = START * 1_000_000 + 35 * DAY  # us: after every event of `writers.records`
JSON, AVRO = Payload(), Payload("avro", json.dumps(SCHEMA))


def messages(
    data: Sequence[bytes], arrival: int = NOW, attributes: Mapping[str, str] | None = None, first: int = 1000
) -> Messages:
    """Messages with ids from `first`, which arrived one us after the other."""
    ids = tuple(str(first + i) for i in range(len(data)))
    return Messages(tuple(data), ids, arrival + np.arange(len(data)), (attributes or {},) * len(data))


def text(rows: Sequence[Record]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def bare(rows: Sequence[Record]) -> list[bytes]:
    """Each row as the bytes of an Avro record."""
    out = []
    for row in rows:
        raw = io.BytesIO()
        fastavro.schemaless_writer(raw, SCHEMA, dict(row))
        out.append(raw.getvalue())
    return out


def bundles(rows: Sequence[Record], size: int, write: Callable[[Sequence[Record]], bytes]) -> list[bytes]:
    return [write(rows[i : i + size]) for i in range(0, len(rows), size)]


KINDS: dict[str, tuple[Callable[[Sequence[Record]], list[bytes]], Payload]] = {
    "object": (text, JSON),
    "object and line end": (lambda rows: [t + b"\r\n" for t in text(rows)], JSON),
    "pretty object": (lambda rows: [json.dumps(row, indent=2).encode() for row in rows], JSON),
    "list": (lambda rows: bundles(rows, 7, lambda part: json.dumps(part).encode()), JSON),
    "pretty list": (lambda rows: bundles(rows, 7, lambda part: json.dumps(part, indent=1).encode()), JSON),
    "lines": (lambda rows: bundles(rows, 7, lambda part: b"\n".join(text(part))), JSON),
    "lines and a blank one": (lambda rows: bundles(rows, 7, lambda part: b"\n\n".join(text(part)) + b"\n"), JSON),
    "container": (lambda rows: bundles(rows, 7, avro), JSON),
    "container of one": (lambda rows: bundles(rows, 1, lambda part: avro(part, "null")), AVRO),
    "bare record": (bare, AVRO),
    "everything": (
        lambda rows: [
            *text(rows[:50]),
            json.dumps(rows[50:80]).encode(),
            b"\n".join(text(rows[80:100])),
            avro(rows[100:]),
        ],
        JSON,
    ),
}


def received(task: Task, sent: Messages, payload: Payload = JSON, span: Span | Since = SPAN) -> Result:
    """What becomes of messages; checks that each event is accounted for."""
    parts = list(take_in(task, span, parse(without_arrival(task), sent, payload), "sub"))
    blocks = [p for p in parts if isinstance(p, EventBlock)]
    dead = [p for p in parts if isinstance(p, DeadLetter)]
    (ledger,) = [p for p in parts if isinstance(p, Ledger)]
    assert ledger.read == sum(map(len, blocks)) + ledger.rejected + ledger.outside + ledger.filtered
    assert ledger.rejected == sum(n for _, n in ledger.reasons) == len(dead)
    assert (ledger.files, ledger.bad_files) == (0, 0)
    assert all(block.arrival is not None for block in blocks)
    return Result(blocks, dead, ledger)
