"""The registry: what serves, how that changes, and that a reader or a kill never meets half a change."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.jobs import models as modeltable
from pipelines.models import registry
from pipelines.models.registry import Pointer, find, go_back, models, promote, resolve, rollback, serving, stamp
from pipelines.models.remote import POINTER
from tests.support.forking_process import ForkingProcess
from tests.support.weightless_models import DAY, TASK, VERSIONS, A, B, C, put


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task's folder with three versions, none of which serves."""
    for version in VERSIONS:
        put(tmp_path, version)
    return tmp_path / TASK


def remove(version: Path) -> None:
    version.rename(version.with_name(f".{version.name}"))


def test_promotes_and_rolls_back(folder: Path) -> None:
    assert serving(folder) is None
    assert promote(folder, A) == Pointer(A)
    assert promote(folder, B) == Pointer(B, (A,))
    assert promote(folder, A) == Pointer(A, (B, A))
    assert json.loads((folder / POINTER).read_text()) == {"version": A, "previous": [B, A]}
    assert rollback(folder) == serving(folder) == Pointer(B, (A,))
    assert rollback(folder) == serving(folder) == Pointer(A)
    with pytest.raises(UserError, match=f"no version that served before {A} is left. Choose one with .*promote"):
        rollback(folder)
    assert serving(folder) == Pointer(A)


def test_promoting_what_serves_changes_nothing(folder: Path) -> None:
    promote(folder, A)
    promote(folder, B)
    before = (folder / POINTER).stat().st_ino
    assert promote(folder, B) == Pointer(B, (A,))
    assert (folder / POINTER).stat().st_ino == before


def test_a_stamp_changes_with_what_serves(folder: Path) -> None:
    seen = [stamp(folder)]
    for change in (A, B, None, B, C):
        promote(folder, change) if change else rollback(folder)
        seen.append(stamp(folder))
        assert seen[-1] not in (None, seen[-2])
    promote(folder, C)
    assert seen[0] is None
    assert stamp(str(folder)) == seen[-1]


def test_a_pointer_remembers_so_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "KEPT", 2)
    for version in (A, B, C, A):
        promote(folder, version)
    assert serving(folder) == Pointer(A, (C, B))


def test_rolling_back_passes_over_what_is_gone(folder: Path) -> None:
    for version in (A, B, C):
        promote(folder, version)
    remove(folder / B)
    assert rollback(folder) == Pointer(A)


def test_rolling_back_needs_a_promotion(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no version in .*toy serves yet. Choose one with foretide models promote"):
        rollback(folder)
    with pytest.raises(UserError, match=r"cannot write to .*absent: No such file"):
        rollback(tmp_path / "absent")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "is no model: it has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "saved_model" / "saved_model.pb").unlink(), "has no saved_model, so it cannot serve"),
    ],
)
def test_promotes_only_what_can_serve(harm: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    version = put(tmp_path)
    harm(version)
    with pytest.raises(UserError, match=message):
        promote(version.parent, A)
    assert serving(version.parent) is None


def test_promotes_only_what_lies_in_its_place(tmp_path: Path) -> None:
    folder = put(tmp_path, A).rename(tmp_path / TASK / B).parent
    with pytest.raises(UserError, match=f"{B} holds version {A} of toy. Move it to toy{os.sep}{A}$"):
        promote(folder, B)
    put(tmp_path, C, task="other")
    with pytest.raises(UserError, match=f"{C} holds version {C} of other. Move it to other{os.sep}{C}$"):
        promote(folder, C)
    assert serving(folder) is None


@pytest.mark.parametrize("name", ["", ".", "..", f"../toy/{A}", f"/{A}", ".hidden"])
def test_a_version_is_a_plain_name(name: str, folder: Path) -> None:
    with pytest.raises(UserError, match=f"is no name of a version. Choose one with .*there are {C}, {B}, {A}$"):
        promote(folder, name)


def test_resolves_a_model_and_a_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(folder / A)) == folder / A
    promote(folder, B)
    assert resolve(folder) == folder / B
    monkeypatch.chdir(folder)
    assert resolve(".") == folder / B


