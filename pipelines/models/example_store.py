"""The examples store: what it holds, what a request can use of that, and what is missing. No Beam, no tensors.

    <root>/<task>/<key>/layer-<id>/   layer.json, and Arrow files with rows of `models.example_files.schema`
    <root>/<task>/<key>/.lock         held by whoever adds a layer

The key stands for all that decides which rows there are and what their labels are: the events, the steps, the label
and the input files. A layer is a rectangle, some features at some as-ofs; it appears whole and never changes. So a new
as-of or a new feature costs a layer of its own, and a changed file a new key.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import UserError
from pipelines.ledger.counts import Ledger
from pipelines.system.files import locked, make_private
from pipelines.system.screen import tell
from pipelines.task.spec import Feature, FeatureSpec, Task

VERSION = 1  # of what `sequences` makes of events: another number, another key
FILE = "layer.json"
PREFIX = "layer-"

Reasons = tuple[tuple[str, int], ...]


class InputFile(NamedTuple):
    """What tells a file from its next version."""

    path: str
    size: int  # bytes
    modified: float  # seconds since 1970, 0 where the file system does not say


@dataclass(frozen=True)
class Layer:
    """Some features at some as-ofs, and the run that computed them."""

    folder: Path
    as_ofs: tuple[int, ...]
    features: tuple[str, ...]  # `feature_id` of each column
    columns: Mapping[str, str]  # the fields that were read, and as what: they decide which rows were refused
    examples: tuple[int, ...]  # at each as-of
    ledger: Ledger


class Rectangle(NamedTuple):
    """Some features of a task, by index, at some as-ofs."""

    as_ofs: tuple[int, ...]
    features: tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """What a request takes from a layer."""

    folder: Path
    as_ofs: tuple[int, ...]
    width: int  # features of the layer
    columns: tuple[tuple[int, int], ...]  # (in the layer, in the task)


@dataclass(frozen=True)
class Stored:
    """The examples of one request, complete in the store."""

    folder: Path
    task: str
    as_ofs: tuple[int, ...]
    examples: int
    ledger: Ledger  # of the newest run behind them
    computed: tuple[Rectangle, ...]  # by this request
    reused: tuple[Rectangle, ...]
    uses: tuple[Use, ...]


def key(task: Task, format: str | None, files: Sequence[InputFile]) -> str:
    """The name of a folder: 12 hex digits for what all layers in it have in common."""
    label = task.label.asked
    if task.label.starts_from:
        label["level"] = [feature_id(f) for f in task.features if f.name in task.label.starts_from]
    events = task.events.model_dump(exclude={"categories"})  # a feature names the value that it counts
    sequence = task.sequence.model_dump(exclude={"features"})
    facts = [VERSION, events, sequence, label, format, sorted(files)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def feature_id(f: Feature) -> str:
    """What decides the values of a feature; not its scale or the size of its vocabulary, which are the model's."""
    fill = f.fill if f.by_step else "zero"
    return json.dumps([f.agg, f.field, f.by, f.value, fill, f.vocabulary is not None])


def sub_task(task: Task, features: Sequence[int]) -> Task:
    """The task with only these features, and with those that the label starts from."""
    kept = [f for i, f in enumerate(task.features) if i in set(features) or f.name in task.label.starts_from]
    specs = tuple(
        FeatureSpec(
            agg=f.agg,
            field=f.field,
            by=f.by,
            values=None if f.value is None else (f.value,),
            fill=f.fill,
            scale=f.scale,
            vocabulary=f.vocabulary,
        )
        for f in kept
    )
    parts = {name: getattr(task, name) for name in Task.model_fields}
    return Task(**{**parts, "sequence": task.sequence.model_copy(update={"features": specs})})


