"""A rehearsal of a live job through the real command line, and what it listens on meanwhile."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.command_line import command
from tests.support.live_world import AS_OFS, ENGINE, World
from tests.support.open_ports import strangers, watch


def test_with_careless_publishers_it_finds_no_difference_and_no_stranger_reaches_it(
    world: World, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    arguments = ["--task", world.task, "--input", world.events, "--as-of", AS_OFS, "--speed", "2d", "--mess", *ENGINE]
    words = command("rehearse", *arguments, "--model", world.model, "--output", tmp_path / "out")
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)
        seen = watch(process)
    told = log.read_text()
    assert process.returncode == 0, told
    assert "Traceback" not in told
    found = re.search(r"parity +([\d,]+) rows of 7 as-ofs compared, ([\d,]+) of them corrected: .* bit for bit", told)
    assert found, told
    assert int(found[1].replace(",", "")) > 300
    assert int(found[2]) > 30
    places = re.findall(rf"{re.escape(str(tmp_path))}[\w./-]*\w", told)
    assert all(Path(place).exists() for place in places), places
    assert strangers(seen) == []
    programs = [each.program for each in seen]
    assert programs.count("pubsub-emulator") >= 2  # the service and its counts
    assert "prism" in programs
    assert any(name.startswith("python") for name in programs)  # the worker
