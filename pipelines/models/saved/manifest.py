"""The description of an exported model that lies beside it, and whether it fits a task.

<model>/manifest.json
<model>/saved_model/      what engines load: raw tensors in, scores out
<model>/transform/        the preprocessing inside it, as TensorFlow Transform wrote it
<model>/evaluation.json, report.html, task.json, logs/
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from pipelines.errors import Exit, UserError
from pipelines.system.files import read_json
from pipelines.task.fields import format_duration
from pipelines.task.labels.kinds import Kind
from pipelines.task.spec import ModelSpec, Task

FORMAT = 2
FILE = "manifest.json"
AGAIN = "Train the model again"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # of a version: a folder's, and no other place

Time = Annotated[int, Field(ge=-62_135_596_800_000_000, lt=253_402_300_800_000_000)]  # us, of the years 1 to 9999
Duration = Annotated[int, Field(ge=0, lt=1 << 63)]  # us


@dataclass(frozen=True)
class Manifest:
    """What a model was made from and what it expects. Times are us since 1970 UTC."""

    task: Annotated[str, Field(pattern=f"^{NAME}$")]
    task_digest: str
    step: Duration
    steps: Annotated[int, Field(ge=1)]
    features: tuple[str, ...]  # names, in the order of the tensor's columns
    label: Kind
    label_field: str  # of a path, else empty
    horizon: Duration
    active_within: Duration  # of churn, else 0
    outputs: tuple[str, ...]
    # The last as-of it learnt from, and a digest of its weights and inputs: 20150101-1a2b3c4d
    version: Annotated[str, Field(pattern=f"^{NAME}$")]
    train: Annotated[tuple[Time, ...], Field(min_length=1)]  # as-ofs
    validation: tuple[Time, ...]
    test: tuple[Time, ...]
    model: Mapping[str, Any]  # the task's ModelSpec
    metrics: Mapping[str, float]
    libraries: Mapping[str, str]
    created: Time
    format: int = FORMAT

    def write(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def signature(task: Task) -> dict[str, Any]:
    """The fields of a manifest that the task decides, and that scoring compares."""
    label = task.label
    return {
        "task": task.task,
        "step": task.sequence.step,
        "steps": task.sequence.steps,
        "features": tuple(f.name for f in task.features),
        "label": label.kind,
        "horizon": task.horizon,
        **label.signature,
        "outputs": task.outputs,
    }


def load_manifest(directory: Path | str) -> Manifest:
    """Reads the manifest in the folder of a model.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    path = Path(directory) / FILE
    try:
        content = read_json(path)
    except FileNotFoundError:
        remedy = "Make one with foretide train"
        raise UserError(f"{directory} is no model: it has no {FILE}", Exit.MODEL, remedy=remedy) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", Exit.MODEL, remedy=AGAIN) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not of format {FORMAT}, which this version reads", Exit.MODEL, remedy=AGAIN)
    names = {f.name for f in fields(Manifest)}
    if set(content) != names:
        wrong = ", ".join(sorted(names ^ set(content)))
        raise UserError(f"{path} has missing or unknown fields: {wrong}", Exit.MODEL, remedy=AGAIN)
    try:
        manifest = _fields().validate_python(content)
        ModelSpec.model_validate(manifest.model, strict=False)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ((*("model",) * (error.title == "ModelSpec"), *first["loc"]))))
        raise UserError(f"{path}: {where}: {first['msg']}", Exit.MODEL, remedy=AGAIN) from None
    return manifest


@cache
def _fields() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def check(manifest: Manifest, task: Task) -> None:
    """Checks that a model was made for a task.

    Raises:
      UserError: the model was made for another task, or another version of it; names every difference.
    """
    misfits = list(differences(manifest, task))
    if misfits:
        what = f"model {manifest.version} does not fit task {task.task}: {'; '.join(misfits)}"
        raise UserError(what, Exit.MODEL, remedy="Train a model for this task, or score with the task it was made for")


def differences(manifest: Manifest, task: Task) -> Iterator[str]:
    """What the model was made for and what the task says, where the two differ."""
    for name, wanted in signature(task).items():
        has = getattr(manifest, name)
        if has == wanted:
            continue
        if name == "features":
            yield from _features(manifest.features, tuple(f.name for f in task.features))
        else:
            yield f"{name.replace('_', ' ')} is {_shown(name, has)} in the model and {_shown(name, wanted)} in the task"


def _features(model: tuple[str, ...], task: tuple[str, ...]) -> Iterator[str]:
    missing, extra = [f for f in model if f not in task], [f for f in task if f not in model]
    if missing:
        yield f"the task lacks the features {', '.join(missing)}"
    if extra:
        yield f"the model does not know the features {', '.join(extra)}"
    if not missing and not extra:
        i = next(i for i, (a, b) in enumerate(zip(model, task, strict=True)) if a != b)
        yield f"the features stand in another order: feature {i} is {model[i]} in the model and {task[i]} in the task"


def _shown(name: str, value: object) -> str:
    if name in ("step", "horizon", "active_within") and isinstance(value, int):
        return format_duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value)
