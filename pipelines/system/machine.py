"""How much memory the processes of a run may have: what is free here, and what a container or a shell allows."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # bytes: cgroups write "no limit" as a number above


@dataclass(frozen=True)
class Room:
    """Memory that there is for the processes of a run."""

    size: int  # bytes
    what: str  # "free on this machine"
    swap: int = 0  # bytes beside it, slow ones


def room(cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> Room:
    """The memory that this process and those that it starts may have, by the narrowest of the limits."""
    here = left(cgroup, cgroups)
    return replace(here, size=here.size + psutil.Process().memory_info().rss)


def left(cgroup: Path = CGROUP, cgroups: Path = CGROUPS) -> Room:
    """The memory that is left beside what this process and all others have."""
    found = [Room(psutil.virtual_memory().available, "free on this machine", psutil.swap_memory().free)]
    found += [Room(size, "left in the cgroup of this process") for size in _left(cgroup, cgroups)]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:  # of addresses, of which a process has more than it uses
        found.append(Room(max(0, limit - psutil.Process().memory_info().vms), "left under the limit of ulimit -v"))
    return min(found, key=lambda r: r.size + r.swap)


def _left(cgroup: Path, cgroups: Path) -> Iterator[int]:
    """Bytes that each limited group of this process has left, version 2 and 1; pages of files are given up at need."""
    try:
        lines = cgroup.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, pages = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            pages = "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container the group itself is seen as the root
            most = _number(folder / limit)
            if most is not None and most < UNLIMITED:
                yield max(0, most - max(0, (_number(folder / usage) or 0) - _stat(folder / "memory.stat", pages)))
            if folder == root:
                break


def _number(file: Path) -> int | None:
    """None where there is no such file, or no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _stat(file: Path, key: str) -> int:
    try:
        found = dict(line.split(" ", 1) for line in file.read_text().splitlines())
        return int(found.get(key, 0))
    except (OSError, ValueError):
        return 0
