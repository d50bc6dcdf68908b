"""What a boundary brings, by hand; that it adds up to a backfill is in test_live."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.events.block import EventBlock
from pipelines.events.decode import Since, decode
from pipelines.events.due import EARLY, Due, due, early
from pipelines.task.spec import Task
from tests.support.oracle import Event
from tests.support.random_tasks import table_of
from tests.support.simulated_stream import Key, rows

SECOND = 1_000_000
SINCE = Since(10 * SECOND)


def task(identity: str | tuple[str, ...] = ("id",)) -> Task:
    return Task.model_validate(
        {
            "task": "hand",
            "events": {
                "entity": "user",
                "time": {"field": "time", "unit": "us"},
                "arrival": {"field": "arrival", "unit": "us"},
                "identity": identity,
            },
            "sequence": {"step": "10s", "steps": 3, "features": ({"agg": "sum", "field": "price"},)},
            "score": {"every": "10s", "allowed_lateness": "20s"},
            "label": {"kind": "churn", "horizon": "10s", "active_within": "10s"},
        }
    )


def event(user: str, time: int, arrival: int, id: str = "1", price: float = 1.0) -> Event:
    """Times in s."""
    rest = {"kind": None, "page": None, "value": None}
    return {"user": user, "time": time * SECOND, "arrival": arrival * SECOND, "id": id, "price": price, **rest}


def block(*events: Event, of: Task | None = None) -> EventBlock:
    return decode(of or task(), table_of(events), SINCE).block


def at(boundary: int, last: int | None, known: EventBlock, new: EventBlock) -> Due:
    return due(task(), SINCE, boundary * SECOND, None if last is None else last * SECOND, known, new)


def scores(result: Due) -> dict[tuple[str, int, int], float]:
    """(entity, as-of in s, revision) -> the sum of prices."""
    found = [item for batch in result.batches for item in rows(batch)]
    return {(k.entity, k.as_of // SECOND, k.revision): float(x.tensor.sum()) for k, x in found}


NOTHING = EventBlock.empty(0, 1, 0)


def test_the_first_boundary_corrects_nothing() -> None:
    result = at(10, None, NOTHING, block(event("a", -15, -15), event("b", 9, 9), event("b", 11, 9)))
    assert scores(result) == {("a", 10, 0): 1, ("b", 10, 0): 1}
    assert (result.accepted, result.duplicates, len(result.late), result.behind) == (3, 0, 0, 0)


def test_only_entities_that_gained_an_event_are_corrected() -> None:
    known = block(event("a", 5, 5), event("b", 6, 6))
    result = at(30, 20, known, block(event("b", 7, 21, "2"), event("a", 21, 21)))
    assert scores(result) == {("a", 30, 0): 2, ("b", 30, 0): 2, ("b", 10, 2): 2, ("b", 20, 1): 2}


def test_a_duplicate_corrects_nothing() -> None:
    result = at(30, 20, block(event("a", 5, 5)), block(event("a", 5, 5), event("a", 5, 22, price=9)))
    assert scores(result) == {("a", 30, 0): 1}
    assert (result.accepted, result.duplicates) == (0, 2)


def test_copies_that_contradict_a_known_event_correct_nothing() -> None:
    """All of them arrived at once and were known at the last boundary; one of them comes again."""
    copies = [event("a", 5, 5, price=p) for p in (1, 2, 3)]
    known = at(20, 10, NOTHING, block(*copies)).keep
    for again in copies:
        result = at(30, 20, known, block(again))
        assert scores(result) == {("a", 30, 0): 1}
        assert (result.accepted, result.duplicates, result.behind) == (0, 1, 0)


def test_too_late_for_the_first_score_only() -> None:
    result = at(40, 30, NOTHING, block(event("a", 5, 31), event("a", 15, 31)))
    assert scores(result) == {("a", 20, 2): 2, ("a", 30, 1): 2, ("a", 40, 0): 1}
    assert result.late.time.tolist() == [5 * SECOND]


def test_behind_the_last_boundary() -> None:
    """The watermark broke its promise: the event is counted, and corrects what is open. A copy of a known one is no
    sign of that, and one so old that it may have been known is none either."""
    known = block(event("a", 5, 5))
    result = at(30, 20, known, block(event("a", 6, 8, "2"), event("a", 5, 5)))
    assert scores(result) == {("a", 30, 0): 2, ("a", 10, 2): 2, ("a", 20, 1): 2}
    assert (result.accepted, result.duplicates, result.behind) == (1, 1, 1)
    old = at(90, 80, NOTHING, block(event("a", 5, 5), event("a", 6, 36)))
    assert (scores(old), old.accepted, old.behind, len(old.late), len(old.keep)) == ({}, 2, 0, 0, 0)


def test_a_copy_that_arrived_before_the_known_one_takes_its_place() -> None:
    result = at(30, 20, block(event("a", 5, 9, price=1)), block(event("a", 5, 8, price=2)))
    assert scores(result) == {("a", 30, 0): 2, ("a", 10, 2): 2, ("a", 20, 1): 2}
    assert (result.accepted, result.duplicates) == (0, 1)


def test_what_later_boundaries_need_is_kept() -> None:
    """The next one, at 40, may correct the score of 20, whose history begins at -10."""
    new = block(event("a", -11, 25, "1"), event("a", -10, 25, "2"), event("a", 35, 25, "3"))
    assert at(30, 20, NOTHING, new).keep.time.tolist() == [-10 * SECOND, 35 * SECOND]


def test_early_scores_of_those_who_gained_an_event() -> None:
    known = block(event("a", 5, 5), event("b", 6, 6), event("c", 6, 6))
    new = block(event("b", 12, 12), event("c", 6, 6), event("d", 21, 13))
    found = [item for batch in early(task(), 20 * SECOND, known, new) for item in rows(batch)]
    assert [(key, x.tensor.sum()) for key, x in found] == [(Key("b", 20 * SECOND, EARLY), 2)]
    assert not list(early(task(), 20 * SECOND, known, NOTHING))


def test_without_identity_ids_of_messages_have_no_say_in_sums() -> None:
    """Events of one time are added up in the order of their values, as those of files are."""
    prices = [1e8, 1.0, -1e8, 3.0]
    plain = block(*(event("a", 5, 5, price=p) for p in prices), of=task("none"))
    for ids in ([4, 3, 2, 1], [1, 2, 3, 4], [2, 4, 1, 3]):
        named = replace(plain, id=np.array(ids, np.uint64))
        sums = [
            x.tensor.tobytes()
            for new in (plain, named)
            for batch in due(task("none"), SINCE, 10 * SECOND, None, NOTHING, new).batches
            for _, x in rows(batch)
        ]
        assert sums[0] == sums[1]
