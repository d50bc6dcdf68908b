"""Trained models by task and version, and which version of a task serves. What a model's folder holds: `manifest`.

    <root>/<task>/<version>/      a model, in a folder named as its manifest says; never changes
    <root>/<task>/serving.json    {"version": ..., "previous": [...]}: what serves, and what served before, newest first
    <root>/<task>/.serving.lock   held while serving.json changes

Readers take no lock: serving.json is replaced in one step once the version it names is on the disk, so that whoever
reads it, at whatever moment a process is killed, finds the old one or the new one, whole. What people read of all
this: `jobs.models`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.errors import Exit, UserError
from pipelines.models import remote
from pipelines.models.remote import POINTER
from pipelines.models.saved.manifest import AGAIN, FILE, NAME, Manifest, load_manifest
from pipelines.system.files import locked, read_json, sync, write_file

LOCK = ".serving.lock"
KEPT = 100  # versions that a pointer remembers
SHOWN = 5  # versions that an error names


@dataclass(frozen=True)
class Pointer:
    """Which version of a task serves."""

    version: str
    previous: tuple[str, ...] = ()  # versions that served before it, newest first


@dataclass(frozen=True)
class Version:
    """A model that can serve."""

    path: Path
    manifest: Manifest


@dataclass(frozen=True)
class TaskModels:
    """All that the registry holds of one task."""

    folder: Path
    serving: Pointer | None
    versions: tuple[Version, ...]  # newest first
    problems: tuple[str, ...]  # what cannot be read or served, and why


def models(root: str | os.PathLike[str], task: str | None = None) -> tuple[TaskModels, ...]:
    """The tasks of a registry, or one of them. What cannot be read is among the problems of its task.

    Raises:
      UserError: there is no model, or none of that task.
    """
    folders = _task_folders(_absolute(root))
    if not folders:
        raise UserError(f"{os.fspath(root)} holds no models: make one with foretide train")
    wanted = [f for f in folders if task in (None, f.name)]
    if not wanted:
        raise UserError(
            f"no models of task {task} in {os.fspath(root)}; there are {', '.join(f.name for f in folders)}"
        )
    return tuple(_models(f) for f in wanted)


def serving(folder: str | os.PathLike[str]) -> Pointer | None:
    """The version of a task's folder that serves; None if none was ever promoted.

    Raises:
      UserError: the file that says so cannot be read.
    """
    path = _absolute(folder) / POINTER
    try:
        return _parse(read_json(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        remedy = f"Write it anew with foretide models promote {shlex.quote(str(path.parent))}/VERSION"
        raise UserError(f"{path} cannot be read: {error}", Exit.MODEL, remedy=remedy) from None


def stamp(folder: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """A stamp that changes whenever another version of a task's folder is made to serve; None where that cannot be
    told."""
    try:
        stat = (_absolute(folder) / POINTER).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def is_version(folder: str | os.PathLike[str]) -> bool:
    """Whether it is a model's own folder, not that of a task."""
    return (_absolute(folder) / FILE).is_file()


def resolve(model: str | os.PathLike[str]) -> Path:
    """The folder of the model meant by a model's own folder, or by a task's folder, whose serving version it is; a copy
    of one that is not on this machine.

    Raises:
      UserError: it is neither, no version of the task serves, or the one that should is gone.
    """
    place = os.fspath(model)
    folder = remote.pull(place) if remote.is_remote(place) else _absolute(place)
    if is_version(folder):
        return folder
    pointer = serving(folder)
    if pointer is None:
        raise _no_model(place, folder)
    if remote.is_remote(place):
        remote.pull(f"{place.rstrip('/')}/{pointer.version}")
    if not (folder / pointer.version / FILE).is_file():
        remedy = f"Go back to the one before with {go_back(folder)}. {_choose(folder)}"
        what = f"{folder / POINTER} names version {pointer.version}, which is gone"
        raise UserError(what, Exit.MODEL, remedy=remedy)
    return folder / pointer.version


def load(folder: Path) -> Version:
    """A version of a task, which lies in its place.

    Raises:
      UserError: it is no model, it lies in the wrong place, or it cannot serve.
    """
    manifest = load_manifest(folder)
    if (manifest.task, manifest.version) != (folder.parent.name, folder.name):
        right = Path(manifest.task, manifest.version)
        raise UserError(
            f"{folder} holds version {manifest.version} of {manifest.task}", Exit.MODEL, remedy=f"Move it to {right}"
        )
    if not (folder / "saved_model" / "saved_model.pb").is_file():
        raise UserError(f"{folder} has no saved_model, so it cannot serve", Exit.MODEL, remedy=AGAIN)
    return Version(folder, manifest)


def find(root: str | os.PathLike[str], name: str) -> Path:
    """The folder of a model: of a version in the registry, of the version of a task that serves, or any path of it.

    Raises:
      UserError: there is none, or several of that name.
    """
    root = _absolute(root)
    if (Path(name) / FILE).is_file():
        return _absolute(name)
    if re.fullmatch(NAME, name):
        tasks = _task_folders(root)
        if root / name in tasks:
            return resolve(root / name)
        found = [f / name for f in tasks if (f / name / FILE).is_file()]
        if len(found) > 1:
            raise UserError(f"{name} is a version of several tasks: give its path, such as {found[0]}")
        if found:
            return found[0]
    lists = f"foretide models --models {shlex.quote(str(root))}"
    raise UserError(f"{name} is no model: give its folder, or a version that {lists} lists")


