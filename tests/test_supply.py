"""What is installed comes by hash: requirements, jars, modules of Go, and those images whose digest is known."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.support import docker_images
from tests.support.docker_images import ROOT

FLINK = ROOT / "emulators" / "flink"
LOCKS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("requirements.lock", "tools/*.txt", "emulators/*/requirements.txt", "templates/*/requirements*.*")
    for path in ROOT.glob(pattern)
    if path.suffix != ".in"
)
ENTRY = re.compile(r"[\w.-]+==[\w.]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu", "flink/Dockerfile", "flink/Dockerfile.flink")
BASES = [ROOT / "templates" / name for name in (*DOCKERFILES, "flink/compose.yaml")]
BASE = re.compile(r"^(?:ARG [A-Z]+=|FROM |    image: )([a-z][^ {}@]*:[^ @\n]+)(?:@(\S+))?", re.MULTILINE)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Of these no digest is known here: `make digests` looks them up.
BY_TAG = {"apache/beam_python3.11_sdk", "gcr.io/dataflow-templates-base/python311-template-launcher-base", "flink"}


def recipes(*targets: str) -> list[str]:
    """The commands that make would run if nothing were there."""
    make = shutil.which("make")
    assert make
    command = [make, "--no-print-directory", "--always-make", "--dry-run", "-C", str(ROOT), *targets]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [" ".join(line.split()) for line in told.replace("\\\n", " ").splitlines()]


def installs(text: str) -> list[str]:
    """Each command of a text that installs packages of Python."""
    parts = re.split(r"&&|;|\|\||\n", text)
    return [part.strip() for part in parts if re.search(r"\bpip install |\buv run |\btool run ", part)]


def made() -> list[str]:
    targets = (".venv/.demo", ".venv/.dev", ".venv/.flink", ".venv/.uv", ".venv/.go", ".venv/bin/bigquery-emulator")
    fetched = (".venv/flink/.fetched", ".venv/airflow/.fetched")
    return installs("\n".join(recipes(*targets, *fetched, "audit")))


def built() -> list[str]:
    files = [docker_images.read(ROOT / "templates" / name) for name in DOCKERFILES]
    return [part for file in files for stage in file.stages for run in stage.values("RUN") for part in installs(run)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_has_its_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text().strip()
    assert [entry for entry in re.split(r"\n(?=\S)", text) if not ENTRY.fullmatch(entry)] == []


def test_nothing_is_installed_without_a_hash() -> None:
    commands = [*made(), *built()]
    assert len(commands) >= 16
    for command in commands:
        words = shlex.split(command)
        if words[-1] == ".":  # this package, from this folder
            assert {"--no-deps", "--require-build-hashes"} <= set(words), command
            continue
        assert {"--no-deps", "--require-hashes"} <= set(words), command
        (file,) = [after for word, after in pairwise(words) if word in ("-r", "--requirement")]
        if re.search(r"\.venv/\.\w+\.txt$|wanted\.txt$", file):  # names and versions; the hashes are in the lock
            assert "--constraint requirements.lock --build-constraint requirements.lock --require-b" in command
        else:
            name = re.sub(r"^/build/", "", file)
            assert name in (*LOCKS, "uv.txt", "requirements.lock"), command
            assert not name.startswith("requirements") or "--require-build-hashes" in words, command


def wheel(folder: Path, content: str) -> Path:
    """A package named thing, of one module. The same content makes the same bytes."""
    path = folder / "thing-1-py3-none-any.whl"
    texts = {
        "thing.py": content,
        "thing-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1\n",
        "thing-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "thing-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, text in texts.items():
            file.writestr(zipfile.ZipInfo(name), text)
    return path


def test_a_changed_wheel_is_refused(tmp_path: Path) -> None:
    """By the very command of make, in a folder with a lock and an environment of its own."""
    (command,) = [c for c in installs("\n".join(recipes(".venv/.flink"))) if "-r .venv/.flink.txt" in c]
    programs = tmp_path / ".venv" / "bin"
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / ".venv"], check=True)
    (programs / "uv").symlink_to(uv)
    packages = tmp_path / "packages"
    packages.mkdir()
    digest = hashlib.sha256(wheel(packages, "good = True").read_bytes()).hexdigest()
    (tmp_path / ".venv" / ".flink.txt").write_text("thing==1\n")

    def install() -> str:
        variables = {**os.environ, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(packages), "UV_NO_CACHE": "1"}
        done = subprocess.run(shlex.split(command), cwd=tmp_path, env=variables, capture_output=True, text=True)
        return "" if done.returncode == 0 else " ".join(done.stderr.split())  # which is wrapped

    lock = tmp_path / "requirements.lock"
    lock.write_text("thing==1\n")
    assert "all requirements must have a hash, but none were provided for: thing==1" in install()
    lock.write_text(f"thing==1 \\\n    --hash=sha256:{digest}\n")
    wheel(packages, "good = False")
    assert "Hash mismatch for `thing==1`" in install()
    wheel(packages, "good = True")
    assert install() == ""


def jars(folder: Path, **content: str) -> dict[str, str]:
    """Writes jars, and gives their hashes by name."""
    for name, text in content.items():
        (folder / f"{name}.jar").write_text(text)
    return {f"{name}.jar": hashlib.sha256(text.encode()).hexdigest() for name, text in content.items()}


@pytest.mark.parametrize(
    ("fetched", "told"),
    [
        ({"a": "one", "b": "other"}, r"lib/b\.jar: its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64} as in jars\.sha256"),
        ({"a": "one", "b": "two", "c": "more"}, r"lib/c\.jar: jars\.sha256 has no such jar"),
        ({"a": "one"}, r"lib: b\.jar of jars\.sha256 wasn't fetched"),
    ],
)
def test_a_changed_jar_is_refused(tmp_path: Path, fetched: dict[str, str], told: str) -> None:
    """With a Maven that fetches what it is given, and writes down what it is asked."""
    wanted = jars(tmp_path, a="one", b="two")
    (tmp_path / "jars.sha256").write_text("".join(f"{digest}  {name}\n" for name, digest in wanted.items()))
    shutil.copy(FLINK / "pom.xml", tmp_path)
    there = tmp_path / "there"
    there.mkdir()
    jars(there, **fetched)
    mvn = tmp_path / "mvn"
    mvn.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nfor last; do :; done\ncp {there}/* "${{last#*=}}"\n')
    mvn.chmod(0o755)
    target = tmp_path / "server"
    target.mkdir()
    (target / "job-server.jar").write_text("of before")
    done = subprocess.run(
        [sys.executable, FLINK / "job_server.py", tmp_path / "pom.xml", target],
        env={**os.environ, "PATH": f"{tmp_path}:{os.defpath}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.search(told, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (target / "job-server.jar").exists()
    assert "--strict-checksums" in (tmp_path / "asked").read_text().split()


def test_every_jar_of_the_job_server_is_listed() -> None:
    names = [line.split()[1] for line in (FLINK / "jars.sha256").read_text().splitlines()]
    lib = ROOT / ".venv" / "flink" / "job-server" / "lib"
    assert {path.name for path in lib.glob("*.jar")} == {name for name in names if not name.endswith("-sources.jar")}
    assert names == sorted(set(names))


def test_modules_of_go_are_pinned() -> None:
    for folder in ("emulators/pubsub", "tools"):
        assert (ROOT / folder / "go.sum").read_text()
    (command,) = [line for line in recipes(".venv/bin/hclfmt") if "hclfmt" in line and " build " in line]
    assert "-C tools -mod=readonly" in command


def test_the_package_is_built_by_what_the_lock_has() -> None:
    (builder,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert f"{builder} \\\n" in (ROOT / "requirements.lock").read_text()


def test_a_plan_is_kept_for_a_day() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "infrastructure.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    kept = [step["with"]["retention-days"] for step in steps if "upload-artifact" in step.get("uses", "")]
    assert kept == [1]
    used = [step["uses"] for step in steps if "uses" in step]
    assert [name for name in used if not re.search(r"@[0-9a-f]{40}$", name)] == []


def test_images_are_named_by_digest_where_one_is_known() -> None:
    found = {image.rpartition(":")[0]: digest for path in BASES for image, digest in BASE.findall(path.read_text())}
    assert {"python", "maven", "zookeeper", *BY_TAG} == set(found)
    pinned = {image: digest for image, digest in found.items() if digest}
    assert all(map(DIGEST.fullmatch, pinned.values()))
    assert set(found) - set(pinned) <= BY_TAG
    page = (ROOT / "docs" / "security.md").read_text()
    assert [image for image in set(found) - set(pinned) if f"`{image}`" not in page] == []


def test_make_pins_the_images(tmp_path: Path) -> None:
    """With a docker that has the digest of everything."""
    for path in (ROOT / "Makefile", ROOT / "requirements.lock", *BASES):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho sha256:{"5" * 64}\n')
    docker.chmod(0o755)
    command = ["make", "--no-print-directory", "-C", str(tmp_path), "digests"]
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = [subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout for _ in "12"]
    assert told[0] == told[1]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 2 * 6
    assert asked[0].startswith("buildx imagetools inspect ")
    for path in BASES:
        text = (tmp_path / path.relative_to(ROOT)).read_text()
        assert {digest for _, digest in BASE.findall(text)} == {f"sha256:{'5' * 64}"}
        assert DIGEST.sub("", text).replace("@", "") == DIGEST.sub("", path.read_text()).replace("@", "")
    assert list(tmp_path.rglob("*.old")) == []
