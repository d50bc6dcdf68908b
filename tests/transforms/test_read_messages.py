"""The Pub/Sub source: its parts, and on Prism with an emulator."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from hypothesis import given
from hypothesis import strategies as st

from pipelines.events.messages import Messages, quality
from pipelines.google import leases
from pipelines.google.leases import Bundle
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.transforms import pulled_messages as limits
from pipelines.transforms import read_messages as source
from pipelines.transforms.pulled_messages import AHEAD, GatheredMessages, Pulled, micros_of
from pipelines.transforms.read_messages import (
    END,
    HERE,
    Pullers,
    ReadMessages,
    SubscriptionSource,
    _delay,
    _Gather,
    _Part,
    _stamped,
    _Whole,
)
from tests.support.asked_runners import asked
from tests.support.services import Emulator, emulator

S = 1_000_000
HOUR = 3_600 * S
PATIENCE = 600.0  # s, on a busy machine
SUB = "projects/project/subscriptions/sub"
PLAIN = SubscriptionSource(SUB, first=10 * HOUR, every=HOUR, deadline_s=10)


@given(st.integers(-100, 100), st.integers(1, 30), st.none() | st.integers(-300, 300), st.integers(-300, 300))
def test_due_as_ofs(first: int, every: int, after: int | None, until: int) -> None:
    plan = SubscriptionSource(SUB, first, every, 10)
    as_ofs = range(first, 1_000, every)
    assert plan.due(after, until) == any((after is None or after < t) and t <= until for t in as_ofs)
    if after is not None:
        assert plan.next(after) == next(t for t in as_ofs if t > after)


def batch(*arrivals: int, dead: int = 0) -> GatheredMessages:
    out = GatheredMessages(SUB)
    for i, t in enumerate(arrivals):
        out.add(b"", str(i), t, {}, None, 0)
    for i in range(dead):
        out.add(b"", str(i), 1, {}, "arrived", 0)
    return out


def stamped(
    plan: SubscriptionSource, batch: GatheredMessages, before: int | None, after: int | None
) -> tuple[int | None, int | None]:
    """(tick, timestamp), None where nothing is yielded."""
    found = _stamped(plan, batch, before, after)
    return (None, None) if found is None else (found.value.messages.tick, found.timestamp.micros)


def test_what_is_pulled_is_stamped_with_its_earliest_arrival() -> None:
    assert stamped(PLAIN, batch(7 * HOUR, 5 * HOUR), 1, 2) == (None, 5 * HOUR)
    assert stamped(PLAIN, batch(), 1, 2) == (None, None)
    assert stamped(PLAIN, batch(dead=1), 7, 7) == (None, 7)
    assert stamped(PLAIN, batch(dead=1), None, None) == (None, MIN_TIMESTAMP.micros)


def test_a_tick_comes_before_what_is_due_at_the_as_ofs_that_the_watermark_passes() -> None:
    assert stamped(PLAIN, batch(), 10 * HOUR, 11 * HOUR - 1) == (None, None)
    assert stamped(PLAIN, batch(), 10 * HOUR, 11 * HOUR) == (11 * HOUR, 11 * HOUR - 1_000)
    assert stamped(PLAIN, batch(), 10 * HOUR, 15 * HOUR + 1) == (15 * HOUR + 1, 11 * HOUR - 1_000)
    assert stamped(PLAIN, batch(10 * HOUR + 5), 10 * HOUR, 12 * HOUR) == (12 * HOUR, 10 * HOUR + 5)
    assert stamped(PLAIN, batch(13 * HOUR), 10 * HOUR, 12 * HOUR) == (12 * HOUR, 11 * HOUR - 1_000)
    assert stamped(PLAIN, batch(), None, 9 * HOUR) == (None, None)
    assert stamped(PLAIN, batch(), None, 12 * HOUR) == (12 * HOUR, MIN_TIMESTAMP.micros)


def test_the_rest_of_a_puller_is_never_split() -> None:
    tracker = _Whole(OffsetRange(0, END))
    assert tracker.try_claim(0)
    assert tracker.try_split(0.5) is None
    assert tracker.try_split(0) == (OffsetRange(0, 1), OffsetRange(1, END))
    assert not tracker.is_bounded()
    tracker.check_done()


@dataclass
class Fake:
    given_back: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    def acknowledge(self, subscription: str, ids: Sequence[str]) -> None:
        self.acknowledged += ids

    def lease(self, subscription: str, ids: Sequence[str], seconds: int) -> None:
        self.given_back += ids if seconds == 0 else ()


def one_round(pullers: Pullers, fake: Fake, n: int = 0, position: int = 0, job: str = "job") -> tuple[Any, Bundle]:
    puller = pullers.begin(PLAIN, job, n, position)
    bundle = Bundle(fake, SUB, n, position, 10, puller.begun, [f"{n}-{position}"])
    pullers.leases.open(bundle)
    return puller, bundle


def test_a_puller_goes_on_where_it_ended() -> None:
    pullers, fake = Pullers(), Fake()
    first, a = one_round(pullers, fake)
    pullers.end(PLAIN, first, 0, 1)
    again, b = one_round(pullers, fake, position=1)
    assert again is first
    pullers.settle(first, a)
    pullers.settle(first, b)
    assert fake.given_back == []
    assert len(pullers.leases) == 0


def test_a_runner_that_tells_too_early_is_believed_when_it_has_told_of_two_later_bundles() -> None:
    pullers, fake = Pullers(), Fake()
    puller, first = one_round(pullers, fake)
    bundles = [first]
    for position in (1, 2):  # each begins before the runner tells of the one before
        pullers.end(PLAIN, puller, 0, position)
        bundles.append(one_round(pullers, fake, position=position)[1])
    pullers.end(PLAIN, puller, 0, 3)
    for bundle in bundles:  # a checkpoint is complete, which need not have them
        pullers.settle(puller, bundle, early=True)
    for position, sure in ((3, []), (4, ["0-0", "0-1", "0-2"]), (5, ["0-0", "0-1", "0-2", "0-3"])):
        _, bundle = one_round(pullers, fake, position=position)
        pullers.end(PLAIN, puller, 0, position + 1)
        pullers.settle(puller, bundle, early=True)
        assert fake.acknowledged == sure
    pullers.begin(PLAIN, "job", 0, 5)  # told of, and lost all the same
    assert fake.given_back == ["0-5"]


@pytest.mark.parametrize(
    ("job", "position", "back"), [("job", 1, ["0-1"]), ("job", 0, ["0-0", "0-1"]), ("x", 0, ["0-0", "0-1"])]
)
def test_a_puller_that_begins_elsewhere_holds_and_gives_back_what_was_lost(
    job: str, position: int, back: list[str]
) -> None:
    pullers, fake = Pullers(), Fake()
    first, _ = one_round(pullers, fake)
    pullers.end(PLAIN, first, 0, 1)
    one_round(pullers, fake, position=1)
    pullers.end(PLAIN, first, 0, 2)
    again = pullers.begin(PLAIN, job, 0, position)
    assert again is not first
    assert again.watermark._until is not None
    assert fake.given_back == back


def test_a_bundle_that_broke_off_is_lost_though_it_begins_where_it_did() -> None:
    pullers, fake = Pullers(), Fake()
    first, _ = one_round(pullers, fake, position=0)
    assert pullers.begin(PLAIN, "job", 0, 0) is not first
    assert fake.given_back == ["0-0"]


def test_nothing_is_left_of_pullers_that_ended_or_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pullers, fake = Pullers(), Fake()
    for n in range(3):
        puller, b = one_round(pullers, fake, n)
        pullers.end(PLAIN, puller, n, 1)
        pullers.settle(puller, b)
    pullers.leave(PLAIN, 0)
    assert {n for _, n in pullers._pullers} == {1, 2}
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + source.GONE + 1)
    pullers.begin(PLAIN, "job", 2, 1)
    assert {n for _, n in pullers._pullers} == {2}
    pullers.begin(PLAIN, "another job", 5, 0)
    assert {n for _, n in pullers._pullers} == {5}


def test_a_bundle_that_another_one_has_replaced_changes_nothing() -> None:
    pullers, fake = Pullers(), Fake()
    first, _ = one_round(pullers, fake)
    again = pullers.begin(PLAIN, "job", 0, 0)
    assert pullers.end(PLAIN, first, 0, 1) is None
    assert first.position is again.position is None
    pullers.leave(PLAIN, 0)
    assert pullers.end(PLAIN, again, 0, 1) is None


def test_the_wait_after_failed_pulls_grows_to_its_limit() -> None:
    puller = Pullers().begin(PLAIN, "job", 0, 0)
    waits = []
    for failures in (0, 1, 2, 5, 20, 5_000):
        puller.failures = failures
        waits.append(_delay(puller, batch()))
    assert waits == [0.2, 0.4, 0.8, 6.4, source.SLOWEST, source.SLOWEST]
    puller.failures = 0
    assert _delay(puller, GatheredMessages(SUB, backlog=True)) == 0


def test_refused_messages_are_parted_and_counted() -> None:
    letter = DeadLetter("read", SUB, "message 1", "attribute x is missing", 1, "", b"", ())
    other = replace(letter, reason="attribute x is neither")
    empty = batch().pulled()
    found: list[Any] = list(_Part().process(Pulled(empty.messages, (letter, other, letter))))
    assert [f.value for f in found] == [
        letter,
        other,
        letter,
        Ledger(read=3, rejected=3, reasons=(("attribute x is missing", 2), ("attribute x is neither", 1))),
    ]
    for pulled in (batch(1, 2).pulled(), batch().pulled(7)):
        assert list(_Part().process(pulled)) == [pulled.messages]


def test_dataflow_reads_natively_by_publish_time() -> None:
    p = beam.Pipeline()
    out = p | ReadMessages(PLAIN, asked("--runner=DataflowRunner", live=True))
    assert not out.messages.is_bounded
    assert not out.dead.is_bounded
    reads: list[ReadFromPubSub] = []

    class Find(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node: Any) -> None:
            if isinstance(node.transform, ReadFromPubSub):
                reads.append(node.transform)

    p.visit(Find())
    (read,) = reads
    assert read.with_attributes
    assert read._source.full_subscription == SUB
    assert read._source.timestamp_attribute is None
    assert read._source.id_label is None


def test_dataflow_s_messages_are_gathered_by_bundle() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    sent = [PubsubMessage(b"%d" % i, {"a": "b"}, f"id{i}", moment) for i in range(10)]
    seen: list[Any] = []

    def check(found: list[tuple[Pulled, Timestamp]]) -> None:
        seen.extend(found)
        assert sorted(d for pulled, _ in found for d in pulled.messages.data) == [m.data for m in sent]
        assert len(found) < len(sent)
        for pulled, stamp in found:
            assert set(pulled.messages.arrival.tolist()) == {micros_of(moment)}
            assert stamp.micros // 1_000 == micros_of(moment) // 1_000

    with beam.Pipeline("FnApiRunner") as p:
        gathered = p | beam.Create(sent, reshuffle=False) | beam.ParDo(_Gather())
        assert_that(gathered | beam.Map(lambda x, t=beam.DoFn.TimestampParam: (x, t)), check)


def test_a_full_batch_does_not_wait_for_the_end_of_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", 3)
    gather = _Gather()
    gather.start_bundle()
    message = PubsubMessage(b"x", None, "id", datetime(2026, 1, 2, tzinfo=UTC))
    found = [out for _ in range(7) for out in gather.process(message)]
    assert [len(f.value.messages) for f in found] == [3, 3]
    assert all(isinstance(f, TimestampedValue) for f in found)
    assert [len(f.value.messages) for f in gather.finish_bundle()] == [1]


# On Prism. What a job does is seen in this process: the workers are its threads.

SEEN: list[Messages] = []
STAMPS: list[int] = []
DEAD: list[DeadLetter] = []
FIRED: list[tuple[int, set[bytes], int | None]] = []  # (time of a timer, data seen before it, newest tick)
HOOKS: list[Callable[[Messages], None]] = []


class Look(beam.DoFn):
    def process(self, m: Messages, stamp: Any = beam.DoFn.TimestampParam) -> Iterator[tuple[str, bytes]]:
        for hook in HOOKS:
            hook(m)
        SEEN.append(m)
        STAMPS.append(stamp.micros)
        yield from (("all", data) for data in m.data)


class Wait(beam.DoFn):
    """Fires when the watermark has passed the time that a payload `until <us>` names."""

    BAG = BagStateSpec("bag", BytesCoder())
    DUE = TimerSpec("due", beam.TimeDomain.WATERMARK)

    def process(
        self,
        pair: tuple[str, bytes],
        bag: Any = beam.DoFn.StateParam(BAG),  # noqa: B008
        due: Any = beam.DoFn.TimerParam(DUE),  # noqa: B008
    ) -> None:
        bag.add(pair[1])
        if pair[1].startswith(b"until"):
            due.set(Timestamp(micros=int(pair[1].split()[1])))

    @on_timer(DUE)
    def fire(self, at: Any = beam.DoFn.TimestampParam, bag: Any = beam.DoFn.StateParam(BAG)) -> None:  # noqa: B008
        ticks = [m.tick for m in SEEN if m.tick is not None]
        FIRED.append((at.micros, set(bag.read()), max(ticks, default=None)))


class Bury(beam.DoFn):
    def process(self, letter: DeadLetter) -> None:
        DEAD.append(letter)


@dataclass
class Job:
    result: Any
    stop: Path

    def counter(self, name: str) -> int:
        return sum(c.result or 0 for c in self.result.metrics().query()["counters"] if c.key.metric.name == name)

    def distribution(self, name: str) -> Any:
        (found,) = [d.result for d in self.result.metrics().query()["distributions"] if d.key.metric.name == name]
        return found

    def drain(self) -> None:
        self.stop.touch()
        assert self.result.wait_until_finish(600_000) == "DONE"


@pytest.fixture
def start(
    prism: str, pubsub: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Job]]:
    """Starts jobs; those still running at the end are stopped."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    for seen in (SEEN, STAMPS, DEAD, FIRED, HOOKS):
        seen.clear()
    jobs: list[Job] = []

    def begin(plan: SubscriptionSource, pullers: int = 1) -> Job:
        stop = tmp_path / f"stop{len(jobs)}"
        flags = ["--streaming", f"--job_endpoint={prism}", "--environment_type=LOOPBACK"]
        p = beam.Pipeline("PortableRunner", PipelineOptions(flags))
        out = p | ReadMessages(replace(plan, stop=str(stop)), asked(live=True), pullers)
        assert not out.messages.is_bounded
        out.messages | beam.ParDo(Look()).with_output_types(tuple[str, bytes]) | beam.ParDo(Wait())
        out.dead | beam.ParDo(Bury())
        jobs.append(Job(p.run(), stop))
        return jobs[-1]

    yield begin
    HOOKS.clear()
    for job in jobs:
        job.stop.touch()
        with suppress(RuntimeError):  # it has failed
            job.result.wait_until_finish(600_000)


