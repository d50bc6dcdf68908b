"""The engine of a launch: does it load the model, and give scores."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np

from pipelines.errors import Finding
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok
from pipelines.models.engines.base import ALIGNMENT, Engine
from pipelines.models.engines.loading import load_engine, silent_stderr
from pipelines.models.saved.manifest import Manifest

LIBRARIES = {"tensorflow": "tensorflow", "openvino": "openvino", "openvino-bf16": "openvino"}


def engine(facts: Facts) -> Iterator[Finding]:
    """Whether the engine is there, and can call the model."""
    if not facts.model_here:
        return
    asked, folder = facts.scoring, facts.model
    library = LIBRARIES[asked.engine]
    try:
        with silent_stderr():
            importlib.import_module(library)
    except ImportError:
        extra = "foretide" if library == "tensorflow" else f"foretide[{library}]"
        remedy = f"Run pip install '{extra}', or choose another --engine"
        yield error("--engine", f"--engine {asked.engine} is not installed", remedy, code="engine")
        return
    loaded = load_engine(folder, asked.engine, asked.device if asked.runner.local else "cpu")  # workers may have others
    try:
        wrong = _wrong(loaded, facts.manifest)
    except Exception as raised:  # a model may raise anything
        wrong = f"it fails on zeros: {type(raised).__name__}: {' '.join(str(raised).split())[:200]}"
    if wrong:
        yield error(str(folder), f"{folder}: {wrong}")
    else:
        yield ok(str(folder), f"{loaded.name} gives scores on the {loaded.device}")


def _wrong(engine: Engine, manifest: Manifest) -> str:
    """What is wrong with a loaded model; empty for nothing."""
    row, outputs = (manifest.steps, len(manifest.features)), len(manifest.outputs)
    if engine.inputs != row or engine.outputs != outputs:
        has = f"{engine.inputs} to {engine.outputs} scores"
        return f"it takes rows of shape {has}, and its manifest says {row} to {outputs}"
    scores = engine.predict(np.zeros((ALIGNMENT, *row), np.float32))
    return "" if np.isfinite(scores).all() else "it gives scores that are not finite for a history without events"
