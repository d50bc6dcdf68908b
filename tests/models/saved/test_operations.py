"""What a model's graph may do is known before any of it runs: nothing but to compute with its own files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipelines.errors import Exit, UserError
from pipelines.models.engines.loading import load_engine
from pipelines.models.saved import saved_model as savedmodel
from pipelines.models.saved.allowed import ALLOWED
from pipelines.models.saved.operations import check_operations
from tests.support import hostile_models
from tests.support.hostile_models import DOES, ON_LOAD, edit, put
from tests.support.toy_models import STEPS, export_toy, tensor


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations") / "toy"
    export_toy(folder, network="mlp", units=[4])
    return folder


@pytest.fixture
def model(toy: Path, tmp_path: Path) -> Path:
    """One that may be harmed."""
    return Path(shutil.copytree(toy, tmp_path / "model"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_engine(folder, "tensorflow", "cpu")
    assert caught.value.exit == Exit.MODEL
    assert str(folder / "saved_model") in str(caught.value)


@pytest.mark.parametrize("what", DOES)
def test_what_reaches_outside_is_refused(what: str, tmp_path: Path) -> None:
    does, operation = DOES[what]
    victim = tmp_path / "victim"
    folder = put(tmp_path / "model", does, victim)
    refused(
        folder, f"saved_model.pb: operation {operation} .*, and a model may reach nothing but its own files. Unless"
    )
    assert not victim.exists()


@pytest.mark.parametrize("what", ON_LOAD)
def test_what_runs_when_it_is_loaded_is_refused_before(what: str, tmp_path: Path) -> None:
    does, operation = DOES[what]
    victim = tmp_path / "victim"
    victim.write_text("a\t1\n")
    if what == "restores":
        save_as = tf.raw_ops.SaveV2
        save_as(prefix=str(victim), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
    folder = put(tmp_path / "model", does, victim, on_load=True)
    refused(folder, f"operation {operation} ")
    assert not victim.exists()


def test_what_is_refused_would_have_written(tmp_path: Path) -> None:
    """Without the check the file is there: the attack is one."""
    victim = tmp_path / "victim"
    folder = put(tmp_path / "model", hostile_models.write, victim, on_load=True)
    tf.saved_model.load(str(folder / "saved_model"))
    assert victim.read_text() == "written"


def test_the_message_names_node_and_function(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", hostile_models.nested, tmp_path / "victim")
    refused(
        folder, r"operation WriteFile \('WriteFile' of function '__inference_nested_\d+'\) is none that a model may"
    )


def test_openvino_is_held_to_the_same(tmp_path: Path) -> None:
    folder = put(tmp_path / "model", hostile_models.write, tmp_path / "victim")
    with pytest.raises(UserError, match="operation WriteFile "):
        load_engine(folder, "openvino", "cpu")


def saver(graph: Any, which: str) -> str:
    """The function that saves, or that restores."""
    return next(f.signature.name for f in graph.library.function if which in f.signature.name)


def call_the_saver(meta: Any) -> None:
    """From the serving function, with a file of its own."""
    name = saver(meta.graph_def, "traced_save")
    serve = next(f for f in meta.graph_def.library.function if "signature_wrapper" in f.signature.name)
    node = serve.node_def.add(name="more", op="PartitionedCall")
    node.attr["f"].func.name = name


def call_the_saver_in_a_list(meta: Any) -> None:
    node = meta.graph_def.node.add(name="more", op="Case")
    node.attr["branches"].list.func.add(name=saver(meta.graph_def, "traced_restore"))


def call_the_saver_as_an_operation(meta: Any) -> None:
    meta.graph_def.node.add(name="more", op=saver(meta.graph_def, "traced_save"))


def export_the_saver(meta: Any) -> None:
    meta.object_graph_def.nodes.add().function.concrete_functions.append(saver(meta.graph_def, "traced_save"))


def bare_saver(meta: Any) -> None:
    given = meta.object_graph_def.nodes.add()
    given.bare_concrete_function.concrete_function_name = saver(meta.graph_def, "traced_restore")


def swap_in_the_saver(meta: Any) -> None:
    function = next(f for f in meta.graph_def.library.function if "traced_save" in f.signature.name)
    function.attr["api_implements"].s = b"serve"


def name_the_saver(meta: Any) -> None:
    function = next(f for f in meta.graph_def.library.function if "signature_wrapper" in f.signature.name)
    function.attr["_gradient"].func.name = saver(meta.graph_def, "traced_save")


def restore_a_constant(meta: Any) -> None:
    function = next(f for f in meta.graph_def.library.function if "traced_restore" in f.signature.name)
    next(n for n in function.node_def if n.op == "RestoreV2").input[0] = "RestoreV2/tensor_names:output:0"


def place_of_the_graph(meta: Any) -> None:
    """What saves and restores gets its place from a constant."""
    place = next(n for n in meta.graph_def.node if n.name == "saver_filename")
    place.op = "Const"


def operation_by_the_name_of_a_function(meta: Any) -> None:
    meta.graph_def.library.function.add().signature.name = "WriteFile"
    meta.graph_def.node.add(name="more", op="WriteFile")


def two_of_a_name(meta: Any) -> None:
    meta.graph_def.library.function.add().CopyFrom(meta.graph_def.library.function[0])


def asset(name: str) -> Callable[[Any], None]:
    def change(meta: Any) -> None:
        meta.asset_file_def.add(filename=name)

    return change


TAMPERED: dict[str, tuple[Callable[[Any], None], str]] = {
    "calls the saver": (call_the_saver, "operation PartitionedCall .* calls what saves or restores variables"),
    "calls it in a list": (call_the_saver_in_a_list, "operation Case .* calls what saves or restores"),
    "calls it by its name": (call_the_saver_as_an_operation, "calls what saves or restores"),
    "exports the saver": (export_the_saver, "traced_save.*, which saves or restores variables, is exported"),
    "exports it bare": (bare_saver, "traced_restore.*, which saves or restores variables, is exported"),
    "swaps in the saver": (swap_in_the_saver, "traced_save.* may take the place of another"),
    "names the saver": (name_the_saver, "signature_wrapper.* names one that saves or restores"),
    "restores a constant": (restore_a_constant, "operation RestoreV2 .* reads a place of its own"),
    "a place of its own": (place_of_the_graph, "operation (SaveV2|RestoreV2|ShardedFilename) .* is none that"),
    "a function called WriteFile": (operation_by_the_name_of_a_function, r"operation WriteFile \('more'\) is none"),
    "two of a name": (two_of_a_name, "several functions have one name"),
    "an asset above": (asset("../x"), r"asset '\.\./x' lies outside the model"),
    "an absolute asset": (asset("/etc/passwd"), "asset '/etc/passwd' lies outside"),
    "of TensorFlow 1": (lambda meta: meta.ClearField("object_graph_def"), "it is not one graph of TensorFlow 2"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_the_saver_is_the_loaders_alone(what: str, model: Path) -> None:
    change, message = TAMPERED[what]
    refused(edit(model, change), message)


def test_graphs_beside_the_one_are_refused(model: Path) -> None:
    file = model / "saved_model" / "saved_model.pb"
    file.write_bytes(file.read_bytes() * 2)
    refused(model, "it is not one graph of TensorFlow 2")


def with_table(folder: Path, words: Path) -> Path:
    """A model with a table of text, whose file becomes an asset."""
    initial = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticVocabularyTable(initial, 2)

    def serve(y: tf.Tensor, _: str) -> tf.Tensor:
        return table.lookup(tf.strings.as_string(y))

    module = put(folder, serve, folder / "victim", keep=table)
    assert (folder / "saved_model" / "assets" / words.name).is_file()
    return module


def test_a_table_is_read_from_an_asset(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\nb\n")
    folder = with_table(tmp_path / "model", tmp_path / "words")
    (tmp_path / "words").unlink()
    serves = load_engine(folder, "tensorflow", "cpu")
    assert np.isfinite(serves.predict(tensor(16))).all()


def captured_constant(meta: Any) -> None:
    """In the place of the asset."""
    given = next(n for n in meta.object_graph_def.nodes if n.WhichOneof("kind") == "asset")
    given.constant.operation = "Const"


def another_argument(meta: Any) -> None:
    for function in meta.graph_def.library.function:
        for node in function.node_def:
            if node.op == "InitializeTableFromTextFileV2":
                node.input[1] = "elsewhere:output:0"


def called_with_another(meta: Any) -> None:
    """By the serving function."""
    serve = next(f for f in meta.graph_def.library.function if "signature_wrapper" in f.signature.name)
    name = next(f.signature.name for f in meta.graph_def.library.function if "_initializer_" in f.signature.name)
    serve.node_def.add(name="more", op="PartitionedCall").attr["f"].func.name = name


def forgotten(meta: Any) -> None:
    for name in [n for n in meta.object_graph_def.concrete_functions if "_initializer_" in n]:
        del meta.object_graph_def.concrete_functions[name]


def out_of_range(meta: Any) -> None:
    for name, function in meta.object_graph_def.concrete_functions.items():
        if "_initializer_" in name:
            function.bound_inputs[:] = [-1, 1 << 30]


@pytest.mark.parametrize("change", [captured_constant, another_argument, called_with_another, forgotten, out_of_range])
def test_a_table_of_another_file_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\n")
    folder = edit(with_table(tmp_path / "model", tmp_path / "words"), change)
    refused(folder, "operation InitializeTableFromTextFileV2 .* reads a file that is no asset of the model")


def out_by_a_link(model: Path) -> None:
    data = next((model / "saved_model" / "variables").glob("*.data*"))
    data.rename(model.parent / "elsewhere")
    data.symlink_to(model.parent / "elsewhere")


def out_by_a_folder(model: Path) -> None:
    (model / "saved_model" / "variables").rename(model.parent / "elsewhere")
    (model / "saved_model" / "variables").symlink_to("../../elsewhere")


def whole_folder(model: Path) -> None:
    (model / "saved_model").rename(model.parent / "elsewhere")
    (model / "saved_model").symlink_to("../elsewhere")


def round_in_a_circle(model: Path) -> None:
    (model / "saved_model" / "assets.extra").symlink_to("assets.extra")


def pipe(model: Path) -> None:
    os.mkfifo(model / "saved_model" / "fingerprint2")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (out_by_a_link, "variables.data.* is a link out of the model"),
        (out_by_a_folder, "variables is a link out of the model"),
        (whole_folder, "saved_model is a link out of the model"),
        (round_in_a_circle, "cannot be read"),
        (pipe, "is neither a file nor a folder"),
    ],
)
def test_files_outside_the_model_are_refused(harm: Callable[[Path], None], message: str, model: Path) -> None:
    harm(model)
    refused(model, message)


def test_links_inside_the_model_and_to_it_are_followed(model: Path) -> None:
    (model / "saved_model" / "variables").rename(model / "kept")
    (model / "saved_model" / "variables").symlink_to("../kept")
    (model.parent / "link").symlink_to(model)
    assert load_engine(model.parent / "link", "tensorflow", "cpu").outputs == 1


@pytest.mark.parametrize("content", [b"", b"\x00broken", b"\x12\xff\xff\xff\xff\x0f", b"\x0a\x01" * 1000])
def test_what_is_no_graph_is_an_error_of_the_user(content: bytes, model: Path) -> None:
    (model / "saved_model" / "saved_model.pb").write_bytes(content)
    refused(model, "cannot be read as a SavedModel: .*. Train the model again")


def test_deep_nesting_is_an_error_of_the_user(model: Path) -> None:
    def change(meta: Any) -> None:
        call = meta.graph_def.node[0].attr["f"].func
        for _ in range(20):
            call = call.attr["f"].func
        call.name = "x"
        meta.graph_def.node.add(name="a", op="ReadFile")

    refused(edit(model, change), "ReadFile")
    deep = b""
    for _ in range(5000):
        deep = b"\x52" + _varint(len(deep) + 4) + b"\x12" + _varint(len(deep)) + deep  # only looks like calls in calls
    (model / "saved_model" / "saved_model.pb").write_bytes(b"\x12" + _varint(len(deep)) + deep)
    refused(model, "cannot be read as a SavedModel")


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def test_a_graph_that_is_too_large_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savedmodel, "LARGEST", 1000)
    refused(model, "bytes, and a graph at most 1,000. Train the model again")


def test_the_messages_are_those_of_tensorflow() -> None:
    """Each declared field is TensorFlow's, by number and type; and nodes are nowhere else."""
    names = dict[str, str]()  # ours -> theirs

    def compare(ours: Any, theirs: Any) -> None:
        if names.setdefault(ours.full_name, theirs.full_name) != theirs.full_name:
            raise AssertionError(f"{ours.full_name} is two messages of TensorFlow")
        for field in ours.fields:
            other = theirs.fields_by_number[field.number]
            assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
            if field.message_type is not None and field.message_type.full_name not in names:
                compare(field.message_type, other.message_type)

    theirs = saved_model_pb2.SavedModel.DESCRIPTOR
    compare(savedmodel._SavedModel.DESCRIPTOR, theirs)
    known = set(names.values())
    seen, todo = set(), [theirs]
    while todo:
        message = todo.pop()
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.message_type is not None:
                todo.append(field.message_type)
                if field.message_type.name in ("NodeDef", "FunctionDef", "NameAttrList", "GraphDef"):
                    assert message.full_name in known, f"{message.full_name}.{field.name} may hold operations"


