"""What is wrong with a launch is told alike by the run, by its dry run and by the doctor: all of them ask one list."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.doctor.doctor import checks, examine
from pipelines.doctor.findings import CODES
from pipelines.doctor.google import Google
from pipelines.errors import Exit, Finding, UserError
from pipelines.jobs import examples, memory, score, stream
from pipelines.jobs.checks import before
from pipelines.jobs.checks.before import Check, passed
from pipelines.jobs.checks.data import better_unit
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.sample import FILES
from pipelines.jobs.config import ExamplesConfig, Input, ScoreConfig, StreamConfig
from pipelines.jobs.launch import Launch
from pipelines.runners.execution import Execution
from pipelines.system.machine import Room
from pipelines.task.as_ofs import parse_as_ofs
from pipelines.task.file import load_task
from pipelines.task.spec import TimeField
from tests.support.checked import checked
from tests.support.live_world import AS_OFS, TASK, World, make_world
from tests.support.services import free_port

Config = ScoreConfig | StreamConfig


@dataclass
class Kit:
    """A set-up that is healthy until a fault breaks it."""

    world: World
    folder: Path
    patch: pytest.MonkeyPatch

    @property
    def score(self) -> ScoreConfig:
        task = load_task(self.world.task)
        return ScoreConfig(
            task=task,
            input=Input((str(self.world.events),), None),
            max_bad_share=0.05,
            as_ofs=parse_as_ofs(task, AS_OFS),
            model=str(self.world.model),
            engine="tensorflow",
            device="auto",
            batch_size=256,
            output=str(self.folder / "out"),
            execution=Execution(1, None, (), False),
        )

    def stream(self, **changes: Any) -> StreamConfig:
        same = self.score
        config = StreamConfig(
            task=same.task,
            subscription="projects/test/subscriptions/events",
            arrival_attribute=None,
            payload="json",
            avro_schema=None,
            bootstrap=None,
            first=same.as_ofs[0],
            early=0,
            model=same.model,
            engine=same.engine,
            device=same.device,
            batch_size=same.batch_size,
            output=same.output,
            archive=None,
            dead_letters=None,
            max_bad_share=0.05,
            pullers=1,
            execution=same.execution,
        )
        return replace(config, **changes)

    def reading(self, *paths: object) -> ScoreConfig:
        return replace(self.score, input=Input(tuple(map(str, paths)), None))

    def on(self, *args: str) -> ScoreConfig:
        return replace(self.score, execution=Execution(1, None, args, False))

    def tasked(self, old: str, new: str) -> ScoreConfig:
        assert old in TASK
        (self.folder / "task.yaml").write_text(TASK.replace(old, new))
        return replace(self.score, task=load_task(self.folder / "task.yaml"))

    def events(self, name: str = "events.parquet", rows: int | None = None, **columns: Any) -> Path:
        """The world's events with some columns in others' place."""
        table = pq.read_table(self.world.events).slice(0, rows)
        for column, values in columns.items():
            table = table.set_column(table.column_names.index(column), column, pa.array(values[: len(table)]))
        pq.write_table(table, self.folder / name)
        return self.folder / name

    def column(self, name: str) -> Any:
        return pq.read_table(self.world.events)[name].to_numpy()


Fault = Callable[[Kit], Config]
FAULTS: dict[str, tuple[str, Exit, Fault]] = {}


def fault(code: str, exit: Exit = Exit.USAGE) -> Callable[[Fault], None]:
    """Registers what breaks a set-up, with the code and the end that it must have."""

    def register(breaks: Fault) -> None:
        FAULTS[breaks.__name__] = code, exit, breaks

    return register


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def kit(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "PUBSUB_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Kit(world, tmp_path, monkeypatch)


@fault("input-found")
def no_such_file(kit: Kit) -> Config:
    return kit.reading(kit.folder / "gone.parquet")


@fault("input-found")
def a_damaged_file(kit: Kit) -> Config:
    (kit.folder / "half.parquet").write_bytes(kit.world.events.read_bytes()[:1000])
    return kit.reading(kit.folder / "half.parquet")


@fault("input-found")
def a_format_that_nothing_says(kit: Kit) -> Config:
    shutil.copy(kit.world.events, kit.folder / "events.data")
    return kit.reading(kit.folder / "events.data")


@fault("data-columns")
def a_missing_column(kit: Kit) -> Config:
    table = pq.read_table(kit.world.events).drop_columns(["amount"])
    pq.write_table(table, kit.folder / "events.parquet")
    return kit.reading(kit.folder / "events.parquet")


@fault("time-unit")
def milliseconds_for_seconds(kit: Kit) -> Config:
    return kit.reading(kit.events(at=kit.column("at") * 1000, arrived=kit.column("arrived") * 1000))


@fault("time-unit")
def milliseconds_in_one_file_of_several(kit: Kit) -> Config:
    return kit.reading(kit.world.events, kit.events("z.parquet", at=kit.column("at") * 1000))


@fault("rows-refused")
def rows_that_can_be_no_event(kit: Kit) -> Config:
    return kit.reading(kit.events(amount=["much"] * 2100))


@fault("model-found", Exit.MODEL)
def no_model(kit: Kit) -> Config:
    return replace(kit.score, model=str(kit.folder / "model"))


@fault("model-found", Exit.MODEL)
def a_manifest_that_is_cut_off(kit: Kit) -> Config:
    shutil.copytree(kit.world.model, kit.folder / "model")
    manifest = kit.folder / "model" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    return replace(kit.score, model=str(kit.folder / "model"))


@fault("model-task", Exit.MODEL)
def a_model_of_another_task(kit: Kit) -> Config:
    return kit.tasked("steps: 12", "steps: 13")


@fault("model-loads", Exit.MODEL)
def a_graph_that_is_cut_off(kit: Kit) -> Config:
    shutil.copytree(kit.world.model, kit.folder / "model")
    saved = kit.folder / "model" / "saved_model" / "saved_model.pb"
    saved.write_bytes(saved.read_bytes()[:1000])
    return replace(kit.score, model=str(kit.folder / "model"))


@fault("output-place")
def an_output_below_a_file(kit: Kit) -> Config:
    (kit.folder / "file").write_text("")
    return replace(kit.score, output=str(kit.folder / "file" / "out"))


@fault("output-place")
def an_output_that_may_not_be_written_to(kit: Kit) -> Config:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    kit.patch.setattr("tempfile.TemporaryFile", refuse)  # root may write everywhere
    return kit.score


@fault("output-place")
def an_output_that_takes_no_such_flag(kit: Kit) -> Config:
    return replace(kit.score, replace_model=True)


@fault("output-place")
def an_archive_below_a_file(kit: Kit) -> Config:
    (kit.folder / "file").write_text("")
    return kit.stream(archive=str(kit.folder / "file" / "archive"))


@fault("bigquery")
def a_warehouse_that_does_not_answer(kit: Kit) -> Config:
    kit.patch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    return replace(kit.score, output="bq://test.d.scores")


@fault("memory")
def a_machine_that_is_far_too_small(kit: Kit) -> Config:
    kit.patch.setattr(memory, "room", lambda: Room(200_000_000, "free in a test"))
    return replace(kit.score, batch_size=65536)


@fault("accelerators")
def a_flag_for_dataflow_alone(kit: Kit) -> Config:
    return replace(kit.score, execution=replace(kit.score.execution, inference_ram="16GB"))


@fault("runner-options")
def dataflow_without_a_project(kit: Kit) -> Config:
    return kit.on("--runner=DataflowRunner")


@fault("runner-reachable")
def a_cluster_that_does_not_answer(kit: Kit) -> Config:
    return kit.on("--runner=FlinkRunner", f"--flink_master=127.0.0.1:{free_port()}")


@fault("runner-options")
def a_runner_that_loses_messages(kit: Kit) -> Config:
    return kit.stream(execution=Execution(1, None, ("--runner=SparkRunner",), False))


@fault("runner-options")
def flink_without_checkpoints(kit: Kit) -> Config:
    return kit.stream(execution=Execution(1, None, ("--runner=FlinkRunner",), False))


@fault("runner-options")
def a_sink_that_is_for_dataflow(kit: Kit) -> Config:
    return kit.stream(output="bq://test.d.scores", method="beam")


@fault("subscription")
def a_topic_for_a_subscription(kit: Kit) -> Config:
    return kit.stream(subscription="projects/test/topics/events")


@fault("pubsub")
def an_emulator_that_does_not_answer(kit: Kit) -> Config:
    kit.patch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    return kit.stream()


@fault("pubsub")
def no_library_for_messages(kit: Kit) -> Config:
    kit.patch.setitem(sys.modules, "google.cloud.pubsub_v1", None)
    return kit.stream()


@fault("credentials")
def no_credentials(kit: Kit) -> Config:
    return kit.stream()


@fault("dead-letter-topic")
def a_subscription_for_a_topic(kit: Kit) -> Config:
    return kit.stream(dead_letters="projects/test/subscriptions/letters")


@fault("messages")
def no_schema(kit: Kit) -> Config:
    return kit.stream(payload="avro", avro_schema=str(kit.folder / "gone.avsc"))


@pytest.mark.parametrize("name", FAULTS)
def test_run_dry_run_and_doctor_tell_the_same(kit: Kit, name: str) -> None:
    code, exit, breaks = FAULTS[name]
    kit.patch.setattr("pipelines.doctor.model.engine", lambda facts: iter(()))  # takes seconds, and is no part of it
    config = breaks(kit)
    told = []
    for plan in (False, True):
        job: Any = score if isinstance(config, ScoreConfig) else stream
        with pytest.raises(UserError) as error:
            (job.plan if plan else getattr(job, job.__name__.rpartition(".")[2]))(config)
        told.append(error.value)
    run, dry_run = told
    assert run.findings == dry_run.findings
    assert (run.code, run.exit) == (code, exit)
    found = {(f.code, f.message): f.remedy for f in examine(Launch.of(config)) if f.severity == "error"}
    for finding in run.findings:
        assert found[finding.code, finding.message].startswith(finding.remedy.partition("=ACCOUNT")[0])
    assert not (kit.folder / "out").exists()


def test_rows_that_a_run_would_refuse_end_a_dry_run_and_are_told_when_a_run_begins(
    kit: Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first file is good, so that only a sample of all shows it; a sample is no proof, so the run goes on."""
    users = [None if i % 2 else u for i, u in enumerate(kit.column("user"))]
    config = kit.reading(kit.events("a.parquet"), kit.events("b.parquet", user=users))
    with pytest.raises(UserError, match=r"user is missing \(row 1: .* of .*b.parquet\)") as error:
        score.plan(config)
    assert (error.value.code, error.value.exit) == ("rows-refused", Exit.REFUSED)
    assert "1,050 of 4,200 rows (25.0%) would be refused" in str(error.value)
    assert error.value.findings[0].message in {f.message for f in examine(Launch.of(config)) if f.severity == "error"}
    capsys.readouterr()
    assert score.score(config) == Exit.REFUSED
    said = capsys.readouterr().out
    assert f"warning     {error.value}" in said
    assert said.index("warning ") < said.index("REFUSED     25.0 % of the rows or files are bad")
    allowed = replace(config, max_bad_share=0.3)
    assert score.plan(allowed) == Exit.OK
    assert "warning     " in capsys.readouterr().out


