"""What happened to every row that was read: counts that add up, and the rows that were refused.

Counts travel as elements (not as Beam metrics, which count a retried bundle twice), one `Ledger` for each piece of
input or shard, and are summed once. Of a live job they are summed as it runs: `Running` is all counts so far, and rows
that were appended to a table until they are seen there. `transforms.running_ledger` keeps it in the state of the job,
which a runner that recovers sets back with the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Literal

from pipelines.system.versioned import versioned
from pipelines.task.fields import format_time

NEVER = (1 << 63) - 1
Status = Literal["published", "refused", "unbalanced"]  # how a run over files ended

KEPT = 1_000  # windows, at least

Window = tuple[int, int]  # as-of in us, and revision: a live job writes such rows within a short time


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


@versioned("appended")
@dataclass(frozen=True)
class Appended:
    """How many rows of each window were appended to a table."""

    rows: Mapping[Window, int]


@versioned("window_rows")
@dataclass(frozen=True)
class WindowRows:
    """How many rows of a window were appended, and how many of them were seen in the table."""

    meant: int
    visible: int | None = None  # how many of them the table has; None: nobody looked since they became more

    @property
    def missing(self) -> int:
        return 0 if self.visible is None else self.meant - self.visible


@versioned("running")
@dataclass(frozen=True)
class Running:
    """The ledger of a live job, as its state keeps it."""

    attempt: str  # that began to count: a job that is updated goes on with the state, and so with the attempt
    total: Ledger
    at: int = 0  # of the last row, us
    changed: bool = False  # since then
    windows: Mapping[Window, WindowRows] = field(default_factory=dict)  # in the order in which they became more
    settled: int = 0  # rows of earlier windows, all of them visible

    @property
    def unseen(self) -> dict[Window, int]:
        """The rows of windows that nobody looked at since they became more."""
        return {window: rows.meant for window, rows in self.windows.items() if rows.visible is None}

    @property
    def meant(self) -> int:
        """Rows that were appended, revisions before the as-of apart."""
        return self.settled + sum(rows.meant for rows in self.windows.values())

    @property
    def visible(self) -> int | None:
        """How many of the rows the table has; None if not all were looked for."""
        return None if self.unseen else self.meant - sum(rows.missing for rows in self.windows.values())

    @property
    def differences(self) -> tuple[str, ...]:
        """What is missing of each as-of, in words."""
        meant, missing = Counter[int](), Counter[int]()
        for (as_of, _), rows in self.windows.items():
            meant[as_of] += rows.meant
            missing[as_of] += rows.missing
        return tuple(
            f"as of {format_time(as_of)}: {meant[as_of]} rows meant, {meant[as_of] - n} visible"
            for as_of, n in sorted(missing.items())
            if n
        )

    def counted(self, item: Ledger | Appended) -> Running:
        if isinstance(item, Ledger):
            return replace(self, total=self.total + item, changed=True)
        windows = dict(self.windows)
        for window, n in item.rows.items():
            before = windows.pop(window, WindowRows(0))
            windows[window] = WindowRows(before.meant + n)
        return replace(self, windows=windows, changed=True)

    def looked(self, visible: Mapping[Window, int]) -> Running:
        """The same with what the table has; the windows that changed last are kept, and those that lack rows."""
        windows = {
            window: replace(rows, visible=min(visible[window], rows.meant)) if window in visible else rows
            for window, rows in self.windows.items()
        }
        old = [window for window, rows in windows.items() if rows.visible == rows.meant][: max(0, len(windows) - KEPT)]
        settled = self.settled + sum(windows.pop(window).meant for window in old)
        return replace(self, windows=windows, settled=settled)

    def written(self, at: int) -> Running:
        """The same, written at a time (us), or just after the last row if the clock was put back."""
        return replace(self, at=max(at, self.at + 1), changed=bool(self.unseen))
