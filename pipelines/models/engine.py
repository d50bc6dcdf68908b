"""What an inference engine is, and how one is chosen. Each framework is imported only in its own module.

A row's scores depend on that row alone, bit for bit, whatever its place in the batch and its neighbours, as long as
the shape of the batch stays the same and its size is a multiple of `ALIGNMENT`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from pipelines.errors import Exit, UserError

EngineName = Literal["tensorflow", "openvino", "openvino-bf16"]
DeviceName = Literal["auto", "cpu", "gpu"]
Floats = npt.NDArray[np.float32]

# Rows of a batch come in multiples of this: kernels treat a tail that does not fill their vectors in another way.
ALIGNMENT = 16


class OutOfMemory(Exception):
    """The device has no room for a batch of this size."""


class Engine(Protocol):
    """A loaded model."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str:
        """In words: `cpu (2 cores)`."""

    @property
    def outputs(self) -> int: ...

    def predict(self, x: Floats) -> Floats:
        """f4 (B, steps, features) -> f4 (B, outputs).

        Raises:
          OutOfMemory: a smaller batch may fit.
        """


def load_engine(model_dir: Path | str, engine: EngineName, device: DeviceName) -> Engine:
    """Loads the SavedModel of an exported model.

    Raises:
      UserError: no such engine or device, the engine is not installed, or the model cannot be read.
    """
    path = Path(model_dir) / "saved_model"
    if engine not in get_args(EngineName):
        raise UserError(f"--engine {engine}: there are {', '.join(get_args(EngineName))}")
    if device not in get_args(DeviceName):
        raise UserError(f"--device {device}: there are {', '.join(get_args(DeviceName))}")
    if not (path / "saved_model.pb").is_file():
        raise UserError(f"{model_dir} holds no saved_model: give the folder that foretide train wrote", Exit.MODEL)
    if engine == "tensorflow":
        from pipelines.models.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(path, device)
    from pipelines.models.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(path, device, "bf16" if engine == "openvino-bf16" else "f32")
