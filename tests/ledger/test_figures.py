"""Figures of a job: how they add up, and how they read."""

from __future__ import annotations

import io

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipelines.ledger.figures import Distribution, FigureLines, Figures, collect, last_screen, line
from pipelines.ledger.metrics import counter, distribution
from pipelines.system.screen import Shown

BEFORE = Figures({"messages": 1000, "events": 2000}, {"publish_lag_ms": Distribution(10, 90_000, 1, 80_000)})
NOW = Figures(
    {"messages": 13_000, "events": 26_000, "scores_early": 120, "scores_on_time": 4800, "late": 3, "behind": 1},
    {"publish_lag_ms": Distribution(14, 90_800, 1, 80_000), "watermark_lag_ms": Distribution(2, 4200, 2000, 2200)},
)


def measure(element: int) -> int:
    counter("events").inc(element)
    distribution("model_ms").update(10 * element)
    return element


def test_steps_add_up() -> None:
    p = beam.Pipeline(FnApiRunner())
    _ = p | beam.Create([1, 2]) | "a" >> beam.Map(measure) | "b" >> beam.Map(measure)
    result = p.run()
    result.wait_until_finish()
    assert collect(result.metrics()) == Figures({"events": 6}, {"model_ms": Distribution(4, 60, 10, 20)})


def test_spreads() -> None:
    assert (
        Distribution() + Distribution(1, -5, -5, -5)
        == Distribution(1, -5, -5, -5)
        == Distribution(1, -5, -5, -5) + Distribution()
    )
    assert Distribution(2, 10, 3, 7) + Distribution(1, 9, 9, 9) == Distribution(3, 19, 3, 9)
    assert Distribution().mean is None


def test_recent_values_only() -> None:
    assert NOW.recent("publish_lag_ms", BEFORE) == 200
    assert NOW.recent("publish_lag_ms", NOW) is None


def test_a_line() -> None:
    assert line(NOW, BEFORE, 10.0) == (
        "1.2 k messages/s, 2.4 k events/s, lag 0.2 s, watermark 2.1 s behind; "
        "scores 120 early, 4.8 k on time, 0 corrected; 1 behind the watermark, 3 late"
    )
    assert line(Figures(), Figures(), 0.0) == "0 messages/s, 0 events/s; scores 0 early, 0 on time, 0 corrected"
    back = Figures(distributions={"clock_back_ms": Distribution(2, 7_199_000, 3_599_000, 3_600_000)})
    told = "CLOCK WENT BACK 3599.5 s: without messages the watermark waits for it"
    assert line(back, Figures(), 1.0).endswith(f"0 corrected; {told}")
    assert "CLOCK" not in line(back, back, 1.0)
    assert line(Figures({"paused": 2}), Figures(), 1.0).endswith("; PAUSED: too many of the last events are bad")


def test_the_last_screen_shows_what_moved() -> None:
    text = last_screen(NOW, 100.0)
    assert text.splitlines()[0] == "time        1 min 40 s, 260 events/s"
    assert "  scores_on_time              4,800\n" in text
    assert "  publish_lag_ms     mean 6,486, 1 to 80,000" in text
    assert "dead_letters" not in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_note_of_others_moves_no_cursor_and_ours_does(kind: type[io.StringIO]) -> None:
    stream = kind()
    lines = FigureLines(Shown(stream), every=10.0, since=0.0)  # type: ignore[arg-type]
    lines.note("failed: \x1b[2J")
    assert stream.getvalue().removeprefix("\r\x1b[2K") == "failed: \\x1b[2J\n"
    assert stream.getvalue().startswith("\r\x1b[2K") == stream.isatty()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_lines_come_when_due_and_at_the_end(kind: type[io.StringIO]) -> None:
    stream = kind()
    lines = FigureLines(stream, every=10.0, since=0.0)
    for now, n in ((1.0, 10), (10.0, 100), (19.0, 190)):
        lines.show(now, Figures({"messages": n}))
    lines.note("draining")
    lines.show(20.0, Figures({"messages": 400}))
    lines.show(21.0, Figures({"messages": 411}))
    lines.close()
    text = stream.getvalue()
    rates = [part.split(" messages/s")[0] for part in text.replace("\r\x1b[2K", "\n").split("\n") if "messages" in part]
    assert rates == ["10", "30", "11"]
    assert text.index("draining") < text.index("30 messages")
    assert ("\x1b[2K" in text) == stream.isatty()