def test_examples_are_checked_alike(kit: Kit) -> None:
    config = ExamplesConfig(
        task=kit.score.task,
        input=Input((str(kit.events(user=[None if i % 2 else u for i, u in enumerate(kit.column("user"))])),), None),
        as_ofs=kit.score.as_ofs[:1],
        output=str(kit.folder / "examples"),
        execution=kit.score.execution,
        max_bad_share=0.05,
    )
    with pytest.raises(UserError, match="1,050 of 2,100 rows") as error:
        examples.plan(config)
    assert error.value.exit == Exit.REFUSED


def test_files_count_as_much_as_they_hold(kit: Kit) -> None:
    """One small file of bad rows among large ones, or one of many that cannot be read, refuses no run."""
    good = [kit.events(f"{i}.parquet") for i in range(3)]
    none: list[str | None] = [None] * 2100
    bad = kit.events("bad.parquet", rows=100, user=pa.array(none, pa.string()))
    task = kit.score.task
    assert checked(task, *good, bad, dry_run=True).samples[-1].refused == 100
    (kit.folder / "broken.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="1 of 4 files cannot be read; --max-bad-share is") as error:
        checked(task, *good, kit.folder / "broken.parquet", dry_run=True)
    assert error.value.exit == Exit.REFUSED
    facts = Facts(Launch.of(kit.reading(*good, kit.folder / "broken.parquet")), dry_run=False)
    assert any("not a readable parquet file" in line for line in passed(facts))


def test_of_many_files_some_are_looked_into(kit: Kit) -> None:
    many = [kit.events(f"{i:03}.parquet", rows=20) for i in range(3 * FILES)]
    facts = checked(kit.score.task, *many)
    assert [facts.looked[0].file.path, facts.looked[-1].file.path] == [str(many[0]), str(many[-1])]
    assert len(facts.looked) == FILES
    assert not facts.whole


def test_every_check_is_registered_once_and_has_a_code_that_is_explained() -> None:
    every = checks(Google())
    assert every[: len(before.CHECKS)] == before.CHECKS

    def name(check: Check) -> str:
        look: Any = check.look
        while isinstance(look, partial):
            look = look.args[0] if look.args and callable(look.args[0]) else look.func
        return f"{look.__module__}.{look.__qualname__}"

    counts = Counter(map(name, every))
    assert {name for name, n in counts.items() if n > 1} == set()
    assert {check.code for check in every} <= set(CODES)


def test_a_finding_without_a_code_has_that_of_its_check(kit: Kit) -> None:
    def look(facts: Facts) -> Any:
        yield Finding("", "ok", "x", "y")
        raise UserError("z")

    facts = Facts(Launch.of(kit.score), True)
    found = Check("versions", look).findings(facts)
    assert next(found).code == "versions"
    with pytest.raises(UserError) as error:
        next(found)
    assert error.value.code == "versions"


@pytest.mark.parametrize(("factor", "unit"), [(1, None), (1000, "ms"), (10**9, "ns")])
def test_a_better_unit_is_the_only_one_that_makes_sense(factor: int, unit: str | None) -> None:
    table = pa.table({"at": np.arange(1_704_067_200, 1_704_067_300) * factor})
    assert better_unit(TimeField(field="at", unit="s"), table) == unit
