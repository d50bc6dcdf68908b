"""Nothing that others wrote moves the cursor of who reads it."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.system.screen import (
    CONTROL,
    Shown,
    behind,
    duration,
    for_data,
    in_json,
    one_line,
    quantity,
    shown,
    shown_streams,
)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Zoë 日本 👩‍👩‍👧\ta\n", "Zoë 日本 👩‍👩‍👧\ta\n"),
        ("\x1b]0;x\x07\x1b[2J", "\\x1b]0;x\\x07\\x1b[2J"),
        ("a\rb\x00\x7f\x9b", "a\\x0db\\x00\\x7f\\x9b"),
        ("\u202egpj.exe\u2066\u200f\u061c\u2028", "\\u202egpj.exe\\u2066\\u200f\\u061c\\u2028"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_shown(text: str, told: str) -> None:
    assert shown(text) == told
    stream = io.StringIO()
    print(text, file=Shown(stream), end="")
    assert stream.getvalue() == told


def test_a_name_is_no_second_line() -> None:
    assert one_line("a\nscored 100\t\x1b[A") == "a\\nscored 100\\t\\x1b[A"


def test_json_stays_the_same_json() -> None:
    text = json.dumps("\x9b\u202e é \x1b", ensure_ascii=False)
    assert json.loads(in_json(text)) == json.loads(text)
    assert not CONTROL.search(in_json(text))


def test_an_encoding_without_the_character_shows_its_number() -> None:
    raw = io.BytesIO()
    stream = Shown(io.TextIOWrapper(raw, encoding="ascii"))
    stream.writelines(["Zoë\n"])
    stream.flush()
    assert raw.getvalue() == b"Zo\\xeb\n"


def test_our_own_moves_and_data_go_past_it() -> None:
    for screen, data in ((io.StringIO(), "\x1b"), (Screen(), "\\x1b")):
        stream = Shown(screen)
        assert behind(stream) is screen
        for_data(stream).write("\x1b")
        assert screen.getvalue() == data


def test_the_streams_are_as_they_were_afterwards() -> None:
    before = sys.stdout, sys.stderr
    with shown_streams():
        assert isinstance(sys.stdout, Shown)
        with shown_streams():
            assert behind(sys.stdout) is before[0]
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("command", [["query", "--output", "x\x1b[2J", "SELECT 1"], ["query", "--format=\x1b[2J"]])
def test_whatever_a_command_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(SystemExit):  # of argparse
        assert main(command) == Exit.USAGE
    said = "".join(capsys.readouterr())
    assert "x1b[2J" in said
    assert not CONTROL.search(said)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (0.25, "0.2 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (61_234_567, "61 MB"),
        (5e15, "5000 TB"),
    ],
)
def test_quantity(number: float, text: str) -> None:
    assert quantity(number, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
