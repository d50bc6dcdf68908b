"""Local folders that appear whole: made beside their place under another name, then moved into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import UserError


def replaceable(output: Path | str, mark: str, what: str) -> Path:
    """The folder that a command writes whole: new, empty, or with the file `mark` of an earlier run of it.

    Raises:
      UserError: it is not local, or holds something else, which would be lost.
    """
    if "://" in str(output):
        raise UserError(f"--output {output}: the output must be a local folder")
    target = Path(output).resolve()
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there and is no {what}: name another folder, or empty it")
    return target


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` at the end of the block, and vanishes if the block fails.

    It takes two renames where an old folder stands; a kill between them is mended by the next call.

    Raises:
      UserError: no folder can be made there.
    """
    partial, old = (target.with_name(f".{target.name}.{state}") for state in ("partial", "old"))
    _clear(target, partial, old)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror or error}; name another folder") from error
    try:
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
    finally:
        _clear(target, partial, old)


def _clear(target: Path, partial: Path, old: Path) -> None:
    if old.exists() and not target.exists():
        old.rename(target)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def sync(path: Path) -> None:
    """What a file holds, or which names a folder has, is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
