"""The OpenVINO engine: compiles a SavedModel for Intel and AMD processors, in 32 bits or in bfloat16."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.errors import Exit, UserError
from pipelines.models.engines.base import DeviceName, Floats, OutOfMemory

try:
    import openvino as ov
    from openvino import opset13 as op
    from openvino.frontend import NodeContext
    from openvino.frontend.tensorflow import ConversionExtension
except ImportError:
    raise UserError(
        "--engine openvino is not installed", remedy="Run pip install 'foretide[openvino]'", code="engine"
    ) from None


class OpenVINOEngine:
    """The engine that calls a SavedModel by OpenVINO; see `engines.base.Engine`. Compiles anew when the shape of the
    batch changes."""

    def __init__(self, path: Path, device: DeviceName, precision: Literal["f32", "bf16"]) -> None:
        if device == "gpu":
            remedy = "Use --engine tensorflow for a GPU"
            raise UserError("--device gpu: the openvino engine runs on the cpu", remedy=remedy, code="device")
        self.name = "openvino" if precision == "f32" else "openvino-bf16"
        self.device = f"cpu ({os.cpu_count()} cores)"
        # OpenVINO takes bfloat16 by itself on processors that have it, so 32 bits must be said.
        self._config = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        self._core = ov.Core()
        self._core.add_extension(ConversionExtension("IdentityN", _gru))
        try:
            self._model = self._core.read_model(str(path))
        except Exception as error:  # a broken file can fail anywhere in the converter
            raise UserError(f"{path} cannot be converted by OpenVINO: {error}", Exit.MODEL) from error
        self.inputs = tuple(n.get_length() for n in list(self._model.input(0).partial_shape)[1:])
        self.outputs = int(self._model.output(0).partial_shape[-1].get_length())
        self._shape: tuple[int, ...] = ()

    def predict(self, x: Floats) -> Floats:
        try:
            if x.shape != self._shape:
                self._compile(x.shape)
            return np.array(self._request.infer({0: x})[0], np.float32)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "bad_alloc" in str(error):
                raise OutOfMemory(str(error)) from error
            raise

    def _compile(self, shape: tuple[int, ...]) -> None:
        lengths = op.constant(np.full(shape[0], shape[1], np.int32)).output(0)
        model = self._model.clone()
        for node in model.get_ops():
            if node.get_type_name() == "GRUSequence":  # with lengths that are no constant it would become a loop
                node.input(2).replace_source_output(lengths)
        model.reshape({0: list(shape)})
        self._request = self._core.compile_model(model, "CPU", self._config).create_infer_request()
        self._shape = shape


def _gru(node: NodeContext) -> list[ov.Output]:
    """OpenVINO's own operation for a layer of `pipelines.models.gru`, whose loop would run at half the speed."""
    y, x, kernel, recurrent, bias = (node.get_input(i) for i in range(5))
    units, first, second = kernel.get_partial_shape()[1].get_length() // 3, op.constant([0]), op.constant([1])
    batch = op.gather(op.shape_of(x), first, op.constant(0))
    steps = op.gather(op.shape_of(x), second, op.constant(0))
    start = op.broadcast(op.constant(np.float32(0)), op.concat([batch, op.constant([1, units])], 0))
    z, r, c = op.split(bias, op.constant(1), 3).outputs()  # each (2, units): of the input, of the state
    gates = [op.reduce_sum(z, first), op.reduce_sum(r, first), op.reshape(c, op.constant([-1]), False)]
    weights = [op.unsqueeze(op.transpose(w, op.constant([1, 0])), first) for w in (kernel, recurrent)]
    gru = op.gru_sequence(
        x,
        start,
        op.broadcast(steps, batch),
        *weights,
        op.unsqueeze(op.concat(gates, 0), first),
        units,
        "forward",
        linear_before_reset=True,
    )
    every, last = gru.outputs()
    sequences = y.get_partial_shape().rank.get_length() == 3
    out = op.squeeze(every if sequences else last, second)
    return [out.output(0)] * 5