def choose(task: Task, as_ofs: Sequence[int], layers: Sequence[Layer]) -> list[Layer]:
    """The layers that fit each other and the task, of which the least is missing.

    Layers fit when they refused the same rows, for the same reasons: a row that only a later feature's field spoils is
    an event in one layer and none in the other. A layer that read fields the task does not must have refused nothing.
    """
    wanted = task.columns.items()
    groups: dict[Reasons, list[Layer]] = {}
    for layer in layers:
        if not layer.ledger.reasons or layer.columns.items() <= wanted:
            groups.setdefault(layer.ledger.reasons, []).append(layer)
    lacking = {
        reasons: sum(len(gap.as_ofs) * len(gap.features) for gap in missing(task, as_ofs, of))
        for reasons, of in groups.items()
    }
    return groups[min(lacking, key=lambda reasons: lacking[reasons])] if groups else []


def missing(task: Task, as_ofs: Sequence[int], layers: Sequence[Layer]) -> tuple[Rectangle, ...]:
    """The examples that no layer holds, as few rectangles: as-ofs that lack the same features together."""
    return _rectangles(task, as_ofs, layers, False)


def there(task: Task, as_ofs: Sequence[int], layers: Sequence[Layer]) -> tuple[Rectangle, ...]:
    """What the layers hold of a request."""
    return _rectangles(task, as_ofs, layers, True)


def _rectangles(task: Task, as_ofs: Sequence[int], layers: Sequence[Layer], held: bool) -> tuple[Rectangle, ...]:
    found: dict[tuple[int, ...], list[int]] = {}
    ids, held_at = [feature_id(f) for f in task.features], [(frozenset(x.as_ofs), x.features) for x in layers]
    for as_of in as_ofs:
        has = {f for times, features in held_at if as_of in times for f in features}
        features = tuple(i for i, f in enumerate(ids) if (f in has) == held)
        if features:
            found.setdefault(features, []).append(as_of)
    return tuple(Rectangle(tuple(times), features) for features, times in found.items())


def uses(task: Task, as_ofs: Sequence[int], layers: Sequence[Layer]) -> tuple[Use, ...]:
    """Where to read each feature at each as-of: from few layers, those with most of them first."""
    taken: dict[tuple[Path, int, tuple[tuple[int, int], ...]], list[int]] = {}
    held_at = [(frozenset(layer.as_ofs), layer) for layer in layers]
    for as_of in as_ofs:
        at = [layer for times, layer in held_at if as_of in times]
        wanted = {feature_id(f): i for i, f in enumerate(task.features)}
        while wanted:
            best = max(at, key=lambda layer: len(wanted.keys() & set(layer.features)))
            found = tuple((i, wanted.pop(f)) for i, f in enumerate(best.features) if f in wanted)
            if not found:
                raise ValueError(f"no layer has {next(iter(wanted))} at {as_of}")
            taken.setdefault((best.folder, len(best.features), found), []).append(as_of)
    return tuple(Use(folder, tuple(times), width, columns) for (folder, width, columns), times in taken.items())


def read_layers(folder: Path) -> list[Layer]:
    """All layers in the folder of a key; none where there is no folder."""
    return [read_layer(file.parent) for file in sorted(folder.glob(f"{PREFIX}*/{FILE}"))]


def read_layer(folder: Path) -> Layer:
    raw = json.loads((folder / FILE).read_text())
    ledger = raw.pop("ledger")
    ledger["reasons"] = tuple((reason, count) for reason, count in ledger["reasons"])
    lists = {name: tuple(raw[name]) for name in ("as_ofs", "features", "examples")}
    return Layer(folder, columns=raw["columns"], ledger=Ledger(**ledger), **lists)


def write_layer(layer: Layer) -> None:
    """Writes the description of a layer into its folder."""
    facts = asdict(layer)
    del facts["folder"]
    (layer.folder / FILE).write_text(json.dumps(facts, indent=1))


@contextmanager
def adding(folder: Path) -> Iterator[None]:
    """Keeps others out of the folder of a key until the end of the block; they wait, and then find what was added.

    What killed processes left is removed first.

    Raises:
      UserError: the folder cannot be made.
    """
    lock = folder / ".lock"
    with ExitStack() as held:
        try:
            make_private(folder)
            alone = held.enter_context(locked(lock, wait=False))
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}; name another folder") from error
        if not alone:
            tell(sys.stderr, f"waiting for another process that adds examples to {folder}")
            held.enter_context(locked(lock))
        for left in folder.glob(f".{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
