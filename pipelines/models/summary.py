"""What a raw sequence says in a few numbers: how much, how often, how lately, for how long. A part of preprocessing.

Every number is a fixed function of the row, in TensorFlow, so that it is exported with the model.
"""

from __future__ import annotations

from itertools import pairwise

import tensorflow as tf

from pipelines.task.spec import Task

LARGEST = 1e30  # so that sums are finite


def periods(steps: int) -> list[int]:
    """Numbers of last steps to look at, each about 1.4 times the one before, and all.

    >>> periods(26)
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 26]
    """
    powers = [1 << i for i in range(steps.bit_length())]
    return sorted({p for p in (*powers, *(3 * p // 2 for p in powers[1:])) if p < steps} | {steps})


def summary(task: Task, x: tf.Tensor) -> tf.Tensor:
    """Summarises each row: f4 (B, steps, features), raw -> f4 (B, k), finite."""
    x = tf.clip_by_value(x, -LARGEST, LARGEST)
    relative = [i for i, f in enumerate(task.features) if f.scale == "relative" and f.vocabulary is None]
    amounts = [i for i, f in enumerate(task.features) if i not in relative and f.quantity]
    parts = [_levels(task, x[:, :, i]) for i in relative]
    if amounts:
        parts += [_amounts(task, tf.gather(x, amounts, axis=2)), _times(task, x, active(task, x))]
    return tf.concat(parts, axis=1)


def active(task: Task, x: tf.Tensor) -> tf.Tensor:
    """f4 (B, steps), raw -> 1.0 where a step has events: a count, or where there is none any amount, is not 0."""
    counts = [i for i, f in enumerate(task.features) if f.aggregation.measures == "count" and f.reads == "nothing"]
    columns = counts or [i for i, f in enumerate(task.features) if f.quantity and f.zero]
    return tf.cast(tf.reduce_any(tf.gather(x, columns, axis=2) != 0, axis=2), tf.float32)


def _amounts(task: Task, x: tf.Tensor) -> tf.Tensor:
    """Of each column the sums over the last steps and between two periods, and the largest value.

    Sums go along the last axis: along the middle one TensorFlow adds in an order that depends on where in the batch a
    row stands.
    """
    x = tf.transpose(x, [0, 2, 1])
    sums = [tf.reduce_sum(x[:, :, -n:], axis=2) for n in periods(task.sequence.steps)]
    between = [later - earlier for earlier, later in pairwise(sums)]
    return signed_log(tf.concat([*sums, *between, tf.reduce_max(x, axis=2)], axis=1))


def _times(task: Task, x: tf.Tensor, act: tf.Tensor) -> tf.Tensor:
    """When a row was active: active steps in each period and between two, tenure, density; and, where the task has
    `recency`, the time since the last event, the gaps between active steps, and the one against the others."""
    steps = task.sequence.steps
    counts = [tf.reduce_sum(act[:, -n:], axis=1) for n in periods(steps)]
    between = [later - earlier for earlier, later in pairwise(counts)]
    ages = tf.range(steps, 0, -1, dtype=tf.float32)  # of the steps, in steps before the as-of
    tenure, total = tf.reduce_max(act * ages, axis=1), counts[-1]
    out = [*counts, *between, tenure]
    at = next((i for i, f in enumerate(task.features) if f.aggregation.measures == "age"), None)
    if at is not None:
        since = x[:, :, at]
        seen = tf.cast(tf.cumsum(act, axis=1, exclusive=True) > 0, tf.float32)[:, 1:]
        gaps = since[:, :-1] * act[:, 1:] * seen  # at a step with events: how long there had been none
        mean = tf.reduce_sum(gaps, axis=1) / tf.maximum(total - 1, 1.0)
        longest = [tf.reduce_max(gaps[:, -n:], axis=1) for n in (max(1, steps // 4), steps)]
        spread = tf.sqrt(tf.reduce_sum(tf.square(gaps), axis=1) / tf.maximum(total - 1, 1.0))
        out += [since[:, -1], mean, *longest, spread]
        ratio = tf.math.log((since[:, -1] + 0.1) / (mean + 1))
    dense = total / tf.maximum(tenure, 1.0)
    plain = [dense] if at is None else [dense, ratio]
    return tf.concat([signed_log(tf.stack(out, axis=1)), tf.stack(plain, axis=1)], axis=1)


def _levels(task: Task, x: tf.Tensor) -> tf.Tensor:
    """Of a level (B, steps): its log return over the last steps of each period, and the deviation of its steps there;
    0 where it is not known."""
    known = x > 0
    log = tf.math.log(tf.where(known, x, 1.0))
    both = tf.cast(known[:, 1:] & known[:, :-1], tf.float32)
    change = both * (log[:, 1:] - log[:, :-1])
    out = []
    for n in periods(task.sequence.steps)[:-1]:
        there = tf.cast(known[:, -1] & known[:, -1 - n], tf.float32)
        out.append(there * (log[:, -1] - log[:, -1 - n]))
        pairs = tf.maximum(tf.reduce_sum(both[:, -n:], axis=1), 1.0)
        out.append(tf.sqrt(tf.reduce_sum(tf.square(change[:, -n:]), axis=1) / pairs))
    return tf.stack(out, axis=1)


def signed_log(x: tf.Tensor) -> tf.Tensor:
    """The logarithm of amounts of either sign: sign(x) log(1 + |x|)."""
    return tf.sign(x) * tf.math.log1p(tf.abs(x))
