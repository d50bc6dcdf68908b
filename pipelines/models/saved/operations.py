"""Whether the graph of a model keeps to itself. A SavedModel is a program: TensorFlow runs parts of it to load it.

Every operation of every graph and function must be among those of `allowed`, but for two kinds that touch files:

- Each SavedModel has a function that saves its variables and one that restores them. They take the place from whoever
  calls them: TensorFlow's loader, with the model's own folder. So nothing in the graph may call them.
- A table of text may be read from a file that is an asset of the model.

What passes cannot read or write other files. That is no sandbox: it may still take all memory, or give wrong scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.errors import Exit, UserError
from pipelines.models.saved.allowed import ALLOWED
from pipelines.models.saved.saved_model import GRAPH, read

SAVER = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"})
FUNCTION = "__"  # how names of functions begin, and of operations never
TABLE = "InitializeTableFromTextFileV2"
OTHERS = ("user_object", "function", "variable", "bare_concrete_function", "constant", "resource", "captured_tensor")


def check_operations(folder: Path, root: Path) -> None:
    """Reads the SavedModel in `folder`, of the model in `root`, and runs nothing of it.

    Raises:
      UserError: it cannot be read, or it has an operation or a file that a model may not use.
    """
    for problem in _Graph(read(folder, root)).problems():
        raise UserError(
            f"{folder / GRAPH}: {problem}, and a model may reach nothing but its own files",
            Exit.MODEL,
            remedy="Unless you know who made it do not use it, else export it anew without that",
        )


class _Graph:
    """A graph with its functions, and who calls them."""

    def __init__(self, meta: Any) -> None:
        self._meta, self._top = meta, list(meta.graph_def.node)
        self._functions = list(meta.graph_def.library.function)
        self._names = {f.signature.name for f in self._functions}
        self._assets = {_node(a.tensor_info.name) for a in meta.asset_file_def} - {""}
        self._saver = self._saver_nodes()
        self._savers = {call for node in self._saver for call in _calls(node.attr)}

    def problems(self) -> Iterator[str]:
        """What the graph may not do."""
        for asset in self._meta.asset_file_def:
            path = PurePosixPath(asset.filename)
            if path.is_absolute() or ".." in path.parts:
                yield f"asset {asset.filename!r} lies outside the model"
        for node in self._top:
            yield from self._of_node(node, None)
        if len(self._names) < len(self._functions):
            yield "several functions have one name"
        for function in self._functions:
            yield from self._of_function(function)
        yield from self._exported()

    def _saver_nodes(self) -> list[Any]:
        """Those that call what saves and what restores, with a place that nothing in the graph decides."""
        saver = self._meta.saver_def
        place = _node(saver.filename_tensor_name)
        if not any(n.op == "Placeholder" and n.name == place for n in self._top):
            return []
        names = {_node(saver.save_tensor_name), _node(saver.restore_op_name)}
        return [n for n in self._top if n.name in names and _node(_input(n, 0)) == place]

    def _of_function(self, function: Any) -> Iterator[str]:
        for node in function.node_def:
            yield from self._of_node(node, function)
        name = function.signature.name
        # Grappler calls a function in the place of another that says that it implements the same.
        if name in self._savers and any(a.key.startswith("api_") for a in function.attr):
            yield f"function {name!r}, which saves or restores variables, may take the place of another"
        if self._savers.intersection(_calls(function.attr)):
            yield f"function {name!r} names one that saves or restores variables"

    def _of_node(self, node: Any, function: Any) -> Iterator[str]:
        if node.op in ALLOWED or (node.op in self._names and node.op.startswith(FUNCTION)):
            pass
        elif node.op in SAVER and function is not None and function.signature.name in self._savers:
            if node.op == "RestoreV2" and _input(node, 0) != _argument(function, 0):
                yield _told(node, function, "reads a place of its own")
        elif node.op == TABLE:
            if not self._of_asset(node, function):
                yield _told(node, function, "reads a file that is no asset of the model")
        else:
            yield _told(node, function, "is none that a model may use")
        if self._savers.intersection((node.op, *_calls(node.attr))) and not any(node is s for s in self._saver):
            yield _told(node, function, "calls what saves or restores variables")

    def _of_asset(self, node: Any, function: Any) -> bool:
        """Whether the file of a table is an asset that the function captured when it was made. That the graph itself
        calls it does not count: the loader runs none of that."""
        if function is None:
            return _node(_input(node, 1)) in self._assets
        arguments, name = [a.name for a in function.signature.input_arg], function.signature.name
        if _input(node, 1) not in arguments:
            return False
        if any(name in (n.op, *_calls(n.attr)) for f in self._functions for n in f.node_def):
            return False
        at = arguments.index(_input(node, 1)) - len(arguments)
        concrete = self._meta.object_graph_def.concrete_functions
        captured = [list(c.value.bound_inputs) for c in concrete if c.key == name]
        return bool(captured) and all(self._is_asset(c, at + len(c)) for c in captured)

    def _is_asset(self, captured: list[int], at: int) -> bool:
        """Captured inputs come last."""
        objects = self._meta.object_graph_def.nodes
        if at < 0 or not 0 <= captured[at] < len(objects):
            return False
        given = objects[captured[at]]
        return given.HasField("asset") and not any(given.HasField(kind) for kind in OTHERS)

    def _exported(self) -> Iterator[str]:
        """What saves or restores variables is no function of the model's own."""
        objects = self._meta.object_graph_def
        names = {c.key for c in objects.concrete_functions}
        for given in objects.nodes:
            names.update((*given.function.concrete_functions, given.bare_concrete_function.concrete_function_name))
        for name in sorted(names & self._savers):
            yield f"function {name!r}, which saves or restores variables, is exported"


def _calls(attributes: Iterable[Any]) -> Iterator[str]:
    """Names of the functions that attributes name."""
    for attribute in attributes:
        for call in (attribute.value.func, *attribute.value.list.func):
            if call.name:
                yield call.name
            yield from _calls(call.attr)


def _node(tensor: str) -> str:
    """The node of a tensor: `name:0`, `name:output:0`, or a node that comes before (`^name`)."""
    return tensor.removeprefix("^").partition(":")[0]


def _input(node: Any, i: int) -> str:
    return str(node.input[i]) if i < len(node.input) else ""


def _argument(function: Any, i: int) -> str:
    arguments = function.signature.input_arg
    return str(arguments[i].name) if i < len(arguments) else ""


def _told(node: Any, function: Any, what: str) -> str:
    where = f" of function {function.signature.name!r}" if function is not None else ""
    return f"operation {node.op} ({node.name!r}{where}) {what}"
