"""The model: is it there, was it made for this task, and does its engine give scores here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.doctor.findings import Finding, error, ok, skipped, told
from pipelines.doctor.launch import Launch
from pipelines.errors import UserError
from pipelines.models import registry
from pipelines.models.engines.base import ALIGNMENT, Engine
from pipelines.models.engines.loading import load_engine, silent_stderr
from pipelines.models.saved.manifest import Manifest, differences, load_manifest
from pipelines.transforms.infer import Infer

LIBRARIES = {"tensorflow": "tensorflow", "openvino": "openvino", "openvino-bf16": "openvino"}


def model(launch: Launch) -> Iterator[Finding]:
    """All about the model."""
    if "://" in launch.config.model:
        yield skipped(
            "model-found", launch.config.model, f"{launch.config.model} is not of this machine, and not loaded here"
        )
        return
    try:
        folder = registry.resolve(launch.config.model)
        manifest = load_manifest(folder)
    except UserError as problem:
        what, _, how = str(problem).rpartition("; ")
        yield error("model-found", launch.config.model, what or how, f"{how[0].upper()}{how[1:]}" if what else "")
        return
    yield ok("model-found", launch.config.model, f"{manifest.version} of {manifest.task} in {folder}")
    yield from _task(launch, manifest)
    yield from _batch(launch)
    yield from _engine(launch, folder, manifest)


def _task(launch: Launch, manifest: Manifest) -> Iterator[Finding]:
    if launch.task is None:
        yield skipped("model-task", launch.config.model, "the task is not known")
        return
    misfits = list(differences(manifest, launch.task))
    for misfit in misfits:
        yield error(
            "model-task", launch.config.model, f"{manifest.version} does not fit task {launch.task.task}: {misfit}"
        )
    if not misfits:
        yield ok("model-task", launch.config.model, f"{manifest.version} was made for this task")


def _batch(launch: Launch) -> Iterator[Finding]:
    if launch.task is None:
        return
    try:
        Infer(launch.config.model, launch.task, launch.config.engine, launch.config.device, launch.config.batch_size)
    except UserError as problem:
        yield told("batch-size", "--batch-size", problem)


def _engine(launch: Launch, folder: Path, manifest: Manifest) -> Iterator[Finding]:
    library = LIBRARIES[launch.config.engine]
    try:
        with silent_stderr():
            importlib.import_module(library)
    except ImportError:
        extra = "foretide" if library == "tensorflow" else f"foretide[{library}]"
        problem = f"--engine {launch.config.engine} is not installed"
        yield error("engine", "--engine", problem, f"Run pip install '{extra}', or choose another --engine")
        return
    try:  # what workers elsewhere have, this machine need not have
        engine = load_engine(folder, launch.config.engine, launch.config.device if launch.runner.local else "cpu")
    except UserError as problem:
        what, separator, how = str(problem).partition("; ")
        if what.startswith("--device"):
            yield error("device", "--device", what, f"{how[0].upper()}{how[1:]}" if separator else "")
        else:
            yield error("model-loads", str(folder), what)
        return
    try:
        wrong = _wrong(engine, manifest)
    except Exception as raised:  # a model may raise anything
        wrong = f"it fails on zeros: {type(raised).__name__}: {' '.join(str(raised).split())[:200]}"
    if wrong:
        yield error("model-loads", str(folder), f"{folder}: {wrong}")
    else:
        yield ok("model-loads", str(folder), f"{engine.name} gives scores on the {engine.device}")


def _wrong(engine: Engine, manifest: Manifest) -> str:
    """What is wrong with a loaded model; empty for nothing."""
    row, outputs = (manifest.steps, len(manifest.features)), len(manifest.outputs)
    if engine.inputs != row or engine.outputs != outputs:
        has = f"{engine.inputs} to {engine.outputs} scores"
        return f"it takes rows of shape {has}, and its manifest says {row} to {outputs}"
    scores = engine.predict(np.zeros((ALIGNMENT, *row), np.float32))
    return "" if np.isfinite(scores).all() else "it gives scores that are not finite for a history without events"
