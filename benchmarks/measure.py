"""How a contestant is measured: a meter inside its process, and the parent's view of the whole process.

CPU is user + system time of the process and its children. The meter starts after the imports, so that `cpu` and `wall`
are the work alone; `process_cpu` and `process_wall` have the start of the interpreter and the imports too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks import workload as w

Tensor = npt.NDArray[np.float32]
SAMPLE_SECONDS = 0.1


def cpu_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


class Numbers(Protocol):
    """What tells whether two programs did the same."""

    def numbers(self) -> list[float]: ...


class Check:
    """Sums that two programs share if, and all but only if, they built the same tensors."""

    def __init__(self) -> None:
        self.entities = 0
        self._cells = np.zeros((w.STEPS, w.FEATURES))

    def add(self, batch: Tensor) -> None:
        """A batch (n, STEPS, FEATURES); its sums are exact in f4, since values are multiples of 0.25."""
        self.entities += len(batch)
        self._cells += batch.sum(axis=0)

    def numbers(self) -> list[float]:
        """Entities, the sum of all cells, and the sum weighted by the place of the cell: all exact."""
        place = np.arange(1, self._cells.size + 1).reshape(self._cells.shape)
        return [self.entities, float(self._cells.sum()), float((self._cells * place).sum())]


class Meter:
    """Counts from its creation to `report`, which prints the one line that the parent reads."""

    def __init__(self) -> None:
        self._cpu, self._wall = cpu_seconds(), time.perf_counter()

    def so_far(self) -> tuple[float, float]:
        """CPU and wall seconds."""
        return cpu_seconds() - self._cpu, time.perf_counter() - self._wall

    def report(self, check: Numbers | None = None, **extra: float) -> None:
        cpu, wall = self.so_far()
        numbers = check.numbers() if check else []
        print(json.dumps({"cpu": cpu, "wall": wall, "check": numbers, "extra": extra}), flush=True)


@dataclass(frozen=True)
class Measured:
    """What one contestant used. Seconds, and bytes of the process tree at its largest."""

    name: str
    cpu: float
    wall: float
    process_cpu: float
    process_wall: float
    peak: int
    check: list[float] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)


def measure(name: str, module: str, *args: str | int) -> Measured:
    """Runs `python -m module args` alone. Raises RuntimeError with its last output if it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", module, *map(str, args)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = _Peak(child.pid)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, err = child.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter() - started
    if child.returncode:
        raise RuntimeError(f"{name} failed: {err[-2000:]}")
    said = json.loads(out.strip().splitlines()[-1])
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(name, said["cpu"], said["wall"], used, wall, peak.stop(), said["check"], said["extra"])


class _Peak:
    """Largest memory of a process tree: the sum of what each process holds, sampled while it runs."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._done = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._peak

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, _tree_bytes(self._pid))


def _tree_bytes(pid: int) -> int:
    """A lone process's own high-water mark; with children, what all of them hold now."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        held = _status_bytes(pid, "VmRSS" if children else "VmHWM")
    except OSError:  # it has just ended
        return 0
    return held + sum(_tree_bytes(int(c)) for c in children)


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


class Memory(NamedTuple):
    """Bytes that a process holds, and seconds of user and system time that it has used."""

    rss: int
    pss: int  # what it shares with others counts in part
    cpu: float


def memory(pid: int) -> Memory:
    """Of a process, without its children; zeros if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return Memory(0, 0, 0.0)
    held = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in rollup.splitlines()[1:]}
    return Memory(held["Rss"], held["Pss"], (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"))


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))
