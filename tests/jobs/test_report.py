"""The last screen of a run: what it says at each end, and that its numbers add up."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import yaml

from pipelines.events.formats.base import Piece
from pipelines.jobs.config import Input, ScoreConfig, StreamConfig
from pipelines.jobs.outputs.base import RunResult
from pipelines.jobs.report import describe_as_ofs, ledger_lines, live_report, score_report
from pipelines.jobs.source import InputSource
from pipelines.ledger.counts import Ledger, Status
from pipelines.models.saved.manifest import Manifest, signature
from pipelines.runners.execution import Execution
from pipelines.task.fields import parse_time
from pipelines.task.spec import Task
from tests.support.small_shop import TASK

CHURN = Task.model_validate_json(json.dumps(yaml.safe_load(TASK)))
GOOD = Ledger(
    read=1_000,
    accepted=900,
    rejected=30,
    duplicates=40,
    outside=20,
    filtered=10,
    files=2,
    sequences=150,
    scored=149,
    failed=1,
    first_time=parse_time("2024-01-01") + 1,
    last_time=parse_time("2024-05-01T06:30"),
    reasons=(("at is missing", 10), ("price is infinite", 20)),
)
CONFIG = ScoreConfig(
    task=CHURN,
    input=Input(("/data/events",), None),
    as_ofs=(parse_time("2024-05-06"),),
    model="m",
    engine="tensorflow",
    device="auto",
    batch_size=256,
    output="out",
    execution=Execution(1, None, (), False),
    max_bad_share=0.05,
)
SOURCE = InputSource(
    (Piece("a.parquet", "parquet", 0, 1, 1_500, True), Piece("a.parquet", "parquet", 1, 2, 500, False)), 8
)


def manifest(task: Task, **metrics: float) -> Manifest:
    return Manifest(
        **signature(task),
        task_digest=task.digest,
        version="20240401-1a2b3c4d",
        train=(0,),
        validation=(0,),
        test=(parse_time("2024-05-01"),),
        model={},
        metrics=metrics,
        libraries={},
        created=0,
    )


def screen(ledger: Ledger, status: Status = "published", note: str = "", output: str = "out") -> str:
    result = RunResult(status, ledger, ledger.differences, note)
    return score_report(replace(CONFIG, output=output), manifest(CHURN), SOURCE, result, "CPU", 2.0)


def test_a_published_run() -> None:
    text = screen(GOOD)
    assert "task        small_shop as of 2024-05-06\n" in text
    assert "input       2.0 kB in 1 file(s) of /data/events\n" in text
    assert "read        1,000 events, from 2024-01-01 to 2024-05-01T06:30:00\n" in text
    assert "scored      149 of 150 sequences, 1 failed\n" in text
    assert "model       20240401-1a2b3c4d, tensorflow on CPU\n" in text
    assert "time        2 s, 500 events/s\n" in text
    assert f"written     out (run {CONFIG.run_id('20240401-1a2b3c4d')})\n" in text
    assert text.endswith('foretide query --output out "SELECT * FROM scores ORDER BY churn DESC LIMIT 10"')


def test_names_of_others_cannot_pass_for_a_line_or_a_command() -> None:
    bad = replace(GOOD, reasons=(("column a\nscored      9 of 9", 30),))
    text = screen(bad, output="my out; rm -rf $HOME")
    assert "  column a\\nscored      9 of 9\n" in text
    assert text.endswith(
        """foretide query --output 'my out; rm -rf $HOME' "SELECT * FROM scores ORDER BY churn DESC LIMIT 10\""""
    )
    assert "written     a\\nb (run" in screen(GOOD, output="a\nb")


def test_what_was_written_is_noted() -> None:
    text = screen(GOOD, note="9 new, 0 corrected")
    assert f"(run {CONFIG.run_id('20240401-1a2b3c4d')}): 9 new, 0 corrected\n" in text


def test_of_tables_the_next_step_is_a_query_of_theirs() -> None:
    text = screen(GOOD, output="bq://p.d.t")
    assert text.endswith("bq query --nouse_legacy_sql 'SELECT * FROM `p.d.t_current` ORDER BY churn DESC LIMIT 10'")
    text = screen(replace(GOOD, scored=0, failed=150), output="bq://p.d.t")
    assert text.endswith("bq query --nouse_legacy_sql 'SELECT * FROM `p.d.t_dead_letters` LIMIT 20'")


def test_a_refused_run_says_the_share_the_limit_and_where_to_look() -> None:
    bad = replace(GOOD, rejected=330, accepted=600, reasons=(("at is missing", 330),), sequences=0, scored=0, failed=0)
    text = screen(bad, "refused")
    assert "REFUSED     33.0 % of the rows or files are bad, --max-bad-share is 5.0 %: no score was published" in text
    assert text.endswith('"SELECT * FROM dead_letters LIMIT 20"')
    assert "written" not in text


def test_an_unbalanced_run_says_which_sums_differ() -> None:
    text = screen(replace(GOOD, accepted=899), "unbalanced")
    assert text.endswith("UNBALANCED  1000 events read, 999 accounted for: no score was published")


