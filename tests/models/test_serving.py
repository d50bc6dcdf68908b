"""The model of a process: followed, swapped between two calls, and kept when the next one cannot serve."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import re
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.models import serving as module
from pipelines.models.engines.base import ALIGNMENT, DeviceName, Engine, EngineName, OutOfMemory
from pipelines.models.engines.loading import load_engine
from pipelines.models.registry import Pointer, promote, rollback, serving
from pipelines.models.remote import POINTER
from pipelines.models.serving import CHANGES, Loader, Serving, warm_up
from pipelines.task.spec import Task
from tests.support.model_shelf import HARMS, SEEDS, SIZE, WRITTEN, Floats, Shelf, make_shelf, put_toy, settle
from tests.support.toy_models import task, tensor

LOADER = Loader(task(network="mlp"), "tensorflow", "cpu", SIZE)


class Watch:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def folder(shelf: Shelf, tmp_path: Path) -> Iterator[Path]:
    """A task's folder where the first version serves."""
    folder = shelf.registry(tmp_path)
    promote(folder, shelf.versions[0])
    yield folder
    settle()


def look(served: Serving) -> Counter[str]:
    """Looks, waits for what follows, and counts what changed."""
    served.look()
    settle()
    return Counter(served.changes())


def serves(served: Serving, shelf: Shelf) -> str:
    """The version, by what it says of itself and by its scores."""
    with served.model() as model:
        assert model.engine.predict(tensor(SIZE)).tobytes() == shelf.expected[model.version, 0]
        return model.version


