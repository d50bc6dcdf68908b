"""Errors that a user can mend, and the exit codes that scripts can rely on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum


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


class UserError(Exception):
    """Something the user can mend. The message says what, where and how; it is shown without a traceback.

    Args:
      about: what of a launch it is about, in a word; `foretide doctor` sorts by it.
    """

    def __init__(self, message: str, code: Exit = Exit.USAGE, about: str = "") -> None:
        super().__init__(message)
        self.code, self.about = code, about


def unknown_option(words: Sequence[str], why: str) -> UserError:
    """The error about words of a command line that nobody knows. It names an option without its value, which may be a
    secret.
    """
    option = next((word for word in words if word.startswith("-")), None)
    if option is None:
        return UserError(f"{words[0]} belongs to no option{why}")
    name = re.match(r"--[^=]*|-.?", option)
    return UserError(f"unknown option {name.group() if name else '-'}{why}")
