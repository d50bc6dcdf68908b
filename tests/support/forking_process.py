"""A process without threads that forks children for tests of kills: what a test asks of it, and what it serves.

`once N WORD...` does a thing in a child that kills itself before its Nth file operation (0: never) and tells how the
child ended; `loop` starts a child that does it without end and tells its process id; `wait PID` waits for its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[2]


class ForkingProcess:
    """A module of tests, run as a process that calls `serve`."""

    def __init__(self, module: str, *arguments: object) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        assert self.ask(f"wait {pid}") == -signal.SIGKILL

    def close(self) -> None:
        self.process.communicate()


def serve(once: Callable[..., object], loop: Callable[[], object], where: str = "") -> None:
    """Answers lines. `once` takes their words; of file operations those count that name `where`."""
    for kind, *words in map(str.split, sys.stdin):
        pid = int(words[0]) if kind == "wait" else os.fork()
        if not pid:
            while kind == "loop":
                loop()
            if step := int(words[0]):
                die_before(step, where)
            once(*words[1:])
            os._exit(0)
        print(pid if kind == "loop" else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def die_before(step: int, where: str = "") -> None:
    """Kills this process when the interpreter announces its `step`th file operation, of those that name `where`."""
    steps = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        counts = event.startswith(("os.", "open", "shutil.", "fcntl.")) and any(where in str(a) for a in arguments)
        if counts and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