def wait(until: Callable[[], object], timeout: float = PATIENCE) -> None:
    end = time.monotonic() + timeout
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def far(subscription: str, **settings: Any) -> SubscriptionSource:
    """Its first as-of is years ahead. Leases are short, so that the hold at the start is."""
    plan = SubscriptionSource(subscription, first=4_000_000_000 * S, every=HOUR, deadline_s=1, slack=S // 2)
    return replace(plan, **settings)


def test_every_message_is_read_and_acknowledged_once(start: Callable[..., Job], pubsub: Emulator) -> None:
    topic = pubsub.topic("once")
    job = start(far(pubsub.subscription(topic)))
    sent = [b"%d" % i for i in range(20_000)]
    pubsub.publish(topic, sent, [{"k": "v"}] * len(sent))
    counts = pubsub.wait_until_acked(topic, messages=len(sent))
    assert (counts.acks, counts.deliveries) == (20_000, 20_000)
    job.drain()
    assert sorted(d for m in SEEN for d in m.data) == sorted(sent)
    assert {len(m) == len(m.id) == len(m.arrival) == len(m.attributes) for m in SEEN} == {True}
    assert SEEN[0].attributes[0] == {"k": "v"}
    assert len({i for m in SEEN for i in m.id}) == 20_000
    assert [int(m.arrival.min()) // 1_000 for m in SEEN] == [s // 1_000 for s in STAMPS]
    assert len(SEEN) < 1_000
    assert job.counter("messages") == job.distribution("bundle_messages").sum == 20_000
    assert job.counter("ack_errors") == job.counter("pull_errors") == 0
    assert len(HERE.leases) == 0
    assert HERE._pullers == {}


def test_several_pullers_share_the_work_at_the_same_time(
    start: Callable[..., Job], pubsub: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, threads = threading.Barrier(2, timeout=PATIENCE), set[int]()
    round = source._Pull._round

    def meet(self: Any, puller: Any, bundle: Bundle) -> GatheredMessages:
        if not both.broken and len(threads) < 2:
            both.wait()  # only when two are here at once
            threads.add(threading.get_ident())
        return round(self, puller, bundle)

    monkeypatch.setattr(source._Pull, "_round", meet)
    topic = pubsub.topic("shared")
    name = pubsub.subscription(topic)
    pubsub.publish(topic, [b"%d" % i for i in range(5_000)])
    job = start(far(name), pullers=2)
    assert pubsub.wait_until_acked(topic, messages=5_000).deliveries == 5_000
    assert len(threads) == 2
    assert not both.broken
    job.drain()
    assert sum(map(len, SEEN)) == 5_000


@pytest.mark.parametrize("pullers", [1, 2])
def test_the_watermark_of_an_idle_subscription_moves_on(
    start: Callable[..., Job], pubsub: Emulator, pullers: int
) -> None:
    topic = pubsub.topic(f"idle{pullers}")
    start(far(pubsub.subscription(topic)), pullers)
    until = time.time_ns() // 1_000 + 2 * S
    pubsub.publish(topic, [b"a", b"until %d" % until])
    wait(lambda: FIRED)
    assert time.time() - until / S >= 0.5
    assert pubsub.counts(topic).outstanding == 0


def test_messages_of_a_dead_worker_come_before_the_watermark_passes_them(
    start: Callable[..., Job], pubsub: Emulator
) -> None:
    topic = pubsub.topic("dead")
    name = pubsub.subscription(topic)
    pubsub.publish(topic, [b"lost %d" % i for i in range(100)])
    with pubsub.subscriber() as other:  # and dies
        request = {"subscription": name, "max_messages": 60}
        ids = [message.ack_id for message in other.pull(request=request, timeout=PATIENCE).received_messages]
        assert len(ids) == 60
        other.modify_ack_deadline(request={"subscription": name, "ack_ids": ids, "ack_deadline_seconds": 1})
    until = time.time_ns() // 1_000
    pubsub.publish(topic, [b"until %d" % until])
    start(far(name, deadline_s=5))
    wait(lambda: FIRED)
    assert len(FIRED[0][1]) == 101
    assert sum(map(len, SEEN)) == 101


@pytest.mark.soak
def test_a_slow_bundle_keeps_its_leases(
    start: Callable[..., Job], pubsub: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that jumps to where a lease is to be extended; in a soak by the real one, beyond the ack deadline."""
    topic = pubsub.topic("slow")
    done, extended, lease = threading.Event(), threading.Event(), leases.Leases._lease

    def told(self: leases.Leases, bundle: Bundle, seconds: int) -> None:
        lease(self, bundle, seconds)
        extended.set()

    def slow(m: Messages) -> None:
        if not done.is_set():
            done.set()
            if "FORETIDE_SOAK" in os.environ:
                time.sleep(14)
            else:
                monkeypatch.setattr(HERE.leases, "_clock", lambda: time.monotonic() + 4)
            assert extended.wait(PATIENCE)

    monkeypatch.setattr(leases.Leases, "_lease", told)
    monkeypatch.setattr(leases, "TICK", 0.1)
    HOOKS.append(slow)
    name = pubsub.subscription(topic)
    start(far(name, deadline_s=10), pullers=2)  # the other one would get them again
    pubsub.publish(topic, [b"%d" % i for i in range(50)])
    wait(done.is_set)
    counts = pubsub.wait_until_acked(topic, messages=50)
    assert counts.deliveries == counts.acks == 50


def test_messages_of_a_failed_bundle_come_back_at_once_in_the_next_job(
    start: Callable[..., Job], pubsub: Emulator
) -> None:
    topic = pubsub.topic("failed")
    name = pubsub.subscription(topic, ack_deadline_seconds=600)

    def fail(m: Messages) -> None:
        raise ValueError("no more")

    HOOKS.append(fail)
    job = start(far(name, deadline_s=600))
    pubsub.publish(topic, [b"%d" % i for i in range(50)])
    with pytest.raises(RuntimeError, match="no more"):
        job.result.wait_until_finish(600_000)
    HOOKS.clear()
    assert pubsub.counts(topic).acks == 0
    start(far(name, deadline_s=600))
    pubsub.wait_until_acked(topic, PATIENCE, messages=50)
    assert sorted(d for m in SEEN for d in m.data) == sorted(b"%d" % i for i in range(50))


def test_a_service_that_goes_and_comes_back_does_not_end_the_job(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with emulator() as own:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", own.address)
        topic = own.topic("gone")
        name = own.subscription(topic)
        job = start(far(name))
        own.publish(topic, [b"before"])
        own.wait_until_acked(topic, messages=1)
        own.kill()
        wait(lambda: "pulls in a row failed" in caplog.text)
        own.start()
        topic = own.topic("gone")
        own.subscription(topic)
        own.publish(topic, [b"after"])
        own.wait_until_acked(topic, messages=1)
        job.drain()
    assert [d for m in SEEN for d in m.data] == [b"before", b"after"]
    assert job.counter("pull_errors") > 0


def test_a_pause_pulls_nothing_and_says_why_once(
    start: Callable[..., Job], pubsub: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    topic = pubsub.topic("paused")
    name = pubsub.subscription(topic)
    job = start(far(name))
    pubsub.publish(topic, [b"good"])
    pubsub.wait_until_acked(topic, messages=1)
    quality(name).paused = "9 of 10 rows are bad"
    wait(lambda: "9 of 10 rows are bad" in caplog.text)
    pubsub.publish(topic, [b"waits", b"until 0"])
    at = HERE._pullers[name, 0].position or 0
    wait(lambda: (HERE._pullers[name, 0].position or 0) >= at + 2)
    assert pubsub.counts(topic).deliveries == 1
    assert caplog.text.count("9 of 10 rows are bad") == 1
    job.drain()
    assert [d for m in SEEN for d in m.data] == [b"good"]
    assert job.counter("paused") >= 2


def test_the_end_waits_for_the_as_of_that_is_over(
    start: Callable[..., Job], pubsub: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that belong to it are read before all watermarks end, though they come after the end was asked for."""
    topic = pubsub.topic("end")
    name = pubsub.subscription(topic)
    first = time.time_ns() // 1_000 + 2 * S
    ends, asked = source._Pull._ends, threading.Event()

    def publish(self: Any, puller: Any, *rest: Any) -> bool:
        done = ends(self, puller, *rest)
        if puller.stopping is not None and not asked.is_set():
            asked.set()
            pubsub.publish(topic, [b"last", b"until %d" % first])
        return done

    monkeypatch.setattr(source._Pull, "_ends", publish)
    job = start(far(name, first=first, deadline_s=2))
    wait(lambda: time.time_ns() // 1_000 > first)
    job.drain()
    assert asked.is_set()
    assert [(at, len(data)) for at, data, _ in FIRED] == [(first // 1_000 * 1_000, 2)]
    assert pubsub.counts(topic).outstanding == 0


def test_by_attribute_the_clock_follows_the_messages(start: Callable[..., Job], pubsub: Emulator) -> None:
    topic = pubsub.topic("replayed")
    plan = far(pubsub.subscription(topic), first=10 * HOUR, arrival_attribute="arrived")
    job = start(plan, pullers=3)

    def send(time: int | None, data: bytes) -> None:
        pubsub.publish(topic, [data], [{} if time is None else {"arrived": str(time)}])

    send(10 * HOUR + 1, b"until %d" % (11 * HOUR))
    send(11 * HOUR - 1, b"a")
    send(None, b"dead")
    send(AHEAD * 40_000, b"ns")
    pubsub.wait_until_acked(topic, messages=4)
    wait(lambda: any(m.tick is not None for m in SEEN))  # 10 h
    assert not FIRED
    send(11 * HOUR, b"b")
    wait(lambda: FIRED)
    at, data, tick = FIRED[0]
    assert at == 11 * HOUR
    assert data >= {b"a", b"until %d" % (11 * HOUR)}
    assert tick is not None
    assert 11 * HOUR - 1_000 < tick <= 11 * HOUR
    assert {letter.payload for letter in DEAD} == {b"dead", b"ns"}
    job.drain()
    assert pubsub.counts(topic).acked == 5
