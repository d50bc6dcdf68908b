"""Versions: of the libraries here against those that were tested together, and of the workers' image against here."""

from __future__ import annotations

import json
import platform
import re
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import apache_beam
from apache_beam.options.pipeline_options import WorkerOptions

from pipelines.doctor.google import Google
from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, skipped, warning

LOCK = Path(__file__).parents[2] / "requirements.lock"
PIN = re.compile(r"^([\w.-]+)==([\w.!+-]+)", re.MULTILINE)
SHOWN = 5  # libraries that a finding names
IMAGE = re.compile(r"(?:([^/]+\.[^/]+|localhost|[^/]+:\d+)/)?(.+?)(?::([\w.-]+))?(?:@(sha256:[0-9a-f]+))?")
SDK = re.compile(r"beam_python(\d+\.\d+)_sdk$")  # Beam's own images: their tag is the version of Beam
LABELS = {  # of the images that the Dockerfiles of templates make
    "foretide.version": "foretide",
    "foretide.beam": "beam",
    "foretide.python": "python",
}
MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json" for kind in ("oci.image.manifest.v1", "docker.distribution.manifest.v2")
)
GOOGLE = r"(^|\.)(gcr\.io|pkg\.dev)$"  # registries that take the credentials of Google
TIMEOUT = 10.0  # s, of a request


def here(_: Facts) -> Iterator[Finding]:
    """The libraries of this environment."""
    wanted = pins()
    if not wanted:
        yield skipped("libraries", "there is no list of the versions that were tested together")
        return
    different = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra
        if found != version:
            different.append(f"{name} {found} (tested: {version})")
    if different:
        more = f", and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        yield warning("libraries", f"other versions than tested: {', '.join(different[:SHOWN])}{more}")
        return
    yield ok("libraries", f"Python {platform.python_version()}, Beam {apache_beam.__version__}, as tested")


def pins() -> dict[str, str]:
    """Library -> version, of requirements.lock beside the package; of the package itself where there is none."""
    try:
        text = LOCK.read_text(encoding="utf-8")
    except OSError:
        try:
            text = "\n".join(metadata.requires("foretide") or [])
        except metadata.PackageNotFoundError:
            return {}
    return dict(PIN.findall(text))


def image(google: Google, facts: Facts) -> Iterator[Finding]:
    """The image of the workers, by its labels where the registry shows them, else by its name."""
    name = facts.launch.options.view_as(WorkerOptions).sdk_container_image
    if not name:
        return
    match = IMAGE.fullmatch(name)
    if match is None:
        yield error(name, f"--sdk_container_image={name} is no name of an image", "Correct its name")
        return
    host, repository, tag, digest = match.groups()
    if (tag is None and digest is None) or tag == "latest":
        yield warning(
            name,
            f"{name} has no tag of its own, so that what it is may change while a job runs",
            "Give the image with a tag of its version, or its digest",
        )
    sdk = SDK.search(repository)
    found: Mapping[str, str] = {"python": sdk[1], "beam": tag or ""} if sdk else {}
    why = "its registry is not known"
    if not found and host is not None:
        try:
            found = labels(host, repository, digest or tag or "latest", google)
            why = f"it has none of the labels {', '.join(LABELS)}"
        except (OSError, ValueError, KeyError) as problem:
            why = f"{host} does not show it ({getattr(problem, 'reason', None) or type(problem).__name__})"
    found = {kind: version for kind, version in found.items() if version}
    if not found:
        yield skipped(name, f"the versions in {name} cannot be read: {why}")
        return
    yield _compared(name, found)


def _compared(name: str, found: Mapping[str, str]) -> Finding:
    own = {
        "foretide": _foretide(),
        "beam": apache_beam.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    other = [kind for kind, version in found.items() if version != own[kind]]
    if other:
        said = ", ".join(f"{kind} {found[kind]} in the image and {own[kind]} here" for kind in other)
        return error(
            name,
            f"{name}: {said}",
            f"Build the image from this version, with Beam {own['beam']} and Python {own['python']}",
        )
    return ok(name, f"{name}: {', '.join(f'{kind} {version}' for kind, version in found.items())}")


def _foretide() -> str:
    try:
        return metadata.version("foretide")
    except metadata.PackageNotFoundError:
        return ""


def labels(host: str, repository: str, reference: str, google: Google) -> dict[str, str]:
    """What the labels of an image say: foretide, beam, python -> version.

    Raises:
      OSError, ValueError, KeyError: the registry does not show them.
    """
    near = host.partition(":")[0] in ("localhost", "127.0.0.1")
    base = f"{'http' if near else 'https'}://{host}/v2/{repository}"
    get = google.document if re.search(GOOGLE, host) else _document
    digest = get(f"{base}/manifests/{reference}", MANIFESTS)["config"]["digest"]
    given = get(f"{base}/blobs/{digest}", "*/*").get("config", {}).get("Labels") or {}
    return {kind: str(given[label]) for label, kind in LABELS.items() if label in given}


def _document(url: str, accept: str) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=TIMEOUT) as answer:
        return dict(json.load(answer))
