from __future__ import annotations

import numpy as np
import pytest

from pipelines.events import intake
from pipelines.events.block import EventBlock
from pipelines.events.decode import without_arrival
from pipelines.events.formats.base import Refusal, Sent
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.ledger.counts import DeadLetter, Ledger
from tests.support import event_files
from tests.support.event_files import DAY, SPAN, START, task
from tests.support.sent_messages import JSON, messages, text

ROWS = event_files.records(40)


def test_a_letter_says_what_stood_there_and_can_be_sent_again() -> None:
    sent = Sent("message 7", b"\xff", (("foretide_id", "7"),))
    refused = Refusal("message 7", "not a time", "'x'", "\\xff", sent=sent)
    broken = Refusal("row 5", "a row group that cannot be read", "", "", 3, True)
    first, second, ledger = take_in(task(), SPAN, [refused, broken], "here")
    assert first == DeadLetter("read", "here", "message 7", "not a time: 'x'", 1, "\\xff", b"\xff", sent.attributes)
    assert second == DeadLetter("read", "here", "row 5", "a row group that cannot be read", 3, "")
    reasons = (("a row group that cannot be read", 3), ("not a time", 1))
    assert ledger == Ledger(read=4, rejected=4, bad_files=1, reasons=reasons)


def test_every_row_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS, {**ROWS[0], "ts": START - 90 * 86_400}, {**ROWS[0], "kind": "other"}, {**ROWS[0], "user": None}]
    spec = task(where={"kind": "buy"})
    for size in (1, 10, 1 << 17):
        monkeypatch.setattr(intake, "BLOCK", size)
        parts = list(take_in(spec, SPAN, parse(without_arrival(spec), messages(text(rows)), JSON), "here"))
        ledger = parts[-1]
        assert isinstance(ledger, Ledger)
        blocks = [p for p in parts if isinstance(p, EventBlock)]
        bought = [r for r in rows if r["kind"] == "buy" and r["user"] is not None]
        assert sum(map(len, blocks)) == len(bought) - ledger.outside
        assert ledger.read == len(rows)
        assert ledger.read == sum(map(len, blocks)) + ledger.rejected + ledger.outside + ledger.filtered
        assert ledger.last_time == max(int(np.max(b.time)) for b in blocks) < START * 1_000_000 + 40 * DAY


def test_nothing() -> None:
    assert list(take_in(task(), SPAN, [], "here")) == [Ledger()]
