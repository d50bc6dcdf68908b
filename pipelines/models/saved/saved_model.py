"""Reading a SavedModel without running any of it, and without importing TensorFlow, which takes seconds.

Of TensorFlow's messages only the fields that `operations` judges are declared; the others are passed over.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipelines.errors import Exit, UserError
from pipelines.models.saved.manifest import AGAIN

GRAPH = "saved_model.pb"
ANEW = "Copy the model anew"
LARGEST = 1 << 28  # bytes of a graph: weights are not in it

Field = descriptor_pb2.FieldDescriptorProto
# Message: field, number, type. A map is a list of its entries, and a oneof is all of its fields: nothing is hidden by
# what comes after it.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "MetaGraph*")},
    "MetaGraph": {
        "graph_def": (2, "Graph"),
        "saver_def": (3, "Saver"),
        "asset_file_def": (6, "Asset*"),
        "object_graph_def": (7, "Objects"),
    },
    "Graph": {"node": (1, "Node*"), "library": (2, "Library")},
    "Library": {"function": (1, "Function*")},
    "Function": {"signature": (1, "Signature"), "node_def": (3, "Node*"), "attr": (5, "Attribute*")},
    "Signature": {"name": (1, "string"), "input_arg": (2, "Argument*")},
    "Argument": {"name": (1, "string")},
    "Node": {"name": (1, "string"), "op": (2, "string"), "input": (3, "string*"), "attr": (5, "Attribute*")},
    "Attribute": {"key": (1, "string"), "value": (2, "Value")},
    "Value": {"list": (1, "Values"), "func": (10, "Call")},
    "Values": {"func": (9, "Call*")},
    "Call": {"name": (1, "string"), "attr": (2, "Attribute*")},
    "Saver": {
        "filename_tensor_name": (1, "string"),
        "save_tensor_name": (2, "string"),
        "restore_op_name": (3, "string"),
    },
    "Asset": {"tensor_info": (1, "Tensor"), "filename": (2, "string")},
    "Tensor": {"name": (1, "string")},
    "Objects": {"nodes": (1, "Object*"), "concrete_functions": (2, "Concrete*")},
    "Object": {
        "user_object": (4, "Any"),
        "asset": (5, "Any"),
        "function": (6, "Functions"),
        "variable": (7, "Any"),
        "bare_concrete_function": (8, "Bare"),
        "constant": (9, "Any"),
        "resource": (10, "Any"),
        "captured_tensor": (12, "Any"),
    },
    "Functions": {"concrete_functions": (1, "string*")},
    "Bare": {"concrete_function_name": (1, "string")},
    "Concrete": {"key": (1, "string"), "value": (2, "Captures")},
    "Captures": {"bound_inputs": (2, "int32*")},
    "Any": {},
}
SCALARS = {"string": Field.TYPE_STRING, "int32": Field.TYPE_INT32}


def read(folder: Path, root: Path) -> Any:
    """The one graph (a message MetaGraph) of a model's folder `saved_model`.

    Raises:
      UserError: it cannot be read, is too large, is not of TensorFlow 2, or has files that lie outside `root`.
    """
    _all_inside(folder, root.resolve())
    path = folder / GRAPH
    try:
        size = path.stat().st_size
        if size > LARGEST:
            told = f"{path} has {size:,} bytes, and a graph at most {LARGEST:,}"
            raise UserError(told, Exit.MODEL, remedy=AGAIN)
        graphs = _SavedModel.FromString(path.read_bytes()).meta_graphs
    except (OSError, DecodeError) as error:
        raise UserError(f"{path} cannot be read as a SavedModel: {error}", Exit.MODEL, remedy=AGAIN) from None
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        # Of others TensorFlow would run operations that are in no function, such as those that restore variables.
        raise UserError(
            f"{path} cannot be read as a SavedModel: it is not one graph of TensorFlow 2", Exit.MODEL, remedy=AGAIN
        )
    return graphs[0]


def _all_inside(folder: Path, root: Path) -> None:
    """A link may lead to another place of the model, not out of it; and nothing but files and folders is there, for
    whoever opened a pipe would wait for ever."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in (*folders, *files))):
            try:
                inside = path.resolve().is_relative_to(root)
                plain = not path.exists() or stat.S_IFMT(path.stat().st_mode) in (stat.S_IFREG, stat.S_IFDIR)
            except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
                raise UserError(f"{path} cannot be read: {error}", Exit.MODEL, remedy=ANEW) from None
            if not inside:
                raise UserError(
                    f"{path} is a link out of the model {root}", Exit.MODEL, remedy="Put the file itself there"
                )
            if not plain:
                raise UserError(f"{path} is neither a file nor a folder", Exit.MODEL, remedy=ANEW)


def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="foretide/saved_model.proto", package="foretide", syntax="proto3")
    for message, fields in MESSAGES.items():
        added = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            label = Field.LABEL_REPEATED if kind.endswith("*") else Field.LABEL_OPTIONAL
            plain = kind.removesuffix("*")
            of = added.field.add(name=field, number=number, label=label)
            if plain in SCALARS:
                of.type = SCALARS[plain]
            else:
                of.type, of.type_name = Field.TYPE_MESSAGE, f".foretide.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"foretide.{name}"))


_SavedModel = _message("SavedModel")