def test_what_is_allowed_is_known_to_tensorflow() -> None:
    from tensorflow.python.framework import op_def_registry

    assert not [name for name in ALLOWED if op_def_registry.get(name) is None]
    outside = (
        "File",
        "Save",
        "Restore",
        "PyFunc",
        "Print",
        "Summary",
        "Dataset",
        "Reader",
        "Collective",
        "Debug",
        "Send",
    )
    assert not [name for name in ALLOWED if any(word in name for word in outside)]


def test_other_models_of_keras_are_allowed(tmp_path: Path) -> None:
    """Of layers that ours have not."""
    import keras
    from keras import layers

    x = keras.Input((STEPS, 4), name="sequence")
    attended = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x) + x)
    convolved = layers.MaxPooling1D(2)(layers.Conv1D(8, 3, padding="causal", activation="swish")(attended))
    both = layers.Bidirectional(layers.GRU(4))(layers.Masking()(x))
    parts = layers.Embedding(4, 3)(layers.Discretization(bin_boundaries=[0.0, 1.0, 2.0])(x[:, :, 0]))
    hashed = layers.Embedding(8, 3)(layers.Hashing(8)(layers.Reshape((STEPS,))(x[:, :, 1])))
    seen = [layers.GlobalAveragePooling1D()(y) for y in (convolved, parts, hashed)]
    y = layers.BatchNormalization()(layers.Dropout(0.5)(layers.Concatenate()([*seen, both])))
    keras.Model(x, layers.Dense(1, "sigmoid")(y)).export(str(tmp_path / "saved_model"), verbose=False)
    check_operations(tmp_path / "saved_model", tmp_path)
