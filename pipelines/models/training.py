"""How networks learn from examples: batches, checkpoints, when to stop. What they are lies in `network`.

    <folder>/member-0/checkpoint.npz    all that goes on: weights, the optimizer's, the best so far, place in the epoch
    <folder>/logs/member-0/             for TensorBoard

For a network that sees a summary of each row, reading and summing up the raw tensors anew in every epoch would take
most of the time. So what it sees is computed once and kept in a file, which is read a batch at a time, as the tensors
are, so that memory stays bounded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipelines.models.engines.base import Floats
from pipelines.models.example_files import Examples, FeaturePart, Ints, StoredTensors, check_rows
from pipelines.models.heads import head
from pipelines.models.network import Preprocessing, Shapes, build, pick, picked
from pipelines.models.predictor import ROWS
from pipelines.task.spec import Task

CHECKPOINT_SECONDS = 120.0  # between two checkpoints inside an epoch; there is one after each
Log = Callable[[str], None]


@dataclass
class FitProgress:
    """How far the training of a member has come."""

    epoch: int = 1
    batch: int = 0  # of the epoch, the next to come
    loss: float = 0.0  # of the epoch, summed over its rows
    best: float = -np.inf
    best_epoch: int = 0
    done: bool = False


@dataclass(frozen=True)
class Data:
    """What all members learn from. `train` and `validation` are rows of the examples, a horizon apart."""

    task: Task
    examples: Examples
    train: Ints
    validation: Ints
    transform: Preprocessing
    prepared: Path  # a file for what a network sees of the rows, made where it is needed and not there

    @property
    def signature(self) -> list[tf.TensorSpec]:
        """The signature of a batch: tensors, and labels."""
        shapes = [(None, *self.shape), (None, self.task.label.width)]
        return [tf.TensorSpec(shape, tf.float32) for shape in shapes]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a row as `transform` takes it."""
        return self.examples.tensor(self.train[:1]).shape[1:]


def fit(data: Data, folder: Path, log: Log) -> tuple[list[keras.Model], float]:
    """Trains each member until the validation rows have not improved for the task's patience: networks with their best
    weights, and their mean quality there. What an earlier call has left in the folder is gone on with; the result is
    that of a call undisturbed, on the same machine.

    Args:
      log: receives one line an epoch.

    Raises:
      UserError: nothing to learn from or to validate with.
    """
    check_rows(data.task, data.examples, "training", data.train)
    check_rows(data.task, data.examples, "validation", data.validation)
    if data.task.model.network == "mlp" and head(data.task).by_summary:
        rows = np.concatenate([data.train, data.validation])
        examples, transform = prepared_rows(data.task, data.examples, rows, data.transform, data.prepared)
        data = replace(data, examples=examples, transform=transform)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")  # each member has functions of its own, and TensorFlow would warn of that
    members = [Member(data, i, folder, log) for i in range(data.task.model.members)]
    return [m.fit() for m in members], float(np.mean([m.place.best for m in members]))


