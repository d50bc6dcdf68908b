"""The benchmark's model, exported untrained: speed does not depend on the weights. `python -m benchmarks.model`."""

from __future__ import annotations

import keras

from benchmarks import workload as w
from pipelines.models.export import Origin, export
from pipelines.models.network import build
from pipelines.taskfile import load_task


def main() -> None:
    task = load_task(w.TASK)
    keras.utils.set_random_seed(task.model.seed)
    past = w.START - task.horizon
    export(build(task), task, Origin((past,), past, past, {}, w.END), w.MODEL)


if __name__ == "__main__":
    main()
