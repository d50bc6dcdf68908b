"""Options in files, and arguments that only look like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.commands.option_files import expanded
from pipelines.errors import Exit, UserError
from pipelines.jobs.config import ScoreConfig
from tests.support.small_shop import TASK
from tests.test_cli import arguments, caught


def test_a_file_stands_for_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one").write_text("# a comment\n\n--shards=4\n  --job_name=a b \r\n--flag\n")
    Path("two").write_text("--shards=8")
    lines = ["--shards=4", "--job_name=a b", "--flag"]
    assert expanded(["score", "--options", "one", "--x"]) == ["score", *lines, "--x"]
    assert expanded(["score", "--options=one", "--options", str(tmp_path / "two")]) == ["score", *lines, "--shards=8"]
    assert expanded(["a", "--options"]) == ["a", "--options"]
    assert expanded(["a", "--", "--options", "one"]) == ["a", "--", "--options", "one"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "f: cannot be read: No such file or directory"),
        (b"\xff", "f: is not text in UTF-8"),
        (b"--a\n--options=f", "f:2: a file of options names no other one"),
        (b"--options f", "f:1: a file of options names no other one"),
    ],
)
def test_a_file_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: str
) -> None:
    file = tmp_path / "f"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=told):
        expanded(["--options", str(file)])
    assert main(["score", "--options", str(file)]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("foretide: ")
    assert err.count("\n") == 1


def test_a_value_that_begins_with_an_at_is_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell makes it of *.csv, where others may put files."""
    configs = caught(monkeypatch, "pipelines.jobs.score.score", ScoreConfig)
    monkeypatch.chdir(tmp_path)
    Path("task.yaml").write_text(TASK)
    Path("@z.csv").write_text("--model=theirs\n--output=theirs\n")
    command = arguments("score", tmp_path / "task.yaml", input=None)
    assert main([*command, "--input", "@z.csv", "a.csv"]) == Exit.OK
    [config] = configs
    assert config.input.patterns == (str(tmp_path / "@z.csv"), str(tmp_path / "a.csv"))
    assert (config.model, config.output) == ("m", "out")
