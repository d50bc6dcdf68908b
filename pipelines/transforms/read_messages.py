"""Messages of a Pub/Sub subscription as an unbounded source, with a watermark that runs on their arrival.

On Dataflow Beam's own read does it: its watermark follows the publish time of what is not yet acknowledged. Elsewhere
a splittable DoFn pulls. A bundle's messages are acknowledged once the runner has kept the bundle, so none is lost, and
one that comes again has the id and arrival that it had before.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.iobase import RestrictionTracker
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.events.messages import Messages, quality
from pipelines.google.leases import Bundle, Leases, ServiceRefused
from pipelines.google.subscription import client
from pipelines.ledger.counts import DeadLetter, Ledger
from pipelines.ledger.metrics import counter, distribution
from pipelines.runners.base import Runner
from pipelines.system.clock import Clock
from pipelines.transforms.pulled_messages import MOST, GatheredMessages, Pulled, micros_of
from pipelines.transforms.watermark import Together, Watermark

AT_ONCE = 1_000  # messages in a pull
ROUND = 0.2  # s of pulling in a bundle
FEW = 10  # messages in an answer: with fewer there is no backlog
WAIT, PAUSE = 0.2, 1.0  # s to the next bundle: without a backlog; paused
SLOWEST = 30.0  # s to the next pull after many that failed
LOOK = 1.0  # s between looks for the stop file
AT_END = 1_000_000  # us after the present, which may be over before the end of all watermarks has got through
STEP = 1_000_000  # us by which a clock goes back before anybody is told
GONE = 300.0  # s without a bundle: the runner has moved the puller to another process
END = 1 << 60

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubscriptionSource:
    """How a subscription is read."""

    subscription: str  # projects/P/subscriptions/S
    first: int  # us, the first as-of that the job is responsible for
    every: int  # us to the next one
    deadline_s: int  # of a lease, as the subscription has it
    backoff_s: int = 0  # at least, until a message that was given back or lost comes again
    slack: int = 2_000_000  # us, see Watermark
    arrival_attribute: str | None = None  # else the publish time is the arrival
    stop: str | None = None  # a file: when it is there, the source ends

    @property
    def hidden(self) -> int:
        """us for which a message may be leased to nobody."""
        return (self.deadline_s + self.backoff_s) * 1_000_000

    def due(self, after: int | None, until: int) -> bool:
        """Whether an as-of of the job lies in (after, until], us. None: however early."""
        return until >= self.first and (after is None or self.next(after) <= until)

    def next(self, after: int) -> int:
        """The first as-of of the job that is later than a time, us."""
        return max(self.first, after + self.every - (after - self.first) % self.every)


@dataclass(eq=False)
class ReadMessages(beam.PTransform):
    """-> Messages; tagged `dead`: DeadLetter of messages whose arrival nobody can tell, and `ledger`: Ledger of those.

    With an arrival attribute there is one puller, whatever `pullers` says: the clock of arrivals is what that one
    puller has seen. One that gets no messages would know of no time.

    Args:
      runner: may have a read of its own.
      pullers: how many pull at the same time. On Dataflow the service decides.
    """

    source: SubscriptionSource
    runner: Runner
    pullers: int = 1
    job: str = field(default_factory=lambda: uuid.uuid4().hex)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        pulled = self._native(pbegin) if self.runner.reads_pubsub else self._own(pbegin)
        part = beam.ParDo(_Part()).with_output_types(Messages, dead=DeadLetter, ledger=Ledger)
        return pulled | "Part" >> part.with_outputs("dead", "ledger", main="messages")

    def _own(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Pulled]:
        n = 1 if self.source.arrival_attribute else self.pullers
        return (
            pbegin
            | "Pullers" >> beam.Create(range(n), reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Number" >> beam.Map(int)  # else Prism asks the step before the pulls to finalize, and fails
            | "Pull" >> beam.ParDo(_Pull(self.source, self.job, self.runner.settles_early)).with_output_types(Pulled)
        )

    def _native(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Pulled]:
        read = beam.io.ReadFromPubSub(subscription=self.source.subscription, with_attributes=True)
        return pbegin | "Read" >> read | "Gather" >> beam.ParDo(_Gather()).with_output_types(Pulled)


class _Part(beam.DoFn):
    """Its outputs are unbounded because its input is; those of a splittable DoFn would not be if they had tags."""

    def process(self, pulled: Pulled) -> Iterator[Messages | TaggedOutput]:
        if len(pulled.messages) or pulled.messages.tick is not None:
            yield pulled.messages
        for letter in pulled.dead:
            yield TaggedOutput("dead", letter)
        if pulled.dead:
            n, reasons = len(pulled.dead), Counter(letter.reason for letter in pulled.dead)
            yield TaggedOutput("ledger", Ledger(read=n, rejected=n, reasons=tuple(sorted(reasons.items()))))


class _Gather(beam.DoFn):
    """PubsubMessage -> Pulled."""

    def __init__(self) -> None:
        self.messages, self.bundles = counter("messages"), distribution("bundle_messages")

    def start_bundle(self) -> None:
        self.batch = GatheredMessages("")

    def process(self, message: Any) -> Iterator[TimestampedValue]:
        published = micros_of(message.publish_time)
        self.batch.add(message.data or b"", message.message_id, published, dict(message.attributes or {}), None, 0)
        if self.batch.full:
            yield TimestampedValue(*self._done())

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if len(self.batch):
            yield GlobalWindows.windowed_value(*self._done())

    def _done(self) -> tuple[Pulled, Timestamp]:
        batch, self.batch = self.batch, GatheredMessages("")
        self.messages.inc(len(batch))
        self.bundles.update(len(batch))
        return batch.pulled(), Timestamp(micros=min(batch.arrivals))


class _Whole(OffsetRestrictionTracker):
    """Positions are bundles, and the rest is never split: half of the future would be another puller."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(0) if fraction_of_remainder == 0 else None

    def is_bounded(self) -> bool:
        return False