def test_says_what_to_give_instead(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"no version in {folder} serves yet. Choose one .*promote {folder}/VERSION; th"
    ):
        resolve(folder)
    with pytest.raises(UserError, match=f"holds the models of toy. Name one of them, such as {folder}$"):
        resolve(tmp_path)
    for path in (tmp_path / "absent", folder / A / "manifest.json"):
        with pytest.raises(UserError, match=r"is no model: it has neither manifest\.json nor serving\.json. Make one"):
            resolve(path)


def test_a_pointer_to_a_version_that_is_gone(folder: Path, tmp_path: Path) -> None:
    promote(folder, A)
    promote(folder, B)
    remove(folder / B)
    back = f"Go back to the one before with foretide models --models {tmp_path} rollback toy. Choose one"
    with pytest.raises(UserError, match=f"names version {B}, which is gone. {back}"):
        resolve(folder)
    assert any(back in p for p in models(tmp_path)[0].problems)
    rollback(folder)
    assert resolve(folder) == folder / A


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '"a"',
        '{"version": "a"}',
        '{"version": 1, "previous": []}',
        '{"version": "a", "previous": "b"}',
        '{"version": "../a", "previous": []}',
        '{"version": "a", "previous": ["../b"]}',
        '{"version": "a", "previous": [""]}',
    ],
)
def test_a_pointer_that_cannot_be_read(content: str, folder: Path, tmp_path: Path) -> None:
    (folder / POINTER).write_text(content)
    message = f"cannot be read: .*. Write it anew with foretide models promote {folder}/VERSION"
    for read in (serving, resolve, rollback):
        with pytest.raises(UserError, match=message):
            read(folder)
    listed = models(tmp_path)[0]
    assert listed.serving is None
    assert len(listed.versions) == 3
    assert promote(folder, A) == serving(folder) == Pointer(A)


def test_lists_versions_and_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, A, created=3 * DAY)
    put(tmp_path, B, created=2 * DAY)
    folder = tmp_path / TASK
    (folder / "empty").mkdir()
    (folder / ".half.partial").mkdir()
    (folder / "readme").write_text("")
    (tmp_path / "unrelated" / "folder").mkdir(parents=True)
    promote(folder, B)
    (listed,) = models(tmp_path)
    assert listed.folder == folder
    assert listed.serving == Pointer(B)
    assert [v.path for v in listed.versions] == [folder / A, folder / B]
    assert [p.partition(". ")[0] for p in listed.problems] == [f"{folder}/empty is no model: it has no manifest.json"]


BROKEN: dict[str, object] = {"created": "x", "train": [], "metrics": [1], "model": {"units": 3}, "test": [10**30]}


@pytest.mark.parametrize("field", BROKEN)
def test_one_bad_manifest_hides_no_other(field: str, folder: Path, tmp_path: Path) -> None:
    """It is named as not usable; the others are listed, compared, promoted and gone back to."""
    for version in (A, B, C):
        promote(folder, version)
    manifest = folder / B / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: BROKEN[field]}))
    (listed,) = models(tmp_path)
    assert [v.path.name for v in listed.versions] == [C, A]
    (problem,) = listed.problems
    assert problem.startswith(f"{manifest}: {field}")
    assert f"not usable: {manifest}: {field}" in modeltable.table((listed,))
    assert "metrics" in modeltable.compare(find(tmp_path, A), find(tmp_path, C))
    for read in (modeltable.compare, lambda a, _: promote(a.parent, a.name)):
        with pytest.raises(UserError, match=re.escape(f"{manifest}: {field}")):
            read(find(tmp_path, B), find(tmp_path, A))
    assert rollback(folder) == Pointer(A)
    assert promote(folder, C) == Pointer(C, (A,))


def test_deep_manifests_and_pointers_are_problems(folder: Path, tmp_path: Path) -> None:
    (folder / B / "manifest.json").write_text("[" * 100_000)
    (folder / POINTER).write_text("[" * 100_000)
    (folder / C / "task.json").write_text('{"a":' * 100_000)
    (listed,) = models(tmp_path)
    assert len(listed.versions) == 2
    assert all("it is nested too deep" in problem for problem in listed.problems)
    assert len(listed.problems) == 2
    assert "no difference" in modeltable.compare(folder / A, folder / C)


