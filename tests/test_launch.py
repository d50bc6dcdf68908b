"""`foretide score` and `foretide stream` on Dataflow: from the command line to what the services are sent."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from apache_beam.internal import pickler

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.google.tables import Table
from pipelines.models.saved.manifest import signature
from tests.support import golden_jobs as jobs
from tests.support import small_shop, weightless_models
from tests.support.fake_dataflow import BUCKET, PROJECT, Cloud, cloud
from tests.support.golden_jobs import FLAGS, Proto
from tests.support.services import Emulator
from tests.support.warehouse import Warehouse

GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
TEMPLATE = f"--template_location=gs://{BUCKET}/launches/job"


@dataclass(frozen=True)
class Shop:
    """A task file, and in the bucket events and a model; tables for the scores."""

    services: Cloud
    task: Path
    table: Table
    model: str  # its version

    def launch(self, command: str, *flags: str, expect: int = Exit.OK) -> str:
        told = io.StringIO()
        place = [
            "--task",
            str(self.task),
            "--model",
            f"gs://{BUCKET}/models/small_shop",
            "--output",
            str(self.table),
        ]
        with redirect_stdout(told), redirect_stderr(told):
            code = main([command, *place, *flags])
        assert code == expect, told.getvalue()
        return told.getvalue()

    @property
    def described(self) -> tuple[dict[str, Any], Proto]:
        """The job and its graph, as they lie in the bucket."""
        return json.loads(self.services.staged("job")), Proto.FromString(self.services.staged("pipeline.pb"))


@pytest.fixture(scope="module")
def table(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Table:
    task, table = tmp_path_factory.mktemp("launch") / "task.yaml", warehouse.table()
    task.write_text(small_shop.TASK)
    with redirect_stdout(io.StringIO()):
        assert main(["schema", "apply", "--task", str(task), "--output", str(table)]) == Exit.OK
    return table


@pytest.fixture
def shop(table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Shop]:
    task = tmp_path / "task.yaml"
    task.write_text(small_shop.TASK)
    folder = weightless_models.put(tmp_path / "models", **{**signature(jobs.shop()), "task": "small_shop"})
    named = folder.parent.with_name("small_shop") / folder.name
    with cloud(monkeypatch) as services:
        for file in (f for f in folder.rglob("*") if f.is_file()):
            services.objects[str((named / file.relative_to(folder)).relative_to(tmp_path))] = file.read_bytes()
        services.objects["models/small_shop/serving.json"] = json.dumps(
            {"version": folder.name, "previous": []}
        ).encode()
        rows = io.BytesIO()
        pq.write_table(small_shop.events(20), rows)
        services.objects["events/2024.parquet"] = rows.getvalue()
        yield Shop(services, task, table, folder.name)


def of(graph: Proto, name: str) -> Any:
    """The DoFn of a step."""
    (step,) = (step for step in jobs.leaves(graph) if str(step.unique_name).endswith(name))
    return pickler.loads(jobs.payload(step).do_fn.payload)[0]


def test_a_backfill_is_described_whole_for_those_who_launch_it(shop: Shop, warehouse: Warehouse) -> None:
    events = ["--input", f"gs://{BUCKET}/events", "--as-of", "2024-04-01"]
    told = shop.launch("score", *events, "--accelerator", GPU, "--inference-ram", "16GB", *FLAGS, TEMPLATE)
    assert "its row of the ledger tells how it ended" in told
    assert not shop.services.jobs
    job, graph = shop.described
    assert job["type"] == "JOB_TYPE_BATCH"
    environments = graph.components.environments
    hinted = {str(s.unique_name): dict(environments[s.environment_id].resource_hints) for s in jobs.leaves(graph)}
    assert {name: sorted(hints) for name, hints in hinted.items() if hints} == {
        "Infer/Score/ParDo(_Score)": ["beam:resources:accelerator:v1", "beam:resources:min_ram_bytes:v1"]
    }
    assert jobs.described(graph) == (jobs.GOLDEN / "batch.txt").read_text().splitlines()
    assert of(graph, "ParDo(_Score)").infer.model == f"gs://{BUCKET}/models/small_shop/{shop.model}"
    (attempt,) = {of(graph, "ParDo(_StreamScores)").run.attempt}
    staging = shop.table.staging(attempt)
    assert warehouse.sql(f"SELECT count(*) AS n FROM `{staging}`") == [{"n": 0}], "the job would not find its table"


def test_a_live_job_is_described_and_takes_the_place_of_a_running_one(shop: Shop, pubsub: Emulator) -> None:
    subscription = f"projects/{PROJECT}/subscriptions/launched"
    with pubsub.subscriber() as client:
        client.create_subscription(request={"name": subscription, "topic": pubsub.topic("launched")})
    shop.services.running["live"] = "job-7"
    flags = ["--subscription", subscription, "--accelerator", GPU, *FLAGS, TEMPLATE, "--job_name=live", "--update"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pubsub.environment.items():
            patch.setenv(name, value)
        told = shop.launch("stream", *flags, expect=Exit.USAGE)
        assert "--update: say with --from TIME where the job began that it replaces" in told
        shop.launch("stream", *flags, "--from", "2024-04-01")
    job, graph = shop.described
    assert (job["type"], job["replaceJobId"]) == ("JOB_TYPE_STREAMING", "job-7")
    assert job["environment"]["serviceOptions"] == [f"worker_accelerator={GPU}"]
    assert "no_use_multiple_sdk_containers" in job["environment"]["experiments"]
    assert not any(e.resource_hints for e in graph.components.environments.values())
    assert of(graph, "ParDo(_Score)").infer.model == f"gs://{BUCKET}/models/small_shop"


def test_mistakes_are_told_before_anything_is_asked_or_sent(shop: Shop) -> None:
    events = ["--input", f"gs://{BUCKET}/events", "--as-of", "2024-04-01"]
    no_project = [flag for flag in FLAGS if not flag.startswith("--project")]
    before = dict(shop.services.objects)
    told = shop.launch("score", *events, *no_project, expect=Exit.USAGE)
    assert (
        told
        == "foretide score: --runner=DataflowRunner needs --project=PROJECT, the name (not the number) of a project\n"
    )
    assert "Copy it to gs://BUCKET/FOLDER" in shop.launch(
        "score", "--input", "events", "--as-of", "2024-04-01", *FLAGS, expect=Exit.USAGE
    )
    assert "is for --runner=DataflowRunner" in shop.launch("score", *events, "--accelerator", GPU, expect=Exit.USAGE)
    store = ["--task", str(shop.task), "--input", f"gs://{BUCKET}/events", "--as-of", "2024-04-01", "--output", "out"]
    with redirect_stderr(io.StringIO()) as errors:
        assert main(["examples", *store, *FLAGS]) == Exit.USAGE
    assert "which workers of Dataflow cannot write. Leave out --runner" in errors.getvalue()
    assert shop.services.objects == before
    assert not shop.services.jobs
