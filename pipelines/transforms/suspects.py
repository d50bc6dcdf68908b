"""Messages that may end the process that decodes them: a journal tells of them, and a process of its own tries them.

A message that is never acknowledged comes again, and would end one process after the other, for ever. Each decoder
holds the lock of a file, and has the ids of messages in it while it decodes them: one write a bundle. The file outlives
the process, and what a file without an owner names is suspect: it is tried in a process of its own before it is decoded
again. That process is `python -m pipelines.transforms.suspects`, which reads a pickled `MessageTrial`, and prints each
number of a message before it decodes it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.events.decode import Since
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import Messages, Payload
from pipelines.system.files import create_private, locked
from pipelines.task.spec import Task

EXTENSION = ".decoding"
FORGOTTEN = 31 * 86_400  # s after which no message comes again

_LOGGER = logging.getLogger(__name__)

PATIENCE = 600.0  # s in which the messages of a bundle must be decoded
FIRST = "999"  # of the processes of a machine that has no memory left, the one that the system ends


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


@dataclass(frozen=True)
class MessageTrial:
    """Messages, and how they are decoded."""

    task: Task
    span: Since
    payload: Payload
    source: str
    messages: Messages

    def run(self) -> None:
        """Decodes one message after the other, and says which."""
        for i in range(len(self.messages)):
            print(i, flush=True)
            rows = parse(self.task, self.messages.take(slice(i, i + 1)), self.payload)
            for _ in take_in(self.task, self.span, rows, self.source):
                pass


def fatal(trial: MessageTrial) -> dict[int, str]:
    """The messages that a process does not survive, by number, and how it ended."""
    out: dict[int, str] = {}
    start, n = 0, len(trial.messages)
    while start < n:
        at, how = _tried(replace(trial, messages=trial.messages.take(slice(start, n))))
        if at is None:
            break
        out[start + at] = how
        start += at + 1
    return out


def _tried(trial: MessageTrial) -> tuple[int | None, str]:
    """(the first message that a process does not survive, how it ended)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "pipelines.transforms.suspects"]
    try:
        ended = subprocess.run(
            command, input=pickle.dumps(trial), capture_output=True, timeout=PATIENCE, env=environment
        )
        told, how = ended.stdout, _how(ended.returncode)
    except subprocess.TimeoutExpired as error:
        told, how = error.stdout or b"", f"not done in {PATIENCE:.0f} s"
    begun = [int(line) for line in told.split() if line.isdigit()]
    return (None, "") if not how or not begun else (begun[-1], how)


def _how(code: int) -> str:
    """How a process ended; empty if well."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def main() -> None:
    with suppress(OSError):  # another system
        Path("/proc/self/oom_score_adj").write_text(FIRST)
    trial: MessageTrial = pickle.load(sys.stdin.buffer)
    trial.run()


if __name__ == "__main__":
    main()
