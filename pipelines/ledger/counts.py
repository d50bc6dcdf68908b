"""What happened to every row that was read: counts that add up, and the rows that were refused.

Counts travel as elements (not as Beam metrics, which count a retried bundle twice), one `Ledger` for each piece of
input or shard, and are summed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce
from typing import Literal

from pipelines.system.versioned import versioned

NEVER = (1 << 63) - 1
Status = Literal["published", "refused", "unbalanced"]  # how a run over files ended


@versioned("dead_letter")
@dataclass(frozen=True)
class DeadLetter:
    """A refused row (or an unreadable part of a file, an event that came too late for a score, a sequence that the
    model failed on, or a score that could not be written), with the reason."""

    stage: str  # read | late | infer | write
    source: str  # the file or table, the subscription, the model, or the output
    position: str  # "row 17" (from 0), "byte 9021", "file", "message <id>, event 2", ..., or the entity and as-of
    reason: str
    rows: int  # rows it stands for: 1, unless a part of a file could not be read
    raw: str  # the content; bytes that are not UTF-8 as \xNN
    payload: bytes | None = None  # of a refused message: exactly what is to be sent again
    attributes: tuple[tuple[str, str], ...] = ()  # of that message


@versioned("ledger")
@dataclass(frozen=True)
class Ledger:
    """Counts of events (read = accepted + rejected + duplicates + outside + filtered), files and scores."""

    read: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    outside: int = 0  # no score of the run could use it: too old, too new, or arrived too late
    filtered: int = 0  # the task's `where` leaves it out
    late: int = 0  # of the accepted: too late for a score that was closed, though not for later ones
    files: int = 0
    bad_files: int = 0  # files that could not be read from the start; a later break counts as rejected rows
    sequences: int = 0
    scored: int = 0
    failed: int = 0  # sequences that the model gave no finite score for
    first_time: int = NEVER  # event times, us
    last_time: int = -NEVER
    reasons: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Ledger) -> Ledger:
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        total["first_time"] = min(self.first_time, other.first_time)
        total["last_time"] = max(self.last_time, other.last_time)
        counts = Counter(dict(self.reasons))
        counts.update(dict(other.reasons))
        total["reasons"] = tuple(sorted(counts.items()))
        return Ledger(**total)

    @property
    def bad_share(self) -> float:
        """Share of rows refused, or of files not readable, whichever is larger; 0 when nothing was read."""
        return max(self.rejected / max(self.read, 1), self.bad_files / max(self.files, 1))

    @property
    def pending(self) -> int:
        """Events that were read and not yet judged: a live job holds them until the next boundary of their shard."""
        return self.read - (self.accepted + self.rejected + self.duplicates + self.outside + self.filtered)

    @property
    def differences(self) -> tuple[str, ...]:
        """The sums that do not match, in words; none when every event and sequence is accounted for."""
        out = []
        if self.pending:
            out.append(f"{self.read} events read, {self.read - self.pending} accounted for")
        if self.rejected != sum(n for _, n in self.reasons):
            out.append(f"{self.rejected} events rejected, {sum(n for _, n in self.reasons)} with a reason")
        if self.sequences != self.scored + self.failed:
            out.append(f"{self.sequences} sequences, {self.scored} scored and {self.failed} failed")
        return tuple(out)


def total(parts: Iterable[Ledger]) -> Ledger:
    """The sum of ledgers; an empty one for none."""
    return reduce(Ledger.__add__, parts, Ledger())
