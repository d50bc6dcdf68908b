"""Builds Prism, Beam's runner for streams on one machine, with what Beam's own lacks.

    python build.py GO VERSION PROGRAM

- It listens on 127.0.0.1 alone. Beam's own listens on every interface and has no option; who reaches its port can have
  any command run.
- It goes on when somebody sets the clock of the machine back, where Beam's own would wait until it is where it was.

The sources of that version come as a Go module, whose checksum is known here. In a copy of them a few lines are
changed, and nothing is built unless each of them stands there once, as it is known.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "github.com/apache/beam/sdks/v2"
SUMS = {"2.77.0": "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="}  # of its versions, as go.sum has them
ENGINE = "go/pkg/beam/runners/prism/internal/engine/elementmanager.go"
SERVER = "go/pkg/beam/runners/prism/internal/jobservices/server.go"
TIME = "go/pkg/beam/core/graph/mtime"
CHANGES = (  # (file, what stands there once, what stands there instead)
    (SERVER, 'net.Listen("tcp", fmt.Sprintf(":%d", port))', 'net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))'),
    (f"{TIME}/time.go", "return FromTime(time.Now())", "return FromTime(clock.time())"),
    (ENGINE, "go func(fireAt time.Time) {", "go func(fireAt mtime.Time) {"),
    (ENGINE, "time.AfterFunc(time.Until(fireAt), func() {", "time.AfterFunc(mtime.After(fireAt), func() {"),
    (ENGINE, "}(t.ToTime())", "}(t)"),
)
ADDED = ("onward.go", "onward_test.go")  # to TIME


def changed(source: str, old: str, new: str) -> str:
    """A source with one place changed. SystemExit where that place is not there once."""
    if source.count(old) != 1:
        sys.exit(f"Prism of this version has changed: look where {old!r} has gone, and mend {__file__}")
    return source.replace(old, new)


def main(go: str, version: str, program: Path) -> None:
    found = subprocess.run([go, "mod", "download", "-json", f"{MODULE}@v{version}"], check=True, capture_output=True)
    module = json.loads(found.stdout)
    if module["Sum"] != SUMS.get(version):
        sys.exit(f"{MODULE} {version} has the checksum {module['Sum']}, and {__file__} knows {SUMS.get(version)}")
    with tempfile.TemporaryDirectory(prefix="prism-") as folder:
        copy, sources = Path(folder), Path(module["Dir"])
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(sources / name, copy / name)
        shutil.copytree(sources / "go", copy / "go", copy_function=shutil.copyfile)
        (copy / TIME).chmod(0o755)  # the cache of modules is read-only
        for name in ADDED:
            shutil.copyfile(Path(__file__).with_name(name), copy / TIME / name)
        for name, old, new in CHANGES:
            path = copy / name
            path.write_text(changed(path.read_text(), old, new))
        subprocess.run([go, "test", "-mod=readonly", "-run=TestOnward|TestAfter", f"./{TIME}"], cwd=copy, check=True)
        built = copy / "prism"
        subprocess.run([go, "build", "-mod=readonly", "-o", str(built), "./go/cmd/prism"], cwd=copy, check=True)
        partial = program.with_name(f".{program.name}.part")
        shutil.copy(built, partial)
        partial.replace(program)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).resolve())
