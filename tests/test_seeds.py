"""What tests draw at random is the same every time: each generator has a seed, which stands where it is made."""

from __future__ import annotations

import re
from pathlib import Path

UNSEEDED = re.compile(r"default_rng\(\)|\bRandom\(\)|SystemRandom|\bnp\.random\.(?!default_rng|Generator)[a-z]")


def test_every_generator_has_a_seed() -> None:
    here = Path(__file__)
    lines = [(p, line) for p in here.parent.rglob("*.py") if p != here for line in p.read_text().splitlines()]
    assert len(lines) > 10_000
    assert [(p, line) for p, line in lines if UNSEEDED.search(line)] == []
