"""Models of the toy task that score, in a registry, and what they say; and every way to break one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.models.engines.loading import load_engine
from pipelines.models.saved.manifest import load_manifest
from pipelines.models.serving import FOLLOWER
from tests.support.toy_models import DAY, PATH, export_toy, task, tensor

Floats = npt.NDArray[np.float32]
SIZE = 96
WRITTEN = "written"  # what a model on the shelf writes, when it is loaded
SEEDS = 5


class Shelf(NamedTuple):
    """Versions ready to be put into a registry, and models that no registry should hold."""

    folder: Path
    versions: tuple[str, ...]
    expected: Mapping[tuple[str, int], bytes]  # (version, seed): scores of tensor(SIZE, seed)
    path: Path  # a SavedModel with nine outputs
    steps: Path  # of sequences of another length
    nan: Path  # whose weights are no numbers
    writes: Path  # a SavedModel that writes a file, when it is loaded, beside the folder it was made in

    def registry(self, root: Path) -> Path:
        """A task's folder with a copy of each version, none of which serves."""
        return Path(shutil.copytree(self.folder, root / "models" / "toy"))


def put_toy(root: Path, **model: object) -> str:
    """Exports a version of the toy task into a registry, and gives its name."""
    export_toy(root / "new", **model)  # type: ignore[arg-type]
    version = load_manifest(root / "new").version
    (root / "toy").mkdir(exist_ok=True)
    (root / "new").rename(root / "toy" / version)
    return version


def make_shelf(root: Path) -> Shelf:
    from tests.support import hostile_models  # they need TensorFlow

    versions = tuple(put_toy(root, network="mlp", units=[units]) for units in (4, 8, 16))
    expected = {}
    for version in versions:
        engine = load_engine(root / "toy" / version, "tensorflow", "cpu")
        for seed in range(SEEDS):
            expected[version, seed] = engine.predict(tensor(SIZE, seed)).tobytes()
    assert len(set(expected.values())) == len(expected)
    export_toy(root / "path", PATH, network="mlp", units=[4])
    export_other(root / "steps", steps=9)
    export_other(root / "nan", weight=np.nan)
    hostile_models.put(root / "writes", hostile_models.write, root / WRITTEN, on_load=True)
    others = (root / name / "saved_model" for name in ("path", "steps", "nan", "writes"))
    return Shelf(root / "toy", versions, expected, *others)


def export_other(folder: Path, steps: int = 12, weight: float | None = None) -> None:
    from pipelines.models.calibration import Calibration
    from pipelines.models.export import save
    from pipelines.models.network import build
    from pipelines.models.predictor import Predictor
    from tests.support.toy_models import plain

    spec, transform = task(steps=steps, network="mlp", units=[4]), plain(steps)
    member = build(spec, transform.shapes, 0)
    if weight is not None:
        member.set_weights([np.full(w.shape, weight) for w in member.get_weights()])
    save(Predictor(spec, transform, [member], Calibration("none")), folder / "saved_model")


def settle() -> None:
    """Until no model is being followed."""
    for thread in threading.enumerate():
        if thread.name == FOLLOWER:
            thread.join(60)
            assert not thread.is_alive()


Harm = Callable[[Path, Shelf], object]


def _edit(**changed: object) -> Harm:
    def harm(version: Path, _: Shelf) -> None:
        manifest = version / "manifest.json"
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changed}))

    return harm


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Harm:
    def harm(version: Path, _: Shelf) -> None:
        (file,) = version.glob(name)
        file.write_bytes(change(file.read_bytes()))

    return harm


def _engine(which: str) -> Harm:
    def harm(version: Path, shelf: Shelf) -> None:
        shutil.rmtree(version / "saved_model")
        shutil.copytree(getattr(shelf, which), version / "saved_model")

    return harm


DATA = "saved_model/variables/variables.data*"
HARMS: dict[str, tuple[Harm, str]] = {  # what breaks a version, and what is said of it
    "gone": (lambda v, _: shutil.rmtree(v), r"has no manifest\.json"),
    "no manifest": (lambda v, _: (v / "manifest.json").unlink(), r"has no manifest\.json"),
    "manifest cut off": (_bytes("manifest.json", lambda b: b[:99]), r"manifest\.json cannot be read"),
    "manifest of another format": (_edit(format=1), "is not of format 2"),
    "manifest with a field too many": (_edit(more=1), "unknown fields: more"),
    "of another task": (_edit(task="other"), "of other. Move it to other"),
    "of another version": (_edit(version="v9"), "holds version v9"),
    "other features": (_edit(features=["count()"]), "the task lacks|does not know the features"),
    "features in another order": (
        _edit(features=[f.name for f in reversed(task().features)]),
        "the features stand in another order",
    ),
    "other steps": (_edit(steps=9), "steps is 9 in the model and 12 in the task"),
    "other outputs": (_edit(outputs=["a", "b"]), "outputs is a, b in the model and churn in the task"),
    "other horizon": (_edit(horizon=DAY), "horizon is 1d in the model and .* in the task"),
    "no SavedModel": (lambda v, _: shutil.rmtree(v / "saved_model"), "has no saved_model"),
    "empty SavedModel": (_bytes("saved_model/saved_model.pb", lambda b: b""), "cannot be read as a SavedModel"),
    "no pb": (_bytes("saved_model/saved_model.pb", lambda b: b"\x00broken"), "cannot be read as a SavedModel"),
    "pb cut off": (_bytes("saved_model/saved_model.pb", lambda b: b[: len(b) // 2]), "cannot be read as a SavedModel"),
    "no variables": (lambda v, _: shutil.rmtree(v / "saved_model" / "variables"), "cannot be loaded by TensorFlow"),
    "variables cut off": (_bytes(DATA, lambda b: b[: len(b) // 2]), "cannot be loaded by TensorFlow"),
    "variables flipped": (_bytes(DATA, lambda b: bytes(255 - c for c in b)), "cannot be loaded by TensorFlow"),
    "engine of other outputs": (_engine("path"), r"it scores \(96, 12, 4\) as \(96, 9\), not \(96, 1\)"),
    "engine of other steps": (_engine("steps"), r"it takes \(steps, features\) of \(9, 4\), not \(12, 4\)"),
    "a program that writes": (_engine("writes"), "operation WriteFile .* is none that a model may use"),
    "weights that are no numbers": (_engine("nan"), "its scores of a batch of zeros are not finite"),
}