def test_follows_what_is_promoted_and_rolled_back(folder: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = shelf.versions
    caplog.set_level(logging.INFO, module.__name__)
    served = Serving(str(folder), LOADER, watch=0)
    assert (serves(served, shelf), look(served), serves(served, shelf)) == (a, Counter(), a)
    for change, now in [(b, b), (c, c), (None, b), (None, a), (c, c)]:
        before = serves(served, shelf)
        promote(folder, change) if change else rollback(folder)
        assert serves(served, shelf) == before
        assert look(served) == {"models_swapped": 1}
        assert serves(served, shelf) == now
        assert caplog.messages[-1] == f"model {now} of {folder} serves now, instead of {before}"
    assert look(served) == Counter()
    assert len(caplog.messages) == 5


def test_looks_no_more_often_than_it_should(folder: Path, shelf: Shelf) -> None:
    clock = Watch()
    served = Serving(str(folder), LOADER, watch=5, clock=clock)
    promote(folder, shelf.versions[1])
    for now, swapped in [(104.9, 0), (105.0, 1)]:
        clock.now = now
        assert look(served)["models_swapped"] == swapped
    promote(folder, shelf.versions[2])
    for now, swapped in [(105.1, 0), (109.9, 0), (110.0, 1)]:
        clock.now = now
        assert look(served)["models_swapped"] == swapped


@pytest.mark.parametrize("watch", [None, 0.0])
def test_a_version_of_its_own_stays(watch: float | None, folder: Path, shelf: Shelf) -> None:
    served = Serving(str(folder / shelf.versions[0]), LOADER, watch)
    promote(folder, shelf.versions[1])
    assert look(served) == Counter()
    assert serves(served, shelf) == shelf.versions[0]


@pytest.mark.parametrize("kind", HARMS)
def test_a_broken_version_changes_nothing(
    kind: str, folder: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused once, until the pointer changes; it is neither served at the start. The next good one is."""
    a, b, c = shelf.versions
    harm, reason = HARMS[kind]
    served = Serving(str(folder), LOADER, watch=0)
    promote(folder, b)
    harm(folder / b, shelf)
    assert look(served) == {"models_refused": 1}
    assert serves(served, shelf) == a
    (message,) = caplog.messages
    assert message.startswith(f"model {b} of {folder} is refused, and {a} serves: ")
    assert caplog.records[0].levelname == "ERROR"
    assert message.endswith(f". Go back with foretide models --models {folder.parent} rollback toy")
    assert re.search(reason, message)
    assert look(served) == Counter()
    assert len(caplog.messages) == 1
    caplog.clear()

    started = Serving(str(folder), LOADER, watch=0)
    assert serves(started, shelf) == a
    assert list(started.changes()) == ["models_refused"]
    assert look(started) == Counter()
    assert len(caplog.messages) == 1

    rollback(folder)
    assert look(served) == Counter()
    promote(folder, c)
    assert look(served) == look(started) == {"models_swapped": 1}
    assert serves(served, shelf) == serves(started, shelf) == c
    assert not (shelf.folder.parent / WRITTEN).exists()


def test_a_start_goes_back_as_far_as_it_must(folder: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = shelf.versions
    for version, kind in [(b, "no variables"), (a, ""), (b, ""), (c, "weights that are no numbers")]:
        promote(folder, version)
        if kind:
            HARMS[kind][0](folder / version, shelf)
    started = Serving(str(folder), LOADER, watch=0)
    assert serving(folder) == Pointer(c, (b, a, b, a))
    assert serves(started, shelf) == a
    assert list(started.changes()) == ["models_refused"]
    assert f"model {c} of {folder} is refused, and {a} serves: {folder / c} cannot score: its scores" in caplog.text
    HARMS["no pb"][0](folder / a, shelf)
    with pytest.raises(UserError, match="its scores of a batch of zeros are not finite"):
        Serving(str(folder), LOADER, watch=0)


def test_a_start_needs_a_pointer(folder: Path) -> None:
    (folder / POINTER).unlink()
    with pytest.raises(UserError, match=r"no version in .*toy serves yet. Choose one"):
        Serving(str(folder), LOADER, watch=0)
    (folder / POINTER).write_text("{")
    with pytest.raises(UserError, match=r"serving\.json cannot be read: .*\. Write it anew"):
        Serving(str(folder), LOADER, watch=0)


@pytest.mark.parametrize("content", ["", "{", '{"version": "../../other", "previous": []}', None])
def test_a_broken_pointer_changes_nothing(
    content: str | None, folder: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, _ = shelf.versions
    served = Serving(str(folder), LOADER, watch=0)
    if content is None:
        (folder / POINTER).unlink()
    else:
        (folder / POINTER).write_text(content)
    assert [look(served), look(served)] == [{"models_refused": 1}, {}]
    assert serves(served, shelf) == a
    assert f"model of the pointer of {folder} is refused, and {a} serves: " in caplog.text
    promote(folder, b)
    assert look(served) == {"models_swapped": 1}
    assert serves(served, shelf) == b


def test_random_changes(folder: Path, shelf: Shelf) -> None:
    """What serves is what was named last of what can serve, for one that looks often and for one that looks seldom."""
    chance, (a, b, c) = random.Random(3), shelf.versions
    HARMS["variables flipped"][0](folder / b, shelf)
    often, seldom = Serving(str(folder), LOADER, watch=0), Serving(str(folder), LOADER, watch=0)
    expected = {often: a, seldom: a}
    counts = Counter[str]()
    for _ in range(40):
        if chance.random() < 0.3 and len(set(serving(folder).previous)) > 1:  # type: ignore[union-attr]
            rollback(folder)
        else:
            promote(folder, chance.choice([a, b, c]))
        pointer = serving(folder)
        assert pointer is not None
        for served in (often, seldom):
            if served is often or chance.random() < 0.3:
                counts += look(served)
                if pointer.version != b:
                    expected[served] = pointer.version
            assert serves(served, shelf) == expected[served]
    assert min(counts[name] for name in CHANGES) > 5


class Gate:
    """Loads an engine when it is told to."""

    def __init__(self) -> None:
        self.asked = SimpleQueue[str]()
        self.go = threading.Semaphore(0)

    def __call__(self, folder: Path, engine: EngineName, device: DeviceName) -> Engine:
        self.asked.put(folder.name)
        assert self.go.acquire(timeout=60)
        return load_engine(folder, engine, device)


def test_the_pointer_changes_while_a_model_is_loaded(
    folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was promoted and rolled back meanwhile never serves, and what is being loaded stops nobody."""
    a, b, c = shelf.versions
    served, gate = Serving(str(folder), LOADER, watch=0), Gate()
    monkeypatch.setattr(module, "load_engine", gate)
    for then, loads in [(a, [b]), (c, [b, c])]:
        promote(folder, b)
        served.look()
        assert gate.asked.get(timeout=60) == b
        promote(folder, then)
        served.look()
        assert serves(served, shelf) == a
        for other in loads[1:]:
            gate.go.release()
            assert gate.asked.get(timeout=60) == other
            assert serves(served, shelf) == a
        gate.go.release()
        settle()
        assert serves(served, shelf) == then
        assert Counter(served.changes()) == Counter({"models_swapped": len(loads) - 1})
        assert gate.asked.empty()


def test_a_swap_waits_for_a_call(folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = shelf.versions
    served, loaded = Serving(str(folder), LOADER, watch=0), threading.Event()

    def warmed(engine: Engine, task: Task, size: int) -> int:
        loaded.set()
        return size

    monkeypatch.setattr(module, "warm_up", warmed)
    promote(folder, b)
    with served.model() as model:
        served.look()
        (follower,) = (t for t in threading.enumerate() if t.name == module.FOLLOWER)
        assert loaded.wait(60)
        follower.join(1)
        assert follower.is_alive()
        assert model.version == a
    settle()
    assert serves(served, shelf) == b


def test_versions_under_load(folder: Path, shelf: Shelf) -> None:
    """Threads score without end while versions change: each score is of the version that is said, and no version
    comes back once another has taken over."""
    served, stop = Serving(str(folder), LOADER, watch=0), threading.Event()
    made: list[str] = []  # in the order of the calls

    def score(seed: int) -> int:
        calls = 0
        while not stop.is_set():
            served.look()
            with served.model() as model:
                assert model.engine.predict(tensor(SIZE, seed)).tobytes() == shelf.expected[model.version, seed]
                made.append(model.version)
            calls += 1
        return calls

    expected = [shelf.versions[i % 3] for i in range(10)]
    with ThreadPoolExecutor(SEEDS) as pool:
        try:
            threads = [pool.submit(score, seed) for seed in range(SEEDS)]
            for version in expected:
                promote(folder, version)
                while made[-1:] != [version] and not stop.wait(0.001):
                    assert not any(t.done() for t in threads), [t.result() for t in threads]
        finally:
            stop.set()
        assert all(t.result() for t in threads)
    settle()  # a swap is counted after it is seen
    assert [version for version, _ in groupby(made)] == expected
    assert Counter(served.changes()) == {"models_swapped": len(expected) - 1}


def test_old_models_leave_the_memory(tmp_path: Path) -> None:
    """14 swaps between models of 20 MB: the last 9 would be 180 MB if they stayed."""
    versions = [put_toy(tmp_path, network="mlp", units=[2200 + i, 2200]) for i in range(2)]
    promote(tmp_path / "toy", versions[0])
    served = Serving(str(tmp_path / "toy"), LOADER, watch=0)
    used = []
    for i in range(1, 15):
        with served.model() as model:
            old = weakref.ref(model.engine)
            model.engine.predict(tensor(SIZE))
            del model
        promote(tmp_path / "toy", versions[i % 2])
        assert look(served) == {"models_swapped": 1}
        assert old() is None
        used.append(resident())
    assert max(used[5:]) < max(used[:5]) + 100e6


def resident() -> int:
    """Bytes of memory that this process has in use, without what is free and was not given back yet."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Small:
    """An engine on a device that has room for so many rows."""

    name, device, inputs, outputs = "small", "cpu", (12, 4), 1

    def __init__(self, room: int) -> None:
        self.room = room

    def predict(self, x: Floats) -> Floats:
        if len(x) > self.room:
            raise OutOfMemory("no room")
        return np.zeros((len(x), 1), np.float32)


@pytest.mark.parametrize(("room", "size"), [(1000, 240), (239, 96), (48, 48)])
def test_the_warm_up_finds_the_size_that_fits(room: int, size: int) -> None:
    assert warm_up(Small(room), LOADER.task, 240) == size


def test_a_device_without_any_room() -> None:
    with pytest.raises(OutOfMemory):
        warm_up(Small(ALIGNMENT - 1), LOADER.task, 240)


@pytest.mark.parametrize("room", [0, ALIGNMENT])
def test_no_room_beside_the_model_that_serves(
    room: int, folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = Serving(str(folder), LOADER, watch=0)
    monkeypatch.setattr(module, "load_engine", lambda *_: Small(room))
    promote(folder, shelf.versions[1])
    assert look(served) == {"models_refused": 1}
    assert serves(served, shelf) == shelf.versions[0]
    assert ("OutOfMemory: no room" if room == 0 else "only 48 rows fit beside") in caplog.text


def test_a_size_that_did_not_fit_is_remembered(folder: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the memory went to a model that was being loaded; and the next model need not fit in more."""
    served, gate = Serving(str(folder), LOADER, watch=0), Gate()
    with monkeypatch.context() as patched:
        patched.setattr(module, "load_engine", gate)
        promote(folder, shelf.versions[1])
        served.look()
        assert gate.asked.get(timeout=60)
        with served.model() as model:
            model.size = ALIGNMENT
        assert served.size == SIZE
        gate.go.release()
        settle()
    with served.model() as model:
        assert model.version == shelf.versions[1]
        model.size = ALIGNMENT
    assert served.size == ALIGNMENT
    monkeypatch.setattr(module, "load_engine", lambda *_: Small(ALIGNMENT))
    promote(folder, shelf.versions[2])
    assert look(served) == {"models_swapped": 2}
    assert served.size == ALIGNMENT
