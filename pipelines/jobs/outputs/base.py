"""What a place for rows is to the rest of the program: all that a command or the doctor asks of one.

Each kind of place is a class in a file of its own here, and `kinds` lists them. How its rows are stored is in a package
of `storage`, and written by transforms. Nothing else asks which kind an output is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from pipelines.errors import UserError
from pipelines.google.permissions import Grants
from pipelines.google.tables import WriteMethod
from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.rows import Run
from pipelines.task.spec import Task

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from pipelines.runners.base import Runner
    from pipelines.storage.folder.query import Format


class Options(NamedTuple):
    """Flags that say how to write, not where."""

    method: WriteMethod = "storage"
    replace_model: bool = False


class StoredLetter(NamedTuple):
    """A dead letter as it is read back, to be sent again."""

    reason: str
    payload: bytes | None  # exactly what was refused; None where there is nothing to send
    attributes: str | None  # of that message: a JSON object


@dataclass(frozen=True)
class RunResult:
    """What a run over files wrote."""

    status: Status
    ledger: Ledger
    differences: tuple[str, ...]  # between what should be there and what is
    note: str = ""  # on the rows that were written


class Batch(Protocol):
    """How a run over files writes into an output."""

    @property
    def progress(self) -> Path:
        """The folder in which workers of this machine tell how far they are."""

    @property
    def write(self) -> beam.PTransform:
        """Takes `output_rows.Inputs`."""

    def result(self) -> RunResult:
        """How the run ended; to be asked for when the pipeline has ended."""


class Live(Protocol):
    """How a live job writes into an output."""

    @property
    def stop(self) -> Path:
        """The file that ends its source."""

    @property
    def journal(self) -> str:
        """The folder where decoders note what they decode; ~ is the home of a worker."""

    @property
    def write(self) -> beam.PTransform:
        """Takes `output_rows.Inputs`, and gives all dead letters, with those of rows that could not be written."""

    def ledger(self) -> Ledger:
        """What became of every event that the job read since it was first started."""


class Output(ABC):
    """A place that rows can be written to."""

    here: ClassVar[bool]  # whether it takes this machine's file system to write to it
    code: ClassVar[str] = "output-place"  # under which the doctor tells what `check` says

    @abstractmethod
    def check(self, outputs: Sequence[str]) -> str:
        """Looks whether it takes rows with these score columns, as far as that can be seen, and changes nothing.

        Returns:
          What was looked at, in words.

        Raises:
          UserError: it does not.
        """

    def check_runner(self, runner: Runner) -> None:
        """Raises UserError for a runner that cannot write a live job's rows there, or lacks an option for it."""
        return

    def grants(self) -> Sequence[Grants]:
        """What the account that writes must be allowed to do."""
        return ()

    def prepare(self, task: Task, dry_run: bool) -> int:
        """Makes what a task's rows need there, and prints it; returns the exit code. Raises UserError where that is
        nothing, or cannot be made."""
        raise UserError(f"--output {self}: takes the columns of every task, so there is nothing to apply")

    def plan(self, as_ofs: Sequence[int]) -> Sequence[str]:
        """Lines on what a run over files would touch, beside the name of the place."""
        return ()

    @abstractmethod
    def batch(self, run: Run, as_ofs: Sequence[int], later: bool = False) -> AbstractContextManager[Batch]:
        """Prepares for a run over files, and tidies up after it; `later`: which begins after the end of the block."""

    @abstractmethod
    def live(self, run: Run, letters: bool) -> AbstractContextManager[Live]:
        """Prepares for a live job. `letters`: whether dead letters are kept here, too."""

    @abstractmethod
    def letters(self) -> Iterator[StoredLetter]:
        """All dead letters."""

    @abstractmethod
    def view(self, name: str) -> str:
        """What SQL calls a view (`current`, ...), `dead_letters` or `ledger`."""

    @abstractmethod
    def arrow(self, sql: str) -> pa.Table:
        """What a statement over the views gives, whole. Raises UserError where statements go elsewhere."""

    @abstractmethod
    def rows(self, sql: str) -> list[dict[str, Any]]:
        """What a statement over the views gives; nothing where no rows were ever written."""

    @abstractmethod
    def adopt(self, other: Self, where: str, run_id: str, attempt: str) -> bool:
        """Takes the scores of a run from another place of the kind, all at once; whether they were not there yet.

        Args:
          where: the condition on them.

        Raises:
          FileExistsError: there are others, which stay.
        """

    @abstractmethod
    def ask(self, view: str, rest: str) -> str:
        """The command that shows rows of a view (`current`, ...; or `dead_letters`); `rest` ends its statement."""

    @abstractmethod
    def query(self, sql: str, format: Format, limit: int) -> None:
        """Prints what a statement gives, see `storage.folder.query`. Raises UserError where statements go elsewhere."""
