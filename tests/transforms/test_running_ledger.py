"""The running ledger of a live job, in Beam's own state and timers."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.periodicsequence import PeriodicImpulse

from pipelines.ledger.counts import KEPT, Appended, DeadLetter, Ledger, Running, Window, WindowRows, total
from pipelines.storage.folder.live import folder, make_folders, parts, read_live_ledger, read_rows
from pipelines.storage.rows import Run
from pipelines.storage.rows import ledgers as counts
from pipelines.transforms import running_ledger as running
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import now as clock
from pipelines.transforms.running_ledger import RunningTotal
from pipelines.transforms.write_folder import AppendRun

GOOD = Ledger(read=100, accepted=98, rejected=2, reasons=(("bad", 2),), sequences=100, scored=100)


DAY = 86_400_000_000
ASKED: list[dict[Window, int]] = []
TOLD: list[Running] = []


def on_prism(endpoint: str) -> PipelineOptions:
    """Whose worker is this process."""
    return PipelineOptions(
        [
            "--runner=PortableRunner",
            f"--job_endpoint={endpoint}",
            "--environment_type=LOOPBACK",
            "--streaming",
            "--experiments=disable_logging_submission_environment",
        ]
    )


def live(endpoint: str, out: Path, ledgers: beam.PTransform, every: float = 5) -> list[tuple[int, Ledger]]:
    """Runs a live job of pickled ledgers on Prism to its end; gives its rows, oldest first."""
    make_folders(out, "churn-live")
    run = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
    with beam.Pipeline(options=on_prism(endpoint)) as p:
        source = p | ledgers
        (
            source | "Scores" >> beam.FlatMap(lambda _: ()).with_output_types(ScoreBlock),
            source | "Dead" >> beam.FlatMap(lambda _: ()).with_output_types(DeadLetter),
            source | "Ledgers" >> beam.Map(pickle.loads).with_output_types(Ledger),
        ) | "Append" >> AppendRun(run, out, every_s=every)
    tables = map(read_rows, parts(folder(out, "churn-live", "ledger")))
    return sorted(
        (row for t in tables for row in zip(t["finished_at"].cast(pa.int64()).to_pylist(), counts(t), strict=True)),
        key=lambda row: row[0],
    )


def test_the_ledger_is_told_while_it_changes_and_at_the_end(prism: str, tmp_path: Path) -> None:
    started = time.time_ns() // 1000
    first, second = GOOD, Ledger(read=3, accepted=3)
    source = test_stream.TestStream(coder=BytesCoder()).advance_watermark_to(0)
    source = source.add_elements([pickle.dumps(first), pickle.dumps(Ledger())]).advance_processing_time(60)
    source = source.advance_watermark_to(10).advance_processing_time(60)  # nothing new: no row
    source = source.add_elements([pickle.dumps(second)] * 2).advance_watermark_to_infinity()
    rows = live(prism, tmp_path, source)
    assert [ledger for _, ledger in rows] == [first, first + second + second]
    assert started < rows[0][0] < rows[1][0]
    assert read_live_ledger(tmp_path, "churn-live") == rows[-1][1]


@pytest.mark.parametrize("every", [0.2, 3600])
def test_the_last_row_has_it_all_and_a_job_does_not_wait_to_write_it(prism: str, tmp_path: Path, every: float) -> None:
    start = time.monotonic()
    now = time.time()
    source = PeriodicImpulse(start_timestamp=now, stop_timestamp=now + 3, fire_interval=0.1)
    rows = live(prism, tmp_path, source | beam.Map(one), every)
    assert [ledger.read for _, ledger in rows] == sorted({ledger.read for _, ledger in rows})
    assert rows[-1][1] == total([Ledger(read=1, accepted=1)] * 30)
    assert len(rows) == 1 or every < 1
    assert time.monotonic() - start < 1800


def one(_: object) -> bytes:
    """An event, as `live` takes it."""
    return pickle.dumps(Ledger(read=1, accepted=1))


class Cell:
    """A value in state, and a timer that is set."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def read(self) -> Any:
        return self.value

    def write(self, value: object) -> None:
        self.value = value

    set = write

    def clear(self) -> None:
        self.value = None


def test_a_job_that_is_updated_goes_on_with_what_it_has_counted() -> None:
    """And a clock that was put back does not make an older row of a newer one."""
    state, soon, end = Cell(Running("a", GOOD, at=9)), Cell(), Cell()
    run = running._Total("b", 5, six)
    run.process(("", GOOD), state, soon, end)
    assert soon.value is not None
    assert list(run.ending(state, soon)) == [Running("a", GOOD + GOOD, at=10)]
    assert soon.value is None
    assert list(run.meanwhile(state)) == []


