"""One line of Beam's Java, changed in its jar: servers listen on the host that they are told, which is localhost where
nothing else is said. As released they take the port of the address alone, and listen on all interfaces.

The job server is made of that jar, and so is what a TaskManager runs of Beam. A JDK compiles the class anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
HOLDER = "beam-sdks-java-core"  # the jar
CLASS = "org/apache/beam/sdk/fn/server/ServerFactory"
RELEASED, CHANGED = "NettyServerBuilder.forPort(socket.getPort())", "NettyServerBuilder.forAddress(socket)"


def fetch_sources(mvn: str | None, lib: Path) -> None:
    """Puts the sources of the jar, if it is there, beside it, with Maven or without."""
    for jar in list(lib.glob(f"{HOLDER}-*.jar")):
        version = jar.stem.removeprefix(f"{HOLDER}-")
        if mvn:
            wanted = [f"-Dartifact=org.apache.beam:{HOLDER}:{version}:jar:sources", f"-DoutputDirectory={lib}"]
            subprocess.run([mvn, "--strict-checksums", "--batch-mode", "--quiet", COPY, *wanted], check=True, cwd=lib)
            continue
        from jgo.maven import MavenContext

        component = MavenContext(timeout=60).project("org.apache.beam", HOLDER).at_version(version)
        found = component.artifact(classifier="sources").resolve()
        shutil.copyfile(found, lib / found.name)


def listen_where_told(lib: Path) -> None:
    """Puts the class with that line changed in place of the one in the jar, and takes the sources away."""
    (sources,) = lib.glob(f"{HOLDER}-*-sources.jar")
    jar = sources.with_name(sources.name.replace("-sources", ""))
    home = os.environ.get("JAVA_HOME")
    javac = shutil.which(Path(home, "bin", "javac") if home else "javac")
    if javac is None:
        sys.exit("Beam's job server needs the javac of a JDK: install one of Java 17, or set JAVA_HOME")
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(sources) as found:
        source, out = Path(name, "ServerFactory.java"), Path(name, "classes")
        source.write_text(changed(found.read(f"{CLASS}.java").decode()))
        options = ["-proc:none", "-Xlint:none", "--release", "11", "-d", str(out)]
        places = ["-sourcepath", name, "-classpath", f"{lib}/*"]
        subprocess.run([javac, *options, *places, str(source)], check=True)
        replace(jar, out)
    sources.unlink()


def changed(source: str) -> str:
    """Ends the program where the text is another one: then somebody has to look where its servers listen."""
    if source.count(RELEASED) != 1:
        sys.exit(f"Beam's {CLASS}.java doesn't hold {RELEASED} once: look on which interfaces its servers listen now")
    return source.replace(RELEASED, CHANGED)


def replace(jar: Path, classes: Path) -> None:
    """Puts the class and those within it into the jar, in place of its own. The same input gives the same bytes."""
    part = jar.with_suffix(".part")
    with zipfile.ZipFile(jar) as old, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
        for name in dict.fromkeys(old.namelist()):  # some are in it twice
            if not name.startswith((f"{CLASS}.class", f"{CLASS}$")):
                new.writestr(old.getinfo(name), old.read(name))
        for path in sorted(classes.rglob("*.class")):
            item = zipfile.ZipInfo(path.relative_to(classes).as_posix())
            new.writestr(item, path.read_bytes(), zipfile.ZIP_DEFLATED)
    part.replace(jar)