def test_no_scores_because_no_event_is_in_range() -> None:
    text = screen(Ledger(read=5, outside=5, files=1))
    assert "NO SCORES   no event falls in the history of an as-of" in text
    assert "read        5 events\n" in text  # no times are known


def test_no_scores_because_the_model_failed_on_all() -> None:
    text = screen(replace(GOOD, scored=0, failed=150))
    assert "NO SCORES   the model gave no finite score for any of 150 sequences" in text
    assert "no event falls" not in text
    assert text.endswith('"SELECT * FROM dead_letters LIMIT 20"')


def numbers(lines: list[str], indent: str) -> list[int]:
    """The counts of the lines of one level."""
    found = [re.fullmatch(rf"{indent}(?=\S| *[0-9])(?:[a-z]+ )? *([0-9,]+)(  .*)?", line) for line in lines]
    return [int(m[1].replace(",", "")) for m in found if m]


@pytest.mark.parametrize("kinds", [0, 1, 10, 11, 40])
def test_the_numbers_add_up_however_many_reasons_there_are(kinds: int) -> None:
    reasons = tuple((f"reason {i}", 1_000 * i + 1) for i in range(kinds))
    rejected = sum(n for _, n in reasons)
    lines = ledger_lines(replace(GOOD, read=970 + rejected, rejected=rejected, reasons=reasons))
    outcomes = [line for line in lines if re.match(r"  [a-z]", line)]
    causes = [line for line in lines if line.startswith("    ")]
    assert sum(numbers(outcomes, "  ")) == 970 + rejected
    assert sum(numbers(causes, "    ")) == rejected
    assert len(causes) <= 11
    assert numbers(causes[:10], "    ") == sorted((n for _, n in reasons), reverse=True)[:10]


def test_dead_letters_are_named_only_where_there_are_some() -> None:
    assert "dead_letters" not in "\n".join(ledger_lines(GOOD))
    assert "  rejected            30  see dead_letters" in screen(GOOD)


def test_late_events_are_a_note_beside_the_accepted() -> None:
    assert not [line for line in ledger_lines(GOOD) if "late" in line]
    assert "  accepted           900  7 of them too late for a score that was closed" in ledger_lines(
        replace(GOOD, late=7)
    )


LIVE = StreamConfig(
    task=CHURN,
    subscription="projects/p/subscriptions/s",
    arrival_attribute=None,
    payload="json",
    avro_schema=None,
    bootstrap=Input(("/data/events",), None),
    first=parse_time("2024-05-06"),
    early=0,
    model="m",
    engine="tensorflow",
    device="auto",
    batch_size=256,
    output="out",
    archive=None,
    dead_letters=None,
    max_bad_share=0.05,
    pullers=1,
    execution=Execution(1, None, (), False),
)


def test_a_live_job() -> None:
    text = live_report(LIVE, replace(GOOD, read=1_005, late=7))
    assert "task        small_shop live, first as of 2024-05-06\n" in text
    assert "input       projects/p/subscriptions/s, /data/events\n" in text
    assert "read        1,005 events, from 2024-01-01" in text
    assert "7 of them too late" in text
    assert "  rejected            30  see dead_letters\n" in text
    assert "  pending              5  held until the next as-of is due\n" in text
    assert "scored      149 of 150 sequences, 1 failed\n" in text
    assert f"written     out (run {LIVE.run_id})\n" in text
    assert text.endswith('foretide query --output out "SELECT * FROM scores ORDER BY churn DESC LIMIT 10"')
    assert "UNBALANCED" not in text
    assert sum(numbers([line for line in text.splitlines() if re.match(r"  [a-z]", line)], "  ")) == 1_005


def test_a_live_job_that_holds_nothing_has_nothing_pending() -> None:
    assert "pending" not in live_report(LIVE, GOOD)
    assert "input       projects/p/subscriptions/s\n" in live_report(replace(LIVE, bootstrap=None), GOOD)
    assert "see projects/p/topics/t\n" in live_report(replace(LIVE, dead_letters="projects/p/topics/t"), GOOD)


@pytest.mark.parametrize("change", [{"accepted": 901}, {"scored": 150}])
def test_a_live_job_that_accounts_for_more_than_it_read(change: dict[str, int]) -> None:
    text = live_report(LIVE, replace(GOOD, **change))  # type: ignore[arg-type]
    assert "UNBALANCED  more is accounted for than was read" in text
    assert "pending" not in text


def test_times_that_no_calendar_has_do_not_cost_the_report() -> None:
    far = replace(GOOD, first_time=-(1 << 61), last_time=1 << 61)
    assert ledger_lines(far)[0] == "read        1,000 events, from before the year 1 to after the year 9999"


def test_as_ofs() -> None:
    days = [parse_time(f"2024-05-0{d}") for d in (6, 7, 8)]
    assert describe_as_ofs(days[:1]) == "2024-05-06"
    assert describe_as_ofs(days) == "2024-05-06 to 2024-05-08 (3 as-ofs)"
