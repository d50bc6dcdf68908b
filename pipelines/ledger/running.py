"""The ledger of a live job while it runs: all counts so far, and rows appended to a table until seen there.

`transforms.running_ledger` keeps it in the state of the job, which a runner that recovers sets back with the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.ledger.counts import Ledger
from pipelines.system.versioned import versioned
from pipelines.task.fields import format_time

KEPT = 1_000  # windows, at least

Window = tuple[int, int]  # as-of in us, and revision: a live job writes such rows within a short time


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
