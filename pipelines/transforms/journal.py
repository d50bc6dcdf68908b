"""Which messages a process is decoding, in a file that outlives it: so the next one knows of a message that ended it.

A message that is never acknowledged comes again, and would end one process after the other, for ever. Each decoder
holds the lock of a file, and has the ids of messages in it while it decodes them: one write a bundle. What a file
without an owner names is suspect, and tried in a process of its own before it is decoded again, see `trial`.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipelines.system.files import create_private, locked

EXTENSION = ".decoding"
FORGOTTEN = 31 * 86_400  # s after which no message comes again

_LOGGER = logging.getLogger(__name__)


class Journal:
    """The file of one decoder, and those that others have left in its folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder).expanduser()
        self._file: int | None = None
        self._held = ExitStack()  # the lock of the file
        self._left: dict[Path, set[str]] = {}  # by file: what is still suspect
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._own = self.folder / f"{uuid.uuid4().hex}{EXTENSION}"
            create_private(self._own).close()
            self._held.enter_context(locked(self._own))
            self._file = os.open(self._own, os.O_WRONLY)
        except OSError as error:
            _LOGGER.warning("a message that ends this process will not be known to the next one: %s", error)

    @contextmanager
    def noted(self, ids: Sequence[str]) -> Iterator[None]:
        """Has messages in the file until the end of the block; also after it where it raises, as it does again."""
        if self._file is None:
            yield
            return
        self._write(ids)
        yield
        os.ftruncate(self._file, 0)

    def suspects(self) -> set[str]:
        """Ids of messages whose decoding was not survived."""
        if self._file is None:
            return set()
        for path in self.folder.glob(f"*{EXTENSION}"):
            if path not in self._left:
                self._look(path)
        return set().union(*self._left.values(), _read(self._own))

    def settle(self, ids: Sequence[str]) -> None:
        """Forgets messages that have been decoded, or set aside."""
        for path, left in list(self._left.items()):
            left.difference_update(ids)
            if not left:
                path.unlink(missing_ok=True)
                del self._left[path]

    def close(self) -> None:
        """Ends the journal: nothing is being decoded any more."""
        if self._file is not None:
            self._own.unlink(missing_ok=True)
            os.close(self._file)
            self._held.close()
            self._file = None

    def _look(self, path: Path) -> None:
        """Into a file that nobody owns any more."""
        with suppress(FileNotFoundError), locked(path, wait=False) as alone:  # settled meanwhile
            if not alone:
                return  # its owner lives
            ids = _read(path)
            if not ids or time.time() > path.stat().st_mtime + FORGOTTEN:
                path.unlink(missing_ok=True)
            else:
                self._left[path] = set(ids)

    def _write(self, ids: Sequence[str]) -> None:
        """What is there is replaced; a process that ends in between leaves ids too many, or cut off."""
        assert self._file is not None
        raw = "".join(f"{each}\n" for each in ids if "\n" not in each).encode("utf-8", "replace")
        os.pwrite(self._file, raw, 0)
        os.ftruncate(self._file, len(raw))


def _read(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\n")[:-1]
