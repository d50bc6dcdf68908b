from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipelines.transforms import suspects
from pipelines.transforms.suspects import Journal

DIES = """
import os, sys
from pipelines.transforms.suspects import Journal
with Journal(sys.argv[1]).noted(sys.argv[2].split()):
    os._exit(7)
"""


def die(folder: Path, ids: str) -> None:
    """A process that ends while it decodes messages."""
    assert subprocess.run([sys.executable, "-c", DIES, str(folder), ids]).returncode == 7


def test_what_a_dead_process_decoded_is_suspect_until_it_is_settled(tmp_path: Path) -> None:
    die(tmp_path, "a b")
    die(tmp_path, "c")
    here, there = Journal(str(tmp_path)), Journal(str(tmp_path))
    assert here.suspects() == there.suspects() == {"a", "b", "c"}
    here.settle(["a", "c"])
    assert here.suspects() == {"b"}
    here.settle(["b"])
    assert here.suspects() == set()
    assert Journal(str(tmp_path)).suspects() == set()
    here.close()
    there.close()


def test_what_a_living_process_decodes_is_not(tmp_path: Path) -> None:
    one, other = Journal(str(tmp_path)), Journal(str(tmp_path))
    with one.noted(["a"]):
        assert other.suspects() == set()
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_what_raised_here_is_suspect_here(tmp_path: Path) -> None:
    one = Journal(str(tmp_path))
    try:
        with one.noted(["a"]):
            raise RuntimeError
    except RuntimeError:
        pass
    assert one.suspects() == {"a"}
    with one.noted(["b"]):
        pass
    assert one.suspects() == set()
    one.close()


def test_old_notes_are_forgotten(tmp_path: Path) -> None:
    die(tmp_path, "a")
    (note,) = tmp_path.iterdir()
    old = time.time() - suspects.FORGOTTEN - 10
    os.utime(note, (old, old))
    one = Journal(str(tmp_path))
    assert one.suspects() == set()
    assert not note.exists()
    one.close()


def test_without_a_folder_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Journal(str(tmp_path / "file" / "below"))
    with one.noted(["a"]):
        assert one.suspects() == set()
    one.close()
