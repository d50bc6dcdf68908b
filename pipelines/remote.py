"""Models in a bucket, or at another place that Beam's file systems know: each process has a copy of those that it uses.

A task's folder and a version's own are copied alike. A version never changes, and is copied once; of a task's folder
there is its pointer, as it was at the last `pull`, and the versions that were asked for.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipelines.errors import Exit, UserError
from pipelines.models.manifest import FILE

POINTER = "serving.json"


def is_remote(model: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(model)


def local(model: str) -> Path:
    """Where the copy of a folder is, once it was pulled."""
    scheme, _, path = model.partition("://")
    return _copies() / scheme / path.strip("/")


def origin(folder: Path) -> str:
    """The inverse of `local`: what a copy was made of; other folders are their own."""
    if not folder.is_relative_to(_copies()):
        return str(folder)
    scheme, *path = folder.relative_to(_copies()).parts
    return f"{scheme}://{'/'.join(path)}"


def pull(model: str) -> Path:
    """Copies a version, or brings the pointer of a task up to date.

    Raises:
      UserError: it cannot be read.
    """
    folder = local(model)
    if (folder / FILE).is_file():
        return folder
    try:
        if not (folder / POINTER).is_file() and FileSystems.exists(f"{model.rstrip('/')}/{FILE}"):
            _copy_version(model.rstrip("/") + "/", folder)
        elif FileSystems.exists(f"{model.rstrip('/')}/{POINTER}"):
            _copy_pointer(f"{model.rstrip('/')}/{POINTER}", folder / POINTER)
    except Exception as error:  # each file system has its own
        raise UserError(f"{model}: cannot be read: {type(error).__name__}: {error}", Exit.MODEL) from error
    return folder


def _copy_version(place: str, folder: Path) -> None:
    """All files, and then their folder's name."""
    part = Path(tempfile.mkdtemp(dir=_copies()))
    for found in FileSystems.match([place + "**"])[0].metadata_list:
        if not found.path.endswith("/"):
            target = part / found.path.removeprefix(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_read(found.path))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.rename(folder)
    except OSError:  # another thread was first
        shutil.rmtree(part)


def _copy_pointer(place: str, target: Path) -> None:
    """It is written anew only if it has changed: its stamp tells."""
    content = _read(place)
    if target.is_file() and target.read_bytes() == content:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(content)
    part.replace(target)


def _read(place: str) -> bytes:
    with FileSystems.open(place, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return bytes(file.read())


@cache
def _copies() -> Path:
    """A folder of this process, which goes with it."""
    folder = tempfile.mkdtemp(prefix="foretide-models-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder).resolve()
