"""JSON in messages: an object, a list of objects, or JSON Lines. Nothing, or an empty list, is a heartbeat.

JSON of many messages is parsed together, as lines of one text: about 1 us an event, where a parser for each takes 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from pipelines.events.formats import jsonl, lines
from pipelines.events.formats.base import Ints, Refusal, Rows, Sent, Unreadable, shorten
from pipelines.events.formats.payloads import Collected, Content, MessageOrigin, PayloadFormat
from pipelines.events.messages import Payload
from pipelines.task.spec import Task

SPACE = re.compile(r"[ \t\r\n]*")
NOT_JSON = "neither a JSON object, nor a list of them, nor JSON Lines"
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class JsonEvents(lines.TextLines):
    """n events as lines of JSON."""

    origin: MessageOrigin

    def take(self, rows: slice | Ints) -> Self:
        return replace(super().take(rows), origin=self.origin.take(rows))

    def rows(self, table: pa.Table, whole: bool) -> Rows:
        origin = self.origin
        return replace(super().rows(table, whole), arrival=origin.arrival, ids=origin.ids, sent=self.sent)

    def refusal(self, row: int, reason: str, value: str = "") -> Refusal:
        return self.sent(row).refusal(reason, value, self.raw(row))

    def sent(self, row: int) -> Sent:
        return self.origin.sent(row, self.line(row))


class JsonPayload(PayloadFormat):
    """The format of messages."""

    name = "json"
    is_sparse = True

    def alone(self, data: Sequence[bytes]) -> list[int]:
        """Those that look like one JSON object on one line."""
        return [i for i, d in enumerate(data) if d[:1] == b"{" and d[-1:] == b"}" and b"\n" not in d]

    def content(self, task: Task, data: bytes, payload: Payload) -> Content:
        return Content(split(data))

    def rows(self, task: Task, found: Collected, origin: MessageOrigin) -> Iterator[Rows | Refusal]:
        texts: list[bytes] = found.events
        end = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
        start = np.concatenate(([0], end[:-1] + 1))
        chunk, bad = lines.unicode(JsonEvents(b"\n".join(texts), start, end, 0, origin))
        yield from bad.refused("text that is not UTF-8")
        if len(chunk):
            yield from jsonl.parse(task, chunk)

    def sample(self, data: bytes, payload: Payload) -> list[Any]:
        return split(data)

    def fields(self, samples: list[Any]) -> dict[str, str]:
        return jsonl.kinds(samples)


PAYLOAD = JsonPayload()


def split(data: bytes) -> list[bytes]:
    """The events of a JSON payload, each on one line; none for a heartbeat.

    Raises:
      Unreadable: there is no telling where events begin. Its arguments are the reason and what stood there.
    """
    text = data.removeprefix(lines.BOM).strip()
    if excess := jsonl.excess(text):
        raise Unreadable(excess, "")
    if text.startswith(b"["):
        return _elements(text)
    parts = [line for line in map(bytes.strip, text.split(b"\n")) if line]
    if len(parts) < 2 or _is_object(parts[0]):
        return parts
    if _is_object(text):
        return [_one_line(text)]
    if any(map(_is_object, parts)):
        return parts
    raise Unreadable(NOT_JSON, shorten(text[:80].decode("utf-8", "backslashreplace")))


def _elements(text: bytes) -> list[bytes]:
    """The values of a JSON list, as they stand."""
    chars, out = text.decode("latin-1"), list[bytes]()  # a character a byte, and what is ASCII stays so
    try:
        at = _skip(chars, 1)
        if chars[at] == "]" and at + 1 == len(chars):
            return out
        while True:
            end = DECODER.raw_decode(chars, at)[1]
            out.append(_one_line(text[at:end]))
            at = _skip(chars, end)
            if chars[at] == "]" and at + 1 == len(chars):
                return out
            if chars[at] != ",":
                raise ValueError("neither , nor ]")
            at = _skip(chars, at + 1)
    except (ValueError, IndexError, RecursionError):
        raise Unreadable("a JSON list that breaks off", f"after {len(out)} values") from None


def _skip(chars: str, at: int) -> int:
    match = SPACE.match(chars, at)
    return match.end() if match else at


def _one_line(text: bytes) -> bytes:
    """The same JSON: inside text, JSON has no line ends."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


def _is_object(text: bytes) -> bool:
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
