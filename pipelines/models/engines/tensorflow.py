"""The TensorFlow engine: runs the serving signature of a SavedModel, on the GPU where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.errors import Exit, UserError
from pipelines.models.engines.base import DeviceName, Floats, OutOfMemory


class TensorFlowEngine:
    """The engine that calls a SavedModel by TensorFlow; see `engines.base.Engine`."""

    name = "tensorflow"

    def __init__(self, path: Path, device: DeviceName) -> None:
        gpus = [] if device == "cpu" else tf.config.list_physical_devices("GPU")
        if device == "gpu" and not gpus:
            remedy = "Use --device cpu, or auto to take one if there is"
            raise UserError("--device gpu: TensorFlow sees no GPU here", remedy=remedy, code="device")
        self._placement = "/GPU:0" if gpus else "/CPU:0"
        self.device = _gpu(gpus[0]) if gpus else f"cpu ({os.cpu_count()} cores)"
        with tf.device(self._placement):
            try:
                self._model = tf.saved_model.load(str(path))  # keeps the variables of the signature alive
                self._serve = self._model.signatures["serving_default"]
            except Exception as error:  # a broken file can fail anywhere in the loader
                raise UserError(f"{path} cannot be loaded by TensorFlow: {error}", Exit.MODEL) from error
        (self._output,) = self._serve.structured_outputs
        ((self._input, row),) = self._serve.structured_input_signature[1].items()
        self.inputs = tuple(row.shape[1:])  # which TensorFlow itself does not hold a call to
        self.outputs = int(self._serve.structured_outputs[self._output].shape[-1])

    def predict(self, x: Floats) -> Floats:
        try:
            with tf.device(self._placement):
                y = self._serve(**{self._input: tf.constant(x)})[self._output]
                return np.asarray(y.numpy(), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise OutOfMemory(str(error)) from error


def _gpu(device: tf.config.PhysicalDevice) -> str:
    details = tf.config.experimental.get_device_details(device)
    return f"gpu {details.get('device_name', device.name)}"