class _Rounds(RestrictionProvider):
    def initial_restriction(self, puller: int) -> OffsetRange:
        return OffsetRange(0, END)

    def create_tracker(self, restriction: OffsetRange) -> RestrictionTracker:
        return _Whole(restriction)

    def restriction_size(self, puller: int, restriction: OffsetRange) -> int:
        return 1

    def split(self, puller: int, restriction: OffsetRange) -> Iterator[OffsetRange]:
        yield restriction

    def truncate(self, puller: int, restriction: OffsetRange) -> None:
        """Ends the rest of a range, when the job is drained."""


@dataclass(eq=False)
class Puller:
    """One puller as this process knows it."""

    job: str
    watermark: Watermark
    position: int | None = None  # where its next bundle begins; None while it is in one
    begun: int = 0  # bundles
    told: list[tuple[int, bool, Bundle]] = field(default_factory=list)  # see `Pullers.settle`; `begun` at that time
    seen: float = 0.0  # s, monotonic
    failures: int = 0  # pulls, in a row
    ack_errors: int = 0  # not counted yet
    stopping: float | None = None  # s, monotonic: since when it is to end
    looked: float = 0.0  # s, monotonic: for the stop file
    paused: bool = False
    back: bool = False  # the clock of this machine was set back


class Pullers:
    """All pullers of this process, and what they hold. A puller that begins where it did not end in this process comes
    from a bundle that was lost or from another worker, which may be dead: what that one had leased is out of sight."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.leases, self.clock = Leases(), clock or Clock()
        self._pullers: dict[tuple[str, int], Puller] = {}
        self._together: dict[str, tuple[str, Together]] = {}  # by subscription, with the job
        self._lock = threading.Lock()

    def begin(self, source: SubscriptionSource, job: str, n: int, position: int) -> Puller:
        """Puller n begins a bundle at a position."""
        now = time.monotonic()
        with self._lock:
            if self._together.get(source.subscription, ("",))[0] != job:
                self._together[source.subscription] = job, Together()
            together = self._together[source.subscription][1]
            for key, puller in list(self._pullers.items()):
                if key[0] == source.subscription and key[1] != n and (puller.job != job or now > puller.seen + GONE):
                    self._drop(key)
            known = self._pullers.get((source.subscription, n))
            same = known is not None and known.job == job
            goes_on = known is not None and same and known.position == position
            if known is None or not goes_on:
                known = Puller(job, Watermark(source.slack, source.arrival_attribute is not None))
                known.watermark.hold(self.clock.steady() + source.hidden)
                self._pullers[source.subscription, n] = known
            known.position, known.seen, known.begun = None, now, known.begun + 1
            together.begin(n, goes_on)
        if not goes_on:
            self.leases.lose(source.subscription, n, position if same else 0)
        return known

    def end(self, source: SubscriptionSource, puller: Puller, n: int, position: int) -> int | None:
        """A bundle ends before a position. Returns the watermark that all pullers here agree on."""
        with self._lock:
            if self._pullers.get((source.subscription, n)) is not puller:
                return None  # another bundle has taken its place
            puller.position, puller.seen = position, time.monotonic()
            return self._together[source.subscription][1].end(n, puller.watermark.value)

    def leave(self, source: SubscriptionSource, n: int) -> None:
        """Puller n has ended for good."""
        with self._lock:
            self._drop((source.subscription, n))

    def settle(self, puller: Puller, bundle: Bundle, early: bool = False) -> None:
        """Acknowledges the messages of a bundle, which the runner has kept.

        Args:
          early: it may say so before the fact. Flink says it when it has heard that a checkpoint is complete, of all
            bundles that have ended by then: the next checkpoint may be the first that has them, or the one after it,
            which may have begun. So it has to say it of a bundle that began after this, and then of one after that.
        """
        sure = [bundle]
        if early:
            with self._lock:
                sure, waiting = [], []
                for begun, again, each in puller.told:
                    if begun >= bundle.number:  # this one began before
                        waiting.append((begun, again, each))
                    elif again:
                        sure.append(each)
                    else:
                        waiting.append((puller.begun, True, each))
                puller.told = [*waiting, (puller.begun, False, bundle)]
        failed = sum(self.leases.settle(b) for b in sure)
        with self._lock:
            puller.ack_errors += failed

    def failed_acks(self, puller: Puller) -> int:
        """How many acknowledgements have failed since the last call."""
        with self._lock:
            n, puller.ack_errors = puller.ack_errors, 0
        return n

    def _drop(self, key: tuple[str, int]) -> None:
        if self._pullers.pop(key, None) is not None:
            self._together[key[0]][1].leave(key[1])


HERE = Pullers()


class _Pull(beam.DoFn):
    """Number of a puller -> one Pulled a bundle, at its earliest arrival."""

    def __init__(self, source: SubscriptionSource, job: str, early: bool) -> None:
        self.source, self.job, self.early = source, job, early
        self.messages, self.bundles = counter("messages"), distribution("bundle_messages")
        self.pull_errors, self.ack_errors = counter("pull_errors"), counter("ack_errors")
        self.paused = counter("paused")
        self.publish_lag, self.watermark_lag = distribution("publish_lag_ms"), distribution("watermark_lag_ms")
        self.clock_back = distribution("clock_back_ms")

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        n: int,
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(_Rounds()),  # noqa: B008
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),  # noqa: B008
    ) -> Iterator[TimestampedValue]:
        source, position = self.source, tracker.current_restriction().start
        puller = HERE.begin(source, self.job, n, position)
        bundle = Bundle(client(), source.subscription, n, position, source.deadline_s, puller.begun)
        settle = partial(HERE.settle, puller, bundle, self.early)
        finalizer.register(settle)  # also of none: Prism finalizes every bundle
        if not tracker.try_claim(position):
            HERE.end(source, puller, n, position)
            return
        before = _micros(estimator.current_watermark())
        why_paused = quality(source.subscription).paused
        if self._ends(puller, before, why_paused is not None):
            tracker.try_claim(END - 1)
            HERE.leave(source, n)
            return
        if why_paused is not None:
            self._pause(puller, n, why_paused)
            HERE.end(source, puller, n, position + 1)
            tracker.defer_remainder(Duration(PAUSE))
            return
        batch = self._round(puller, bundle)
        reached = HERE.end(source, puller, n, position + 1)
        after = before if reached is None else reached // 1_000 * 1_000  # runners know ms
        after = after if before is None or after is None else max(before, after)
        stamped = _stamped(source, batch, before, after)
        if stamped is not None:
            yield stamped
        if after is not None and after != before:
            estimator.set_watermark(Timestamp(micros=after))
        self._measure(puller, batch, after)
        tracker.defer_remainder(Duration(_delay(puller, batch)))

    def _round(self, puller: Puller, bundle: Bundle) -> GatheredMessages:
        """Pulls once, and on while there is a backlog. What comes is leased in `bundle`.

        It does not wait for more to come: Prism takes a quarter of a core while a bundle is open.
        """
        service, batch = client(), GatheredMessages(self.source.subscription)
        end = time.monotonic() + ROUND
        while not batch.full:
            start, wall = HERE.clock.steady(), HERE.clock.wall()
            try:
                got = service.pull(self.source.subscription, min(AT_ONCE, MOST - len(batch)))
            except ServiceRefused as error:
                self._failed(puller, error)
                break
            puller.failures = 0
            if got and not bundle.ids:
                HERE.leases.open(bundle)
            self._take(puller, bundle, batch, (start, wall), got)
            batch.backlog = len(got) >= FEW
            if not batch.backlog or time.monotonic() > end:
                break
        return batch

    def _take(
        self, puller: Puller, bundle: Bundle, batch: GatheredMessages, start: tuple[int, int], got: Sequence[Any]
    ) -> None:
        (steady, wall), latest = start, start[1] + HERE.clock.back()
        by, first = self.source.arrival_attribute, len(batch.arrivals)
        for received in got:
            message = received.message
            published = message.publish_time.seconds * 1_000_000 + message.publish_time.nanos // 1_000
            attributes, deliveries = dict(message.attributes), received.delivery_attempt
            batch.add(message.data, message.message_id, published, attributes, by, latest, deliveries)
        bundle.ids.extend([received.ack_id for received in got])
        arrivals = batch.arrivals[first:]
        puller.watermark.answered(steady, min(arrivals, default=None), max(arrivals, default=None), wall)

    def _failed(self, puller: Puller, error: ServiceRefused) -> None:
        """A pull that broke off may have leased messages to nobody."""
        puller.watermark.hold(HERE.clock.steady() + self.source.hidden)
        puller.failures += 1
        self.pull_errors.inc()
        if puller.failures & (puller.failures - 1) == 0:
            _LOGGER.warning("%s: %d pulls in a row failed: %s", self.source.subscription, puller.failures, error)

    def _pause(self, puller: Puller, n: int, why: str) -> None:
        if not puller.paused:
            _LOGGER.error("%s", why)
        puller.paused = True
        if n == 0:
            self.paused.inc(int(PAUSE))

    def _ends(self, puller: Puller, reached: int | None, paused: bool) -> bool:
        """Whether the source is to end here: the stop file is there, and no as-of that is over waits for its events.

        The end sets all watermarks to the end of time: such an as-of would be scored without events that are still in
        the subscription, or not at all. Waiting has an end too.
        """
        now = time.monotonic()
        if self.source.stop is None or (puller.stopping is None and now < puller.looked + LOOK):
            return False
        if puller.stopping is None:
            puller.looked = now
            if not FileSystems.exists(self.source.stop):
                return False
            puller.stopping = now
        ahead = puller.watermark.newest if self.source.arrival_attribute else HERE.clock.wall() + AT_END
        if paused or ahead is None or not self.source.due(reached, ahead):
            return True
        return now > puller.stopping + (self.source.hidden + 4 * self.source.slack) / 1e6

    def _measure(self, puller: Puller, batch: GatheredMessages, watermark: int | None) -> None:
        wall, back = HERE.clock.wall(), HERE.clock.back()
        newest = puller.watermark.newest
        now = wall if newest is None or self.source.arrival_attribute else max(wall, newest)
        self.ack_errors.inc(HERE.failed_acks(puller))
        self._tell(puller, back)
        if batch.oldest is not None:
            self.messages.inc(len(batch))
            self.bundles.update(len(batch))
            self.publish_lag.update(max(0, now - batch.oldest) // 1_000)
        clock = newest if self.source.arrival_attribute else now
        if watermark is not None and clock is not None:
            self.watermark_lag.update(max(0, clock - watermark) // 1_000)

    def _tell(self, puller: Puller, back: int) -> None:
        """That the clock of this machine was set back, by how much, and when it is where it was."""
        if back > STEP:
            self.clock_back.update(back // 1_000)
        if back > STEP and not puller.back:
            _LOGGER.warning(
                "the clock of this machine went back by %.1f s: until it has come to where it was, the watermark goes "
                "on with the publish times of messages, and stands without any",
                back / 1e6,
            )
        puller.back = back > STEP


def _micros(stamp: Timestamp | None) -> int | None:
    return None if stamp is None else int(stamp.micros)


def _delay(puller: Puller, batch: GatheredMessages) -> float:
    """s to the next bundle of a puller."""
    if puller.failures:
        return float(min(SLOWEST, WAIT * 2 ** min(puller.failures, 10)))
    return 0.0 if batch.backlog else WAIT


def _stamped(
    source: SubscriptionSource, batch: GatheredMessages, before: int | None, after: int | None
) -> TimestampedValue | None:
    """What a bundle yields that moves the watermark from `before` to `after`, None for nothing. It has a tick where
    the watermark passes an as-of, stamped before that, so that it comes before what is due then."""
    stamps = list(batch.arrivals)
    earliest = MIN_TIMESTAMP.micros if before is None else before
    tick = None
    if after is not None and source.due(before, after):
        tick = after
        stamps.append(earliest if before is None else source.next(before) - 1_000)
    if tick is None and not len(batch):
        return None
    return TimestampedValue(batch.pulled(tick), Timestamp(micros=min(stamps, default=earliest)))
