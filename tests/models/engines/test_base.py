"""What every engine must do, on the same exported models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.errors import UserError
from pipelines.models.engines.base import ALIGNMENT, Engine, EngineName, OutOfMemory
from pipelines.models.engines.loading import load_engine
from tests.support.toy_models import CHURN, PATH, export_toy, tensor, toy_predictor

ENGINES: tuple[EngineName, ...] = ("tensorflow", "openvino", "openvino-bf16")
Floats = npt.NDArray[np.float32]


CASES: dict[str, tuple[Mapping[str, object], dict[str, object]]] = {
    "churn": (CHURN, {"members": 2}),
    "path": (PATH, {}),
    "lstm": (CHURN, {"network": "lstm"}),
    "linear": (PATH, {"network": "linear"}),
}


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Floats]:
    """(model, what it says of tensor(64) before it is exported)."""
    label, model = CASES[request.param]
    directory = tmp_path_factory.mktemp("models") / "toy"
    export_toy(directory, label, **model)
    return directory, toy_predictor(label, **model).score(tensor(64))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, exported: tuple[Path, Floats]) -> Engine:
    name: EngineName = request.param
    if name != "tensorflow":
        pytest.importorskip("openvino")
    return load_engine(exported[0], name, "auto")


def test_contract(engine: Engine, exported: tuple[Path, Floats]) -> None:
    expected, x = exported[1], tensor(64)
    tolerance = 2e-2 if engine.name == "openvino-bf16" else 1e-5
    assert engine.name in ENGINES
    assert engine.device.startswith(("cpu (", "gpu "))
    assert (engine.inputs, engine.outputs) == (x.shape[1:], expected.shape[1])
    y = engine.predict(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=tolerance)
    assert np.array_equal(engine.predict(x), y)
    small = engine.predict(x[:ALIGNMENT])  # another shape
    np.testing.assert_allclose(small, expected[:ALIGNMENT], rtol=tolerance)


@pytest.mark.parametrize("size", [ALIGNMENT, 5 * ALIGNMENT])
def test_a_score_depends_on_its_row_alone(engine: Engine, size: int) -> None:
    """Bit for bit: at any other place, among other rows, among padding."""
    x = tensor(size)
    y = engine.predict(x)
    for by in range(1, size, 1 + size // 60):
        assert np.array_equal(engine.predict(np.roll(x, by, axis=0)), np.roll(y, by, axis=0)), by
    for alone in (0, 3, size - 1):
        padded = np.zeros_like(x)
        padded[7] = x[alone]
        assert np.array_equal(engine.predict(padded)[7], y[alone])
    others = tensor(size, seed=9)
    others[5] = x[2]
    assert np.array_equal(engine.predict(others)[5], y[2])


def test_refuses_what_it_cannot_have(exported: tuple[Path, Floats], tmp_path: Path) -> None:
    import tensorflow as tf

    with pytest.raises(UserError, match="holds no saved_model"):
        load_engine(tmp_path, "tensorflow", "auto")
    with pytest.raises(UserError, match="--engine jax: there are tensorflow, openvino"):
        load_engine(exported[0], "jax", "auto")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--device tpu: there are auto, cpu, gpu"):
        load_engine(exported[0], "tensorflow", "tpu")  # type: ignore[arg-type]
    if not tf.config.list_physical_devices("GPU"):
        with pytest.raises(UserError, match="sees no GPU"):
            load_engine(exported[0], "tensorflow", "gpu")


def test_a_broken_model_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"\x00broken")
    for engine in ENGINES:
        with pytest.raises(UserError, match="cannot be read as a SavedModel"):
            load_engine(tmp_path, engine, "cpu")


def test_a_model_without_its_variables_is_an_error_of_the_user(exported: tuple[Path, Floats], tmp_path: Path) -> None:
    shutil.copytree(exported[0] / "saved_model", tmp_path / "saved_model")
    shutil.rmtree(tmp_path / "saved_model" / "variables")
    with pytest.raises(UserError, match="cannot be loaded by TensorFlow"):
        load_engine(tmp_path, "tensorflow", "cpu")
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match="cannot be converted by OpenVINO"):
        load_engine(tmp_path, "openvino", "cpu")


def test_out_of_memory_is_told_apart(exported: tuple[Path, Floats], monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from pipelines.models.engines.tensorflow import TensorFlowEngine

    engine = TensorFlowEngine(exported[0] / "saved_model", "cpu")

    def full(**_: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "no room")

    monkeypatch.setattr(engine, "_serve", full)
    with pytest.raises(OutOfMemory, match="no room"):
        engine.predict(tensor(16))
