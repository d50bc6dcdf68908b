"""Every metric of a pipeline: what it counts, in which unit, and what to do when it moves.

Transforms ask for theirs by name; a name that is not in the table is an error. docs/metrics.md is made of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import Counter, Distribution

NAMESPACE = "foretide"
Kind = Literal["counter", "distribution"]


@dataclass(frozen=True)
class Metric:
    """One row of the table. A distribution has count, sum, min and max of its values."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    remedy: str


def _counter(name: str, unit: str, meaning: str, remedy: str) -> Metric:
    return Metric(name, "counter", unit, meaning, remedy)


def _distribution(name: str, unit: str, meaning: str, remedy: str) -> Metric:
    return Metric(name, "distribution", unit, meaning, remedy)


METRICS: tuple[Metric, ...] = (
    _counter(
        "messages",
        "messages",
        "Messages taken from the subscription, with those that come again.",
        "Stands still while the subscription has a backlog: look at pull_errors and paused.",
    ),
    _counter(
        "events",
        "events",
        "Events found in what was read, before any of them is judged.",
        "Falls with messages unchanged: the publisher sends heartbeats or empty lists.",
    ),
    _counter(
        "rejected",
        "events",
        "Refused events, each a dead letter: a field is missing or wrong, or the time too far ahead of the arrival.",
        "Read the reasons in the view dead_letters; mend the publisher or the task, then replay them.",
    ),
    _counter(
        "outside",
        "events",
        "Events that no score can use any more: older than the history of the first as-of that could take them.",
        "Expected after a long outage or a replay; otherwise the publisher's clock is wrong or the history too short.",
    ),
    _counter("filtered", "events", "Events that the task's filter leaves out.", "None: it is what the task asks for."),
    _counter("accepted", "events", "Events that count, once each.", "Falls: look at rejected, outside and duplicates."),
    _counter(
        "duplicates",
        "events",
        "Copies of events that had been accepted: the same identity, or the same message again.",
        "Rises after a restart, which is harmless. Always high: the ack deadline is shorter than a checkpoint, "
        "or the publisher repeats itself.",
    ),
    _counter(
        "late",
        "events",
        "Accepted events that came too late to correct the score they belong to; later scores use them.",
        "Raise score.allowed_lateness, or find what holds them back before they are published.",
    ),
    _counter(
        "behind",
        "events",
        "Events with an arrival before a boundary that had been scored: the watermark broke its promise.",
        "Must stay 0; the scores in question are corrected. Start the job again if the ack deadline of its "
        "subscription was raised, or if something else pulls from it.",
    ),
    _counter("scores_early", "scores", "Scores before their as-of, to be replaced.", "None: set by --early."),
    _counter(
        "scores_on_time",
        "scores",
        "Scores at their as-of, revision 0.",
        "Stands still over an as-of: look at watermark_lag_ms, and at paused.",
    ),
    _counter(
        "scores_corrected",
        "scores",
        "Scores made again because their history gained events in the allowed lateness.",
        "Rises: events come later than they did. Shorten their way, or lower score.allowed_lateness to save work.",
    ),
    _counter(
        "dead_letters",
        "letters",
        "Dead letters written: refused and late events, and entities that the model could not score.",
        "Read the view dead_letters. Too many of them pause the job, see paused.",
    ),
    _counter(
        "unscored",
        "sequences",
        "Sequences that the model could not score, each a dead letter.",
        "Read the reasons of the dead letters of stage infer: a value that is not finite, or an error of the model.",
    ),
    _counter(
        "rows_missing",
        "rows",
        "Scores that were appended to the table in BigQuery and were not there at the next look at their as-of.",
        "Must stay 0. The log and the ledger's differences name the as-of: find who deletes rows (the audit log of the "
        "table tells), and run foretide score for that as-of.",
    ),
    _counter(
        "archived",
        "messages",
        "Messages written to the archive.",
        "Behind messages for long: the archive's disk or bucket is slow or full.",
    ),
    _counter(
        "pull_errors",
        "requests",
        "Pulls that the service refused or did not answer. The watermark waits meanwhile.",
        "A few are normal. Steady: check the network, permissions and quota of the subscription.",
    ),
    _counter(
        "ack_errors",
        "requests",
        "Acknowledgements that failed. The messages come again and count once.",
        "As for pull_errors.",
    ),
    _counter(
        "models_swapped",
        "models",
        "Changes to another model version, counted in every process.",
        "None: follows a promotion or a roll back.",
    ),
    _counter(
        "models_refused",
        "models",
        "Promoted versions that did not fit the task or did not load. The last good one serves on.",
        "Read the log of the worker; roll back, or promote a version made for this task.",
    ),
    _counter(
        "paused",
        "seconds",
        "Time for which nothing was pulled, because too many of the last events were refused.",
        "Mend the publisher, or the task; messages wait in the subscription meanwhile. See --max-bad-share.",
    ),
    _distribution(
        "event_lag_ms",
        "ms",
        "Arrival after event time, of accepted events.",
        "Its upper end beyond score.allowed_lateness becomes late.",
    ),
    _distribution(
        "publish_lag_ms",
        "ms",
        "From publication to the pull: the age of the backlog.",
        "Rises without end: the job is too slow. Give it more workers or shards; see model_ms.",
    ),
    _distribution(
        "watermark_lag_ms",
        "ms",
        "The source's watermark behind the clock. Scores come this long after their as-of, at least.",
        "Rises: old messages come again (ack deadline), or pulls fail (pull_errors). A restart holds it for a while.",
    ),
    _distribution(
        "clock_back_ms",
        "ms",
        "The clock of the machine that pulls, behind where it has been: somebody set it back.",
        "Until it is where it was the watermark goes on with the publish times of messages, and stands without any. "
        "Let the clock follow a time server that does not step (chrony, systemd-timesyncd).",
    ),
    _distribution(
        "boundary_lag_ms",
        "ms",
        "The clock when a boundary is processed, after the boundary: the delay of scores on time.",
        "More than watermark_lag_ms: the workers are busy, or one shard is large (history_events).",
    ),
    _distribution(
        "bundle_messages",
        "messages",
        "Messages in one round of pulls.",
        "Near 1 under load: the cost of a bundle dominates. Near the maximum: there is a backlog.",
    ),
    _distribution(
        "batch_fill_percent",
        "percent",
        "Sequences in a batch of the model, of those that fit.",
        "Low with much to score: lower --batch-size, or use fewer shards.",
    ),
    _distribution(
        "model_ms",
        "ms",
        "One call of the model.",
        "Rises with the machine's load; see --engine, --device and --batch-size.",
    ),
    _distribution(
        "history_events",
        "events",
        "Events kept in the state of a shard, at a boundary.",
        "One shard far above the rest: an entity with very many events. All high: use more shards in the next job.",
    ),
    _distribution(
        "state_bytes",
        "bytes",
        "Size of the state of a shard, at a boundary.",
        "Above 10 MB a shard: use more shards in the next job.",
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def counter(name: str) -> Counter:
    """The counter of this name; KeyError if the table has none."""
    _check(name, "counter")
    return Metrics.counter(NAMESPACE, name)


def distribution(name: str) -> Distribution:
    """The distribution of this name, of whole numbers; KeyError if the table has none."""
    _check(name, "distribution")
    return Metrics.distribution(NAMESPACE, name)


def _check(name: str, kind: Kind) -> None:
    if BY_NAME[name].kind != kind:
        raise KeyError(f"{name} is a {BY_NAME[name].kind}, not a {kind}")
