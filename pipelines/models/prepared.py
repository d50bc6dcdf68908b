"""What a network sees of the rows it learns from, computed once and kept in a file.

For a network that sees a summary of each row, reading and summing up the raw tensors anew in every epoch would take
most of the time. The file is read a batch at a time, as the tensors are, so that memory stays bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Examples, FeaturePart, Ints, StoredTensors
from pipelines.models.network import Preprocessing, Shapes, pick, picked
from pipelines.task.spec import Task

ROWS = 1024  # that are prepared at a time


class Kept(tf.Module):
    """A `Preprocessing` of rows that were prepared: f4 (B, 1, width) -> the columns of each input, by name."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes
        self.widths = [shape[1] or 0 for shape, _ in shapes.values()]

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]:
        parts = tf.split(raw[:, 0], self.widths, axis=1)
        return {n: tf.cast(p, kind) for p, (n, (_, kind)) in zip(parts, self.shapes.items(), strict=True)}


def prepared_rows(
    task: Task, examples: Examples, rows: Ints, transform: Preprocessing, file: Path
) -> tuple[Examples, Kept]:
    """The examples with, in place of the tensors of `rows`, what the network sees of them; and the transform of that.
    The file is written where it is not there."""
    kept = Kept(picked(task, transform.shapes))
    width = sum(kept.widths)
    if not file.is_file():
        _write(examples, rows, lambda raw: pick(task, transform(raw)), file)
    byte = np.zeros(len(examples), np.int64)
    byte[rows] = np.arange(len(rows)) * width * 4
    part = FeaturePart(np.zeros(len(examples), np.int32), byte, width, tuple((i, i) for i in range(width)))
    return replace(examples, tensor=StoredTensors((str(file),), (1, width), (part,))), kept


def _write(examples: Examples, rows: Ints, inputs: Callable[[tf.Tensor], dict[str, tf.Tensor]], file: Path) -> None:
    """Appears whole. Codes are whole numbers below 2^24, which f4 holds."""

    @tf.function(autograph=False, reduce_retracing=True)
    def columns(raw: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.cast(x, tf.float32) for x in inputs(raw).values()], axis=1)

    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with partial.open("xb") as f:  # through no link that stands in its place
        for i in range(0, len(rows), ROWS):
            x: Floats = examples.tensor(rows[i : i + ROWS])
            np.asarray(columns(tf.constant(x))).tofile(f)
    os.replace(partial, file)
