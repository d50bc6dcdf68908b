"""The benchmark's model, exported untrained: speed does not depend on the weights. `python -m benchmarks.model`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks import workload as w
from pipelines.folders import replacing
from pipelines.models.calibration import Calibration
from pipelines.models.export import Origin, manifest_of, save
from pipelines.models.network import build
from pipelines.models.predictor import Predictor
from pipelines.models.preprocessing import analyze, load_transform
from pipelines.taskfile import load_task

ROWS = 512  # that preprocessing is analysed on


class Counts:
    """Tensors like those of the events."""

    def tensor(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        random = np.random.default_rng(int(rows[0]))
        return random.poisson(0.05, (len(rows), w.STEPS, w.FEATURES)).astype(np.float32)


def main() -> None:
    task = load_task(w.TASK)
    past = w.START - task.horizon
    with replacing(w.MODEL.resolve()) as folder:
        analyze(task, Counts(), np.arange(ROWS), folder / "transform")
        transform = load_transform(folder / "transform")
        members = [build(task, transform.shapes, task.model.seed)]
        predictor = Predictor(task, transform, members, Calibration("none"))
        save(predictor, folder / "saved_model")
        manifest_of(predictor, Origin((past,), (past,), (past,), {}, w.END)).write(folder)


if __name__ == "__main__":
    main()
