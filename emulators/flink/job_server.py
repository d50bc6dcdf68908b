"""Makes Beam's job server for Flink in a folder: the jars that pom.xml names in lib/, and job-server.jar, which is an
entry to them that `java -jar` and Beam's --flink_job_server_jar take.

    python job_server.py pom.xml FOLDER

Maven fetches the jars, or where it is not installed the package jgo, which reads a POM in Python. Whoever fetched them,
they are held against jars.sha256, which stands beside pom.xml.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from listening import fetch_sources, listen_where_told

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
OPENED = [  # packages, to what serializes objects
    *("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch"),
]
SUMS = "jars.sha256"  # as sha256sum writes it
LINE = 72  # bytes of a line of a manifest, with its end


def with_maven(mvn: str, pom: Path, lib: Path) -> None:
    command = [mvn, "--strict-checksums", "--batch-mode", "--quiet", "--file", str(pom), COPY, "-DincludeScope=runtime"]
    subprocess.run([*command, f"-DoutputDirectory={lib}"], check=True)


def without_maven(pom: Path, lib: Path) -> None:
    from jgo.maven import POM, MavenContext

    context = MavenContext(timeout=60)
    _, found = context.pom_dependency_list(POM(pom))
    artifacts = [node.dep.artifact for node in found if node.dep.scope in ("compile", "runtime")]
    with ThreadPoolExecutor(8) as threads:
        for jar in threads.map(lambda artifact: artifact.resolve(), artifacts):
            shutil.copyfile(jar, lib / jar.name)


def sums(pom: Path) -> dict[str, str]:
    """Name of a jar -> its SHA-256."""
    lines = (pom.parent / SUMS).read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def check(jars: Iterable[Path], wanted: dict[str, str]) -> None:
    """Ends the program if a jar is not the one that was tested."""
    for jar in jars:
        found = hashlib.sha256(jar.read_bytes()).hexdigest()
        if jar.name not in wanted:
            sys.exit(
                f"{jar}: {SUMS} has no such jar; see emulators/flink/README.md if the versions were meant to change"
            )
        if found != wanted[jar.name]:
            sys.exit(
                f"{jar}: its SHA-256 is {found}, not {wanted[jar.name]} as in {SUMS}: it was changed on its way. "
                "Delete it where it was fetched to (~/.m2/repository), and try again"
            )


def check_all(lib: Path, wanted: dict[str, str]) -> None:
    jars = sorted(lib.glob("*.jar"))
    check(jars, wanted)
    missing = wanted.keys() - {jar.name for jar in jars}
    if missing:
        sys.exit(f"{lib}: {', '.join(sorted(missing))} of {SUMS} wasn't fetched; see emulators/flink/README.md")


def manifest(jars: Sequence[str]) -> bytes:
    """Lines end after 72 bytes, and go on with a space."""
    opened = " ".join(f"java.base/{package}" for package in OPENED)
    lines = {"Manifest-Version": "1.0", "Main-Class": MAIN, "Add-Opens": opened, "Class-Path": " ".join(jars)}
    wrapped = []
    for name, value in lines.items():
        line = f"{name}: {value}"
        wrapped.append(line[: LINE - 2])
        wrapped += [" " + line[i : i + LINE - 3] for i in range(LINE - 2, len(line), LINE - 3)]
    return "".join(f"{line}\r\n" for line in wrapped).encode()


def main(pom: Path, folder: Path) -> None:
    lib = folder / "lib"
    (folder / "job-server.jar").unlink(missing_ok=True)
    shutil.rmtree(lib, ignore_errors=True)
    lib.mkdir(parents=True)
    mvn = shutil.which("mvn")
    if mvn:
        with_maven(mvn, pom, lib)
    else:
        without_maven(pom, lib)
    fetch_sources(mvn, lib)
    check_all(lib, sums(pom))
    listen_where_told(lib)
    with zipfile.ZipFile(folder / "job-server.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest([f"lib/{path.name}" for path in sorted(lib.glob("*.jar"))]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
