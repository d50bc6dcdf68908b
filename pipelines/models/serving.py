"""The model of a process: which version it is, and how another one takes over while the process runs. Without Beam.

A version is tried before it serves: it must fit the task and score a full batch of zeros. The model of a version's own
folder stays for ever. The model of a task's folder follows the pointer of the registry: the version that it names is
loaded beside the one that serves, and takes its place between two calls, for all threads at once. A version that
cannot serve changes nothing, and is not tried again until the pointer changes.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, get_args

import numpy as np

from pipelines.errors import Exit, UserError
from pipelines.models import registry, remote
from pipelines.models.engines.base import DeviceName, Engine, EngineName, OutOfMemory, halved
from pipelines.models.engines.loading import load_engine
from pipelines.models.saved.manifest import check, load_manifest
from pipelines.task.spec import Task

FOLLOWER = "foretide-model"  # name of the thread that loads a model beside the one that serves
REASON = 500  # characters of a reason, at most: TensorFlow's are long
Change = Literal["models_swapped", "models_refused"]
CHANGES: tuple[Change, ...] = get_args(Change)

log = logging.getLogger(__name__)
_loading = threading.Lock()  # one model at a time, whoever asks


@dataclass
class Model:
    """A version of a model that is loaded and has been tried."""

    version: str
    engine: Engine
    size: int  # rows of a call: smaller once the device ran out of memory


@dataclass(frozen=True)
class Loader:
    """How this process loads a model.

    Args:
      size: rows of a call.
    """

    task: Task
    engine: EngineName
    device: DeviceName
    size: int

    def load(self, folder: Path) -> Model:
        """Loads a version and tries it.

        Raises:
          UserError: there is no model, it does not fit the task, or it cannot be loaded or score a batch of zeros.
        """
        with _loading:
            manifest = load_manifest(folder)
            check(manifest, self.task)
            engine = load_engine(folder, self.engine, self.device)
            try:
                return Model(manifest.version, engine, warm_up(engine, self.task, self.size))
            except Exception as error:  # a model may raise anything
                remedy = "train the model again, or choose another version"
                raise UserError(f"{folder} cannot score: {_reason(error)}; {remedy}", Exit.MODEL) from error


def warm_up(engine: Engine, task: Task, size: int) -> int:
    """Scores a batch of zeros, and gives the rows that the device has room for: `size`, or fewer.

    Raises:
      UserError: it takes or gives another shape than the task's, or its scores are not finite.
      OutOfMemory, MemoryError: not even ALIGNMENT rows fit.
      Exception: what the model raises.
    """
    row = task.sequence.steps, len(task.features)
    if engine.inputs != row:
        raise UserError(f"it takes (steps, features) of {engine.inputs}, not {row}", Exit.MODEL)
    try:
        x = np.zeros((size, *row), np.float32)
        y = engine.predict(x)
    except (OutOfMemory, MemoryError):
        if not halved(size):
            raise
        return warm_up(engine, task, halved(size))
    if y.shape != (size, len(task.outputs)):
        raise UserError(f"it scores {x.shape} as {y.shape}, not {(size, len(task.outputs))}", Exit.MODEL)
    if not np.isfinite(y).all():
        raise UserError("its scores of a batch of zeros are not finite", Exit.MODEL)
    return size


class Serving:
    """The model that serves in this process, for any number of threads.

    Args:
      folder: of a version, or of a task's versions; it is copied from where it is, see `remote`.
      watch: seconds between two looks at the pointer of a task's versions.
    """

    def __init__(
        self, folder: str, loader: Loader, watch: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Loads the version that serves, or one that served before it.

        Raises:
          UserError: the model cannot serve, and neither can any that served before it.
        """
        self._place, self._loader, self._clock = folder, loader, clock
        self._folder = remote.pull(folder) if remote.is_remote(folder) else Path(folder)
        self._watch = None if registry.is_version(folder) else watch
        self._changes: SimpleQueue[Change] = SimpleQueue()
        self._using = threading.Lock()  # held in a call of the model, and to swap it
        self._looking = threading.Lock()
        self._follower: threading.Thread | None = None
        self._due = 0.0 if self._watch is None else clock() + self._watch
        self._seen = registry.stamp(self._folder)
        self._model = loader.load(self._folder) if self._watch is None else self._first()

    @property
    def size(self) -> int:
        """How many rows a call of the model takes."""
        return self._model.size

    @property
    def device(self) -> str:
        """The device in words."""
        return self._model.engine.device

    @contextmanager
    def model(self) -> Iterator[Model]:
        """The model, which stays until the block ends. One thread at a time: a call takes all cores, or the device."""
        with self._using:
            size, crowded = self._model.size, self._following()
            yield self._model
            if crowded or self._following():
                self._model.size = size  # the memory it lacked is that of the model beside it

    def changes(self) -> Iterator[Change]:
        """What changed since the last call of any thread: names of counters."""
        while True:
            try:
                yield self._changes.get_nowait()
            except Empty:
                return

    def look(self) -> None:
        """Follows the pointer in a thread of its own, if it changed since the last look and a look is due."""
        if self._watch is None or self._clock() < self._due:
            return
        with self._looking:
            self._due = self._clock() + self._watch
            if not self._following() and self._stamp() != self._seen:
                # No daemon: the end of a process in the middle of TensorFlow's loader would be a crash.
                self._follower = threading.Thread(target=self._follow, name=FOLLOWER)
                self._follower.start()

    def _following(self) -> bool:
        return self._follower is not None and self._follower.is_alive()

    def _first(self) -> Model:
        """The version that the pointer names, or else the one that served last before it and can serve."""
        pointer = self._pointer()
        errors: list[Exception] = []
        for version in dict.fromkeys((pointer.version, *pointer.previous)):
            try:
                model = self._load(version)
            except Exception as error:
                errors.append(error)
            else:
                if errors:
                    self._refuse(pointer.version, model.version, errors[0])
                return model
        raise errors[0]

    def _pointer(self) -> registry.Pointer:
        pointer = registry.serving(self._folder)
        return pointer or registry.Pointer(registry.resolve(self._folder).name)  # which says what is missing

    def _stamp(self) -> object:
        """Of the pointer, as it is now; as it was if it cannot be had."""
        try:
            if remote.is_remote(self._place):
                remote.pull(self._place)
        except UserError as error:
            log.warning("which model serves cannot be told now: %s", error)
        return registry.stamp(self._folder)

    def _load(self, version: str) -> Model:
        if remote.is_remote(self._place):
            remote.pull(f"{self._place.rstrip('/')}/{version}")
        return self._loader.load(registry.load(self._folder / version).path)

    def _follow(self) -> None:
        """Until the pointer is the one last followed: it may change while a model is being loaded."""
        while (stamp := registry.stamp(self._folder)) != self._seen:
            self._seen, serves, version = stamp, self._model.version, "of the pointer"
            try:
                version = self._pointer().version
                if version == serves:
                    continue
                model = self._load(version)
                if model.size < self.size:
                    raise UserError(f"only {model.size} rows fit beside {serves}, not {self.size}; start the job anew")
            except Exception as error:  # a broken model can fail anywhere
                self._refuse(version, serves, error)
            else:
                if registry.stamp(self._folder) == stamp:
                    self._swap(model)

    def _swap(self, model: Model) -> None:
        with self._using:
            old, self._model = self._model.version, model
        gc.collect()  # TensorFlow's functions refer to each other in circles
        self._changes.put("models_swapped")
        log.info("model %s of %s serves now, instead of %s", model.version, self._folder, old)

    def _refuse(self, version: str, serves: str, error: Exception) -> None:
        self._changes.put("models_refused")
        what = f"model {version} of {self._folder} is refused, and {serves} serves: {_reason(error)}"
        log.error("%s. Go back with %s", what, registry.go_back(self._folder))


def _reason(error: Exception) -> str:
    return (str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")[:REASON]
