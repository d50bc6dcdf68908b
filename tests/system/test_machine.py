"""How much memory there is: of the machine, and under the limits of cgroups and shells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.system.machine import left, room

MB = 1 << 20


def group(folder: Path, limit: str, usage: int, pages: int, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    names = names if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {pages}\n")


@pytest.mark.parametrize(("version", "line"), [(2, "0::/shop/job"), (1, "4:cpu,memory:/shop/job")])
def test_the_narrowest_group_counts_and_pages_of_files_do_not(tmp_path: Path, version: int, line: str) -> None:
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/x\n{line}\n")
    root = tmp_path / "groups" if version == 2 else tmp_path / "groups" / "memory"
    group(root / "shop" / "job", "max" if version == 2 else str(2**63 - 4096), 90 * MB, 0, version)
    group(root / "shop", str(100 * MB), 95 * MB, 35 * MB, version)
    found = left(tmp_path / "cgroup", tmp_path / "groups")
    assert (found.size, found.what, found.swap) == (40 * MB, "left in the cgroup of this process", 0)
    own = room(tmp_path / "cgroup", tmp_path / "groups").size - 40 * MB
    assert abs(own - psutil.Process().memory_info().rss) < 50 * MB


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/docker/0123\n")
    group(tmp_path / "groups" / "memory", str(64 * MB), 10 * MB, 0, 1)
    assert left(tmp_path / "cgroup", tmp_path / "groups").size == 54 * MB


def test_without_groups_it_is_what_the_machine_has_free(tmp_path: Path) -> None:
    for content in (None, "", "0::/\n"):
        if content is not None:
            (tmp_path / "cgroup").write_text(content)
        found = left(tmp_path / "cgroup", tmp_path / "groups")
        assert found.what == "free on this machine"
        assert 0 < found.size <= psutil.virtual_memory().total


def test_a_limit_of_the_shell_counts() -> None:
    code = "from pipelines.system.machine import left; found = left(); print(found.size // (1 << 20), found.what)"
    command = f"ulimit -v 2000000; exec {sys.executable} -c '{code}'"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    size, _, what = told.strip().partition(" ")
    assert what == "left under the limit of ulimit -v"
    assert 0 < int(size) < 1953
