"""The command `foretide` as tests run it, in this process or in one of its own, and the bytes that it leaves."""

from __future__ import annotations

import hashlib
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pipelines.cli import main
from pipelines.errors import Exit


def foretide(*arguments: str, expect: int = Exit.OK) -> str:
    """Runs the command in this process, which has TensorFlow loaded once; its output, both streams. No traceback."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse
            code = int(str(end.code))
    assert code == expect, told.getvalue()
    assert "Traceback" not in told.getvalue()
    return told.getvalue()


def command(*arguments: object) -> list[str]:
    """The words of a process of its own."""
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def digest(out: Path) -> str:
    """Of the bytes of all published scores and dead letters, with their names."""
    files = sorted(f for kind in ("scores", "dead_letters") for f in out.glob(f"current/*/{kind}/*"))
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).hexdigest()
