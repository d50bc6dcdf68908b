"""What an inference engine is; `loading` chooses one, and each framework has a module of its own.

A row's scores depend on that row alone, bit for bit, whatever its place in the batch and its neighbours, as long as
the shape of the batch stays the same and its size is a multiple of `ALIGNMENT`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

EngineName = Literal["tensorflow", "openvino", "openvino-bf16"]
DeviceName = Literal["auto", "cpu", "gpu"]
Floats = npt.NDArray[np.float32]

# Rows of a batch come in multiples of this. Kernels of matrix products take three vectors of rows at once, of 4, 8 or
# 16 numbers by processor, and add up what is left over in another order.
ALIGNMENT = 48


def aligned(size: int) -> int:
    """The number of rows to call a model with where `size` was asked for: not more, but at least ALIGNMENT."""
    return max(size // ALIGNMENT, 1) * ALIGNMENT


def halved(size: int) -> int:
    """The size to try where a batch did not fit; 0 below ALIGNMENT."""
    return size // 2 // ALIGNMENT * ALIGNMENT


class OutOfMemory(Exception):
    """The device has no room for a batch of this size."""


class Engine(Protocol):
    """A model that is loaded and can be called."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str:
        """The device in words: `cpu (2 cores)`."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """The shape of a row: (steps, features)."""

    @property
    def outputs(self) -> int: ...

    def predict(self, x: Floats) -> Floats:
        """Scores a batch: f4 (B, steps, features) -> f4 (B, outputs).

        Raises:
          OutOfMemory: a smaller batch may fit.
        """
