"""Options that are kept in a file: `--options FILE` stands for the lines of the file, in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.errors import UserError

OPTION = "--options"
HELP = "options in a file, one on a line (none on those that begin with #); what stands after it wins; may be repeated"


def expanded(argv: Sequence[str]) -> list[str]:
    """The arguments with every `--options FILE` replaced by what the file says. A name is relative to the folder that
    the command runs in. What follows `--` is left alone, and so is `--options` without a name.

    Raises:
      UserError: the file cannot be read, or names another one.
    """
    return list(_expanded(argv))


def _expanded(argv: Sequence[str]) -> Iterator[str]:
    rest = iter(argv)
    for word in rest:
        option, equals, name = word.partition("=")
        if word == "--":
            yield word
            yield from rest
        elif option != OPTION:
            yield word
        elif file := name if equals else next(rest, ""):
            yield from _read(Path(file))
        else:
            yield word


def _read(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{OPTION} {file}: cannot be read: {reason}; name a file with an option on each line") from None
    except ValueError:
        raise UserError(f"{OPTION} {file}: is not text in UTF-8; name a file with an option on each line") from None
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip()
        if word.partition("=")[0].split(None, 1)[:1] == [OPTION]:
            raise UserError(f"{file}:{number}: a file of options names no other one; give it to the command")
        if word and not word.startswith("#"):
            yield word