def six() -> int:
    return 6


def counted(rows: dict[Window, int], before: Running | None = None) -> Running:
    return (before or Running("a", Ledger())).counted(Appended(rows))


def test_rows_are_looked_for_until_all_windows_were() -> None:
    first, second = (0, 0), (7 * DAY, 1)
    now = counted({second: 2}, counted({first: 5, second: 1}))
    assert (now.unseen, now.meant, now.visible) == ({first: 5, second: 3}, 8, None)
    now = now.looked({first: 5}).written(1)
    assert (now.unseen, now.meant, now.visible, now.changed) == ({second: 3}, 8, None, True)
    now = now.looked({second: 3}).written(2)
    assert (now.unseen, now.meant, now.visible, now.changed) == ({}, 8, 8, False)
    assert counted({first: 1}, now).unseen == {first: 6}


def test_what_is_missing_is_told_by_as_of() -> None:
    now = counted({(7 * DAY, 0): 100, (7 * DAY, 1): 20, (0, 0): 5, (14 * DAY, 0): 1})
    assert now.differences == ()
    now = now.looked({(7 * DAY, 0): 98, (7 * DAY, 1): 30, (0, 0): 0, (14 * DAY, 0): 1})
    assert now.differences == (
        "as of 1970-01-01: 5 rows meant, 0 visible",
        "as of 1970-01-08: 120 rows meant, 118 visible",
    )
    assert (now.meant, now.visible) == (126, 119)  # of rows that come twice, or of an attempt before, none is counted


def test_windows_are_forgotten_when_they_are_complete_and_others_came_after_them() -> None:
    now = counted({(i, 0): 2 for i in range(KEPT)}, counted({(-2, 0): 1, (-1, 0): 1}))
    assert now.looked({}) == now
    now = now.looked({**now.unseen, (-2, 0): 0})
    assert list(now.windows)[:2] == [(-2, 0), (1, 0)]
    assert (len(now.windows), now.settled, now.meant, now.visible) == (KEPT, 3, 2 * KEPT + 2, 2 * KEPT + 1)


def test_many_windows_are_looked_at_without_delay() -> None:
    state, soon, end = Cell(), Cell(), Cell()
    total = running._Total("a", 300, six)
    total.process(("", Appended({(0, 0): 1})), state, soon, end)
    later = soon.value
    total.process(("", Appended({(i, 0): 1 for i in range(2 * KEPT)})), state, soon, end)
    assert soon.value == later
    total.process(("", Appended({(-1, 0): 1})), state, soon, end)
    assert soon.value < later
    assert [r.visible for r in total.meanwhile(state, soon)] == [2 * KEPT + 2]
    assert len(state.read().windows) == KEPT


def look(meant: dict[Window, int]) -> dict[Window, int]:
    """Fails at first, and then finds all but two rows of a window."""
    ASKED.append(dict(meant))
    return {} if len(ASKED) == 1 else {window: n - 2 for window, n in meant.items()}


def keep(told: Running) -> None:
    TOLD.append(told)


def test_windows_that_changed_are_looked_at_and_again_where_that_failed(prism: str) -> None:
    ASKED.clear()
    TOLD.clear()
    early, late = (0, 0), (7 * DAY, 0)
    source = test_stream.TestStream(coder=BytesCoder()).advance_watermark_to(0)
    source = source.add_elements([pickle.dumps(GOOD), pickle.dumps(Appended({early: 5}))])
    source = source.advance_processing_time(1_000).advance_watermark_to(10).advance_processing_time(1_000)
    source = source.advance_watermark_to(20).advance_processing_time(1_000)  # nothing new
    source = source.add_elements([pickle.dumps(Appended({late: 3, early: 0}))]).advance_watermark_to_infinity()
    with beam.Pipeline(options=on_prism(prism)) as p:
        items = p | source | beam.Map(pickle.loads).with_output_types(Ledger | Appended)
        items | RunningTotal("a", 300, clock, look) | beam.Map(keep)
    assert [{early: 5}, {early: 5}, {early: 5, late: 3}] == ASKED
    assert [(r.total, r.meant, r.visible) for r in TOLD] == [(GOOD, 5, None), (GOOD, 5, 3), (GOOD, 8, 4)]
    assert TOLD[-1].windows == {late: WindowRows(3, 1), early: WindowRows(5, 3)}
