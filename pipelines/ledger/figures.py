"""What a running job tells about itself: its metrics as numbers, as a line while it runs and as a screen at its end.

Where the numbers come from is `pipelines.runners.portable`; what each one means is `pipelines.ledger.metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from apache_beam.metrics.metric import MetricResult, MetricResults, MetricsFilter

from pipelines.ledger.metrics import METRICS, NAMESPACE
from pipelines.system.screen import duration, quantity, tell

ALARMS = {  # shown as soon as there are any, in this order
    "behind": "behind the watermark",
    "late": "late",
    "duplicates": "duplicates",
    "rejected": "bad",
    "dead_letters": "dead letters",
    "pull_errors": "pull errors",
    "ack_errors": "ack errors",
    "models_refused": "models refused",
    "rows_missing": "rows missing",
}


@dataclass(frozen=True)
class Distribution:
    """A distribution. `minimum` and `maximum` are 0 where there is no value."""

    count: int = 0
    total: int = 0
    minimum: int = 0
    maximum: int = 0

    @property
    def mean(self) -> float | None:
        """The mean; None where there is no value."""
        return self.total / self.count if self.count else None

    def __add__(self, other: Distribution) -> Distribution:
        if not self.count or not other.count:
            return self if self.count else other
        low, high = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return Distribution(self.count + other.count, self.total + other.total, low, high)


@dataclass(frozen=True)
class Figures:
    """The metrics of a job, each over all its steps, since it began. One that was never touched is 0."""

    counters: Mapping[str, int] = field(default_factory=dict)
    distributions: Mapping[str, Distribution] = field(default_factory=dict)

    def count(self, name: str) -> int:
        return self.counters.get(name, 0)

    def spread(self, name: str) -> Distribution:
        return self.distributions.get(name, Distribution())

    def recent(self, name: str, before: Figures) -> float | None:
        """The mean of a distribution's values since an earlier look; None where there are none."""
        now, then = self.spread(name), before.spread(name)
        return Distribution(now.count - then.count, now.total - then.total).mean


def collect(results: MetricResults) -> Figures:
    """The project's metrics of a job: committed ones, or attempted where the runner knows no others."""
    found: Mapping[str, Iterable[MetricResult]] = results.query(MetricsFilter().with_namespace(NAMESPACE))
    counters: dict[str, int] = {}
    distributions: dict[str, Distribution] = {}
    for counter in found["counters"]:
        name = counter.key.metric.name
        counters[name] = counters.get(name, 0) + int(counter.result or 0)
    for distribution in found["distributions"]:
        name, d = distribution.key.metric.name, distribution.result
        if d is not None and d.count:
            distributions[name] = distributions.get(name, Distribution()) + Distribution(d.count, d.sum, d.min, d.max)
    return Figures(counters, distributions)


def line(now: Figures, before: Figures, seconds: float) -> str:
    """What happened in the last `seconds`, and what has come together since the start. Such as `1.2 k messages/s,
    1.2 k events/s, lag 0.2 s, watermark 2.1 s behind; scores 120 early, 4.8 k on time, 35 corrected; 20 duplicates`.
    """
    rates = [
        f"{quantity((now.count(name) - before.count(name)) / max(seconds, 1e-9))} {name}/s"
        for name in ("messages", "events")
    ]
    lag, watermark = now.recent("publish_lag_ms", before), now.recent("watermark_lag_ms", before)
    rates += [] if lag is None else [f"lag {lag / 1000:.1f} s"]
    rates += [] if watermark is None else [f"watermark {watermark / 1000:.1f} s behind"]
    kinds = ("early", "on_time", "corrected")
    scores = [f"{quantity(now.count(f'scores_{kind}'))} {kind.replace('_', ' ')}" for kind in kinds]
    alarms = [f"{quantity(n)} {words}" for name, words in ALARMS.items() if (n := now.count(name))]
    back = now.recent("clock_back_ms", before)
    if back is not None:
        alarms.insert(0, f"CLOCK WENT BACK {back / 1000:.1f} s: without messages the watermark waits for it")
    if now.count("paused") > before.count("paused"):
        alarms.insert(0, "PAUSED: too many of the last events are bad")
    return "; ".join(filter(None, (", ".join(rates), "scores " + ", ".join(scores), ", ".join(alarms))))


def last_screen(figures: Figures, seconds: float) -> str:
    """The last screen: every metric that moved."""
    events = figures.count("events")
    lines = [
        f"time        {duration(seconds)}, {quantity(events / max(seconds, 1e-9))} events/s",
    ]
    for metric in METRICS:
        if metric.kind == "counter" and (n := figures.count(metric.name)):
            lines.append(f"  {metric.name:<18} {n:>14,}")
    for metric in METRICS:
        spread = figures.spread(metric.name)
        if metric.kind == "distribution" and spread.mean is not None:
            values = f"mean {spread.mean:,.0f}, {spread.minimum:,} to {spread.maximum:,}"
            lines.append(f"  {metric.name:<18} {values}")
    return "\n".join(lines)


@dataclass
class FigureLines:
    """Shows figures: a line every `every` seconds, and one for the end. On a terminal each one replaces the last."""

    stream: TextIO
    every: float
    since: float  # the time of the last line, s
    before: Figures = field(default_factory=Figures)
    latest: tuple[float, Figures] | None = None  # that no line has shown

    def show(self, now: float, figures: Figures) -> None:
        self.latest = (now, figures)
        if now >= self.since + self.every:
            self._print()

    def note(self, text: str) -> None:
        """Writes a line that stays."""
        tell(self.stream, text)

    def close(self) -> None:
        if self.latest is not None:
            self._print()
        if self.stream.isatty():
            print(file=self.stream, flush=True)

    def _print(self) -> None:
        assert self.latest is not None
        now, figures = self.latest
        tell(self.stream, line(figures, self.before, now - self.since), stays=False)
        self.since, self.before, self.latest = now, figures, None
