"""Messages that may end the process that decodes them, tried in a process of its own.

`python -m pipelines.transforms.trial` reads a pickled `MessageTrial`, and prints each message's number
before it decodes it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.events.decode import Since
from pipelines.events.formats.payloads import parse
from pipelines.events.intake import take_in
from pipelines.events.messages import Messages, Payload
from pipelines.task.spec import Task

PATIENCE = 600.0  # s in which the messages of a bundle must be decoded
FIRST = "999"  # of the processes of a machine that has no memory left, the one that the system ends


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
    command = [sys.executable, "-m", "pipelines.transforms.trial"]
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
