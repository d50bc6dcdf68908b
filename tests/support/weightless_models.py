"""Models in a registry that hold no weights, for tests; and, as a forking process, children that promote them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from pipelines.models.registry import promote, rollback
from pipelines.models.saved.manifest import Manifest
from pipelines.task.spec import ModelSpec
from tests.support.forking_process import serve

DAY = 86_400_000_000
A, B, C = VERSIONS = ("19700121-aaaaaaaa", "19700221-bbbbbbbb", "19700321-cccccccc")
TASK = "toy"


def network(**changed: object) -> dict[str, object]:
    """What a manifest says of a model."""
    return ModelSpec.model_validate({"units": (8,), **changed}).model_dump(mode="json")


def put(root: Path, version: str = A, created: int = 50 * DAY, **changed: object) -> Path:
    """The folder of a version with a manifest and something in place of a SavedModel."""
    facts: Mapping[str, object] = {
        "task": TASK,
        "step": DAY,
        "steps": 12,
        "features": ("count()", "sum(amount)", "last(price)"),
        "label": "churn",
        "label_field": "",
        "horizon": 7 * DAY,
        "active_within": 7 * DAY,
        "outputs": ("churn",),
        "task_digest": "0123456789ab",
        "version": version,
        "train": (10 * DAY, 20 * DAY),
        "validation": (30 * DAY,),
        "test": (40 * DAY,),
        "model": network(),
        "metrics": {"auc": 0.75, "auc_low": 0.7, "auc_high": 0.8, "auc_lightgbm": 0.74, "test_entities": 1016.0},
        "libraries": {"keras": "3"},
        "created": created,
        **changed,
    }
    folder = root / TASK / version
    (folder / "saved_model").mkdir(parents=True)
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"\x12\x02\x3a\x00")  # a graph without operations
    Manifest(**facts).write(folder)  # type: ignore[arg-type]
    return folder


def main(folder: Path) -> None:
    turns = count()

    def loop() -> None:
        turn = next(turns)
        promote(folder, VERSIONS[turn % len(VERSIONS)])
        if turn % 4 == 3:
            rollback(folder)

    serve(lambda version: promote(folder, version), loop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
