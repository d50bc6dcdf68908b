from __future__ import annotations

import logging
import threading

import pytest

from pipelines.system.background import repeating


def test_it_goes_on_at_once_while_there_is_something_to_do_and_rests_then() -> None:
    left, calls, over = [3, 2, 1], list[int](), threading.Event()

    def work() -> int:
        calls.append(left.pop(0) if left else 0)
        if not left:
            over.set()
        return calls[-1]

    with repeating(work, 0.01, "work"):
        assert over.wait(30)
    assert calls[:3] == [3, 2, 1]
    assert set(calls[3:]) <= {0}


def test_it_rests_first() -> None:
    with repeating(lambda: pytest.fail("too early"), 600, "work"):
        pass


def test_a_failure_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    calls, again = list[int](), threading.Event()

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("disk full")
        again.set()
        return 0

    with caplog.at_level(logging.WARNING), repeating(work, 0.01, "merging"):
        assert again.wait(30)
    assert "merging failed, and is tried again: disk full" in caplog.text


def test_it_ends_with_the_block_and_what_is_under_way_with_it() -> None:
    begun, ended = threading.Event(), list[bool]()

    def work() -> int:
        begun.set()
        ended.append(True)
        return 0

    with repeating(work, 0.001, "the work"):
        assert begun.wait(30)
    assert ended
    assert not [t for t in threading.enumerate() if t.name == "the work"]
