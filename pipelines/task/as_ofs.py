"""Times, durations and as-ofs as they are given by flags: parsed, and held against the steps of a task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipelines.errors import UserError
from pipelines.task.fields import format_duration, format_time, parse_duration, parse_time

if TYPE_CHECKING:
    from pipelines.task.spec import Task

LATEST = "latest"
AS_OFS = 1_000_000  # of a run, at most: all processes hold the list, and each is a pass over the events of every shard
WHY_AS_OFS = "each is a pass over all entities, and every process holds the list"


def time_of(flag: str, text: str) -> int:
    """A time, us since 1970. Raises UserError."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def duration_of(flag: str, text: str) -> int:
    """A duration, us. Raises UserError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UserError(f"{flag} {text}: {error}") from None


def steps_of(task: Task, flag: str, text: str | None) -> int | None:
    """A duration of whole steps, us; None for none. Raises UserError."""
    if text is None:
        return None
    found, step = duration_of(flag, text), task.sequence.step
    if not found or found % step:
        raise UserError(f"{flag} {text}: must be a multiple of sequence.step ({format_duration(step)})")
    return found


def floor(task: Task, time: int) -> int:
    """The last step boundary at or before a time, us."""
    return time - (time - task.sequence.origin) % task.sequence.step


def first_as_of(task: Task, now: int, history: bool, text: str | None = None) -> int:
    """The first as-of of a live job: the one that `text` (`--from`) names or the first one after it; otherwise the
    first after now, or, with a history to start from, the oldest one that is still open to corrections.

    Raises:
      UserError: not a time.
    """
    every = task.score.every
    if text is None:
        time = now - task.score.allowed_lateness if history else now + every
        return time - (time - task.sequence.origin) % every
    time = time_of("--from", text)
    return time + (task.sequence.origin - time) % every


def parse_as_ofs(task: Task, text: str, flag: str = "--as-of", every: int | None = None) -> tuple[int, ...]:
    """Reads as-ofs: `2024-01-01`, or `2024-01-01..2024-03-01` for every as-of that is due between the two, both
    included; or for those that lie `every` us apart; `latest` for the newest that is due.

    Raises:
      UserError: not a time, not a step boundary (with the nearest ones), an empty range, or one of more than `AS_OFS`.
    """
    if text == LATEST:
        now = time.time_ns() // 1_000
        return (now - (now - task.sequence.origin) % task.score.every,)
    first, dots, last = text.partition("..")
    bounds = [_as_of(task, t, flag) for t in ((first, last) if dots else (first,))]
    as_ofs = range(bounds[0], bounds[-1] + 1, every or task.score.every)
    if not as_ofs:
        raise UserError(f"{flag} {text}: the range ends before it starts")
    if len(as_ofs) > AS_OFS:
        apart = format_duration(as_ofs.step)
        raise UserError(
            f"{flag} {text}: {len(as_ofs):,} as-ofs, one every {apart}; a run has {AS_OFS:,} at most, for "
            f"{WHY_AS_OFS}: narrow the range, or take one after the other"
        )
    return tuple(as_ofs)


def _as_of(task: Task, text: str, flag: str) -> int:
    time = time_of(flag, text)
    if not task.boundary(time):
        before, step = floor(task, time), task.sequence.step
        near = f"{format_time(before)} and {format_time(before + step)}"
        raise UserError(
            f"{flag} {text} is not a step boundary of task {task.task} (steps of {format_duration(step)} "
            f"from {format_time(task.sequence.origin)}); the nearest are {near}"
        )
    return time
