"""What the images hold, and what they must not."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

from pipelines.task.file import load_task
from tests.support import docker_images, small_shop
from tests.support.docker_images import FILES, ROOT
from tests.support.toy_models import untrained
from tests.test_flex import compare

KINDS = tuple(FILES)
FLEX = ROOT / "templates" / "flex"
SECRET = re.compile(r"secret|token|passw|credential|api_?key", re.IGNORECASE)
PRIVATE = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\"private_key\"|AIza[0-9A-Za-z_-]{35}|ya29\.[0-9A-Za-z_-]{20}"
)


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE))


LOCK = locked(ROOT / "requirements.lock")
IMAGES = {kind: locked(FLEX / f"requirements-{kind}.lock") for kind in KINDS}


def extras() -> dict[str, list[str]]:
    """Of pyproject.toml, by name, and under "" what is always needed: names of packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {**project["optional-dependencies"], "": project["dependencies"]}
    return {extra: [re.split(r"[=\[]", text.lower())[0] for text in texts] for extra, texts in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_linter_has_nothing_to_say(kind: str) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint is missing: install the extra dev"
    done = subprocess.run([linter, "--failure-threshold=style", FILES[kind]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_versions_are_those_that_are_tested(kind: str) -> None:
    own = {name: version for name, version in IMAGES[kind].items() if LOCK.get(name) != version}
    assert {name for name in own if not name.startswith("nvidia-")} == {"pip", *(["tensorflow-cpu"] * (kind == "cpu"))}
    name = {"cpu": "tensorflow-cpu", "gpu": "tensorflow"}[kind]
    assert IMAGES[kind][name] == LOCK["tensorflow"]
    assert any(n.startswith("nvidia-cudnn") for n in own) == (kind == "gpu")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_program_needs_is_there_and_nothing_for_development(kind: str) -> None:
    found, wanted = IMAGES[kind], extras()
    needed = [*wanted[""], *wanted["bigquery"], *wanted["gcp"], *wanted["stream"]]
    if kind == "cpu":
        needed += wanted["openvino"]
        needed[needed.index("tensorflow")] = "tensorflow-cpu"
    assert [name for name in needed if name.replace("_", "-") not in found] == []
    unwanted = {*wanted["dev"], *wanted["demo"], *wanted["train"], *(wanted["openvino"] if kind == "gpu" else [])}
    assert unwanted & found.keys() == set()


@pytest.mark.parametrize("kind", KINDS)
def test_bases_have_versions_and_beam_is_that_of_the_lock(kind: str) -> None:
    arguments = docker_images.read(FILES[kind]).arguments
    assert arguments["BEAM"].partition("@")[0] == f"apache/beam_python3.11_sdk:{LOCK['apache-beam']}"
    for image in arguments.values():
        assert re.search(r":[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?$", image)
        assert "3.11" in image or "python311" in image
    assert {stage.base for stage in docker_images.read(FILES[kind]).stages} == set(arguments.values())


@pytest.mark.parametrize("kind", KINDS)
def test_labels_tell_the_versions(kind: str) -> None:
    [label] = docker_images.read(FILES[kind]).last.values("LABEL")
    beam, own = LOCK["apache-beam"], version("foretide")
    assert label == f"foretide.version={own} foretide.beam={beam} foretide.python=3.11"


def test_the_images_differ_in_their_packages_and_the_way_to_the_driver() -> None:
    cpu, gpu = (docker_images.read(FILES[kind]) for kind in ("cpu", "gpu"))
    assert gpu.arguments == cpu.arguments
    more = {"LD_LIBRARY_PATH": "/usr/local/nvidia/lib64", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    path = {"PATH": "/opt/foretide/bin:/usr/local/nvidia/bin:$PATH"}
    assert gpu.last.environment == {**cpu.last.environment, **more, **path}
    steps = [[s for stage in f.stages for s in stage.steps if s.word != "ENV"] for f in (cpu, gpu)]
    different = [(a.value, b.value) for a, b in zip(*steps, strict=True) if a != b]
    assert different == [
        tuple(f"templates/flex/requirements-{kind}.lock /build/requirements.lock" for kind in ("cpu", "gpu"))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_process_is_not_root_and_starts_as_a_worker(kind: str) -> None:
    last = docker_images.read(FILES[kind]).last
    [user], [create] = last.values("USER"), last.values("RUN")
    assert user.isdecimal()
    assert int(user) >= 1000
    assert f"useradd --uid {user} " in create
    assert last.steps[-2].word == "USER"
    assert json.loads(last.values("ENTRYPOINT")[0]) == ["/opt/apache/beam/boot"]
    for folder in ("/var/log/dataflow/template_launcher", "/var/opt/google"):
        assert re.search(rf"install --directory --owner foretide( \S+)* {folder}( |$)", create)


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_has_a_way_in(kind: str) -> None:
    file = docker_images.read(FILES[kind])
    steps = [step for stage in file.stages for step in stage.steps]
    assert {step.word for step in steps} <= {"COPY", "RUN", "ENV", "LABEL", "WORKDIR", "USER", "ENTRYPOINT"}
    for step in steps:
        assert not SECRET.search(step.value), step
    sources = [
        s for step in steps if step.word == "COPY" and "--from" not in step.value for s in step.value.split()[:-1]
    ]
    assert set(sources) == {
        "pipelines",
        "requirements.lock",
        "templates/flex/main.py",
        f"templates/flex/requirements-{kind}.lock",
        "tools/uv.txt",
    }
    lines = (FILES[kind].parent / f"{FILES[kind].name}.dockerignore").read_text().splitlines()
    assert lines[0] == "*"  # all but what is let in
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert [s for s in sources if not any(fnmatch(s, f"{e}*") for e in let_in)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_installing_leaves_no_cache(kind: str) -> None:
    [stage] = [stage for stage in docker_images.read(FILES[kind]).stages if stage.name == "build"]
    [command] = stage.values("RUN")
    assert re.search(r"pip install --no-cache-dir .*uv pip install .* --no-cache ", command)
    assert "--only-binary :all:" in command
    assert "COPY --from=build /opt/foretide /opt/foretide" in FILES[kind].read_text()
    assert docker_images.read(FILES[kind]).last.environment["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_holds_the_program_and_no_more(kind: str, tmp_path: Path) -> None:
    root = docker_images.make(kind, tmp_path, install=False)
    variables = docker_images.environment(kind, root)
    assert Path(variables["FLEX_TEMPLATE_PYTHON_PY_FILE"]).read_text() == (FLEX / "main.py").read_text()
    program = root / "opt/foretide/lib/python3.11/site-packages/pipelines"
    assert names(program) == {n for n in names(ROOT / "pipelines") if "__pycache__" not in n}
    top = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "opt/foretide" not in str(p)}
    assert top == {*docker_images.THEIRS, "template/main.py"}
    for path in program.rglob("*"):
        if path.is_file():
            assert not PRIVATE.search(path.read_bytes()), path


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_exception_of_the_audit_is_explained() -> None:
    lines = [line for line in (FLEX / "vulnerabilities.txt").read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+ {1,4}\S.{20,}", line), line


@pytest.mark.soak(only=True)
def test_a_clean_environment_made_as_the_image_says_runs_a_backfill(tmp_path: Path) -> None:
    """Takes the packages of the CPU image from the package index: 2.2 GB, a minute of CPU."""
    root = docker_images.make("cpu", tmp_path / "docker", install=True)
    python = root / "opt/foretide/bin/python"

    def said(*arguments: str, code: int = 0) -> str:
        command = [str(python), "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    assert "Version: 2" in said("show", "apache-beam")  # what the SDK harness asks before it starts
    assert locked_text(said("freeze", "--all")) == IMAGES["cpu"]
    told = said("check", code=1).splitlines()
    left_out = {"pillow": ["apache-beam"], "h5py": ["keras", "tensorflow-cpu"]}  # as overrides.txt says
    assert sorted(told) == sorted(
        f"{asks} {IMAGES['cpu'][asks]} requires {name}, which is not installed."
        for name, those in left_out.items()
        for asks in those
    )
    home = [p for p in (tmp_path / "docker").rglob("*") if p.name in (".cache", "pip-cache", ".netrc", ".pypirc")]
    assert home == []
    packages = root / "opt/foretide/lib/python3.11/site-packages"
    assert not (packages / "tensorflow" / "include").exists()
    writable = [p for p in packages.iterdir() if not p.is_symlink() and p.stat().st_mode & stat.S_IWOTH]
    assert writable == []
    task, events = small_shop.write(tmp_path / "shop")
    untrained(load_task(task), tmp_path / "model")
    compare(root, task, events, tmp_path / "model", tmp_path)


def locked_text(text: str) -> dict[str, str]:
    """As `pip freeze` prints it, whose names are those that packages give themselves."""
    found = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub("[-_.]+", "-", name).lower(): version for name, version in found}
