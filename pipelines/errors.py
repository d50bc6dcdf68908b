"""What is found wrong or well, errors that a user can mend, and the exit codes that scripts can rely on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Severity = Literal["ok", "warning", "error", "skipped"]


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1  # the program or the machine failed
    USAGE = 2  # a wrong flag, a task file or an input that does not fit
    REFUSED = 3  # too many bad rows, or drift: nothing was published
    UNBALANCED = 4  # the ledger does not add up
    MODEL = 5  # the model does not fit the task
    UNFIT = 6  # foretide doctor found errors
    INTERRUPTED = 130  # by SIGINT; 143 by SIGTERM


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    code: str  # what kind of thing, see `doctor.findings`; empty where no check says it
    severity: Severity
    subject: str  # what it is about: a path, table, subscription, flag
    message: str  # what is wrong; what was seen, if nothing is; or why it could not be asked
    remedy: str = ""  # a sentence without its full stop
    exit: Exit = Exit.USAGE  # of a command that an error ends

    def __str__(self) -> str:
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class UserError(Exception):
    """Something the user can mend: findings that end a command. They are shown without a traceback.

    Args:
      what: what is wrong, and where.
      exit: how the command ends.
      remedy: what to do about it, as a sentence without its full stop; empty where `what` says it.
      code: the kind of finding; that of the check that raises it where empty.
      subject: what it is about: a path, table, subscription, flag.
    """

    def __init__(
        self, what: str, exit: Exit = Exit.USAGE, *, remedy: str = "", code: str = "", subject: str = ""
    ) -> None:
        super().__init__(what)
        self.findings: tuple[Finding, ...] = (Finding(code, "error", subject, what, remedy, exit),)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> UserError:
        """One error for findings of which there is at least one; the first says how the command ends."""
        first, *others = findings
        error = cls(first.message, first.exit)
        error.findings = (first, *others)
        return error

    @property
    def exit(self) -> Exit:
        return self.findings[0].exit

    @property
    def code(self) -> str:
        return self.findings[0].code

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def unknown_option(words: Sequence[str], why: str) -> UserError:
    """The error about words of a command line that nobody knows. It names an option without its value, which may be a
    secret.
    """
    option = next((word for word in words if word.startswith("-")), None)
    if option is None:
        return UserError(f"{words[0]} belongs to no option{why}")
    name = re.match(r"--[^=]*|-.?", option)
    return UserError(f"unknown option {name.group() if name else '-'}{why}")
