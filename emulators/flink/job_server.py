"""Makes Beam's job server for Flink in a folder: the jars that pom.xml names in lib/, and job-server.jar, which is an
entry to them that `java -jar` and Beam's --flink_job_server_jar take.

    python job_server.py pom.xml FOLDER

Maven fetches the jars, or where it is not installed the package jgo, which reads a POM in Python.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from listening import listen_where_told, sources

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
OPENED = [  # packages, to what serializes objects
    *("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch"),
]
LINE = 72  # bytes of a line of a manifest, with its end


def with_maven(mvn: str, pom: Path, lib: Path) -> None:
    command = [mvn, "--batch-mode", "--quiet", "--file", str(pom), COPY, "-DincludeScope=runtime"]
    subprocess.run([*command, f"-DoutputDirectory={lib}"], check=True)


def without_maven(pom: Path, lib: Path) -> None:
    from jgo.maven import POM, MavenContext

    context = MavenContext(timeout=60)
    _, found = context.pom_dependency_list(POM(pom))
    artifacts = [node.dep.artifact for node in found if node.dep.scope in ("compile", "runtime")]
    with ThreadPoolExecutor(8) as threads:
        for jar in threads.map(lambda artifact: artifact.resolve(), artifacts):
            shutil.copyfile(jar, lib / jar.name)


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
    shutil.rmtree(lib, ignore_errors=True)
    lib.mkdir(parents=True)
    mvn = shutil.which("mvn")
    if mvn:
        with_maven(mvn, pom, lib)
    else:
        without_maven(pom, lib)
    with tempfile.TemporaryDirectory() as temporary:
        listen_where_told(lib, sources(mvn, lib, Path(temporary)))
    with zipfile.ZipFile(folder / "job-server.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest([f"lib/{path.name}" for path in sorted(lib.glob("*.jar"))]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
