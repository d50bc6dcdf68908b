"""What `make` does beyond what the tests of modules see."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.docker_images import ROOT

IMAGE = "europe-west1-docker.pkg.dev/my-project/foretide/foretide-cpu:1"


@pytest.mark.parametrize(("target", "more", "file"), [("batch", [], "batch"), ("stream", ["KIND=gpu"], "stream-gpu")])
def test_make_builds_a_template(tmp_path: Path, target: str, more: list[str], file: str) -> None:
    """With a gcloud that prints what it is asked."""
    (tmp_path / "gcloud").write_text('#!/bin/sh\necho "asked: $@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    done = make(tmp_path, f"template-{target}", f"IMAGE={IMAGE}", "TEMPLATES=gs://my-bucket/flex", *more)
    assert done.returncode == 0, done.stderr
    printed, _, asked = done.stdout.partition("asked: ")
    assert " ".join(printed.replace("\\\n", " ").split()) == f"gcloud {asked.strip()}"
    assert asked.split() == [
        *("dataflow", "flex-template", "build", f"gs://my-bucket/flex/{file}.json", f"--image={IMAGE}"),
        *("--sdk-language=PYTHON", f"--metadata-file=templates/flex/{target}.json"),
    ]


def test_make_says_what_is_missing(tmp_path: Path) -> None:
    done = make(tmp_path, "template-batch", f"IMAGE={IMAGE}", "TEMPLATES=gs://my-bucket/flex")
    assert done.returncode != 0
    assert done.stdout.startswith("make template-batch needs gcloud, a part of the Google Cloud CLI: https://")
    done = make(tmp_path, "template-stream", f"IMAGE={IMAGE}")
    assert done.returncode != 0
    assert done.stdout.startswith("say which image, and where its template goes: make template-stream IMAGE=")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the commands of a folder, and those that the Makefile itself needs, alone."""
    for name in ("sh", "sed"):
        found = shutil.which(name)
        assert found
        if not (folder / name).exists():
            (folder / name).symlink_to(found)
    program = shutil.which("make")
    assert program
    command = [program, "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60)
