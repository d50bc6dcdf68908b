"""The networks: from what preprocessing makes of a sequence to the head of a label. How they learn: `training`."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Protocol

import keras
import tensorflow as tf
from keras import layers, ops
from keras.src.random import seed_generator

from pipelines.models.gru import GRU
from pipelines.models.heads import head
from pipelines.task.spec import ModelSpec, Task

Shapes = Mapping[str, tuple[tuple[int | None, ...], str]]  # of the inputs, the batch first, and their dtypes


class Preprocessing(Protocol):
    """Preprocessing: raw tensors f4 (B, steps, features) -> the inputs of a network, by name. A tf.Module, so that it
    is exported with the model; `preprocessing.load_transform` gives one."""

    @property
    def shapes(self) -> Shapes: ...

    def __call__(self, raw: tf.Tensor) -> dict[str, tf.Tensor]: ...


# Of the running mean and variance: a small set has few batches an epoch, and Keras' .99 would lag epochs behind.
MOMENTUM = 0.9
EMBEDDING = 8  # numbers that stand for a value of a vocabulary


def pick(task: Task, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The inputs of the task's network, of those that preprocessing gives. mlp sees no steps but the newest codes."""
    if task.model.network != "mlp":
        return dict(given)
    return {name: x[:, -1:] if name.startswith("codes_") else x for name, x in given.items() if name != "sequence"}


def picked(task: Task, shapes: Shapes) -> Shapes:
    """The shapes of what `pick` gives."""
    if task.model.network != "mlp":
        return shapes
    rest = {name: of for name, of in shapes.items() if name != "sequence"}
    return {
        name: ((None, 1), kind) if name.startswith("codes_") else (shape, kind) for name, (shape, kind) in rest.items()
    }


def build(task: Task, shapes: Shapes, seed: int, policy: str = "float32") -> keras.Model:
    """What `preprocessing` gives, by name -> what the head of the task's label gives.

    Args:
      policy: Keras' of the layers, such as mixed_float16. The weights are f4, and the same, under each.
    """
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy(), seed_generator.python_random
    keras.config.set_dtype_policy(policy)
    # Layers draw their seeds here. Keras' own generator is that of the process, from which other threads draw, too.
    seed_generator.python_random = Random(seed)
    try:
        wanted = picked(task, shapes).items()
        inputs = {name: keras.Input(shape[1:], dtype=kind, name=name) for name, (shape, kind) in wanted}
        return keras.Model(inputs, head(task).output(_body(task, inputs)))
    finally:
        keras.config.set_dtype_policy(before[0])
        seed_generator.python_random = before[1]


def _body(task: Task, inputs: Mapping[str, keras.KerasTensor]) -> keras.KerasTensor:
    """(B, k). mlp: dense layers on the summary and the newest text values; linear: the sequence and its summary as they
    are; gru, lstm: what the recurrent layers make of the sequence, beside its summary."""
    spec, sizes = task.model, [f.vocabulary + 2 for f in task.features if f.vocabulary]
    embedded = [layers.Embedding(n, EMBEDDING)(inputs[f"codes_{i}"]) for i, n in enumerate(sizes)]
    if spec.network == "mlp":
        return _dense(spec, ops.concatenate([inputs["summary"], *(e[:, -1] for e in embedded)], axis=-1))
    x = ops.concatenate([inputs["sequence"], *embedded], axis=-1) if embedded else inputs["sequence"]
    if spec.network == "linear":
        return ops.concatenate([layers.Flatten()(x), inputs["summary"]], axis=-1)
    cell = GRU if spec.network == "gru" else layers.LSTM
    for i, units in enumerate(spec.units):
        x = layers.BatchNormalization(momentum=MOMENTUM)(x) if spec.network == "gru" and i else x
        x = cell(units, return_sequences=i + 1 < len(spec.units))(x)
        x = layers.Dropout(spec.dropout)(x)
    return ops.concatenate([x, inputs["summary"]], axis=-1)


def _dense(spec: ModelSpec, x: keras.KerasTensor) -> keras.KerasTensor:
    for units in spec.units:
        x = layers.Dropout(spec.dropout)(layers.Dense(units, activation="gelu")(x))
    return x
