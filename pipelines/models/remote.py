"""Models in a bucket, or at another place that Beam's file systems know: each process has a copy of those that it uses.

A task's folder and a version's own are copied alike. A version never changes, and is copied once; of a task's folder
there is its pointer, as it was at the last `pull`, and the versions that were asked for.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipelines.errors import Exit, UserError
from pipelines.models.saved.manifest import FILE
from pipelines.system.files import LARGEST, write_file

POINTER = "serving.json"


def is_remote(model: str | os.PathLike[str]) -> bool:
    return "://" in os.fspath(model)


def local(model: str) -> Path:
    """Where the copy of a folder is, once it was pulled.

    Raises:
      UserError: it is no name of a folder.
    """
    scheme, _, path = model.partition("://")
    if not _plain((scheme, *path.strip("/").split("/"))) or "/" in scheme:
        raise UserError(f"--model {model!r} is no name of a folder: give it without empty parts, . and ..")
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
    except UserError:
        raise
    except Exception as error:  # each file system has its own
        raise UserError(f"{model}: cannot be read: {type(error).__name__}: {error}", Exit.MODEL) from error
    return folder


def _copy_version(place: str, folder: Path) -> None:
    """All files, and then their folder's name."""
    found = [f.path for f in FileSystems.match([place + "**"])[0].metadata_list if not f.path.endswith("/")]
    names = {path: _inside(place, path) for path in found}
    _no_file_is_a_folder(list(names.values()))
    part = Path(tempfile.mkdtemp(dir=_copies()))
    for path, name in names.items():
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _open(path) as source, target.open("xb") as copy:
            shutil.copyfileobj(source, copy)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.rename(folder)
    except OSError:  # another thread was first
        shutil.rmtree(part)


def _inside(place: str, path: str) -> str:
    """What an object is called in the folder of a version.

    Raises:
      UserError: its name leads to another place.
    """
    name = path.removeprefix(place)
    parts = name.split("/")
    if not path.startswith(place) or not _plain(parts):
        raise UserError(f"{path!r} is no name of a file in a model: remove that object; nothing was copied", Exit.MODEL)
    return name


def _plain(parts: Iterable[str]) -> bool:
    """Whether these are names of files and folders, one in another, and lead nowhere else."""
    return all(part not in ("", ".", "..") and part.isprintable() and "\\" not in part for part in parts)


def _no_file_is_a_folder(names: Collection[str]) -> None:
    """Checks that names can be those of files on a disk.

    Raises:
      UserError: one name is that of a file and of a folder, or of two files.
    """
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    twice = [name for name, times in Counter(names).items() if times > 1 or name in folders]
    if twice:
        told = f"{twice[0]!r} is the name of a file and of something else in a model: remove one; nothing was copied"
        raise UserError(told, Exit.MODEL)


def _copy_pointer(place: str, target: Path) -> None:
    """It is written anew only if it has changed: its stamp tells."""
    with _open(place) as file:
        content = bytes(file.read(LARGEST + 1))  # who reads it says that it is too large
    if target.is_file() and target.read_bytes() == content:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, lambda f: f.write(content))


def _open(place: str) -> BinaryIO:
    return cast(BinaryIO, FileSystems.open(place, compression_type=CompressionTypes.UNCOMPRESSED))


@cache
def _copies() -> Path:
    """A folder of this process, which goes with it."""
    folder = tempfile.mkdtemp(prefix="foretide-models-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder).resolve()
