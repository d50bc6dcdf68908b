"""Builds Prism, Beam's runner for streams on one machine, so that it listens on 127.0.0.1 alone.

    python build.py GO VERSION PROGRAM

Beam's own listens on every interface and has no option; who reaches its port can have any command run. The sources of
that version come as a Go module, whose checksums Go verifies. In a copy of them one line is changed, and nothing is
built unless that line stands there once, as it is known.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "github.com/apache/beam/sdks/v2"
FILE = "go/pkg/beam/runners/prism/internal/jobservices/server.go"
EVERYWHERE = 'lis, err := net.Listen("tcp", fmt.Sprintf(":%d", port))'
LOOPBACK = 'lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))'


def on_loopback(source: str) -> str:
    """The source with the changed line. SystemExit where that line is not there once."""
    if source.count(EVERYWHERE) != 1 or source.count("net.Listen(") != 1:
        sys.exit(f"{FILE} of this version does not listen as it did: look where it does, and change {__file__}")
    return source.replace(EVERYWHERE, LOOPBACK)


def main(go: str, version: str, program: Path) -> None:
    found = subprocess.run([go, "mod", "download", "-json", f"{MODULE}@v{version}"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory(prefix="prism-") as folder:
        copy = Path(folder)
        sources = Path(json.loads(found.stdout)["Dir"])
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(sources / name, copy / name)
        shutil.copytree(sources / "go", copy / "go", copy_function=shutil.copyfile)
        path = copy / FILE
        for each in (path.parent, path):
            each.chmod(0o755)
        path.write_text(on_loopback(path.read_text()))
        built = copy / "prism"
        subprocess.run([go, "build", "-mod=readonly", "-o", str(built), "./go/cmd/prism"], cwd=copy, check=True)
        partial = program.with_name(f".{program.name}.part")
        shutil.copy(built, partial)
        partial.replace(program)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve())
