"""Models in a bucket: copied as they are needed, and followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.errors import Exit, UserError
from pipelines.models import registry, remote
from pipelines.models.serving import Loader, Model, Serving
from tests.support import weightless_models
from tests.support.fake_dataflow import BUCKET, Cloud, cloud
from tests.support.model_shelf import settle
from tests.support.weightless_models import A, B

MODEL = f"gs://{BUCKET}/models/{weightless_models.TASK}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """With two versions of a task, of which the first serves."""
    monkeypatch.setattr(remote, "_copies", lambda: tmp_path / "copies")
    (tmp_path / "copies").mkdir()
    with cloud(monkeypatch) as services:
        for version in (A, B):
            put(services, weightless_models.put(tmp_path / "models", version), tmp_path)
        serve(services, A)
        yield services


def put(services: Cloud, folder: Path, root: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            services.objects[str(file.relative_to(root))] = file.read_bytes()


def serve(services: Cloud, version: str, *previous: str) -> None:
    pointer = json.dumps({"version": version, "previous": previous}).encode()
    services.objects[f"models/{weightless_models.TASK}/serving.json"] = pointer


def test_the_version_that_serves_is_copied_whole_and_nothing_else(bucket: Cloud) -> None:
    folder = registry.resolve(MODEL)
    assert (folder.parent.name, folder.name) == (weightless_models.TASK, A)
    assert registry.load(folder).manifest.version == A
    copied = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    prefix = f"models/{weightless_models.TASK}/{A}/"
    there = {name.removeprefix(prefix): data for name, data in bucket.objects.items() if name.startswith(prefix)}
    assert copied == there
    assert not (folder.parent / B).exists()
    assert remote.origin(folder) == f"{MODEL}/{A}"


def test_a_version_of_its_own_is_copied_once(bucket: Cloud) -> None:
    folder = registry.resolve(f"{MODEL}/{B}/")
    assert registry.is_version(f"{MODEL}/{B}")
    assert remote.origin(folder) == f"{MODEL}/{B}"
    bucket.objects.clear()
    assert registry.resolve(f"{MODEL}/{B}") == folder
    assert remote.origin(Path("/models/toy")) == "/models/toy"


def test_what_is_no_model_is_refused(bucket: Cloud) -> None:
    with pytest.raises(UserError, match=f"gs://{BUCKET}/models/other is no model: it has neither") as refused:
        registry.resolve(f"gs://{BUCKET}/models/other")
    assert refused.value.exit == Exit.MODEL
    with pytest.raises(UserError, match="gs://nobodys/models/toy is no model"):
        registry.resolve("gs://nobodys/models/toy")
    with pytest.raises(UserError, match="nothing://models/toy: cannot be read: ValueError"):
        registry.resolve("nothing://models/toy")
    serve(bucket, "19990101-gone")
    with pytest.raises(UserError, match="names version 19990101-gone, which is gone"):
        registry.resolve(MODEL)


class Fake(Loader):
    def load(self, folder: Path) -> Model:
        return Model(registry.load(folder).manifest.version, cast(Any, None), 32)


def test_a_worker_follows_the_pointer_in_the_bucket(bucket: Cloud) -> None:
    now = [0.0]
    serving = Serving(MODEL, Fake(cast(Any, None), "tensorflow", "cpu", 32), 5.0, lambda: now[0])
    for promoted, seen in ((A, A), (B, B), (A, A)):
        serve(bucket, promoted)
        now[0] += 5
        serving.look()
        settle()
        with serving.model() as model:
            assert model.version == seen
    assert list(serving.changes()) == ["models_swapped", "models_swapped"]


def test_a_bucket_that_does_not_answer_leaves_the_model_serving(bucket: Cloud) -> None:
    now = [0.0]
    serving = Serving(MODEL, Fake(cast(Any, None), "tensorflow", "cpu", 32), 5.0, lambda: now[0])
    kept = dict(bucket.objects)
    bucket.objects.clear()
    for _ in range(2):
        now[0] += 5
        serving.look()
        settle()
    with serving.model() as model:
        assert model.version == A
    bucket.objects.update(kept)
    serve(bucket, B)
    now[0] += 5
    serving.look()
    settle()
    with serving.model() as model:
        assert model.version == B
    assert list(serving.changes()) == ["models_swapped"]


@pytest.mark.parametrize(
    "name",
    [
        "../../../../victim",
        "saved_model/../../../victim",
        "/tmp/victim",
        "saved_model//victim",
        "./victim",
        "saved_model/..",
        "..\\victim",
        "a\x1bb",
        "a\nb",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_copied(
    name: str, bucket: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.objects[f"models/{weightless_models.TASK}/{A}/{name}"] = b"written"
    before = sorted(p for p in tmp_path.rglob("*"))
    monkeypatch.setattr(remote, "_open", lambda place: pytest.fail(f"{place} is read"))
    with pytest.raises(UserError, match="is no name of a file in a model: remove that object; nothing was") as refused:
        remote.pull(f"{MODEL}/{A}")
    assert repr(f"{MODEL}/{A}/{name}")[1:-1] in str(refused.value)
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_name_that_is_a_folder_too_is_refused(bucket: Cloud, tmp_path: Path) -> None:
    bucket.objects[f"models/{weightless_models.TASK}/{A}/saved_model"] = b"file"
    with pytest.raises(UserError, match="'saved_model' is the name of a file and of something else in a model"):
        registry.resolve(MODEL)
    assert not any((tmp_path / "copies").rglob("saved_model"))


@pytest.mark.parametrize("model", ["gs://../../victim", "gs://bucket/../../../x", "gs://b/./x", "../x://b/y", "gs://"])
def test_a_place_that_leads_elsewhere_is_refused(model: str, bucket: Cloud) -> None:
    with pytest.raises(UserError, match="is no name of a folder: give it without empty parts") as refused:
        registry.resolve(model)
    assert model in str(refused.value)


def test_a_pointer_in_a_bucket_names_a_version_and_no_other_place(bucket: Cloud) -> None:
    for version in ("../../victim", "a/b", ".."):
        serve(bucket, version)
        with pytest.raises(UserError, match="is no name of a version"):
            registry.resolve(MODEL)
