"""Counts add up, and say so when they do not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipelines.ledger.counts import NEVER, Ledger, total

GOOD = Ledger(read=10, accepted=4, rejected=1, duplicates=2, outside=2, filtered=1, reasons=(("bad", 1),))
counts = st.builds(Ledger, *[st.integers(0, 9)] * 9, reasons=st.sampled_from([(), (("a", 1),), (("a", 2), ("b", 1))]))


@given(st.lists(counts, max_size=5))
def test_sums_in_any_order(parts: list[Ledger]) -> None:
    assert total(parts) == total(parts[::-1])
    assert total(parts).read == sum(p.read for p in parts)


def test_times_and_reasons_are_merged() -> None:
    a = Ledger(first_time=5, last_time=9, reasons=(("x", 1),))
    b = Ledger(first_time=3, last_time=4, reasons=(("a", 1), ("x", 2)))
    assert (a + b) == Ledger(first_time=3, last_time=9, reasons=(("a", 1), ("x", 3)))
    assert Ledger().first_time == NEVER


def test_what_does_not_add_up_is_named() -> None:
    assert GOOD.differences == ()
    assert replace(GOOD, accepted=5).differences == ("10 events read, 11 accounted for",)
    assert replace(GOOD, reasons=()).differences == ("1 events rejected, 0 with a reason",)
    assert replace(GOOD, sequences=3, scored=1, failed=1).differences == ("3 sequences, 1 scored and 1 failed",)


def test_late_events_are_among_the_accepted() -> None:
    assert replace(GOOD, late=3).differences == ()
    assert (replace(GOOD, late=3) + replace(GOOD, late=1)).late == 4


def test_what_a_live_job_still_holds_is_pending() -> None:
    assert GOOD.pending == 0
    assert replace(GOOD, read=14).pending == 4
    assert replace(GOOD, accepted=6).pending == -2


def test_bad_share_is_of_rows_or_of_files() -> None:
    assert Ledger().bad_share == 0
    assert Ledger(read=100, rejected=3, files=1).bad_share == 0.03
    assert Ledger(read=100, rejected=3, files=4, bad_files=1).bad_share == 0.25
