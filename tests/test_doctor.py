"""`foretide doctor` over broken set-ups: each is found by its code alone, and gone once the remedy is applied."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from docs.generated import findings_schema
from pipelines.cli import main
from pipelines.doctor import versions
from pipelines.doctor.google import metric_of
from pipelines.errors import Exit
from pipelines.google import bigquery as client
from pipelines.google.subscription import Client
from pipelines.jobs import memory as looks
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.launch import Launch
from pipelines.storage.bigquery import schema
from pipelines.system.machine import Room
from pipelines.task.file import load_task
from tests.support.fake_google import ACCOUNT, Google, denying, google
from tests.support.live_world import AS_OFS, DAY, START, TASK, World, publish
from tests.support.services import Emulator, emulator, free_port
from tests.support.warehouse import PROJECT, Warehouse

BAD = ("warning", "error")
DOCS = Path(__file__).parent.parent / "docs" / "doctor.md"


@dataclass(frozen=True)
class Report:
    """What the doctor told as JSON."""

    code: int  # of the process
    findings: tuple[Mapping[str, str], ...]

    @property
    def bad(self) -> dict[str, list[Mapping[str, str]]]:
        """Warnings and errors by code."""
        out: dict[str, list[Mapping[str, str]]] = {}
        for finding in self.findings:
            if finding["severity"] in BAD:
                out.setdefault(finding["code"], []).append(finding)
        return out

    def of(self, code: str) -> list[str]:
        """Severities of the findings of a code."""
        return [f["severity"] for f in self.findings if f["code"] == code]


@pytest.fixture(scope="module")
def pubsub() -> Iterator[Emulator]:
    """Of this module alone: what is said to be missing is made later on."""
    with emulator() as service:
        yield service


@dataclass
class Kit:
    """A set-up that is healthy until a test breaks it."""

    world: World
    folder: Path
    patch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    request: pytest.FixtureRequest

    def score(self, *more: object, **changes: object) -> Report:
        """The doctor before a run over files. Changes: flags with other values, or (None) without."""
        flags = {"input": self.world.events, "as_of": AS_OFS, **self._common, **changes}
        return self._run(["score", *_flags(flags), *map(str, more)])

    def stream(self, subscription: str, *more: object, **changes: object) -> Report:
        """The doctor before a live job, on the emulator of Pub/Sub unless the environment is changed."""
        flags = {"subscription": subscription, "arrival_attribute": "arrival", "from": "2024-01-21"}
        return self._run(["stream", *_flags({**flags, **self._common, **changes}), *map(str, more)])

    def dataflow(self, *more: object, **changes: object) -> Report:
        """The doctor before a run on Dataflow, of which the stand-in answers, from and to BigQuery."""
        where = {
            "runner": "DataflowRunner",
            "project": "shop-data",
            "region": "europe-west1",
            "temp_location": "gs://shop-temp/x",
            "sdk_container_image": f"{self.google.address}/shop/foretide:1",
        }
        given = {
            "model": "gs://shop-models/toy",
            "as_of": "2024-01-04",
            "input": f"bq://{PROJECT}.{self.table.dataset}.events",
            "output": self.table,
            **where,
            **changes,
        }
        return self.score(*more, **given)

    @property
    def _common(self) -> dict[str, object]:
        return {"task": self.world.task, "model": self.world.model, "output": self.folder / "out"}

    def _run(self, arguments: list[str]) -> Report:
        code = main(["doctor", arguments[0], "--json", *arguments[1:]])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        document = json.loads(out)
        jsonschema.validate(document, findings_schema())
        assert code == (Exit.OK if document["healthy"] else Exit.UNFIT)
        for finding in document["findings"]:
            assert bool(finding["remedy"]) == (finding["severity"] in BAD), finding
        return Report(code, tuple(document["findings"]))

    @property
    def pubsub(self) -> Emulator:
        emulator: Emulator = self.request.getfixturevalue("pubsub")
        for name, value in emulator.environment.items():
            self.patch.setenv(name, value)
        return emulator

    @property
    def warehouse(self) -> Warehouse:
        return self.request.getfixturevalue("warehouse")

    @property
    def google(self) -> Google:
        service: Google = self.request.getfixturevalue("cloud")
        for name, value in service.environment.items():
            self.patch.setenv(name, value)
        return service

    @property
    def table(self) -> Any:
        """With all that scores need, and events beside it, made once for all tests."""
        self.request.getfixturevalue("warehouse")
        return self.request.getfixturevalue("stored")

    def task(self, old: str, new: str, text: str = TASK) -> Path:
        """A task file in which something stands instead of something else."""
        assert old in text
        path = self.folder / "task.yaml"
        path.write_text(text.replace(old, new))
        return path

    def events(self, **columns: object) -> Path:
        """The world's events with some columns in others' place."""
        table = pq.read_table(self.world.events)
        for name, values in columns.items():
            at = table.column_names.index(name)
            table = table.set_column(at, name, values if isinstance(values, pa.Array) else pa.array(values))
        path = self.folder / "events.parquet"
        pq.write_table(table, path)
        return path

    def column(self, name: str) -> Any:
        return pq.read_table(self.world.events)[name].to_numpy()

    def topic(self, name: str, rows: int = 200, **settings: Any) -> tuple[str, str]:
        """(topic, subscription) with messages of the world in it."""
        topic = self.pubsub.topic(name)
        subscription = self.pubsub.subscription(topic, **settings)
        publish(self.pubsub, topic, self.world.rows[-rows:])
        return topic, subscription


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [f"--{k if k in BEAM else k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None]


BEAM = ("temp_location", "sdk_container_image", "dataflow_service_options", "service_account_email", "max_num_workers")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Google]:
    (tmp_path / "google").mkdir()
    with google(tmp_path / "google") as service:
        labels = {"foretide.version": versions._foretide(), "foretide.beam": apache_beam.__version__}
        service.answers |= {
            "/manifests/1": (200, {"config": {"digest": "sha256:c"}}),
            "/blobs/sha256:c": (200, {"config": {"Labels": {**labels, "foretide.python": "3.11"}}}),
        }
        yield service


@pytest.fixture(scope="module")
def stored(world: World, warehouse: Warehouse) -> Any:
    table = warehouse.table()
    schema.apply(schema.plan(table, ["churn"]))
    events = pq.read_table(world.events)
    kinds = ", ".join(
        f"{f.name} {'STRING' if pa.types.is_string(f.type) else 'INT64' if pa.types.is_integer(f.type) else 'FLOAT64'}"
        for f in events.schema
    )
    name = f"{table.dataset}.events"
    rows = [tuple(row.values()) for row in events.slice(0, 300).to_pylist()]
    warehouse.sql(f"CREATE TABLE `{name}` ({kinds})")
    warehouse.sql(f"INSERT INTO `{name}` VALUES {', '.join(str(row) for row in rows)}")
    return table


@pytest.fixture
def kit(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Kit:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "PUBSUB_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Kit(world, tmp_path, monkeypatch, capsys, request)


Steps = Iterator[Report]  # of the broken set-up and, where there is a second one, of the mended one


@dataclass(frozen=True)
class Case:
    """A broken set-up, and what must be found."""

    steps: Callable[[Kit], Steps]
    severity: str
    said: str
    remedy: str
    codes: frozenset[str]  # of all that is bad; the first one is what it is about
    code: str


CASES: dict[str, Case] = {}


def broken(severity: str, codes: str, said: str, remedy: str) -> Callable[[Callable[[Kit], Steps]], None]:
    """Registers a set-up. Codes: what it is about, then what else is found because of it."""

    def register(steps: Callable[[Kit], Steps]) -> None:
        names = codes.split()
        CASES[steps.__name__] = Case(steps, severity, said, remedy, frozenset(names), names[0])

    return register


@broken("error", "task-file", r"task.yaml:\d+: sequence.step: .*duration", "Mend the lines")
def a_task_that_says_what_it_cannot(kit: Kit) -> Steps:
    yield kit.score(task=kit.task("step: 1d", "step: daily"))
    yield kit.score(task=kit.task("step: 1d", "step: 1d"))


@broken("error", "arguments", "not a step boundary .* the nearest are 2024-01-27 and 2024-01-28", "Change the flag")
def an_as_of_between_steps(kit: Kit) -> Steps:
    yield kit.score(as_of="2024-01-27T06:00")
    yield kit.score(as_of="2024-01-27")


@broken("error", "runner-options", "unknown option --num_werkers:", "Give the option as")
def an_option_that_nobody_knows(kit: Kit) -> Steps:
    yield kit.score("--num_werkers=3")
    yield kit.score("--num_workers=3")


@broken("error", "input-found", "gone.parquet: no such file", "--input")
def a_file_that_is_not_there(kit: Kit) -> Steps:
    yield kit.score(input=kit.folder / "gone.parquet")
    shutil.copy(kit.world.events, kit.folder / "gone.parquet")
    yield kit.score(input=kit.folder / "gone.parquet")


@broken("error", "input-found", "format of this file is not known", "--format")
def a_name_that_does_not_say_its_format(kit: Kit) -> Steps:
    shutil.copy(kit.world.events, kit.folder / "events.data")
    yield kit.score(input=kit.folder / "events.data")
    yield kit.score("--format=parquet", input=kit.folder / "events.data")


@broken("error", "input-found", "not a readable parquet file", "--input")
def a_damaged_file(kit: Kit) -> Steps:
    (kit.folder / "half.parquet").write_bytes(kit.world.events.read_bytes()[:1000])
    yield kit.score(input=kit.folder / "half.parquet")


@broken("error", "input-rows", "not a single row", "Wait until the data is there")
def an_input_without_rows(kit: Kit) -> Steps:
    pq.write_table(pq.read_table(kit.world.events).slice(0, 0), kit.folder / "none.parquet")
    yield kit.score(input=kit.folder / "none.parquet")
    yield kit.score()


@broken("error", "data-columns", "needs the field amount, .* did you mean amuont", "Name the right field")
def a_wrong_column(kit: Kit) -> Steps:
    table = pq.read_table(kit.world.events)
    path = kit.folder / "events.parquet"
    pq.write_table(table.rename_columns([n.replace("amount", "amuont") for n in table.column_names]), path)
    yield kit.score(input=path)
    pq.write_table(table, path)
    yield kit.score(input=path)


@broken("error", "data-types rows-refused", "in most rows, amount is not a number .'much'", "Name the column")
def text_in_the_place_of_numbers(kit: Kit) -> Steps:
    yield kit.score(input=kit.events(amount=["much"] * 2100))
    yield kit.score(input=kit.events(amount=["12.5"] * 2100))


@broken("error", "data-types rows-refused", "at is int64, not ISO 8601 text: give its unit", "Name the column")
def numbers_in_the_place_of_text(kit: Kit) -> Steps:
    yield kit.score(task=kit.task("at, unit: s}\n  arr", "at, unit: iso}\n  arr"))
    yield kit.score(task=kit.task("at, unit: s}\n  arr", "at, unit: s}\n  arr"))


@broken("error", "time-unit", r"at = 17\d{11} is no time in s", "Set the unit of (at|arrived) to ms")
def milliseconds_for_seconds(kit: Kit) -> Steps:
    changed = kit.events(at=kit.column("at") * 1000, arrived=kit.column("arrived") * 1000)
    yield kit.score(input=changed)
    yield kit.score(input=changed, task=kit.task("unit: s", "unit: ms"))


@broken("error", "time-unit rows-refused", r"at = 17\d{14} is no time in s", "Set the unit of at to us")
def microseconds_for_seconds(kit: Kit) -> Steps:
    changed = kit.events(at=kit.column("at") * 1_000_000)
    yield kit.score(input=changed)
    yield kit.score(input=changed, task=kit.task("at, unit: s}\n  arr", "at, unit: us}\n  arr"))


def _iso(times: Any, zones: Any) -> list[str]:
    return [f"{np.datetime64(int(t), 's')}{zone}" for t, zone in zip(times, zones, strict=True)]


@broken("warning", "time-zone", "some at have a zone and others have none", "in UTC")
def zones_that_only_some_times_have(kit: Kit) -> Steps:
    task = kit.task("at, unit: s}\n  arr", "at, unit: iso}\n  arr")
    yield kit.score(input=kit.events(at=_iso(kit.column("at"), ["Z", ""] * 1050)), task=task)
    yield kit.score(input=kit.events(at=_iso(kit.column("at"), ["Z"] * 2100)), task=task)


@broken("warning", "time-zone", "half of the events happen 2h or more after they arrive", "Write all times with their")
def local_times_without_their_zone(kit: Kit) -> Steps:
    at = kit.column("arrived") + 2 * 3600
    task = kit.task("at, unit: s}\n  arr", "at, unit: iso}\n  arr")
    yield kit.score(input=kit.events(at=_iso(at, [""] * 2100)), task=task)
    yield kit.score(input=kit.events(at=_iso(at, ["+02:00"] * 2100)), task=task)


@broken("warning", "time-future", r"50 of 2,100 events are newer than now, up to 2089-", "Mend the clock")
def a_clock_that_is_ahead(kit: Kit) -> Steps:
    at = np.where(np.arange(2100) < 50, START + 66 * 365.25 * DAY, kit.column("at")).astype(np.int64)
    ahead = np.maximum(at, kit.column("arrived"))
    yield kit.score(input=kit.events(at=at, arrived=ahead))
    yield kit.score()


@broken("error", "rows-refused", r"900 of 2,100 rows \(42.9%\) .* 900 as user is missing", "Mend the data")
def rows_of_nobody(kit: Kit) -> Steps:
    users = pa.array([None if i % 7 < 3 else u for i, u in enumerate(kit.column("user"))], pa.string())
    yield kit.score(input=kit.events(user=users))
    yield kit.score()


@broken("error", "rows-filtered", r"events.where \(id is buy\) leaves out every row", "Compare its values")
def a_filter_that_nothing_passes(kit: Kit) -> Steps:
    yield kit.score(task=kit.task("  identity: [id]", "  identity: [id]\n  where: {id: buy}"))
    yield kit.score()


@broken("warning", "entities", "2,000 different id in 2,100 events", "Set `events.entity`")
def an_entity_that_is_an_event(kit: Kit) -> Steps:
    yield kit.score(task=kit.task("entity: user", "entity: id"))
    yield kit.score()


@broken("warning", "identity", r"copies of others by their identity \(user\), and 1,\d+ of them have other", "identity")
def an_identity_that_many_share(kit: Kit) -> Steps:
    same_day = kit.events(at=kit.column("at") // DAY * DAY)
    yield kit.score(task=kit.task("identity: [id]", "identity: [user]"), input=same_day)
    yield kit.score(task=kit.task("identity: [id]", "identity: [id]"), input=same_day)


@broken("error", "as-of-covered", "nothing lies in the 12d before 2024-03-01", "Choose another as-of")
def an_as_of_after_the_data(kit: Kit) -> Steps:
    yield kit.score(as_of="2024-03-01")
    yield kit.score(as_of="2024-01-27")


@broken("warning", "as-of-covered", "which is 4d7m before the as-of 2024-02-01|which is .* before the as-of", "Choose")
def data_that_ends_before_the_as_of(kit: Kit) -> Steps:
    yield kit.score(as_of="2024-02-01")
    yield kit.score(as_of="2024-01-28")


@broken("error", "model-found", "is no model", "Make one with foretide train")
def a_model_that_is_not_there(kit: Kit) -> Steps:
    yield kit.score(model=kit.folder / "model")
    shutil.copytree(kit.world.model, kit.folder / "model")
    yield kit.score(model=kit.folder / "model")


@broken(
    "error", "model-task", "step.? is 1d in the model and 2d|task lacks the features count", "Train a model for this"
)
def a_model_of_another_task(kit: Kit) -> Steps:
    report = kit.score(task=kit.task("    - {agg: count}", "    - {agg: recency}", TASK.replace("7d, a", "9d, a")))
    assert report.bad["model-task"][0]["message"].count("; ") == 2
    yield report
    yield kit.score()


@broken(
    "error", "model-loads", r"operation WriteFile \('WriteFile' of .*\) is none that a model may use", "Unless you know"
)
def a_model_that_writes_a_file(kit: Kit) -> Steps:
    from tests.support import hostile_models  # they need TensorFlow

    victim, model = kit.folder / "victim", kit.folder / "model"
    shutil.copytree(kit.world.model, model)
    shutil.rmtree(model / "saved_model")
    hostile_models.put(model, hostile_models.write, victim, on_load=True)
    yield kit.score(model=model)
    assert not victim.exists()
    yield kit.score()


@broken("error", "model-loads", "cannot be read as a SavedModel", "Train the model again")
def a_model_that_is_cut_off(kit: Kit) -> Steps:
    shutil.copytree(kit.world.model, kit.folder / "model")
    saved = kit.folder / "model" / "saved_model" / "saved_model.pb"
    whole = saved.read_bytes()
    saved.write_bytes(whole[: len(whole) // 2])
    yield kit.score(model=kit.folder / "model")
    saved.write_bytes(whole)
    yield kit.score(model=kit.folder / "model")


@broken(
    "error", "model-loads model-task", r"takes rows of shape \(12, 4\) to 1 scores, and its manifest says \(11, 4\)", ""
)
def a_manifest_of_another_model(kit: Kit) -> Steps:
    shutil.copytree(kit.world.model, kit.folder / "model")
    manifest = kit.folder / "model" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps": 12', '"steps": 11'))
    yield kit.score(model=kit.folder / "model")


@broken("error", "engine", "--engine openvino is not installed", r"pip install 'foretide\[openvino\]'")
def an_engine_without_its_extra(kit: Kit) -> Steps:
    with kit.patch.context() as patch:
        patch.setitem(sys.modules, "openvino", None)
        yield kit.score(engine="openvino")
    yield kit.score(engine="openvino")


@broken("error", "device", "TensorFlow sees no GPU here", "Use --device cpu")
def a_gpu_that_is_not_there(kit: Kit) -> Steps:
    kit.patch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    yield kit.score(device="gpu")
    yield kit.score(device="cpu")


@broken("error", "memory", "takes at least 3.. MB of memory, 200 MB free in a test", "Lower --batch-size")
def a_machine_that_is_far_too_small(kit: Kit) -> Steps:
    with kit.patch.context() as patch:
        patch.setattr(looks, "room", lambda: Room(200_000_000, "free in a test"))
        yield kit.score(batch_size=65536)
    yield kit.score(batch_size=256)


@broken("warning", "memory", "takes about 8.. MB of memory, 900 MB left in a test", "--runner=FlinkRunner|Lower")
def a_machine_that_may_be_too_small(kit: Kit) -> Steps:
    with kit.patch.context() as patch:
        patch.setattr(looks, "room", lambda: Room(900_000_000, "left in a test"))
        yield kit.score()
    yield kit.score()


@broken("error", "output-place", "is a file, not a folder", "Name a folder")
def an_output_below_a_file(kit: Kit) -> Steps:
    (kit.folder / "file").write_text("")
    yield kit.score(output=kit.folder / "file" / "out")
    assert (kit.folder / "file").read_text() == ""
    yield kit.score(output=kit.folder / "folder" / "out")
    assert not (kit.folder / "folder").exists()


@broken("error", "output-place", "--replace-model are for tables of BigQuery", "Name a folder")
def a_flag_for_tables_with_a_folder(kit: Kit) -> Steps:
    yield kit.score("--replace-model")
    yield kit.score()


@broken("error", "output-tables", "there is no dataset test.nowhere", "bq mk --dataset")
def a_dataset_that_is_not_there(kit: Kit) -> Steps:
    assert kit.warehouse
    yield kit.score(output=f"bq://{PROJECT}.nowhere.scores")


def apply(command: str, task: Path) -> None:
    """Runs the `foretide schema apply` that a remedy names."""
    words = shlex.split(command.replace("`", "").replace("FILE", str(task)).removeprefix("Run foretide"))
    assert main(words) == Exit.OK


@broken("error", "output-tables", r"there is no table \S+scores, no table \S+_dead_letters", "foretide schema apply")
def tables_that_are_not_there(kit: Kit) -> Steps:
    table = kit.warehouse.table()
    report = kit.score(output=table)
    yield report
    apply(report.bad["output-tables"][0]["remedy"], kit.world.task)
    kit.capsys.readouterr()
    yield kit.score(output=table)


@broken("error", "output-tables", "there is no column test.*churn", "foretide schema apply")
def a_column_that_is_not_there(kit: Kit) -> Steps:
    table = kit.warehouse.table()
    schema.apply(schema.plan(table, ["step_1"]))
    report = kit.score(output=table)
    yield report
    apply(report.bad["output-tables"][0]["remedy"], kit.world.task)
    kit.capsys.readouterr()
    yield kit.score(output=table)


@broken("error", "output-tables", "churn is INT64, and must be FLOAT64", "ALTER TABLE .* SET DATA TYPE FLOAT64")
def a_column_of_another_type(kit: Kit) -> Steps:
    table = kit.warehouse.table()
    schema.apply(schema.plan(table, []))
    kit.warehouse.sql(f"ALTER TABLE `{table.scores}` ADD COLUMN churn INT64")
    report = kit.score(output=table)
    yield report
    kit.warehouse.sql(report.bad["output-tables"][0]["remedy"])
    yield kit.score(output=table)


@broken("error", "bigquery", "no BigQuery emulator answers", "Start it, or unset BIGQUERY_EMULATOR_HOST")
def a_warehouse_that_does_not_answer(kit: Kit) -> Steps:
    there = kit.table
    with kit.patch.context() as patch:
        patch.setenv(client.EMULATOR, f"http://127.0.0.1:{free_port()}")
        yield kit.score(output=there)
    yield kit.score(output=there)


@broken(
    "error",
    "permissions",
    "Access Denied: Table",
    f"Grant roles/bigquery.dataEditor .*--member=serviceAccount:{ACCOUNT}",
)
def a_warehouse_that_denies(kit: Kit) -> Steps:
    denial = {"error": {"code": 403, "message": "Access Denied: Table", "errors": [{"reason": "accessDenied"}]}}
    kit.google.answers["/bigquery/"] = 403, denial
    client.client.cache_clear()
    with kit.patch.context() as patch:
        patch.setenv(client.EMULATOR, f"http://{kit.google.address}")
        yield kit.score(output=f"bq://{PROJECT}.d.scores")
    client.client.cache_clear()


@broken("error", "input-found", "Not found: Table|not found", "--input")
def events_in_a_table_that_is_not_there(kit: Kit) -> Steps:
    there = kit.table
    yield kit.score(input=f"bq://{PROJECT}.{there.dataset}.visits")
    yield kit.score(input=f"bq://{PROJECT}.{there.dataset}.events", as_of="2024-01-04")


@broken("error", "data-columns model-task", "needs the field amuont, .* did you mean amount", "Name the right field")
def a_wrong_column_of_a_table(kit: Kit) -> Steps:
    name = f"bq://{PROJECT}.{kit.table.dataset}.events"
    yield kit.score(input=name, task=kit.task("field: amount", "field: amuont"), as_of="2024-01-04")
    yield kit.score(input=name, as_of="2024-01-04")


@broken(
    "error",
    "pubsub",
    r"no Pub/Sub emulator answers at 127.0.0.1:1 \(PUBSUB_EMULATOR_HOST\): Connection refused",
    "Start it, or unset PUBSUB_",
)
def an_emulator_that_does_not_answer(kit: Kit) -> Steps:
    _, subscription = kit.topic("unreachable")
    with kit.patch.context() as patch:
        patch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
        yield kit.stream(subscription)
    assert kit.pubsub
    yield kit.stream(subscription)


@broken("error", "subscription", "subscriptions/nothing does not exist", "gcloud pubsub subscriptions create nothing")
def a_subscription_that_is_not_there(kit: Kit) -> Steps:
    topic = kit.pubsub.topic("something")
    yield kit.stream("projects/test/subscriptions/nothing")
    kit.pubsub.subscription(topic, "nothing")
    yield kit.stream("projects/test/subscriptions/nothing")


@broken(
    "error", "permissions", "orders: you may not look at it", "add-iam-policy-binding orders .*roles/pubsub.subscriber"
)
def a_subscription_without_the_role(kit: Kit) -> Steps:
    with denying() as address:
        kit.patch.setenv("PUBSUB_EMULATOR_HOST", address)
        yield kit.stream("projects/shop-data/subscriptions/orders")


@broken(
    "warning", "subscription-settings", "its ack deadline .300 s", "subscriptions update slow --project=test --ack-"
)
def a_subscription_that_waits(kit: Kit) -> Steps:
    topic, subscription = kit.topic("slow", ack_deadline_seconds=300)
    yield kit.stream(subscription)
    yield kit.stream(kit.pubsub.subscription(topic, "quick"))


@broken("warning", "subscription-settings", "it has the filter attributes", "create another subscription")
def a_subscription_that_leaves_out(kit: Kit) -> Steps:
    topic, subscription = kit.topic("filtered", filter='attributes:arrival AND attributes.country="de"')
    yield kit.stream(subscription)
    yield kit.stream(kit.pubsub.subscription(topic, "unfiltered"))


@broken("error", "dead-letter-topic", "topics/refused does not exist", "gcloud pubsub topics create refused")
def a_topic_of_dead_letters_that_is_not_there(kit: Kit) -> Steps:
    _, subscription = kit.topic("lettered")
    yield kit.stream(subscription, dead_letters="projects/test/topics/refused")
    kit.pubsub.topic("refused")
    yield kit.stream(subscription, dead_letters="projects/test/topics/refused")


@broken(
    "error", "messages-arrival", "in 200 of 200 messages, attribute when is missing; there are arrival", "name the one"
)
def an_attribute_that_is_not_there(kit: Kit) -> Steps:
    _, subscription = kit.topic("attributes")
    yield kit.stream(subscription, arrival_attribute="when")
    yield kit.stream(subscription, arrival_attribute="arrival")


@broken("error", "data-columns", "needs the field moment, which is not there", "Name the right field")
def messages_without_the_field_of_time(kit: Kit) -> Steps:
    _, subscription = kit.topic("moments")
    yield kit.stream(subscription, task=kit.task("field: at,", "field: moment,"))
    yield kit.stream(subscription)


@broken("error", "time-unit rows-refused", "at = 17.* is no time in s", "Set the unit of at to ms")
def messages_in_milliseconds(kit: Kit) -> Steps:
    topic = kit.pubsub.topic("millis")
    subscription = kit.pubsub.subscription(topic)
    publish(kit.pubsub, topic, [{**row, "at": row["at"] * 1000} for row in kit.world.rows[:200]])
    yield kit.stream(subscription, **{"from": "2024-01-02"})
    task = kit.task("at, unit: s}\n  arr", "at, unit: ms}\n  arr")
    yield kit.stream(subscription, task=task, **{"from": "2024-01-02"})


@broken("error", "messages", "neither a JSON object", "--payload")
def messages_that_are_no_json(kit: Kit) -> Steps:
    topic = kit.pubsub.topic("avro")
    subscription = kit.pubsub.subscription(topic)
    kit.pubsub.publish(topic, [b"\x02\nadam\n"] * 5, [{"arrival": str(START * 1_000_000)}] * 5)
    yield kit.stream(subscription)


@broken("error", "runner-reachable", "no Prism, Beam's runner for streams", "make services")
def no_prism(kit: Kit) -> Steps:
    _, subscription = kit.topic("prism")
    yield kit.stream(subscription, f"--prism_location={kit.folder}/prism")
    yield kit.stream(subscription)


@broken("error", "runner-options runner-reachable", "needs --checkpointing_interval=3000", "Give the option")
def flink_without_checkpoints(kit: Kit) -> Steps:
    _, subscription = kit.topic("checkpoints")
    where = ["--runner=FlinkRunner", f"--flink_master=127.0.0.1:{free_port()}"]
    yield kit.stream(subscription, *where)
    yield kit.stream(subscription, *where, "--checkpointing_interval=3000")


def flink(kit: Kit, slots: int, version: str) -> list[str]:
    """Options for a cluster that the stand-in is, with its pool of workers."""
    kit.google.answers["/overview"] = 200, {"slots-total": slots, "flink-version": version}
    address = kit.google.address
    pool = ["--environment_type=EXTERNAL", f"--environment_config={address}"]
    return ["--runner=FlinkRunner", f"--flink_master={address}", "--flink_version=1.19", *pool]


@broken("error", "runner-reachable", "no Flink cluster answers at http://127.0.0.1:", "make flink")
def a_cluster_that_does_not_answer(kit: Kit) -> Steps:
    healthy = flink(kit, 2, "1.19.3")
    yield kit.score(*(o if "flink_master" not in o else f"--flink_master=127.0.0.1:{free_port()}" for o in healthy))
    yield kit.score(*healthy)


@broken("error", "flink-slots", r"has 2 task slot\(s\), and --parallelism=4 takes as many", "Start more TaskManagers")
def a_cluster_that_is_too_small(kit: Kit) -> Steps:
    yield kit.score(*flink(kit, 2, "1.19.3"), "--parallelism=4")
    yield kit.score(*flink(kit, 4, "1.19.3"), "--parallelism=4")


@broken("error", "flink-version flink-slots runner-reachable", "is of version 1.20.1", "Add --flink_version=1.20")
def a_cluster_with_all_that_can_be_wrong(kit: Kit) -> Steps:
    options = [o for o in flink(kit, 1, "1.20.1") if "environment_config" not in o]
    options.append(f"--environment_config=127.0.0.1:{free_port()}")
    yield kit.score(*options, "--parallelism=2")


@broken("error", "job-running", "toy-live-.* runs on the cluster .* already, as 1a2b", "savepoint")
def a_job_that_runs_already(kit: Kit) -> Steps:
    _, subscription = kit.topic("running")
    options = [*flink(kit, 2, "1.19.3"), "--checkpointing_interval=3000"]
    task = load_task(kit.world.task)
    digest = hashlib.sha256(json.dumps([task.digest, subscription]).encode()).hexdigest()[:10]
    job = {"jid": "1a2b", "name": f"{task.task}-live-{digest}", "state": "RUNNING"}
    kit.google.answers = {"/jobs/overview": (200, {"jobs": [job]}), **kit.google.answers}
    yield kit.stream(subscription, *options)
    kit.google.answers["/jobs/overview"] = 200, {"jobs": [{**job, "state": "FINISHED"}]}
    yield kit.stream(subscription, *options)


@broken("error", "runner-options", "DataflowRunner needs --temp_location=gs://BUCKET/FOLDER", "Give the option")
def dataflow_without_a_place_for_its_files(kit: Kit) -> Steps:
    yield kit.dataflow(temp_location=None)
    yield kit.dataflow()


@broken("error", "runner-options", "--region=europe-west1-b is no region", "not a zone")
def a_zone_for_a_region(kit: Kit) -> Steps:
    yield kit.dataflow(region="europe-west1-b")
    yield kit.dataflow(region="europe-west1")


@broken("error", "credentials runner-reachable", "no Google credentials", "gcloud auth application-default login")
def dataflow_without_credentials(kit: Kit) -> Steps:
    assert kit.google
    assert kit.table
    with kit.patch.context() as patch:
        patch.setattr(Google, "environment", {})
        patch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        yield kit.dataflow()
    yield kit.dataflow()


@broken("error", "runner-reachable", "API has not been used", "gcloud services enable dataflow.googleapis.com")
def dataflow_that_is_switched_off(kit: Kit) -> Steps:
    said = {"message": "Dataflow API has not been used", "details": [{"reason": "SERVICE_DISABLED"}]}
    kit.google.answers["/v1b3/"] = 403, {"error": said}
    yield kit.dataflow()
    del kit.google.answers["/v1b3/"]
    yield kit.dataflow()


@broken(
    "error", "permissions", f"{ACCOUNT} lacks dataflow.jobs.create on project shop-data", "--role=roles/dataflow.dev"
)
def dataflow_without_the_role(kit: Kit) -> Steps:
    kit.google.answers["/projects/shop-data:test"] = 200, {"permissions": ["dataflow.jobs.get"]}
    yield kit.dataflow()
    kit.google.answers["/projects/shop-data:test"] = 200, {"permissions": ["dataflow.jobs.create", "dataflow.jobs.get"]}
    yield kit.dataflow()


@broken(
    "error",
    "permissions",
    "lacks storage.objects.create on gs://shop-temp",
    "buckets add-iam-policy-binding gs://shop-",
)
def a_bucket_that_may_not_be_written_to(kit: Kit) -> Steps:
    held = ["storage.objects.get", "storage.objects.list"]
    kit.google.answers["/storage/v1/b/shop-temp/"] = 200, {"permissions": held}
    yield kit.dataflow()
    kit.google.answers["/storage/v1/b/shop-temp/"] = 200, {"permissions": [*held, "storage.objects.create"]}
    yield kit.dataflow()


@broken("error", "permissions", "lacks iam.serviceAccounts.actAs on worker@", "gcloud iam service-accounts add-iam")
def workers_of_an_account_that_is_not_yours(kit: Kit) -> Steps:
    kit.google.answers["/serviceAccounts/"] = 403, {"error": {"message": "denied"}}
    yield kit.dataflow(service_account_email="worker@shop-data.iam.gserviceaccount.com")


GPU = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


@broken(
    "error", "accelerators", "NVIDIA_L4_GPUS of shop-data in europe-west1: 0 of 0 in use, .* up to 2", "Ask for a quota"
)
def a_region_without_gpus(kit: Kit) -> Steps:
    region = "/regions/europe-west1"
    kit.google.answers[region] = 200, {"quotas": [{"metric": "NVIDIA_L4_GPUS", "limit": 0.0, "usage": 0.0}]}
    yield kit.dataflow(dataflow_service_options=GPU, max_num_workers=2)
    kit.google.answers[region] = 200, {"quotas": [{"metric": "NVIDIA_L4_GPUS", "limit": 8.0, "usage": 6.0}]}
    yield kit.dataflow(dataflow_service_options=GPU, max_num_workers=2)


@broken("error", "accelerators", "--device gpu needs --accelerator: no worker of the job has one", "Ask for")
def a_gpu_that_nobody_asked_for(kit: Kit) -> Steps:
    yield kit.dataflow(device="gpu")
    kit.google.answers["/regions/"] = 200, {"quotas": [{"metric": "NVIDIA_L4_GPUS", "limit": 1.0, "usage": 0.0}]}
    yield kit.dataflow(device="gpu", dataflow_service_options=GPU)


@broken("error", "worker-image", "beam 2.60.0 in the image and 2.7", "Build the image from this version, with Beam 2.7")
def an_image_of_another_version(kit: Kit) -> Steps:
    kit.google.answers["/manifests/old"] = 200, {"config": {"digest": "sha256:o"}}
    kit.google.answers["/blobs/sha256:o"] = 200, {"config": {"Labels": {"foretide.beam": "2.60.0"}}}
    yield kit.dataflow(sdk_container_image=f"{kit.google.address}/shop/foretide:old")
    yield kit.dataflow()


@broken("error", "worker-image", "python 3.9 in the image and 3.11 here", "Build the image")
def an_image_of_another_python(kit: Kit) -> Steps:
    beam = apache_beam.__version__
    yield kit.dataflow(sdk_container_image=f"apache/beam_python3.9_sdk:{beam}")
    yield kit.dataflow(sdk_container_image=f"apache/beam_python3.11_sdk:{beam}")


@broken("error", "worker-image", "DataflowRunner needs --sdk_container_image=IMAGE", "Give `--sdk_container_image`")
def no_image(kit: Kit) -> Steps:
    yield kit.dataflow(sdk_container_image=None)
    yield kit.dataflow()


@broken("error", "worker-places", "jobs on Dataflow write to BigQuery: bq://", "gs:// or bq://")
def a_folder_here_for_workers_elsewhere(kit: Kit) -> Steps:
    yield kit.dataflow(output=kit.folder / "out")
    yield kit.dataflow()


@broken("warning", "versions", r"other versions than tested: numpy \S+ \(tested: 1.0.0\)", "requirements.lock")
def libraries_that_were_not_tested(kit: Kit) -> Steps:
    with kit.patch.context() as patch:
        (kit.folder / "lock").write_text("numpy==1.0.0\nduckdb==2.0.0\nnot-installed==1\n")
        patch.setattr(versions, "LOCK", kit.folder / "lock")
        yield kit.score()
    yield kit.score()


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_and_the_remedy_is_right(kit: Kit, name: str) -> None:
    case = CASES[name]
    steps = case.steps(kit)
    report = next(steps)
    assert set(report.bad) == case.codes, report.bad
    found = report.bad[case.code]
    assert any(
        f["severity"] == case.severity and re.search(case.said, f["message"]) and re.search(case.remedy, f["remedy"])
        for f in found
    ), found
    mended = next(steps, None)
    if mended is not None:
        assert case.code not in mended.bad, mended.bad
        assert set(mended.bad) < case.codes
    assert next(steps, None) is None


def test_a_healthy_run_over_files_has_nothing_but_ok(kit: Kit) -> None:
    report = kit.score()
    assert report.code == Exit.OK
    assert {f["severity"] for f in report.findings} == {"ok"}
    looked = {"input-found", "data-columns", "data-types", "time-unit", "rows-refused", "entities", "identity"}
    looked |= {"time-future", "as-of-covered", "model-found", "model-task", "model-loads", "memory", "output-place"}
    assert {f["code"] for f in report.findings} == looked | {"runner-options", "runner-reachable", "versions"}
    assert not (kit.folder / "out").exists()


def test_files_of_several_formats_are_one_sample(kit: Kit) -> None:
    folder = kit.folder / "in"
    folder.mkdir()
    table = pq.read_table(kit.world.events)
    pq.write_table(table.slice(0, 1000), folder / "a.parquet")
    pacsv.write_csv(table.slice(1000, 500), folder / "b.csv")
    (folder / "c.csv").write_text("")
    rows = table.slice(1500).to_pylist()
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = kit.score(input=folder)
    assert {f["severity"] for f in report.findings} == {"ok"}
    assert any("none of 2,100 rows would be refused" in f["message"] for f in report.findings)
    late = [{**row, "at": row["at"] * 1000} for row in rows]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, late)))
    assert set(kit.score(input=folder).bad) == {"time-unit", "rows-refused"}


def test_a_healthy_live_job_has_nothing_but_ok_and_its_messages_stay(kit: Kit) -> None:
    topic, subscription = kit.topic("healthy")
    report = kit.stream(subscription, "--bootstrap", kit.world.events, archive=kit.folder / "archive")
    assert {f["severity"] for f in report.findings} == {"ok"}
    for code in ("subscription", "subscription-settings", "messages", "messages-arrival"):
        assert report.of(code) == ["ok"]
    counts = kit.pubsub.counts(topic)
    assert (counts.acked, counts.messages) == (0, 200)
    again = Client().pull(subscription, 500)  # all of them are to be had at once
    assert len(again) == 200


def test_a_healthy_job_on_dataflow_has_nothing_above_ok(kit: Kit) -> None:
    report = kit.dataflow(service_account_email="worker@shop-data.iam.gserviceaccount.com")
    assert not report.bad
    assert [f["message"] for f in report.findings if f["severity"] == "skipped"] == [
        "gs://shop-models/toy is not of this machine, and not loaded here"
    ]
    assert report.of("permissions") == ["ok"] * 4
    assert any("/v1b3/projects/shop-data/locations/europe-west1/jobs" in path for path in kit.google.asked)


def test_everything_that_is_wrong_is_told_at_once(kit: Kit) -> None:
    (kit.folder / "file").write_text("")
    bad = {"input": kit.events(at=kit.column("at") * 1000), "output": kit.folder / "file" / "out", "batch_size": 10}
    report = kit.score("--runner=DataflowRunner", model=kit.folder / "model", **bad)
    wanted = {"time-unit", "rows-refused", "output-place", "model-found", "runner-options", "worker-places"}
    assert wanted | {"worker-image", "credentials"} <= set(report.bad)
    assert len(report.bad["runner-options"]) == 3


def test_a_broken_task_does_not_hide_what_needs_no_task(kit: Kit) -> None:
    report = kit.score(task=kit.folder / "none.yaml", model=kit.folder / "model", input=kit.folder / "gone.csv")
    assert set(report.bad) == {"task-file", "model-found", "input-found"}
    assert report.of("data-columns") == ["skipped"]


def test_permissions_on_services_that_are_not_emulated_are_asked(kit: Kit) -> None:
    """Of Pub/Sub and BigQuery themselves, which no emulator stands for."""
    from pipelines.cli import parser
    from pipelines.commands.doctor import launch as read
    from pipelines.doctor.google import Google as Services
    from pipelines.doctor.google import permissions

    kit.patch.delenv(client.EMULATOR, raising=False)
    kit.google.answers["/subscriptions/orders:test"] = 200, {"permissions": ["pubsub.subscriptions.get"]}
    kit.google.answers["/tables/churn_ledger:test"] = 200, {"permissions": ["bigquery.tables.get"]}
    kit.google.answers["/topics/letters:test"] = 500, {"error": {"message": "later"}}
    flags = {"task": kit.world.task, "model": kit.world.model, "output": "bq://shop-data.scores.churn"}
    flags |= {"subscription": "projects/shop-data/subscriptions/orders"}
    flags |= {"dead_letters": "projects/shop-data/topics/letters"}
    args, rest = parser().parse_known_args(["doctor", "stream", *_flags(flags)])
    launch = read(args, tuple(rest))
    assert isinstance(launch, Launch)
    facts = Facts(launch, dry_run=True, launching=False)
    found = {f.subject: f for f in permissions(Services(), facts)}
    assert {name: f.severity for name, f in found.items()} == {
        "projects/shop-data/subscriptions/orders": "error",
        "projects/shop-data/topics/letters": "skipped",
        "project shop-data": "ok",
        "shop-data.scores.churn": "ok",
        "shop-data.scores.churn_dead_letters": "ok",
        "shop-data.scores.churn_ledger": "error",
    }
    assert found["projects/shop-data/subscriptions/orders"].remedy == (
        "Run gcloud pubsub subscriptions add-iam-policy-binding orders --project=shop-data "
        f"--member=serviceAccount:{ACCOUNT} --role=roles/pubsub.subscriber"
    )
    remedy = found["shop-data.scores.churn_ledger"].remedy
    assert "--role=roles/bigquery.dataEditor shop-data:scores.churn_ledger" in remedy


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("nvidia-tesla-t4", "NVIDIA_T4_GPUS"),
        ("nvidia-l4", "NVIDIA_L4_GPUS"),
        ("nvidia-a100-80gb", "NVIDIA_A100_80GB_GPUS"),
        ("nvidia-h100-80gb", "NVIDIA_H100_GPUS"),
    ],
)
def test_the_quota_of_a_gpu_has_its_name(kind: str, metric: str) -> None:
    assert metric_of(kind) == metric


def test_a_look_that_fails_does_not_end_the_others(kit: Kit) -> None:
    kit.patch.setattr("pipelines.doctor.model.engine", lambda facts: 1 // 0)
    report = kit.score()
    assert set(report.bad) == {"model-loads"}
    assert "ZeroDivisionError" in report.bad["model-loads"][0]["message"]
    assert report.of("output-place") == ["ok"]


def test_text_for_people_has_the_remedy_below(kit: Kit) -> None:
    arguments = _flags({"task": kit.world.task, "input": kit.folder / "gone.csv", "as_of": AS_OFS, "output": "out"})
    assert main(["doctor", "score", *arguments, f"--model={kit.world.model}"]) == Exit.UNFIT
    lines = kit.capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("error    input-found"))
    assert "gone.csv: no such file" in lines[at]
    assert lines[at + 1].strip().startswith("-> Correct `--input`")
    assert re.fullmatch(r"\d+ ok, 0 warning, 1 error, 0 skipped", lines[-1])


def test_the_docs_have_the_exit_code() -> None:
    assert f"Exit code {int(Exit.UNFIT)}" in DOCS.read_text()
