"""`foretide gate` on folders. On tables: `tests/test_airflow.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.evaluation.drift import Limits
from pipelines.jobs.gate import ledger_reasons
from pipelines.ledger.counts import Ledger
from pipelines.storage.folder.query import select
from pipelines.storage.folder.runs import NEW
from pipelines.storage.rows import Run
from tests.support.folder_outputs import publish_rows, score_table

DAY = 86_400_000_000
RUN = Run("run", "1", "churn", ("churn",), (), 0)


def scored(out: Path, day: int, entities: int = 300, score: float = 0.5, ledger: Ledger | None = None) -> Path:
    """A run of one as-of, `day` days after 1970."""
    run = replace(RUN, run_id=f"run-{day}-{entities}", started_at=day * DAY)
    rows = [(f"e{i}", day * DAY, 0, "m", day * DAY - 1, (score * i / entities,)) for i in range(entities)]
    whole = Ledger(read=9, accepted=9, sequences=entities, scored=entities)
    publish_rows(out, run, score_table(run, rows, 0), day * DAY, ledger or whole)
    return out


def gate(candidates: Path, output: Path, day: int, *more: str) -> int:
    as_of = f"1970-01-{day + 1:02}"
    return main(["gate", "churn", "--as-of", as_of, "--candidates", str(candidates), "--output", str(output), *more])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def counts(**changed: object) -> dict[str, object]:
    whole = {"read": 1000, "accepted": 900, "rejected": 10, "duplicates": 20, "outside": 30, "filtered": 40}
    return {**whole, "sequences": 100, "scored": 99, "failed": 1, "status": "published", "differences": [], **changed}


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({}, []),
        ({"status": "refused"}, ["the run was refused"]),
        ({"read": 1001}, ["the ledger does not add up"]),
        ({"scored": 98}, ["the ledger does not add up"]),
        ({"differences": ["5 rows meant, 4 visible"]}, ["5 rows meant, 4 visible"]),
        ({"accepted": 899, "rejected": 11}, ["11 of 1,000 events were refused: 1.1%"]),
        ({"scored": 98, "failed": 2}, ["2 of 100 sequences were refused: 2.0%"]),
        ({"scored": 0, "failed": 0, "sequences": 0}, ["nothing was scored"]),
    ],
)
def test_a_ledger_that_does_not_add_up_holds_back(changed: dict[str, object], reasons: Sequence[str]) -> None:
    assert ledger_reasons(counts(**changed), Limits()) == reasons


def test_scores_are_published_once_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores"
    first = scored(tmp_path / "first", 1)
    assert gate(first, output, 1, "--dry-run") == Exit.OK
    assert not output.exists()
    assert gate(first, output, 1) == gate(first, output, 1) == Exit.OK
    told = capsys.readouterr().out.splitlines()
    assert [line.removesuffix(f" {output}") for line in told] == [
        "scores as of 1970-01-02: nothing holds them back from",
        "scores as of 1970-01-02: came into",
        "scores as of 1970-01-02: were already in",
    ]
    rows = "SELECT * EXCLUDE (scored_at) FROM scores ORDER BY score_id"
    assert list(select(output, rows).rows) == list(select(first, rows).rows)

    before = files(output)
    assert gate(scored(tmp_path / "same run", 1, score=0.4), output, 1) == Exit.USAGE
    assert gate(scored(tmp_path / "another run", 1, 299), output, 1) == Exit.USAGE
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("has other scores as of 1970-01-02, which stay" in line for line in told)
    assert files(output) == before


def test_a_publishing_that_was_killed_ends_at_the_next_try(tmp_path: Path) -> None:
    first, output = scored(tmp_path / "first", 1), tmp_path / "scores"
    assert gate(first, output, 1) == Exit.OK
    before = files(output)
    [link] = (output / "current").iterdir()
    link.rename(link.with_name(f"{NEW}{link.name}"))  # as between the two steps of a commit
    (output / "tmp" / "run-1-300.1" / "data").mkdir(parents=True)
    assert gate(first, output, 1) == Exit.OK
    assert files(output) == before


def test_drift_holds_back_until_it_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, next_ = tmp_path / "scores", scored(tmp_path / "next", 2, score=0.9)
    assert gate(scored(tmp_path / "first", 1), output, 1) == Exit.OK
    before = files(output)
    capsys.readouterr()
    assert gate(next_, output, 2, "--json") == Exit.REFUSED
    told = capsys.readouterr()
    verdict = json.loads(told.out)
    assert verdict["held"] == verdict["drift"] != []
    assert verdict["ledger"] == []
    assert "churn: the population stability index is" in told.err
    assert f"They are in {next_}; {output} is as it was" in told.err
    assert files(output) == before
    assert gate(next_, output, 2, "--psi", "9") == Exit.OK
    assert gate(next_, output, 2, "--accept-drift") == Exit.OK


def test_what_the_ledger_says_cannot_be_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Ledger(read=9, accepted=8, rejected=1, sequences=300, scored=300, reasons=(("odd", 1),))
    output, candidates = tmp_path / "scores", scored(tmp_path / "bad", 1, ledger=bad)
    assert gate(candidates, output, 1, "--accept-drift") == Exit.REFUSED
    assert "held back: 1 of 9 events were refused: 11.1%" in capsys.readouterr().err
    assert gate(candidates, output, 1, "--max-bad-share", "0.2", "--since", "1970-01-03") == Exit.REFUSED
    assert "there is no ledger of a run of task churn" in capsys.readouterr().err
    assert gate(candidates, output, 2, "--max-bad-share", "0.2") == Exit.REFUSED
    assert "the run scored 300, and there are 0 scores as of 1970-01-03" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--candidates", "bq://p.d.t"), "both must be folders, or both tables"),
        (("--candidates", "{output}"), "are the same place"),
        (("--as-of", "yesterday"), "--as-of yesterday: a time is"),
        (("--since", "x"), "--since x: a time is"),
        (("--recent", "1 day"), "--recent 1 day: a duration is"),
        (("--unknown",), "unknown option --unknown"),
    ],
)
def test_what_cannot_be_done_is_told(
    more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "scores"
    assert gate(tmp_path / "c", output, 1, *(word.format(output=output) for word in more)) == Exit.USAGE
    assert message in capsys.readouterr().err