def promote(folder: str | os.PathLike[str], version: str) -> Pointer:
    """Makes a version serve. If it does already, nothing changes.

    A pointer that cannot be read is replaced, and what it remembered is lost.

    Raises:
      UserError: it is no version of that task that can serve, or the folder cannot be written.
    """
    folder = _absolute(folder)
    if not re.fullmatch(NAME, version):
        raise UserError(f"{version!r} is no name of a version", Exit.MODEL, remedy=_choose(folder))
    path = load(folder / version).path
    with _locked(folder):
        try:
            old = serving(folder)
        except UserError:
            old = None
        if old is not None and old.version == version:
            return old
        _sync_all(path)
        return _write(folder, Pointer(version, (old.version, *old.previous)[:KEPT] if old else ()))


def rollback(folder: str | os.PathLike[str]) -> Pointer:
    """Makes the version serve that served before the present one; those that are gone or broken are passed over.

    Raises:
      UserError: there is none, the pointer cannot be read, or the folder cannot be written.
    """
    folder = _absolute(folder)
    with _locked(folder):
        old = serving(folder)
        if old is None:
            raise _no_model(str(folder), folder)
        for i, version in enumerate(old.previous):
            if _usable(folder / version):
                return _write(folder, Pointer(version, old.previous[i + 1 :]))
        raise UserError(
            f"{folder}: no version that served before {old.version} is left",
            Exit.MODEL,
            remedy=_choose(folder),
        )


def _absolute(path: str | os.PathLike[str]) -> Path:
    """A link keeps its name, which may be that of the task. Of what is not on this machine, its copy."""
    return remote.local(os.fspath(path)) if remote.is_remote(path) else Path(os.path.abspath(path))


def _parse(content: object) -> Pointer:
    """Reads a pointer.

    Raises:
      ValueError: it is no pointer.
    """
    match content:
        case {"version": version, "previous": [*previous], **rest} if not rest:
            for name in (version, *previous):
                if not isinstance(name, str) or not re.fullmatch(NAME, name):
                    raise ValueError(f"{name!r} is no name of a version")
            return Pointer(version, tuple(previous))
    raise ValueError("it must hold version and the list previous, and nothing else")


def _usable(folder: Path) -> bool:
    try:
        load(folder)
    except UserError:
        return False
    return True


def _models(folder: Path) -> TaskModels:
    versions, problems, pointer = [], [], None
    for path in _subfolders(folder):
        try:
            versions.append(load(path))
        except UserError as error:
            problems.append(str(error))
    try:
        pointer = serving(folder)
        if pointer is not None:
            resolve(folder)
    except UserError as error:
        problems.append(str(error))
    versions.sort(key=lambda v: (v.manifest.created, v.path.name), reverse=True)
    return TaskModels(folder, pointer, tuple(versions), tuple(problems))


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, but for hidden ones, of models that are being written."""
    if not folder.is_dir():
        return []
    return [folder / name for name in sorted(os.listdir(folder)) if name[0] != "." and (folder / name).is_dir()]


def _task_folders(root: Path) -> list[Path]:
    return [f for f in _subfolders(root) if (f / POINTER).exists() or _names(f)]


def _names(folder: Path) -> list[str]:
    """The versions of a task's folder, those trained to the latest as-of first."""
    return [f.name for f in reversed(_subfolders(folder)) if (f / FILE).is_file()]


def _no_model(given: str, folder: Path) -> UserError:
    """Why a folder names no model to serve, and what would."""
    if _names(folder):
        what, remedy = f"no version in {given} serves yet", _choose(folder)
        return UserError(what, Exit.MODEL, remedy=remedy)
    tasks = [f.name for f in _task_folders(folder)]
    if tasks:
        remedy = f"Name one of them, such as {Path(given, tasks[0])}"
        return UserError(f"{given} holds the models of {', '.join(tasks)}", Exit.MODEL, remedy=remedy)
    what = f"{given} is no model: it has neither {FILE} nor {POINTER}"
    return UserError(what, Exit.MODEL, remedy="Make one with foretide train")


def go_back(folder: Path) -> str:
    """The command that lets the version before serve a task again."""
    return f"foretide models --models {shlex.quote(str(folder.parent))} rollback {shlex.quote(folder.name)}"


def _choose(folder: Path) -> str:
    names = _names(folder)
    if not names:
        return "Make a model with foretide train"
    more = ", ..." if len(names) > SHOWN else ""
    promote = f"foretide models promote {shlex.quote(str(folder))}/VERSION"
    return f"Choose one with {promote}; there are {', '.join(names[:SHOWN])}{more}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from changing which version serves, until the end of the block.

    Raises:
      UserError: the folder is not there, or cannot be written.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(folder / LOCK))
        except OSError as error:
            told = f"cannot write to {folder}: {error.strerror}; name the folder of a task's models"
            raise UserError(told) from error
        yield


def _write(folder: Path, pointer: Pointer) -> Pointer:
    for left in folder.glob(f"{POINTER}.*.part"):  # by killed processes: the lock says that none writes now
        left.unlink()
    text = json.dumps(asdict(pointer), indent=2) + "\n"
    write_file(folder / POINTER, lambda f: f.write(text.encode()))
    sync(folder)
    return pointer


def _sync_all(folder: Path) -> None:
    """All of a version is on the disk before a pointer names it."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)
