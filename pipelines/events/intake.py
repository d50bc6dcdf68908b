"""What becomes of rows, of files and of messages alike: event blocks, dead letters, and a ledger of both. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pipelines.events.block import EventBlock, concat
from pipelines.events.decode import Decoded, Since, Span, decode
from pipelines.events.formats.base import Refusal, Rows
from pipelines.ledger.counts import NEVER, DeadLetter, Ledger
from pipelines.task.spec import Task

BLOCK = 1 << 17  # events that are split and packed at once: many small blocks are slow downstream


def take_in(
    task: Task, span: Span | Since, parts: Iterable[Rows | Refusal], source: str
) -> Iterator[EventBlock | DeadLetter | Ledger]:
    """Turns rows into blocks of at most about `BLOCK` events, a dead letter of `source` for each refused row, and one
    Ledger at the end, whose `bad_files` counts parts that could not be read at all."""
    ledger, refused, broken = Ledger(), Counter[str](), 0  # a sum of ledgers for each refusal would be slow
    held: list[EventBlock] = []
    for part in parts:
        if isinstance(part, Refusal):
            refused[part.reason] += part.rows
            broken += part.part
            yield _letter(part, source)
            continue
        decoded = decode(task, part.table, span, part.lines, part.arrival, part.ids)
        ledger += _counted(decoded, len(part))
        for refusal in part.refusals(decoded.refused):
            yield _letter(refusal, source)
        if len(decoded.block):
            held.append(decoded.block)
        if sum(map(len, held)) >= BLOCK:
            yield concat(held)
            held = []
    if held:
        yield concat(held)
    lost = refused.total()
    yield ledger + Ledger(read=lost, rejected=lost, bad_files=broken, reasons=tuple(sorted(refused.items())))


def _counted(decoded: Decoded, rows: int) -> Ledger:
    reasons = Counter(refused.reason for refused in decoded.refused.values())
    return Ledger(
        read=rows,
        rejected=len(decoded.refused),
        outside=decoded.outside,
        filtered=decoded.filtered,
        first_time=NEVER if decoded.first_time is None else decoded.first_time,
        last_time=-NEVER if decoded.last_time is None else decoded.last_time,
        reasons=tuple(sorted(reasons.items())),
    )


def _letter(part: Refusal, source: str) -> DeadLetter:
    reason = f"{part.reason}: {part.value}" if part.value else part.reason
    payload, attributes = (None, ()) if part.sent is None else (part.sent.payload, part.sent.attributes)
    return DeadLetter("read", source, part.position, reason, part.rows, part.raw, payload, attributes)
