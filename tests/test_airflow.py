"""The Airflow workflow, run by Airflow: with the local runner, and with a Dataflow that launches on this machine."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.errors import Exit
from pipelines.evaluation import drift
from pipelines.evaluation.drift import Limits, ScoreSpread, earlier_sql
from pipelines.jobs.outputs.base import Output
from pipelines.jobs.outputs.kinds import output
from pipelines.storage.folder.query import select
from templates.airflow.foretide_settings import Settings
from tests.support.command_line import foretide
from tests.support.live_world import DAY, ENGINE, START, World
from tests.support.warehouse import PROJECT, Warehouse

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]
DAGS = ROOT / "templates" / "airflow"
PYTHON = Path(sys.prefix) / "airflow" / "bin" / "python"  # `make` puts it there
FIRST, SECOND, THIRD = "2024-01-21", "2024-01-22", "2024-01-23"
TIME = f"TIMESTAMP '{THIRD}'"
GOOD = {"publish": "success", "hold_and_alert": "skipped"}
BAD = {"publish": "skipped", "hold_and_alert": "failed"}

# Takes lines {"dag": ..., "as_of": ..., "conf": ...}, and answers each with a line of its own among those of the log.
DRIVER = """
import json, os, sys
from datetime import UTC, datetime
from airflow.utils.db import initdb
from airflow.providers.google.cloud.hooks.dataflow import DataflowHook
from google.api_core.client_options import ClientOptions
DataflowHook.get_client_options = lambda self: ClientOptions(api_endpoint=os.environ["DATAFLOW"])
initdb()
import foretide_dag
dags = foretide_dag.dags
edges = {name: sorted([t.task_id, d] for t in dag.tasks for d in t.downstream_task_ids) for name, dag in dags.items()}
print("ANSWER", json.dumps(edges), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    when = datetime.fromisoformat(asked["as_of"]).replace(tzinfo=UTC)
    run = dags[asked["dag"]].test(logical_date=when, run_conf=asked["conf"])
    print("ANSWER", json.dumps([run.state, {t.task_id: t.state for t in run.get_task_instances()}]), flush=True)
"""


class Cloud(ThreadingHTTPServer):
    """Dataflow's API, which runs a launch of the template on this machine, and a chat that takes alerts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.alerts: list[str] = []
        self.launches: list[dict[str, Any]] = []
        self.jobs: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def launch(self, body: dict[str, Any]) -> None:
        self.launches.append(body["launchParameter"])
        parameters = [f"--{name}={value}" for name, value in self.launches[-1]["parameters"].items()]
        self.jobs.append(subprocess.Popen([sys.executable, ROOT / "templates/flex/main.py", *parameters]))

    def job(self, number: int) -> dict[str, object]:
        code = self.jobs[number].poll()
        state = "RUNNING" if code is None else "DONE" if code in (0, 3, 4) else "FAILED"
        name = self.launches[number]["jobName"]
        facts = {"id": str(number), "name": name, "createTime": "2024-01-01T00:00:00.123456Z"}
        return {**facts, "type": "JOB_TYPE_BATCH", "currentState": f"JOB_STATE_{state}"}


class _Handler(BaseHTTPRequestHandler):
    server: Cloud

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/alert":
            self.server.alerts.append(body["text"])
            return self._answer({})
        assert self.path.startswith("/v1b3/projects/my-project/locations/europe-west1/flexTemplates:launch")
        self.server.launch(body)
        return self._answer({"job": self.server.job(-1) | {"id": str(len(self.server.jobs) - 1)}})

    def do_GET(self) -> None:
        found = re.match("/v1b3/projects/my-project/locations/europe-west1/jobs/([0-9]+)", self.path)
        assert found
        self._answer(self.server.job(int(found[1])))

    def _answer(self, body: Mapping[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@dataclass
class Workflows:
    """Airflow, with its database in a folder of its own, and a workflow for each runner."""

    process: subprocess.Popen[str]
    edges: dict[str, list[list[str]]]
    settings: Mapping[str, Settings]
    events: Path
    folder: Path

    def ask(self, dag: str, when: str, /, **conf: object) -> None:
        assert self.process.stdin is not None
        print(json.dumps({"dag": dag, "as_of": when, "conf": conf}), file=self.process.stdin, flush=True)

    def log_until(self, text: str) -> list[str]:
        assert self.process.stdout is not None
        log = []
        for line in self.process.stdout:
            log.append(line)
            if text in line:
                return log
        raise AssertionError("".join(log))

    def ends(self, want: Mapping[str, str], log: list[str]) -> None:
        """Waits for the end of a run, whose last tasks must be like that."""
        state, tasks = _answer(self.process, log)
        assert {name: tasks[name] for name in want} == dict(want), "".join(log)
        assert state == ("success" if want == GOOD else "failed")

    def run(self, dag: str, when: str, want: Mapping[str, str], /, **conf: object) -> str:
        """Runs the workflow. All that it logged."""
        log: list[str] = []
        self.ask(dag, when, **conf)
        self.ends(want, log)
        return "".join(log)


def _answer(process: subprocess.Popen[str], log: list[str]) -> Any:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ANSWER "):
            return json.loads(line.removeprefix("ANSWER "))
        log.append(line)
    raise AssertionError("".join(log)[-5000:])


def backfill(world: World, output: str) -> None:
    flags = ["--task", str(world.task), "--model", str(world.model), "--input", str(world.events), *ENGINE]
    foretide("score", *flags, "--as-of", f"{FIRST}..{THIRD}", "--output", output)


@pytest.fixture(scope="module")
def scored(world: World, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """What the command alone makes of the events."""
    folder = tmp_path_factory.mktemp("scored")
    backfill(world, str(folder))
    return output(str(folder))


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        for job in server.jobs:
            job.kill()
            job.wait()


@pytest.fixture(scope="module")
def workflows(
    world: World, cloud: Cloud, warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workflows]:
    folder = tmp_path_factory.mktemp("airflow")
    events = folder / "events.parquet"
    common = {
        "task": "toy",
        "task_file": str(world.task),
        "model": str(world.model),
        "input": [str(events)],
        "options": {"engine": "openvino"},
        "command": f"{sys.executable} -m pipelines.cli",
        "poll_seconds": 1,
        "alert_url": f"{cloud.url}/alert",
    }
    tables = f"bq://{PROJECT}.{warehouse.dataset()}"
    for name in ("candidates", "scores"):
        foretide("schema", "apply", "--task", str(world.task), "--output", f"{tables}.{name}")
    variable = {
        "local": {
            **common,
            "candidates": str(folder / "candidates"),
            "published": str(folder / "published"),
            "ready": [str(folder / "ready-{day}")],
        },
        "cloud": {
            **common,
            "candidates": f"{tables}.candidates",
            "published": f"{tables}.scores",
            "dataflow": {
                "template": "gs://my-bucket/batch.json",
                "project": "my-project",
                "region": "europe-west1",
                "environment": {"maxWorkers": 4},
            },
        },
    }
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{DAGS}",
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_VAR_FORETIDE": json.dumps(variable),
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(
            {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "my-project"}}
        ),
        "DATAFLOW": cloud.url,
    }
    assert PYTHON.exists(), f"{PYTHON} is missing: run `make .venv/airflow/.fetched`, which makes it"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [PYTHON, "-c", DRIVER], env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            edges = _answer(process, [])
            settings = {name: Settings.read(name, values) for name, values in variable.items()}
            yield Workflows(process, edges, settings, events, folder)
        finally:
            process.kill()


def lacking(world: World, target: Path, share: float) -> None:
    """The world's events, of which the last day before the second as-of lacks this share."""
    table = pq.read_table(world.events)
    at = table["at"].to_numpy()
    lost = (at >= START + 20 * DAY) & (at < START + 21 * DAY) & (np.random.default_rng(1).random(len(at)) < share)
    pq.write_table(table.filter(~lost), target)


def broken(world: World, target: Path, share: float) -> None:
    """The world's events, some without an entity."""
    table = pq.read_table(world.events)
    bad = np.random.default_rng(1).random(len(table)) < share
    users = [None if b else u for b, u in zip(bad, table["user"].to_pylist(), strict=True)]
    pq.write_table(table.set_column(0, "user", [users]), target)


def gated(candidates: Path | str, output: Path | str, as_of: str, code: Exit = Exit.OK, *more: str) -> str:
    """What the command says."""
    places = "--candidates", str(candidates), "--output", str(output)
    return foretide("gate", "toy", "--as-of", as_of, *places, *more, expect=code)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_local_workflow_waits_publishes_holds_back_and_goes_on(
    workflows: Workflows, world: World, scored: Output, cloud: Cloud, tmp_path: Path
) -> None:
    published, events = workflows.folder / "published", workflows.events
    cloud.alerts.clear()
    shutil.copy(world.events, events)
    workflows.ask("local", FIRST)
    log = workflows.log_until("Rescheduling task")
    assert not (workflows.folder / "candidates").exists(), "".join(log)
    (workflows.folder / "ready-2024-01-20").touch()
    workflows.ends(GOOD, log)
    first = files(published)

    (workflows.folder / "ready-2024-01-21").touch()
    lacking(world, events, 0.95)
    told = workflows.run("local", SECOND, BAD)
    assert files(published) == first
    [alert] = cloud.alerts
    assert re.search(r"as of 2024-01-22 are held back: there are \d entities with events in the last 1d, and", alert)
    assert alert in told

    shutil.copy(world.events, events)
    assert "scores as of 2024-01-22: came into" in workflows.run("local", SECOND, GOOD)
    second = files(published)
    assert first.items() < second.items()
    assert len(cloud.alerts) == 1

    rows = f"SELECT * EXCLUDE (run_id, scored_at) FROM scores WHERE as_of <= '{SECOND}' ORDER BY score_id"
    assert list(select(published, rows).rows) == list(select(str(scored), rows).rows)
    [movers] = output(str(published)).rows("SELECT count(*) AS n FROM scores_movers")
    assert movers["n"] > 50  # every view is there

    tries = {day: sorted((workflows.folder / "candidates" / day).iterdir()) for day in (FIRST, SECOND)}
    assert [len(t) for t in tries.values()] == [1, 2]
    held, latest = tries[SECOND]
    copy = Path(shutil.copytree(published, tmp_path / "published", symlinks=True))
    assert "were already in" in gated(latest, copy, SECOND)
    assert f"published has other scores as of {SECOND}, which stay" in gated(
        held, copy, SECOND, Exit.USAGE, "--accept-drift"
    )


def test_the_cloud_workflow_launches_the_template_and_publishes_into_tables(
    workflows: Workflows, world: World, cloud: Cloud
) -> None:
    settings = workflows.settings["cloud"]
    shutil.copy(world.events, workflows.events)
    assert "came into bq://test" in workflows.run("cloud", FIRST, GOOD)
    candidates, published = (output(name) for name in (settings.candidates, settings.published))
    columns = "score_id, entity_id, revision, churn, model_version, n_events, last_event_time"
    [ours, theirs] = (
        p.rows(f"SELECT {columns} FROM {p.view('current')} ORDER BY score_id") for p in (candidates, published)
    )
    assert ours == theirs
    assert len(ours) > 50
    everything = [f"SELECT * FROM {name} ORDER BY 1" for name in (published.view("current"), published.view("ledger"))]
    before = [published.rows(sql) for sql in everything]
    assert [row["scored"] for row in before[1]] == [len(ours)]

    assert "were already in bq://test" in workflows.run("cloud", "2024-03-01", GOOD, as_of=FIRST)
    assert [published.rows(sql) for sql in everything] == before
    assert len(candidates.rows(f"SELECT * FROM {candidates.view('ledger')}")) == 2

    cloud.alerts.clear()
    broken(world, workflows.events, 0.02)
    workflows.run("cloud", FIRST, BAD, accept_drift=True)
    [alert] = cloud.alerts
    assert re.search(r"held back: \d+ of 2,100 events were refused: [12]\.\d%\. They are in bq://test", alert)
    assert [published.rows(sql) for sql in everything] == before

    told = gated(settings.candidates, settings.published, FIRST, Exit.REFUSED, "--since", "2100-01-01")
    assert "held back: there is no ledger of a run of task toy" in told
    told = gated(settings.candidates, settings.published, FIRST, Exit.USAGE, "--max-bad-share", "0.1")
    assert "has other scores as of" in told
    assert [published.rows(sql) for sql in everything] == before

    launched = cloud.launches[0]
    assert launched == cloud.launches[1]
    assert {k: v for k, v in launched.items() if k != "parameters"} == {
        "jobName": "foretide-toy-2024-01-21",
        "containerSpecGcsPath": "gs://my-bucket/batch.json",
        "environment": {"maxWorkers": 4},
    }
    known = {p["name"]: p for p in json.loads((ROOT / "templates/flex/batch.json").read_text())["parameters"]}
    for name, value in launched["parameters"].items():
        assert all(re.fullmatch(pattern, value) for pattern in known[name].get("regexes", [])), name
    assert {name for name, p in known.items() if not p["isOptional"]} <= launched["parameters"].keys()


def test_drift_is_the_same_in_a_folder_and_in_tables(world: World, scored: Output, warehouse: Warehouse) -> None:
    table = f"bq://{PROJECT}.{warehouse.dataset()}.scores"
    foretide("schema", "apply", "--task", str(world.task), "--output", table)
    backfill(world, table)
    found = []
    for place in (scored, output(table)):
        side = place.rows, place.view("current")
        for limits in (Limits(), Limits(psi=0, ratio=1.0, earlier=2, score="ln(churn)")):
            tenths = place.rows(earlier_sql(place.view("current"), "task = 'toy'", TIME, limits))
            assert {(row["as_ofs"], row["scored"]) for row in tenths} == {(2, max(row["below"] for row in tenths))}
            assert len(tenths) == 20
            found.append(drift.drift(side, side, "task = 'toy'", TIME, limits))
        assert drift.drift(side, side, "task = 'toy'", f"TIMESTAMP '{FIRST}'", Limits()) == []  # nothing earlier
    assert found[0] == found[2] == []
    assert found[1] == found[3]
    assert "in the mean of 2 earlier as-ofs" in found[1][0]


def test_drift_counts_what_numpy_counts(scored: Output, monkeypatch: Any) -> None:
    """Over the whole folder, the bins of both sides are those of the quantiles' values."""
    seen: list[ScoreSpread] = []
    monkeypatch.setattr(drift, "reasons", lambda before, now, limits: seen.extend((before, now)))
    whole = scored.rows, scored.view("current")
    drift.drift(whole, whole, "task = 'toy'", TIME, Limits())
    recent = "last_event_time >= as_of - INTERVAL 24 HOUR AS recent"
    rows = scored.rows(
        f"SELECT as_of < '{THIRD}' AS before, churn * 1e0 AS score, n_events AS events, {recent} FROM scores"
    )
    before, now = ([r for r in rows if r["before"] == side] for side in (True, False))
    assert [s.scored for s in seen] == [len(before), len(now)]
    assert [s.recent for s in seen] == [sum(r["recent"] for r in side) for side in (before, now)]
    for name in ("score", "events"):
        values = np.sort([r[name] for r in before])
        ends = np.cumsum([len(part) for part in np.array_split(values, 10)]) - 1
        uppers = np.unique(values[ends])[:-1]
        for spread, side in zip(seen, (before, now), strict=True):
            bins = np.bincount(np.searchsorted(uppers, [r[name] for r in side]), minlength=len(uppers) + 1)
            assert list(spread.bins[name]) == bins.tolist(), name


def test_the_drawing_in_the_docs_is_the_graph(workflows: Workflows) -> None:
    text = (ROOT / "docs" / "airflow.md").read_text()
    [chain] = re.findall(r"^\w+(?: -> \w+)+$", text, re.MULTILINE)
    steps, ends = chain.split(" -> "), re.findall(r"^ +(\w+)  <-", text, re.MULTILINE)
    drawn = [*map(list, itertools.pairwise(steps)), *([steps[-1], end] for end in ends)]
    assert sorted(drawn) == workflows.edges["local"] == workflows.edges["cloud"]


def given(**changed: object) -> Settings:
    values = {"task": "churn_shop", "task_file": "/t.yaml", "model": "/m", "input": ["/a", "/b"]}
    return Settings.read("shop", {**values, "candidates": "/c", "published": "/p", **changed})


DATAFLOW = {"template": "gs://b/t.json", "project": "p", "region": "r"}
BIGQUERY = {"candidates": "bq://p.d.c", "published": "bq://p.d.s"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modle": "/m"}, "shop: there is no setting modle; there are alert_url, candidates"),
        ({"limits": {"psy": 1}}, "shop.limits: there is no setting psy"),
        ({"dataflow": {"project": "p"}}, "shop.dataflow: missing 2 required positional arguments: 'template' and"),
        ({"input": "/a"}, "shop: input and ready are lists"),
        ({"published": "bq://p.d.s"}, "must be folders, or tables of BigQuery, both"),
        ({"published": "/c"}, "are the same place"),
        ({"dataflow": DATAFLOW}, "a job on Dataflow writes to BigQuery"),
    ],
)
def test_wrong_settings_are_told(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        given(**changed)


def test_settings_become_a_command_or_a_launch() -> None:
    options = {"max-bad-share": 0.02, "debug": True, "replace-model": False}
    local = given(options=options, command="/opt/it/foretide", limits={"psi": 0.5, "max_bad_share": 0.1})
    assert shlex.join(local.gate("2024-05-06", "2024-05-07T01:02:03Z", "--dry-run")) == (
        "/opt/it/foretide gate churn_shop --as-of=2024-05-06 --since=2024-05-07T01:02:03Z"
        " --candidates=/c/2024-05-06/2024-05-07T010203Z --output=/p --max-bad-share=0.1 --psi=0.5 --dry-run"
    )
    words = local.shell("2024-05-06T06:00:00").splitlines()[1].partition(" || ")[0]
    assert words == (
        "/opt/it/foretide score --task /t.yaml --model /m --input /a /b --as-of 2024-05-06T06:00:00"
        ' --max-bad-share 0.02 --debug --output /c/2024-05-06T060000/"${started//:/}"'
    )
    remote = given(**BIGQUERY, options=options, dataflow=DATAFLOW)
    assert remote.job("2024-05-06T06:00:00") == "foretide-churn-shop-2024-05-06t06-00-00"
    launch = remote.launch("2024-05-06", "job")["launchParameter"]
    assert launch["parameters"] == {
        "task": "/t.yaml",
        "model": "/m",
        "input": "/a,/b",
        "as_of": "2024-05-06",
        "output": "bq://p.d.c",
        "replace_model": "false",
        "max_bad_share": "0.02",
        "debug": "true",
    }
    assert given(**BIGQUERY, dataflow=DATAFLOW).score_options("2024-05-06")["replace-model"] is True


@pytest.mark.parametrize(("code", "want"), [(0, 0), (3, 0), (4, 0), (1, 1), (2, 2), (5, 5)])
def test_only_refused_runs_are_left_to_the_checks(code: int, want: int, tmp_path: Path) -> None:
    program = tmp_path / "foretide"
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    done = subprocess.run(["bash", "-c", given(command=str(program)).shell("2024-05-06")], capture_output=True)
    assert done.returncode == want
    assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\n" if want == 0 else b"", done.stdout)
