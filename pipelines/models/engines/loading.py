"""Choosing an engine and importing its framework, which takes seconds, only then."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from pipelines.errors import Exit, UserError
from pipelines.models.engines.base import DeviceName, Engine, EngineName
from pipelines.models.saved.operations import check_operations


def load_engine(model_dir: Path | str, engine: EngineName, device: DeviceName) -> Engine:
    """Loads the SavedModel of an exported model, once its operations are known to keep to themselves.

    Raises:
      UserError: no such engine or device, the engine is not installed, or the model cannot be read or has operations
        that it may not use.
    """
    path = Path(model_dir) / "saved_model"
    if engine not in get_args(EngineName):
        raise UserError(f"--engine {engine}: there are {', '.join(get_args(EngineName))}")
    if device not in get_args(DeviceName):
        raise UserError(f"--device {device}: there are {', '.join(get_args(DeviceName))}")
    if not (path / "saved_model.pb").is_file():
        raise UserError(
            f"{model_dir} holds no saved_model", Exit.MODEL, remedy="Give the folder that foretide train wrote"
        )
    check_operations(path, Path(model_dir))  # before anything of it can run
    if engine == "tensorflow":
        import_framework(engine)
        from pipelines.models.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(path, device)
    from pipelines.models.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(path, device, "bf16" if engine == "openvino-bf16" else "f32")


def import_framework(engine: EngineName) -> None:
    """Imports what an engine needs, which takes seconds of `load_engine`, and is quiet in the main thread only."""
    if engine == "tensorflow":
        with silent_stderr():
            import pipelines.models.engines.tensorflow  # noqa: F401


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Silences standard error while TensorFlow is imported: its C++ part writes there, and no setting stops it.

    Only in the main thread: elsewhere it would silence all that runs beside it. Not with `--debug`. A crash in this
    time is told by faulthandler, which the command has given a descriptor of its own.
    """
    if threading.current_thread() is not threading.main_thread() or logging.root.isEnabledFor(logging.INFO):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
