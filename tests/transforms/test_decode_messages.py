from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import BeamAssertException, assert_that

from pipelines.events.block import concat, unpack
from pipelines.events.decode import Since
from pipelines.events.messages import BlockOrTick, Messages, Tick, quality
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.transforms.decode_messages import DecodeMessages, lags
from tests.support import event_files
from tests.support.event_files import DAY, START, task
from tests.support.sent_messages import KINDS, NOW, messages, received, text

ROWS = event_files.records(300)
FIRST = START * 1_000_000 + 36 * DAY
SHARDS = 4

Stamped = tuple[tuple[int, BlockOrTick], int]


def run(parts: Sequence[Messages], subscription: str, max_bad_share: float = 0.5, **events: object) -> dict[str, int]:
    """Runs the transform, holds it against the pure functions, and gives the counters."""
    spec = task(**events)
    expected = [received(spec, m, span=Since(FIRST)) for m in parts]
    ticks = sorted((s, m.tick) for m in parts if m.tick is not None for s in range(SHARDS))

    def check_blocks(found: list[Stamped]) -> None:
        blocks = [(s, unpack(raw), at) for (s, raw), at in found if not isinstance(raw, Tick)]
        for _, block, at in blocks:
            assert block.arrival is not None
            if at != int(block.arrival.min()):
                raise BeamAssertException("a block is not stamped with its earliest arrival")
        events = concat([b for _, b, _ in blocks]) if blocks else None
        wanted = [e for r in expected for e in r.events]
        assert (0 if events is None else len(events)) == len(wanted)
        ticked = [(s, tick.time, at) for (s, tick), at in found if isinstance(tick, Tick)]
        assert sorted((s, tick) for s, tick, _ in ticked) == ticks
        assert all(tick == at for _, tick, at in ticked)

    def check_dead(found: list[DeadLetter]) -> None:
        wanted = [letter for r in expected for letter in r.dead]
        assert [(x.position, x.payload) for x in found] == [(x.position, x.payload) for x in wanted]
        assert {x.source for x in found} <= {subscription}

    def check_ledgers(found: list[Ledger]) -> None:
        assert len(found) == sum(r.ledger.read > 0 for r in expected)
        assert total(found) == total(r.ledger for r in expected)

    pipeline = beam.Pipeline(FnApiRunner())
    out = (
        pipeline
        | beam.Create(parts, reshuffle=False)
        | DecodeMessages(spec, Since(FIRST), SHARDS, subscription, max_bad_share=max_bad_share)
    )
    stamped = out.blocks | beam.Map(lambda x, t=beam.DoFn.TimestampParam: (x, t.micros))
    assert_that(stamped, check_blocks, label="blocks")
    assert_that(out.dead, check_dead, label="dead")
    assert_that(out.ledger, check_ledgers, label="ledger")
    result = pipeline.run()
    result.wait_until_finish()
    query = result.metrics().query(MetricsFilter().with_namespace("foretide"))
    counted = {c.key.metric.name: c.committed for c in query["counters"]}
    return counted | {d.key.metric.name: d.committed.count for d in query["distributions"]}


def test_messages_become_blocks() -> None:
    sent = messages(text(ROWS))
    parts = [sent.take(slice(0, 10)), sent.take(slice(10, 11)), sent.take(slice(11, None))]
    counted = run(parts, "projects/p/subscriptions/good")
    assert counted["events"] == 300
    assert "rejected" not in counted
    assert counted["event_lag_ms"] == 9
    assert quality("projects/p/subscriptions/good").paused is None


def test_bad_events_become_letters() -> None:
    sent = messages([*text(ROWS[:20]), b"bad", *KINDS["list"][0]([{**ROWS[0], "user": None}, *ROWS[20:22]])])
    assert run([sent], "projects/p/subscriptions/bad")["rejected"] == 2


def test_events_that_are_too_old_are_outside() -> None:
    old = {**ROWS[0], "ts": START - 40 * 86_400}
    assert run([messages(text([old, *ROWS[:5]]))], "projects/p/subscriptions/old")["outside"] == 1


def test_ticks_reach_every_shard() -> None:
    empty = Messages((), (), np.zeros(0, np.int64), (), NOW + 1)
    beats = messages([b"", b"[]"])
    run([Messages(**{**messages(text(ROWS)).__dict__, "tick": NOW}), empty, beats], "projects/p/subscriptions/ticks")


def test_too_many_bad_events_pause_the_source() -> None:
    name = "projects/p/subscriptions/worse"
    run([messages([*text(ROWS[:60]), *[b"bad"] * 60])], name)
    assert quality(name).paused is None
    run([messages([b"bad"] * 200)], name)
    told = quality(name).paused
    assert told is not None
    assert "not a JSON object, such as message 1000" in told


@pytest.mark.parametrize("arrival", [{"field": "seen", "unit": "s"}, None])
def test_the_arrival_of_the_task_is_not_needed(arrival: object) -> None:
    run([messages(text(ROWS))], f"projects/p/subscriptions/{arrival is None}", arrival=arrival)


def test_lags() -> None:
    block = received(task(), messages(text(ROWS[:1]))).blocks[0]
    assert lags(block) == [(NOW - int(block.time[0])) // 1_000] * 3
