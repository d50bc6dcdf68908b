"""What every section of a task file is made of: strict fields, durations and times.

All times and durations are integers of microseconds, in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = ((t.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for t in (datetime.min, datetime.max))
UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
DURATION = r"^[0-9]+(ms|s|m|h|d|w)$"
LONGEST = 36_525 * UNITS["d"]  # a century: no sum of times and durations leaves 64 bits


def parse_duration(text: object) -> int:
    """A duration such as `30s`, `12h`, `7d` or `1w`, in microseconds."""
    match = re.fullmatch(r"([0-9]{1,18})(ms|s|m|h|d|w)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("a duration is a whole number and a unit (ms, s, m, h, d or w), such as 12h or 7d")
    micros = int(match[1]) * UNITS[match[2]]
    if micros > LONGEST:
        raise ValueError("a duration is at most 100 years (36525d)")
    return micros


def parse_time(text: object) -> int:
    """A date or time in ISO 8601, UTC unless it carries an offset, in microseconds since 1970."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError("a time is a date or an ISO 8601 time, such as 2024-01-01 or 2024-01-01T06:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    if not FIRST <= micros <= LAST:  # by its offset
        raise ValueError("a time is from year 1 to year 9999 in UTC")
    return micros


def format_time(micros: int) -> str:
    """The inverse of `parse_time`: `2024-01-01` for a midnight, else with the time of day. Words for what is no time of
    a calendar, which rows in another unit have."""
    if not FIRST <= micros <= LAST:
        return "after the year 9999" if micros > 0 else "before the year 1"
    moment = EPOCH + timedelta(microseconds=micros)
    text = moment.replace(tzinfo=None).isoformat()
    return text.removesuffix("T00:00:00")


def format_duration(micros: int) -> str:
    """The inverse of `parse_duration`, in the largest unit that divides it."""
    if micros == 0:
        return "0s"
    unit = next((u for u in ("w", "d", "h", "m", "s") if micros % UNITS[u] == 0), "ms")
    return f"{micros // UNITS[unit]}{unit}"


Duration = Annotated[
    int, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": DURATION, "examples": ["7d"]})
]
Moment = Annotated[int, BeforeValidator(parse_time), WithJsonSchema({"type": "string", "examples": ["2024-01-01"]})]
Name = Annotated[str, Field(min_length=1)]


class Spec(BaseModel):
    """A section of the task file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
