"""The Dockerfiles of the templates as tests read them, and what they make, in a folder in place of an image."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {kind: ROOT / "templates" / f"Dockerfile.{kind}" for kind in ("cpu", "gpu")}
# What comes out of images that others make.
THEIRS = (
    *("opt/apache/beam/boot", "opt/apache/beam/LICENSE", "opt/apache/beam/NOTICE"),
    "opt/google/dataflow/python_template_launcher",
)


@dataclass(frozen=True)
class Step:
    word: str  # FROM, COPY, ...
    value: str


@dataclass
class Stage:
    base: str
    name: str  # "" for the last one
    steps: list[Step] = field(default_factory=list)

    def values(self, word: str) -> list[str]:
        return [step.value for step in self.steps if step.word == word]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for value in self.values("ENV") for pair in shlex.split(value))


@dataclass(frozen=True)
class Dockerfile:
    arguments: Mapping[str, str]
    stages: list[Stage]

    @property
    def last(self) -> Stage:
        return self.stages[-1]


def read(path: Path) -> Dockerfile:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    arguments, stages = {}, list[Stage]()
    for line in filter(None, map(str.strip, text.splitlines())):
        word, value = line.split(maxsplit=1)
        if word == "ARG" and not stages:
            name, arguments[name] = value.split("=", 1)
        elif word == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(arguments.get(base.strip("${}"), base), name))
        else:
            stages[-1].steps.append(Step(word, " ".join(value.split())))
    return Dockerfile(arguments, stages)


def make(kind: str, folder: Path, install: bool) -> Path:
    """Does what a Dockerfile says, up to users, and gives the folder that stands for the root of the image.

    Args:
      install: as the file says, which takes minutes and 2 GB; else the packages of this process stand in for those of
        the lock, in an environment that has the place of the image's.
    """
    roots: dict[str, Path] = {}
    for stage in read(FILES[kind]).stages:
        root = roots[stage.name] = folder / (stage.name or "image")
        if stage.name in ("beam", "launcher"):
            for path in THEIRS:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(path)
        for step in stage.steps:
            if step.word == "COPY":
                _copy(step.value, roots, root)
            elif step.word == "RUN" and stage.name == "build":
                _run(step.value, root) if install else _stand_in(root)
    return roots[""]


def environment(kind: str, root: Path) -> dict[str, str]:
    """The variables of a process in the image that `make` made, and no others."""
    return {
        name: _inside(value, root).replace("$PATH", os.defpath)
        for name, value in read(FILES[kind]).last.environment.items()
    }


def launch(
    kind: str, root: Path, request: Path, *options: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Starts the template's program as the launcher does, with the parameters of a request to launch (JSON).

    Args:
      options: what Dataflow adds.
      variables: further ones, beside those of the image.
    """
    parameters = json.loads(request.read_text())["launchParameter"]["parameters"]
    variables = {**environment(kind, root), "HOME": str(root), **(variables or {})}
    command = ["python", variables["FLEX_TEMPLATE_PYTHON_PY_FILE"], *(f"--{k}={v}" for k, v in parameters.items())]
    python = shutil.which("python", path=variables["PATH"])
    assert python == str(root / "opt/foretide/bin/python")
    return subprocess.run(
        [python, *command[1:], *options],
        env=variables,
        cwd=_inside(read(FILES[kind]).last.values("WORKDIR")[-1], root),
        capture_output=True,
        text=True,
        timeout=600,
    )


def _inside(text: str, root: Path) -> str:
    """A text with whole paths of the image, as they are in the folder that stands for it."""
    return re.sub(r"(?<![\w/.}-])/(?=(build|opt|template|var)\b)", f"{root}/", text)


def _copy(value: str, roots: Mapping[str, Path], root: Path) -> None:
    words = value.split()
    given = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
    *sources, target = words
    for source in sources:
        at = roots[given] / source.lstrip("/") if given else ROOT / source
        to = root / target.lstrip("/") / (at.name if target.endswith("/") else "")
        to.parent.mkdir(parents=True, exist_ok=True)
        if given == "build":
            at.rename(to)  # large
        elif at.is_dir():
            shutil.copytree(at, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(at, to)


def _run(command: str, root: Path) -> None:
    """In a shell without the caller's variables, but with those that say how to reach a package index."""
    kept = {n: v for n, v in os.environ.items() if re.fullmatch(r"(PIP|UV)_(CERT|.*INDEX_URL)|SSL_CERT_FILE|TMPDIR", n)}
    path = f"{Path(sys.base_prefix) / 'bin'}:{os.defpath}"
    subprocess.run(["sh", "-ec", _inside(command, root)], check=True, env={**kept, "PATH": path, "HOME": str(root)})


def _stand_in(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "opt/foretide"], check=True)
    packages = root / "opt/foretide/lib/python3.11/site-packages"
    (packages / "here.pth").write_text(f"{distribution('apache-beam').locate_file('')}\n")
