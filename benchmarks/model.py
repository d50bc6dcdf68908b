"""The benchmark's models, exported untrained: speed does not depend on the weights. `python -m benchmarks.model`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks import workload as w
from pipelines.models.calibration import Calibration
from pipelines.models.export import Origin, manifest_of, save
from pipelines.models.network import build
from pipelines.models.predictor import Predictor
from pipelines.models.preprocessing import analyze, load_transform
from pipelines.system.files import replacing
from pipelines.task.file import load_task
from pipelines.task.spec import Task

ROWS = 512  # that preprocessing is analysed on


class Rows(Protocol):
    """What preprocessing is analysed on."""

    def tensor(self, rows: w.Ints) -> w.Floats:
        """(rows, steps, features)."""


class Counts(Rows):
    """Tensors like those of the events."""

    def tensor(self, rows: w.Ints) -> w.Floats:
        random = np.random.default_rng(int(rows[0]))
        return random.poisson(0.05, (len(rows), w.STEPS, w.FEATURES)).astype(np.float32)


def export(task: Task, rows: Rows, folder: Path, at: int) -> str:
    """A model in a folder, as if trained up to a time (us). Returns its version."""
    past = at - task.horizon
    with replacing(folder.resolve()) as new:
        analyze(task, rows, np.arange(ROWS), new / "transform")
        transform = load_transform(new / "transform")
        members = [build(task, transform.shapes, task.model.seed)]
        predictor = Predictor(task, transform, members, Calibration("none"))
        save(predictor, new / "saved_model")
        manifest = manifest_of(predictor, Origin((past,), (past,), (past,), {}, at))
        manifest.write(new)
    return manifest.version


def main() -> None:
    export(load_task(w.TASK), Counts(), w.MODEL, w.END)


if __name__ == "__main__":
    main()