@dataclass(eq=False)
class Member:
    """One network and what it needs to learn."""

    data: Data
    number: int
    folder: Path
    log: Log
    place: FitProgress = field(default_factory=FitProgress)

    def __post_init__(self) -> None:
        task, self.seed = self.data.task, self.data.task.model.seed + 1000 * self.number
        self.file = self.folder / f"member-{self.number}" / "checkpoint.npz"
        self.model = build(task, self.data.transform.shapes, self.seed, policy())
        self.optimizer = _optimizer(self.data)
        self.optimizer.build(self.model.trainable_variables)
        self.best = self.model.get_weights()
        self.name = f"member {self.number + 1}/{task.model.members}, " if task.model.members > 1 else ""
        if self.file.is_file():
            self._restore()
            if not self.place.done:
                self.log(f"{self.name}going on in epoch {self.place.epoch}, batch {self.place.batch + 1}")

    def fit(self) -> keras.Model:
        """The network with its best weights, in 32 bits."""
        spec = self.data.task.model
        learn = _step(self.data, self.model, self.optimizer)
        validate = _validator(self.data, self.model)
        writer = tf.summary.create_file_writer(str(self.folder / "logs" / f"member-{self.number}"))
        while not self.place.done:
            loss = self._epoch(learn)
            value = validate()
            epoch = self.place.epoch
            told = head(self.data.task).told(value)
            self.log(f"{self.name}epoch {epoch}/{spec.epochs}: loss {loss:.4f}, validation {told}")
            with writer.as_default(step=epoch):
                tf.summary.scalar("loss", loss)
                tf.summary.scalar("validation", value)
            writer.flush()
            if value > self.place.best:
                self.best = self.model.get_weights()
                self.place = FitProgress(epoch + 1, best=value, best_epoch=epoch)
            else:
                self.place = FitProgress(epoch + 1, best=self.place.best, best_epoch=self.place.best_epoch)
            if epoch - self.place.best_epoch >= spec.patience:
                self.log(f"{self.name}no better for {spec.patience} epochs: keeping epoch {self.place.best_epoch}")
                self.place.done = True
            self.place.done |= epoch >= spec.epochs
            self._save()
        model = build(self.data.task, self.data.transform.shapes, self.seed)
        model.set_weights(self.best)
        return model

    def _epoch(self, learn: Callable[..., tf.Tensor]) -> float:
        """One pass over the rows in an order of its own, from where the place says; the mean loss."""
        size, saved = self.data.task.model.batch_size, time.monotonic()
        order = np.random.default_rng([self.seed, self.place.epoch]).permutation(self.data.train)
        for part in _batches(self.data.examples, order[self.place.batch * size :], size):
            self.place.loss += len(part[0]) * float(learn(*part))
            self.place.batch += 1
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()
        return self.place.loss / len(order)

    def _save(self) -> None:
        """In one move: a kill leaves the checkpoint before, whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"{name}{i}": np.asarray(v) for name, vs in self._variables().items() for i, v in enumerate(vs)}
        best = {f"best{i}": w for i, w in enumerate(self.best)}
        partial = self.file.with_suffix(".partial.npz")
        partial.unlink(missing_ok=True)
        with partial.open("xb") as f:  # through no link that stands in its place
            np.savez(f, allow_pickle=False, place=np.array(json.dumps(asdict(self.place))), **arrays, **best)
        os.replace(partial, self.file)

    def _restore(self) -> None:
        with np.load(self.file) as saved:
            self.place = FitProgress(**json.loads(str(saved["place"])))
            for name, variables in self._variables().items():
                for i, v in enumerate(variables):
                    v.assign(saved[f"{name}{i}"])
            self.best = [saved[f"best{i}"] for i in range(len(self.best))]

    def _variables(self) -> dict[str, list[Any]]:
        """All that learning changes; the model's have the states of its random generators among them."""
        return {"model": self.model.variables, "optimizer": self.optimizer.variables}


def policy() -> str:
    """16 bits on a GPU, whose tensor cores they need; elsewhere they would only cost."""
    return "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"


def _optimizer(data: Data) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) but of biases, its rate falling along a cosine."""
    spec = data.task.model
    steps = spec.epochs * -(-len(data.train) // spec.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(spec.learning_rate, steps)
    adam = keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay, global_clipnorm=1.0)
    adam.exclude_from_weight_decay(var_names=["bias"])
    return keras.optimizers.LossScaleOptimizer(adam) if policy() == "mixed_float16" else adam


def _step(data: Data, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Callable[..., tf.Tensor]:
    """(raw tensor (B, steps, features), label (B, label_width)) -> the mean loss, after one step down its slope."""
    task, loss = data.task, head(data.task).loss(data.examples.label[data.train])

    @tf.function(autograph=False, input_signature=data.signature)
    def step(raw: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        inputs = pick(task, data.transform(raw))
        with tf.GradientTape() as tape:
            y = model(inputs, training=True)
            value = loss(raw, label, y)
            scaled = optimizer.scale_loss(value)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return value

    return step


def _validator(data: Data, model: keras.Model) -> Callable[[], float]:
    """How good the model is on the validation rows, higher is better."""
    task, rows, of = data.task, data.validation, head(data.task)

    @tf.function(autograph=False, input_signature=data.signature)
    def judge(raw: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        y = model(pick(task, data.transform(raw)), training=False)
        return of.judged(raw, label, y)

    def quality() -> float:
        parts = [(len(x), np.asarray(judge(x, label))) for x, label in _batches(data.examples, rows, ROWS)]
        return of.quality(parts, data.examples.label[rows])

    return quality


def _batches(examples: Examples, rows: Ints, size: int) -> Iterator[tuple[Floats, Floats]]:
    """(tensor, label) of `size` rows at a time; the next batch is read while one is used."""
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(examples.tensor, part) for part in parts[:1]]
        for i, part in enumerate(parts):
            if i + 1 < len(parts):
                ahead.append(reader.submit(examples.tensor, parts[i + 1]))
            yield ahead.pop(0).result(), examples.label[part]


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
