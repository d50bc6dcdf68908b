"""Local files and folders: what appears whole, made beside its place under another name; who may read it; and locks.

Events, messages, dead letters, examples and scores name people. Their folders are made for their owner and group alone
(0750), and so are their files (0640); a stricter umask stays stricter. What stood there before keeps its mode.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import UserError

PRIVATE_FOLDER, PRIVATE_FILE = 0o750, 0o640  # modes; the umask takes more away

LARGEST = 1 << 24  # bytes
DEEPEST = 50  # lists and mappings in one another


def make_private(folder: Path) -> None:
    """Makes a folder, with those above it that are not there. Raises OSError if it cannot be made."""
    for place in (*reversed(folder.parents), folder):
        if not place.is_dir():
            with suppress(FileExistsError):  # made meanwhile by another process; a file in its place shows below
                place.mkdir(PRIVATE_FOLDER)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def create_private(path: Path) -> BinaryIO:
    """A new file, open to be written. A library that opens it by its name leaves its mode as it is.

    Raises:
      FileExistsError: it is there, or a link is.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    return open(fd, "wb")


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a private file that is there whole, and on the disk, or not at all. Its folder must exist."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with create_private(part) as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


@contextmanager
def private_umask() -> Iterator[None]:
    """Until the end of the block, all that this process makes is private, whichever library makes it. Of the whole
    process: for a command that does nothing else meanwhile."""
    before = os.umask(0o077)
    os.umask(before | 0o027)
    try:
        yield
    finally:
        os.umask(before)


def writable(place: str, flag: str) -> str:
    """Looks whether a folder can be written to, or made. Returns what it found, in words.

    Raises:
      UserError: it cannot.
    """
    folder = Path(os.path.realpath(place))
    there = folder
    try:
        there = next(p for p in (folder, *folder.parents) if p.exists())
        if not there.is_dir():
            raise UserError(f"{flag} {place}: {there} is a file, not a folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        raise UserError(f"{flag} {place}: cannot write to {there}: {problem.strerror or problem}") from None
    return f"{folder} can be {'written to' if there == folder else 'made'}"


def replaceable(output: Path | str, mark: str, what: str) -> Path:
    """The folder that a command writes whole: new, empty, or with the file `mark` of an earlier run of it.

    Raises:
      UserError: it is not local, or holds something else, which would be lost.
    """
    if "://" in str(output):
        raise UserError(f"--output {output}: the output must be a local folder")
    target = Path(os.path.realpath(output))  # which takes links in a circle, too
    if target.exists() and not (target / mark).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there and is no {what}: name another folder, or empty it")
    return target


@contextmanager
def replacing(target: Path, private: bool = False) -> Iterator[Path]:
    """An empty folder that takes the place of `target` at the end of the block, and vanishes if the block fails.

    Args:
      private: see `make_private`; else for all whom the umask lets.

    It takes two renames where an old folder stands; a kill between them is mended by the next call.

    Raises:
      UserError: no folder can be made there.
    """
    partial, old = (target.with_name(f".{target.name}.{state}") for state in ("partial", "old"))
    _clear(target, partial, old)
    try:
        make_private(partial) if private else partial.mkdir(parents=True)
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


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no file, is larger than LARGEST, is no JSON, or is nested deeper than DEEPEST.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # who opens a pipe otherwise waits until somebody writes
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file")
        read = file.read(LARGEST + 1)
    if len(read) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        content = json.loads(read)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [content]
    for _ in range(DEEPEST):
        level = [v for c in level if isinstance(c, dict | list) for v in (c.values() if isinstance(c, dict) else c)]
    if level:
        raise ValueError("it is nested too deep")
    json.dumps(content, ensure_ascii=False).encode()  # half of a character, which no file or screen takes, is an error
    return content


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file until the end of the block, against other processes and other threads.

    Args:
      file: made where it is not there; it stays.
      wait: until nobody else holds it. If not, the block may run without it.

    Yields:
      Whether this block holds it.

    Raises:
      OSError: the file cannot be made.
    """
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _take(fd, wait)
    finally:
        os.close(fd)


def _take(fd: int, wait: bool) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