def test_nothing_is_written_through_a_link(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not through one in the place of the pointer, nor of what is to be the pointer."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in (POINTER, f".{POINTER}.part"):
        (folder / name).symlink_to(victim)
    promote(folder, A)
    monkeypatch.setattr("pipelines.system.files.uuid.uuid4", lambda: uuid.UUID(int=7))
    (folder / f"{POINTER}.{uuid.UUID(int=7).hex}.part").symlink_to(victim)
    promote(folder, B)
    assert victim.read_text() == "mine"
    assert serving(folder) == Pointer(B, (A,))
    assert not (folder / POINTER).is_symlink()


def test_lists_one_task(folder: Path, tmp_path: Path) -> None:
    put(tmp_path / "x", A, task="other").parent.rename(tmp_path / "other")
    assert [t.folder.name for t in models(tmp_path)] == ["other", "toy"]
    assert models(tmp_path, "toy") == models(tmp_path)[1:]
    with pytest.raises(UserError, match=r"no models of task third in .*; there are other, toy"):
        models(tmp_path, "third")


def test_lists_nothing(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no models: make one with foretide train"):
            models(root)


def test_finds_by_version_task_and_path(folder: Path, tmp_path: Path) -> None:
    assert find(tmp_path, B) == find("anywhere", str(folder / B)) == folder / B
    with pytest.raises(UserError, match="serves yet"):
        find(tmp_path, TASK)
    promote(folder, A)
    assert find(tmp_path, TASK) == folder / A
    for name in ("absent", "../toy", str(tmp_path)):
        with pytest.raises(UserError, match=f"is no model: give its folder, or a version that .*{tmp_path} lists"):
            find(tmp_path, name)
    put(tmp_path / "x", A).parent.rename(tmp_path / "twin")
    with pytest.raises(UserError, match=f"{A} is a version of several tasks: give its path"):
        find(tmp_path, A)


def test_no_promotion_is_lost(tmp_path: Path) -> None:
    """Each of many promotions at once is served or remembered."""
    versions = [f"v{i}" for i in range(40)]
    for version in versions:
        put(tmp_path, version)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda v: promote(tmp_path / TASK, v), versions))
    pointer = serving(tmp_path / TASK)
    assert pointer is not None
    assert sorted((pointer.version, *pointer.previous)) == sorted(versions)


@pytest.fixture
def promoter(folder: Path) -> Iterator[ForkingProcess]:
    process = ForkingProcess("tests.support.weightless_models", folder)
    yield process
    process.close()


def test_a_kill_before_any_file_operation(folder: Path, promoter: ForkingProcess) -> None:
    """The pointer is the old one until it is the new one, and the next promotion leaves nothing of the killed."""
    promote(folder, A)
    seen = []
    for step in range(1, 200):
        code = promoter.ask(f"once {step} {B}")
        seen.append(serving(folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    old, new = Pointer(A), Pointer(B, (A,))
    changed = seen.index(new)
    assert 10 < changed < len(seen)
    assert seen == [old] * changed + [new] * (len(seen) - changed)
    promote(folder, C)
    assert sorted(os.listdir(folder)) == sorted([*VERSIONS, ".serving.lock", POINTER])


def test_random_kills_under_a_reader(folder: Path, promoter: ForkingProcess) -> None:
    """Two processes promote and roll back without end and are killed; each read finds a whole pointer."""
    chance, stop = random.Random(5), threading.Event()
    promote(folder, A)
    seen: set[Path] = set()

    def keep_reading() -> int:
        reads = 0
        while not stop.is_set():
            seen.add(resolve(folder))
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(keep_reading)
        try:
            for _ in range(15):
                pids = [promoter.ask("loop") for _ in range(2)]
                for pid in pids:
                    time.sleep(chance.uniform(0, 0.1))
                    promoter.kill(pid)
                assert promote(folder, A).version == A
        finally:
            stop.set()
        assert reader.result() > 100
    assert seen == {folder / v for v in VERSIONS}


def test_commands_that_are_told_can_be_pasted(tmp_path: Path) -> None:
    root = tmp_path / "my models; rm"
    put(root, A)
    with pytest.raises(UserError) as error:
        resolve(root / TASK)
    words = shlex.split(str(error.value).partition("Choose one with ")[2].partition("; there are")[0])
    assert words == ["foretide", "models", "promote", f"{root / TASK}/VERSION"]
    assert shlex.split(go_back(root / TASK)) == ["foretide", "models", "--models", str(root), "rollback", TASK]
    with pytest.raises(UserError) as error:
        find(root, "none")
    assert f"foretide models --models '{root}' lists" in str(error.value)
