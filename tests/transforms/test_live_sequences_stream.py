"""Sequences of a stream through Beam's own state and timers: each case is a TestStream on Prism."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from random import Random
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines.events.block import split
from pipelines.events.decode import Since, decode, without_arrival
from pipelines.events.messages import BlockOrTick, Tick
from pipelines.events.sequences import SequenceBatch
from pipelines.ledger.counts import DeadLetter, Ledger, total
from pipelines.task.spec import Task
from pipelines.transforms.build_sequences import Sequences
from pipelines.transforms.live_sequences import LiveSettings
from tests.support.oracle import Event, Expected
from tests.support.random_tasks import table_of
from tests.support.simulated_stream import END, Case, Key, Message, cases, columns, rows, same

SOAK = "FORETIDE_SOAK" in os.environ
SECOND = 1_000_000
SHARDS = 3
FIRST = 10 * SECOND
TASK = Task.model_validate(
    {
        "task": "live",
        "events": {
            "entity": "user",
            "time": {"field": "time", "unit": "us"},
            "arrival": {"field": "arrival", "unit": "us"},
            "identity": ("id",),
            "max_skew": "30s",
        },
        "sequence": {"step": "10s", "steps": 4, "features": ({"agg": "count"},)},
        "score": {"every": "10s", "allowed_lateness": "20s"},
        "label": {"kind": "churn", "horizon": "10s", "active_within": "10s"},
    }
)


@dataclass
class Outputs:
    """What came out of a pipeline whose worker is this process."""

    sequences: list[SequenceBatch] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    ledger: list[Ledger] = field(default_factory=list)

    @property
    def scores(self) -> list[tuple[str, int, int, int]]:
        """(entity, as-of in s, revision, events), ascending."""
        keyed = (item for batch in self.sequences for item in rows(batch))
        return sorted((key.entity, key.as_of // SECOND, key.revision, x.n_events) for key, x in keyed)

    @property
    def counts(self) -> tuple[int, int, int]:
        """(accepted, duplicates, late)."""
        ledger = total(self.ledger)
        return ledger.accepted, ledger.duplicates, ledger.late


OUT = Outputs()


def keep(row: Any, tag: str) -> None:
    getattr(OUT, tag).append(row)


def fixed(seconds: float) -> float:
    return seconds


def run(endpoint: str, task: Task, first: int, stream: beam.PTransform, live: LiveSettings) -> Outputs:
    """Runs a stream of pickled (shard, packed block or tick) to its end."""
    for found in (OUT.sequences, OUT.dead, OUT.ledger):
        found.clear()
    options = PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint={endpoint}",
            "--environment_type=LOOPBACK",
            "--streaming",
            "--experiments=disable_logging_submission_environment",
        ]
    )
    with beam.Pipeline(options=options) as p:
        blocks = p | stream | beam.Map(pickle.loads).with_output_types(tuple[int, BlockOrTick])
        read = blocks | beam.FlatMap(lambda _: ()).with_output_types(Ledger)
        built = (blocks, read) | Sequences(task, Since(first), live=live)
        for tag in ("sequences", "dead", "ledger"):
            _ = built[tag] | f"Keep{tag}" >> beam.Map(keep, tag)
    return OUT


def element(shard: int, raw: BlockOrTick, at: int) -> TimestampedValue:
    """at: us."""
    return TimestampedValue(pickle.dumps((shard, raw)), Timestamp(micros=at))


def event(user: str, time: float, arrival: float | None = None, id: str = "") -> Event:
    """Times in s."""
    came = time if arrival is None else arrival
    rest = {"kind": None, "page": None, "value": None, "price": None}
    return {"user": user, "time": int(time * SECOND), "arrival": int(came * SECOND), "id": id or f"{time}", **rest}


@dataclass
class Play:
    """A TestStream of one task, step by step."""

    stream: test_stream.TestStream = field(default_factory=lambda: test_stream.TestStream(coder=BytesCoder()))
    shards: int = SHARDS
    first: int = FIRST

    def events(self, *events: Event) -> Play:
        """Those that came together."""
        block = decode(TASK, table_of(events), Since(self.first)).block
        elements = [
            element(s, b.pack(), int(b.arrival.min())) for s, b in split(block, self.shards) if b.arrival is not None
        ]
        if elements:
            self.stream = self.stream.add_elements(elements)
        return self

    def tick(self, seconds: int, at: int) -> Play:
        tick = Tick(seconds * SECOND)
        self.stream = self.stream.add_elements([element(s, tick, at * SECOND) for s in range(self.shards)])
        return self

    def watermark(self, seconds: float) -> Play:
        self.stream = self.stream.advance_watermark_to(seconds)
        return self

    def passes(self, seconds: float) -> Play:
        """Processing time."""
        self.stream = self.stream.advance_processing_time(seconds)
        return self

    def run(self, endpoint: str, live: LiveSettings = LiveSettings("sub")) -> Outputs:  # noqa: B008
        return run(endpoint, TASK, self.first, self.stream.advance_watermark_to_infinity(), live)


def test_on_time_and_silent_until_the_history_ends(prism: str) -> None:
    """Also an idle source: the watermark alone makes the scores, and nothing is left to wait for at the end."""
    out = Play().events(event("a", 5)).watermark(25).watermark(300).run(prism)
    assert out.scores == [("a", t, 0, 1) for t in (10, 20, 30, 40)]
    assert out.counts == (1, 0, 0)
    assert out.dead == []


def test_a_shard_without_events_says_nothing(prism: str) -> None:
    out = Play(shards=1).watermark(25).watermark(300).run(prism)
    assert (out.scores, out.dead, out.ledger) == ([], [], [])


def test_what_happened_before_the_first_boundary_is_in_its_history(prism: str) -> None:
    """Files of the archive may come after messages: their events count at the first boundary, too."""
    live, archive = event("a", 26, 26), (event("b", -5), event("a", 1), event("a", -31))
    out = Play(shards=1).events(live).events(*archive).watermark(300).run(prism)
    assert out.scores == [
        ("a", 10, 0, 1),
        ("a", 20, 0, 1),
        ("a", 30, 0, 2),
        ("a", 40, 0, 2),
        ("a", 50, 0, 1),
        ("a", 60, 0, 1),
        *(("b", t, 0, 1) for t in (10, 20, 30)),
    ]


def test_corrected_while_open(prism: str) -> None:
    out = Play().events(event("a", 5)).watermark(20).events(event("a", 6, 21)).watermark(300).run(prism)
    assert out.scores == [
        ("a", 10, 0, 1),
        ("a", 10, 2, 2),
        ("a", 20, 0, 1),
        ("a", 20, 1, 2),
        ("a", 30, 0, 2),
        ("a", 40, 0, 2),
    ]
    assert out.counts == (2, 0, 0)


def test_too_late_for_a_closed_score(prism: str) -> None:
    """It is a dead letter, and yet part of the scores that are open."""
    out = Play().events(event("a", 5)).watermark(35).events(event("a", 6, 36)).watermark(300).run(prism)
    assert out.scores == [
        ("a", 10, 0, 1),
        ("a", 20, 0, 1),
        ("a", 20, 2, 2),
        ("a", 30, 0, 1),
        ("a", 30, 1, 2),
        ("a", 40, 0, 2),
    ]
    assert out.counts == (2, 0, 1)
    reason = "too late for a score that was closed"
    assert out.dead == [DeadLetter("late", "sub", "a at 1970-01-01T00:00:06", reason, 1, "")]


def test_a_duplicate_changes_nothing(prism: str) -> None:
    """Neither a message that comes again nor the same event published anew."""
    again = event("a", 5), event("a", 5, 22)
    out = Play().events(event("a", 5)).watermark(22).events(*again).watermark(300).run(prism)
    assert out.scores == [("a", t, 0, 1) for t in (10, 20, 30, 40)]
    assert out.counts == (1, 2, 0)


def test_an_event_of_the_future_waits_for_its_time(prism: str) -> None:
    """One that is further ahead than the task allows is refused before."""
    out = Play().events(event("a", 25, 5), event("a", 45, 6)).watermark(300).run(prism)
    assert out.scores == [("a", t, 0, 1) for t in (30, 40, 50, 60)]


def test_a_shard_that_slept_does_not_score_the_past_again(prism: str) -> None:
    play = Play(shards=1).events(event("a", 5)).watermark(95).events(event("b", 71, 96)).watermark(300)
    out = play.run(prism)
    assert out.scores == [
        *(("a", t, 0, 1) for t in (10, 20, 30, 40)),
        ("b", 80, 2, 1),
        ("b", 90, 1, 1),
        ("b", 100, 0, 1),
        ("b", 110, 0, 1),
    ]


def test_a_drain_scores_nothing_of_the_future(prism: str) -> None:
    play = Play().events(event("a", 5), event("b", 21)).watermark(22)
    assert play.run(prism, LiveSettings("sub", clock=partial(fixed, 23.0))).scores == [("a", 10, 0, 1), ("a", 20, 0, 1)]


def test_with_ticks_nothing_beyond_them_is_scored(prism: str) -> None:
    live = LiveSettings("sub", ticks=True)
    play = Play(shards=1).events(event("a", 5)).watermark(15)  # no tick yet: 10 is not due
    out = play.tick(19, at=15).watermark(31).tick(30, at=31).run(prism, live)
    assert out.scores == [("a", 10, 0, 1), ("a", 20, 0, 1), ("a", 30, 0, 1)]


def test_early_scores_are_of_those_who_gained_an_event(prism: str) -> None:
    play = Play(shards=1).events(event("a", 5), event("b", 6)).watermark(12)
    play = play.events(event("b", 13)).watermark(13).passes(100).watermark(14)
    play = play.events(event("a", 14.5)).watermark(15).passes(100).watermark(20)
    out = play.run(prism, LiveSettings("sub", early=60 * SECOND))
    early = [score for score in out.scores if score[2] < 0]
    assert early == [("a", 20, -1, 2), ("b", 20, -1, 2)]
    assert total(out.ledger).sequences == len(out.scores)


def test_early_timers_do_not_hold_a_job_that_ends(prism: str) -> None:
    """Without a TestStream, whose end drops them: the only test here that looks at a clock."""
    start = time.monotonic()
    now = time.time()
    stream = PeriodicImpulse(start_timestamp=now, stop_timestamp=now + 1, fire_interval=0.5) | beam.Map(happened)
    out = run(prism, TASK, (int(now) + 20) * SECOND, stream, LiveSettings("sub", early=3600 * SECOND))
    assert {score[:1] + score[2:3] for score in out.scores} == {("a", -1)}
    assert time.monotonic() - start < 1800


def happened(moment: float) -> bytes:
    """An event of this moment, as `run` takes it."""
    block = decode(without_arrival(TASK), table_of([event("a", moment)]), Since(FIRST)).block
    return pickle.dumps((0, block.pack()))


@dataclass
class Script:
    """A random TestStream of a case: bundles in any order, messages again, watermarks that keep their promise."""

    case: Case
    random: Random
    stream: test_stream.TestStream = field(default_factory=lambda: test_stream.TestStream(coder=BytesCoder()))
    watermark: int = -100 * SECOND  # us, whole ms

    def play(self) -> test_stream.TestStream:
        """Files, which hold back the watermark, and messages; in the end all of them."""
        waiting, delivered = list(self.case.messages), list[Message]()
        self.stream = self.stream.advance_watermark_to(self.watermark / SECOND)
        while waiting:
            bundle = [waiting.pop(self.random.randrange(len(waiting))) for _ in range(self._some(len(waiting)))]
            again = self.random.sample(delivered, self._some(len(delivered)) // 2)
            for files, part in groupby(sorted([*bundle, *again], key=lambda m: m.file), lambda m: m.file):
                self._add(list(part), files)
            delivered += [m for m in bundle if not m.file]
            if not any(m.file for m in waiting) and self.random.random() < 0.7:
                self._advance(min([self.case.end, *(m.arrival for m in waiting)]))
            if self.case.previews and self.random.random() < 0.3:
                self.stream = self.stream.advance_processing_time(100)
        self._ticks(self.case.end)
        return self.stream.advance_watermark_to_infinity()

    def _some(self, most: int) -> int:
        return min(most, self.random.choice([1, 2, 4]))

    def _add(self, messages: Sequence[Message], files: bool) -> None:
        arrival, ids = (None, None) if files else columns(messages)
        table = table_of([e for m in messages for e in m.events])
        block = decode(self.case.task, table, self.case.since, None, arrival, ids).block
        parts = [(s, b.pack(), b.arrival) for s, b in split(block, self.case.shards)]
        self._elements((s, raw, int(came.min())) for s, raw, came in parts if came is not None)

    def _advance(self, promise: int) -> None:
        last = max(promise - 1, -1 + self.watermark) // 1000 * 1000
        watermark = self.random.randint(self.watermark // 1000, max(last, self.watermark) // 1000) * 1000
        if watermark > self.watermark:
            self._ticks(watermark)
            self.watermark = watermark
            self.stream = self.stream.advance_watermark_to(Timestamp(micros=watermark))

    def _ticks(self, moment: int) -> None:
        if self.case.by_ticks:
            self._elements([(s, Tick(moment), self.watermark) for s in range(self.case.shards)])

    def _elements(self, elements: Iterable[tuple[int, BlockOrTick, int]]) -> None:
        values = [element(*e) for e in elements]
        if values:
            self.stream = self.stream.add_elements(values)


@pytest.mark.soak
@settings(max_examples=500 if SOAK else 30, derandomize=not SOAK, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(case=cases(), seed=st.integers(0, 1 << 32))
def test_a_stream_on_a_runner_makes_the_scores_of_a_backfill(prism: str, case: Case, seed: int) -> None:
    clock = partial(fixed, case.end / SECOND)
    live = LiveSettings("sub", 60 * SECOND if case.previews and case.end == END else 0, case.by_ticks, clock)
    stream = Script(case, Random(seed)).play()
    out = run(prism, case.task, case.first, stream, live)
    scores: dict[Key, Expected] = {}
    for batch in out.sequences:
        for key, x in rows(batch):
            assert key.revision < 0 or key not in scores
            scores[key] = x
    want = case.expected(case.end)
    assert {key for key in scores if key.revision >= 0} == want.keys()
    assert all(same(scores[key], x) for key, x in want.items())
    assert total(out.ledger).late == len(out.dead) == case.late(case.end)
