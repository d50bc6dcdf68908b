"""Which place an output is, and what it takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipelines
from pipelines.errors import UserError
from pipelines.google.tables import Table
from pipelines.jobs.config import Input
from pipelines.jobs.outputs.bigquery import TableOutput
from pipelines.jobs.outputs.folder import FolderOutput
from pipelines.jobs.outputs.kinds import located, output
from pipelines.task.file import load_task

TASK = Path(__file__).parents[3] / "templates" / "tasks" / "churn_grocery.yaml"


def test_a_place_is_a_folder_or_tables() -> None:
    assert output("out") == FolderOutput("out")
    with pytest.raises(UserError, match=r"--output gs://bucket/out: is no folder of this machine, and other .* bq:$"):
        output("gs://bucket/out")
    assert output("bq://p.d.t", "load", True) == TableOutput(Table("p", "d", "t"), "load", True)


@pytest.mark.parametrize("place", ["bq://p.d", "bq:/p.d.t", "bq://p.d.t.u?", "bq://"])
def test_what_is_meant_to_be_a_table_is_no_folder(place: str) -> None:
    with pytest.raises(UserError, match=r"--output .*: a table of BigQuery is named bq://PROJECT\.DATASET\.TABLE"):
        output(place)


def test_what_only_tables_can_do_is_refused_for_a_folder() -> None:
    for arguments in (("load", False), ("storage", True)):
        with pytest.raises(UserError, match="are for tables of BigQuery, and --output is out"):
            output("out", *arguments)


def test_what_one_kind_alone_can_do_is_refused_for_the_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ask BigQuery itself: bq query .*`p\.d\.t_current` LIMIT 10"):
        output("bq://p.d.t").query("SELECT 1", "table", 10)
    with pytest.raises(UserError, match="takes the columns of every task, so there is nothing to apply"):
        output(str(tmp_path)).prepare(load_task(TASK), dry_run=False)


def test_paths_are_for_processes_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("out", "bq://p.d.t", "bq:/p.d.t", "gs://b/out")
    assert [located(name) for name in names] == [f"{tmp_path}/out", *names[1:]]
    events = Input.located(names, None)
    assert (events.tables, events.files) == (names[1:3], (f"{tmp_path}/out", "gs://b/out"))
    assert events.local == (f"{tmp_path}/out",)


def test_nothing_else_asks_which_kind_a_place_is() -> None:
    root = Path(pipelines.__file__).parent
    texts = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    asking = re.compile(r"is_bigquery|parse_table|FolderOutput|TableOutput")
    found = {name for name, text in texts.items() if asking.search(text) and not name.startswith("jobs/outputs/")}
    assert found == {"google/tables.py", "jobs/config.py"}
