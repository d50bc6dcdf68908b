"""Which place an output is, and what it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.google.tables import Table
from pipelines.jobs.outputs.bigquery import TableOutput
from pipelines.jobs.outputs.folder import FolderOutput
from pipelines.jobs.outputs.kinds import output
from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.runs import LEDGER, publish
from pipelines.storage.rows import Run, ledger_table, write_table
from pipelines.transforms.output_rows import now

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.csv",), 5, model_version="m1")
COUNTS = Ledger(read=2, accepted=2, sequences=2, scored=2)


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


def test_a_run_into_a_folder_says_what_it_wrote(tmp_path: Path) -> None:
    place = output(str(tmp_path))
    assert not place.plan([0])
    notes = []
    for attempt in ("a", "b"):
        run = replace(RUN, attempt=attempt)
        with place.batch(run, [0]) as batch:
            attempt_folder = batch.write.place
            write_table(ledger_table(run, COUNTS, "published", now()), attempt_folder.data / LEDGER)
            publish(attempt_folder, "published", [])
            result = batch.result()
        assert (result.status, result.ledger, result.differences) == ("published", COUNTS, ())
        notes.append(result.note)
    assert notes == ["", "the same bytes as before: nothing was changed"]


def test_a_live_job_into_a_folder_has_its_ledger_there(tmp_path: Path) -> None:
    with output(str(tmp_path)).live(RUN, letters=True) as live:
        assert live.stop.parent.is_dir()
        assert not live.stop.exists()
        assert live.ledger() == Ledger()
