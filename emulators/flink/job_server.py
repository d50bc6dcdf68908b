"""Makes Beam's job server for Flink in a folder: the jars that pom.xml names in lib/, and job-server.jar, which is an
entry to them that `java -jar` and Beam's --flink_job_server_jar take.

    python job_server.py pom.xml FOLDER

Maven fetches the jars, or where it is not installed the package jgo, which reads a POM in Python. One line of Beam's is
changed before anything runs: its servers shall listen on the host that they are told, which is localhost where nothing
else is said. As released they listen on all interfaces. A JDK compiles that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
OPENED = [  # packages, to what serializes objects
    *("java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch"),
]
LINE = 72  # bytes of a line of a manifest, with its end
# The class that makes Beam's servers, in which jar, and the words that throw their host away.
PATCHED = "org/apache/beam/sdk/fn/server/ServerFactory"
HOLDER = "beam-sdks-java-core"
PORT_ONLY, WITH_HOST = "NettyServerBuilder.forPort(socket.getPort())", "NettyServerBuilder.forAddress(socket)"


def with_maven(mvn: str, pom: Path, lib: Path) -> None:
    command = [mvn, "--batch-mode", "--quiet", "--file", str(pom), f"{PLUGIN}:copy-dependencies"]
    subprocess.run([*command, "-DincludeScope=runtime", f"-DoutputDirectory={lib}"], check=True)


def without_maven(pom: Path, lib: Path) -> None:
    from jgo.maven import POM, MavenContext

    context = MavenContext(timeout=60)
    _, found = context.pom_dependency_list(POM(pom))
    artifacts = [node.dep.artifact for node in found if node.dep.scope in ("compile", "runtime")]
    with ThreadPoolExecutor(8) as threads:
        for jar in threads.map(lambda artifact: artifact.resolve(), artifacts):
            shutil.copyfile(jar, lib / jar.name)


def sources(mvn: str | None, name: str, version: str, folder: Path) -> Path:
    """The jar with the sources of a jar of Beam."""
    if mvn:
        wanted = [f"-Dartifact=org.apache.beam:{name}:{version}:jar:sources", f"-DoutputDirectory={folder}"]
        subprocess.run([mvn, "--batch-mode", "--quiet", f"{PLUGIN}:copy", *wanted], check=True, cwd=folder)
        return folder / f"{name}-{version}-sources.jar"
    from jgo.maven import MavenContext

    component = MavenContext(timeout=60).project("org.apache.beam", name).at_version(version)
    return Path(component.artifact(classifier="sources").resolve())


def listen_where_told(mvn: str | None, lib: Path) -> None:
    """Puts Beam's class that makes servers, with that line changed, in place of its own."""
    (jar,) = lib.glob(f"{HOLDER}-[0-9]*.jar")
    home = os.environ.get("JAVA_HOME")
    javac = shutil.which(Path(home, "bin", "javac") if home else "javac")
    if javac is None:
        sys.exit("Beam's job server needs a JDK, whose javac is missing: install one of Java 17, or set JAVA_HOME")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(sources(mvn, HOLDER, jar.stem.removeprefix(f"{HOLDER}-"), folder)) as found:
            source = patched(found.read(f"{PATCHED}.java").decode())
        (folder / Path(f"{PATCHED}.java").name).write_text(source)
        options = ["-proc:none", "-Xlint:none", "--release", "11", "-classpath", f"{lib}/*", "-d", str(folder / "out")]
        subprocess.run([javac, *options, str(folder / Path(f"{PATCHED}.java").name)], check=True)
        replace(jar, folder / "out")


def patched(source: str) -> str:
    """Ends the program where Beam's text is another one: then somebody has to look what it does now."""
    if source.count(PORT_ONLY) != 1:
        sys.exit(f"Beam's {PATCHED}.java doesn't say {PORT_ONLY} once: look on which interfaces its servers listen now")
    return source.replace(PORT_ONLY, WITH_HOST)


def replace(jar: Path, classes: Path) -> None:
    """Puts the class and those within it into a jar that has them already."""
    part = jar.with_suffix(".part")
    with zipfile.ZipFile(jar) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
        for name in dict.fromkeys(old.namelist()):  # some are in it twice
            if not name.startswith((f"{PATCHED}.class", f"{PATCHED}$")):
                new.writestr(old.getinfo(name), old.read(name))
        for path in sorted(classes.rglob("*.class")):
            new.writestr(zipfile.ZipInfo(path.relative_to(classes).as_posix()), path.read_bytes())
    part.replace(jar)


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
    listen_where_told(mvn, lib)
    with zipfile.ZipFile(folder / "job-server.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest([f"lib/{path.name}" for path in sorted(lib.glob("*.jar"))]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
