"""SavedModels that do more than compute: TensorFlow makes each, and it would reach a file if it were loaded or run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.trackable.resource import CapturableResource

from tests.support.toy_models import FEATURES, STEPS, task

Does = Callable[[tf.Tensor, str], Any]  # (scores, a file) -> a tensor or an operation of the graph


def put(folder: Path, does: Does, victim: Path, on_load: bool = False, keep: Any = None) -> Path:
    """A model of the toy task in `folder`/saved_model that does something to the file `victim`, in its serving function
    or when it is loaded; `keep` is what that refers to."""
    module = tf.Module()

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, STEPS, len(FEATURES)), name="sequence")])
    def serve(sequence: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.sigmoid(tf.reduce_sum(sequence * module.weight, [1, 2])[:, None])
        if not on_load:
            done = does(scores, str(victim))
            with tf.control_dependencies([] if done is None else tf.nest.flatten(done)):
                scores = tf.identity(scores)
        return {task().outputs[0]: scores}

    module.weight, module.serve = tf.Variable(1.0), serve
    module.kept = keep
    if on_load:
        module.starts = Starts(lambda: does(tf.zeros([1, 1]), str(victim)))
    tf.saved_model.save(module, str(folder / "saved_model"), signatures={"serving_default": serve})
    victim.unlink(missing_ok=True)  # some are run when they are made
    return folder


class Starts(CapturableResource):
    """A resource that TensorFlow's loader initialises, as it does a table."""

    def __init__(self, does: Callable[[], Any]) -> None:
        super().__init__()
        self._does = does
        self._initialize()

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

    @tf.function(autograph=False)
    def _initialize(self) -> tf.Tensor:
        done = self._does()
        with tf.control_dependencies([] if done is None else tf.nest.flatten(done)):
            return tf.constant(1)


def edit(folder: Path, change: Callable[[Any], object]) -> Path:
    """Changes the graph (a MetaGraphDef) of a model, by what TensorFlow itself says a SavedModel is."""
    file = folder / "saved_model" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(model.meta_graphs[0])
    file.write_bytes(model.SerializeToString())
    return folder


def write(_: tf.Tensor, file: str) -> tf.Operation:
    return tf.io.write_file(file, "written")


@tf.function
def nested(scores: tf.Tensor, file: str) -> tf.Tensor:
    with tf.control_dependencies([tf.io.write_file(file, "written")]):
        return tf.identity(scores)


def branch(scores: tf.Tensor, file: str) -> tf.Tensor:
    def taken() -> tf.Tensor:
        with tf.control_dependencies([tf.io.write_file(file, "written")]):
            return tf.constant(1.0)

    return tf.cond(tf.reduce_sum(scores) > 1e9, taken, lambda: tf.constant(0.0))


def loop(scores: tf.Tensor, file: str) -> Any:
    def step(i: tf.Tensor) -> tuple[tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(file, "written")]):
            return (i + 1,)

    return tf.while_loop(lambda i: i < 3, step, (tf.constant(0),))


def mapped(scores: tf.Tensor, file: str) -> tf.Tensor:
    return tf.map_fn(lambda y: nested(y, file), scores)


def table(_: tf.Tensor, file: str) -> tf.Tensor:
    handle = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    return tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=handle, filename=file, key_index=-2, value_index=-1, vocab_size=-1
    )


def restore(_: tf.Tensor, file: str) -> Any:
    return tf.raw_ops.RestoreV2(prefix=file, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])


def save(scores: tf.Tensor, file: str) -> Any:
    return tf.raw_ops.SaveV2(prefix=file, tensor_names=["x"], shape_and_slices=[""], tensors=[scores])


# What a model does, and the operation that is refused.
DOES: dict[str, tuple[Does, str]] = {
    "writes": (write, "WriteFile"),
    "writes in a function": (nested, "WriteFile"),
    "writes in a branch": (branch, "WriteFile"),
    "writes in a loop": (loop, "WriteFile"),
    "writes in a map": (mapped, "WriteFile"),
    "reads": (lambda _, f: tf.io.read_file(f), "ReadFile"),
    "looks for files": (lambda _, f: tf.io.matching_files(f), "MatchingFiles"),
    "prints to a file": (lambda y, f: tf.print(y, output_stream=f"file://{f}"), "PrintV2"),
    "prints": (lambda y, f: tf.print(y), "PrintV2"),
    "calls Python": (lambda y, f: tf.py_function(lambda v: v, [y], tf.float32), "EagerPyFunc"),
    "calls Python without a gradient": (lambda y, f: tf.numpy_function(lambda v: v, [y], tf.float32), "PyFunc"),
    "reads lines": (
        lambda _, f: tf.raw_ops.TextLineDataset(filenames=f, compression_type="", buffer_size=0),
        "TextLineDataset",
    ),
    "reads whole files": (lambda _, f: tf.raw_ops.WholeFileReaderV2(), "WholeFileReaderV2"),
    "maps a file": (
        lambda _, f: tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=f),
        "ImmutableConst",
    ),
    "reads a table": (table, "InitializeTableFromTextFileV2"),
    "restores": (restore, "RestoreV2"),
    "saves": (save, "SaveV2"),
    "writes summaries": (
        lambda _, f: tf.raw_ops.SummaryWriter(shared_name="", container=""),
        "SummaryWriter",
    ),
    "debugs to a file": (
        lambda y, f: tf.raw_ops.DebugIdentityV2(input=y, debug_urls=[f"file://{f}"]),
        "DebugIdentityV2",
    ),
    "reads a description": (
        lambda _, f: tf.io.decode_proto([b""], "A", ["a"], [tf.int32], descriptor_source=f),
        "DecodeProtoV2",
    ),
    "ends the process": (lambda _, f: tf.raw_ops.Abort(error_msg="x"), "Abort"),
    "calls another machine": (
        lambda y, f: tf.raw_ops.CollectiveReduce(
            input=y, group_size=2, group_key=1, instance_key=1, merge_op="Add", final_op="Id", subdiv_offsets=[0]
        ),
        "CollectiveReduce",
    ),
}
ON_LOAD = ("writes", "reads", "prints to a file", "reads a table", "restores")  # of those that can be tried at once
