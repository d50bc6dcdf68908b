"""Drawn by structure, see `structured`: none ends its process, none is lost, each is accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import structure_fuzzer

SOAK = "FORETIDE_SOAK" in os.environ
DRAWN = 20_000 if SOAK else 100  # of each format
SEED = 10**6 if SOAK else 0


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(structure_fuzzer.CHECKS))
def test_structures(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "tests.support.structure_fuzzer", name, str(SEED), str(DRAWN), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    told = ended.stdout.split("\n")
    assert ended.returncode == 0, f"{name} {told[-2]}: {ended.returncode}: {ended.stderr[-3_000:]}"
    assert int(told[-2].removeprefix("peak ")) < structure_fuzzer.LIMIT


@pytest.mark.parametrize(("name", "number"), [("parquet", 1_002_220), ("parquet", 1_002_322)])
def test_a_structure_that_ended_its_process(tmp_path: Path, name: str, number: int) -> None:
    """Draws of the soak that found something: levels of a column whose statistics are those of another, and
    bytes that are no text in a column that is compared."""
    command = [sys.executable, "-m", "tests.support.structure_fuzzer", name, str(number), "1", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-3_000:]
