"""Flags reach the config with the right types, mistakes are told in a line, and exit codes say what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import pytest

from pipelines.cli import main
from pipelines.errors import Exit, UserError
from pipelines.jobs.config import ExamplesConfig, Input, ScoreConfig, TrainConfig
from pipelines.runners.execution import Execution
from pipelines.task.fields import UNITS, parse_time
from pipelines.task.file import load_task
from tests.support.small_shop import TASK

Config = TypeVar("Config")
DAY = UNITS["d"]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "task.yaml"


def arguments(command: str, task: Path, /, **changes: str | None) -> list[str]:
    """The flags that must be there, changed or (None) without."""
    needed = {
        "score": {"as_of": "2024-03-01", "model": "m"},
        "examples": {"as_of": "2024-03-01"},
        "train": {"test_as_of": "2024-05-01"},
    }
    output = {} if command == "train" else {"output": "out"}
    flags = {"task": str(task), "input": "/data/a", **output, **needed[command], **changes}
    return [command, *(f"--{k.replace('_', '-')}={v}" for k, v in flags.items() if v is not None)]


def caught(monkeypatch: pytest.MonkeyPatch, where: str, kind: type[Config]) -> list[Config]:
    """What the command at `where` is called with, instead of calling it."""
    configs: list[Config] = []

    def command(config: Config) -> int:
        assert isinstance(config, kind)
        configs.append(config)
        return 0

    monkeypatch.setattr(where, command)
    return configs


def test_score_without_options(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.score.score", ScoreConfig)
    assert main(arguments("score", task)) == 0
    as_ofs = (parse_time("2024-03-01"),)
    files, here = Input(("/data/a",), None), Execution(1, None, (), False)
    assert configs == [
        ScoreConfig(
            task=load_task(str(task)),
            input=files,
            as_ofs=as_ofs,
            model="m",
            engine="tensorflow",
            device="auto",
            batch_size=240,
            output="out",
            execution=here,
            max_bad_share=0.05,
        ),
    ]


def test_every_flag_of_score_reaches_its_field(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.score.score", ScoreConfig)
    monkeypatch.chdir(task.parent)
    command = arguments("score", task, input=None, as_of="2024-03-01..2024-03-10", engine="openvino", device="cpu")
    command += ["--input", "a", "gs://bucket/b*", "--batch-size", "32", "--workers", "2", "--shards", "5"]
    command += ["--max-bad-share", "0.5", "--format", "csv", "--runner=DirectRunner", "--job_name", "x", "--debug"]
    assert main(command) == 0
    [config] = configs
    assert config.input == Input((str(task.parent / "a"), "gs://bucket/b*"), "csv")
    assert config.max_bad_share == 0.5
    assert config.as_ofs == (parse_time("2024-03-01"), parse_time("2024-03-08"))
    assert (config.engine, config.device, config.batch_size) == ("openvino", "cpu", 32)
    assert config.execution == Execution(2, 5, ("--runner=DirectRunner", "--job_name", "x"), True)


def test_examples(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.examples.write_examples", ExamplesConfig)
    assert main(arguments("examples", task, workers="3", max_bad_share="0")) == 0
    files, where = Input(("/data/a",), None), Execution(3, None, (), False)
    as_ofs = (parse_time("2024-03-01"),)
    assert configs == [
        ExamplesConfig(
            task=load_task(str(task)), input=files, as_ofs=as_ofs, output="out", execution=where, max_bad_share=0.0
        )
    ]


@pytest.mark.parametrize(("asked", "every"), [(None, 14 * DAY), ("7d", 7 * DAY), ("1w", 7 * DAY), ("30d", 30 * DAY)])
def test_train(monkeypatch: pytest.MonkeyPatch, task: Path, asked: str | None, every: int) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.train.train", TrainConfig)
    command = arguments("train", task, train_every=asked, epochs="9", seed="0", train_as_ofs="4")
    assert main(command) == 0
    [config] = configs
    assert (config.test, config.train_as_ofs, config.train_every) == ((parse_time("2024-05-01"),), 4, every)
    plain = load_task(str(task))
    assert config.task.model == plain.model.model_copy(update={"epochs": 9, "seed": 0})
    assert config.task.digest != plain.digest


def test_train_keeps_what_the_task_says(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.train.train", TrainConfig)
    assert main(arguments("train", task)) == 0
    assert configs[0].task == load_task(str(task))
    assert (configs[0].train_as_ofs, configs[0].validation_as_ofs) == (24, 1)
    assert (configs[0].models, configs[0].examples) == ("models", "examples")
    assert (configs[0].resume, configs[0].promote) == (False, False)


def test_every_flag_of_train_reaches_its_field(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.train.train", TrainConfig)
    command = arguments("train", task, test_as_of="2024-04-01..2024-05-01", test_every="10d", validation_as_ofs="2")
    command += ["--models", "m", "--examples", "e", "--batch-size", "32", "--resume", "--promote"]
    assert main(command) == 0
    [config] = configs
    assert config.test == tuple(parse_time(t) for t in ("2024-04-01", "2024-04-11", "2024-04-21", "2024-05-01"))
    assert (config.validation_as_ofs, config.models, config.examples) == (2, "m", "e")
    assert (config.resume, config.promote, config.task.model.batch_size) == (True, True, 32)


def test_tune_takes_what_train_takes(monkeypatch: pytest.MonkeyPatch, task: Path) -> None:
    configs = caught(monkeypatch, "pipelines.jobs.tune.tune", TrainConfig)
    assert main(["tune", *arguments("train", task)[1:]]) == 0
    assert configs[0].task == load_task(str(task))


@pytest.mark.parametrize("command", ["score", "examples", "train"])
def test_a_dry_run_plans_and_does_not_run(monkeypatch: pytest.MonkeyPatch, task: Path, command: str) -> None:
    kind = {"score": ScoreConfig, "examples": ExamplesConfig, "train": TrainConfig}[command]
    plans: list[object] = caught(monkeypatch, f"pipelines.jobs.{command}.plan", kind)
    assert main([*arguments(command, task), "--dry-run"]) == 0
    assert len(plans) == 1


def test_query(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("pipelines.storage.folder.query.query", lambda *given: calls.append(given))
    assert main(["query", "--output", "out", "SELECT 1"]) == 0
    assert main(["query", "SELECT 2", "--output=o", "--format", "json", "--limit", "0"]) == 0
    assert calls == [("out", "SELECT 1", "table", 100), ("o", "SELECT 2", "json", 0)]


def refused(capsys: pytest.CaptureFixture[str], command: list[str]) -> str:
    """What a command with exit code 2 says; nothing of it on standard output."""
    try:
        code = main(command)
    except SystemExit as end:  # argparse
        code = int(str(end.code))
    out, err = capsys.readouterr()
    assert (code, out) == (Exit.USAGE, ""), err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("command", "flag", "value", "told"),
    [
        ("score", "workers", "0", "--workers: '0' is not a whole number above 0"),
        ("score", "workers", "two", "--workers: 'two' is not a whole number above 0"),
        ("score", "workers", "²", "--workers: '²' is not a whole number above 0"),
        ("score", "workers", "9" * 5000, "--workers: 99999999999999999999 is too large; the most is 999,999,999"),
        ("score", "as-of", "9999-12-31T00:01", "the nearest are 9999-12-31 and after the year 9999"),
        ("score", "as-of", "0001-01-01T00:00+14:00", "a time is from year 1 to year 9999 in UTC"),
        ("score", "as-of", "9999-12-31T23:59:59-14:00", "a time is from year 1 to year 9999 in UTC"),
        ("score", "shards", "-1", "--shards: '-1' is not a whole number above 0"),
        ("score", "batch-size", "1.5", "--batch-size: '1.5' is not a whole number above 0"),
        ("score", "max-bad-share", "2", "--max-bad-share: '2' is not a share from 0 to 1"),
        ("score", "max-bad-share", "nan", "--max-bad-share: 'nan' is not a share from 0 to 1"),
        ("score", "engine", "torch", "--engine: invalid choice: 'torch'"),
        ("score", "format", "xlsx", "--format: invalid choice: 'xlsx'"),
        ("score", "as-of", "2024-03-01T06:00", "--as-of 2024-03-01T06:00 is not a step boundary of task small_shop"),
        ("score", "as-of", "March", "--as-of March: a time is a date"),
        ("score", "worker", "2", "unknown option --worker: neither foretide nor Beam has it"),
        ("score", "direct_running_mode", "multi_threading", "loses data in Beam"),
        ("score", "task", "nowhere.yaml", "nowhere.yaml"),
        ("train", "test-as-of", "2024-05-20..2024-05-01", "the range ends before it starts"),
        ("train", "test-every", "36h", "--test-every 36h: must be a multiple of sequence.step (1d)"),
        ("train", "train-every", "36h", "--train-every 36h: must be a multiple of sequence.step (1d)"),
        ("train", "train-as-ofs", "1000000", "--train-as-ofs 1000000: the first of them would lie before the year 1"),
        ("train", "test-as-of", "2024-05-01T01:00", "--test-as-of 2024-05-01T01:00 is not a step boundary"),
        ("train", "train-every", "weekly", "--train-every weekly: a duration is a whole number and a unit"),
        ("train", "train-as-ofs", "0", "--train-as-ofs: '0' is not a whole number above 0"),
        ("train", "epochs", "0", "--epochs: '0' is not a whole number above 0"),
        ("train", "seed", "-1", "--seed: '-1' is not a whole number from 0 to 4294967295"),
        ("train", "seed", "4294967296", "--seed: '4294967296' is not a whole number from 0"),
    ],
)
def test_a_bad_value_is_told_with_its_flag(
    capsys: pytest.CaptureFixture[str], task: Path, command: str, flag: str, value: str, told: str
) -> None:
    flags = [a for a in arguments(command, task) if not a.startswith(f"--{flag}=")]
    assert told in refused(capsys, [*flags, f"--{flag}={value}"])


@pytest.mark.parametrize("flag", ["task", "input", "as_of", "model", "output"])
def test_what_must_be_given_is_named(capsys: pytest.CaptureFixture[str], task: Path, flag: str) -> None:
    assert f"required: --{flag.replace('_', '-')}" in refused(capsys, arguments("score", task, **{flag: None}))


@pytest.mark.parametrize("flag", ["task", "input", "model", "output"])
def test_an_empty_path_is_not_this_folder(capsys: pytest.CaptureFixture[str], task: Path, flag: str) -> None:
    assert f"--{flag}: is empty; name a file or folder" in refused(capsys, arguments("score", task, **{flag: ""}))


def test_query_takes_no_options_of_beam(capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, ["query", "--output", "out", "SELECT 1", "--runner=DirectRunner"])
    assert text == "foretide query: unknown option --runner; see foretide query --help\n"


@pytest.mark.parametrize("command", ["score", "examples", "train", "query", "models", "savepoint"])
@pytest.mark.parametrize("words", [["--s3_secret_acess_key=hidden"], ["--s3_secret_acess_key", "hidden"], ["-khidden"]])
def test_an_option_that_nobody_knows_is_told_without_its_value(
    capsys: pytest.CaptureFixture[str], task: Path, command: str, words: list[str]
) -> None:
    others = {"query": ["--output=out", "SELECT 1"], "models": [], "savepoint": ["job"]}
    given = [command, *others[command]] if command in others else arguments(command, task)
    text = refused(capsys, [*given, *words])
    assert f"unknown option {'-k' if words == ['-khidden'] else '--s3_secret_acess_key'}" in text
    assert "hidden" not in text


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr() == (f"foretide {version('foretide')}\n", "")


@pytest.mark.parametrize("flag", ["--task=none.yaml", "--as-of=March", "--test-as-of=March", "--early=x", "--limit=-1"])
def test_what_is_wrong_in_our_own_flags_is_told_before_beam_is_loaded(task: Path, flag: str) -> None:
    """In a process of its own: Beam takes seconds to load, and this one has it."""
    command = {"--test-as-of": "train", "--early": "stream", "--limit": "query"}.get(flag.partition("=")[0], "score")
    flags = {
        "query": ["SELECT 1", "--output=out"],
        "stream": [f"--task={task}", "--model=m", "--output=out", "--subscription=projects/p/subscriptions/s"],
    }
    words = [command, *(flags.get(command) or arguments(command, task)[1:]), flag]
    script = (
        "import sys, pipelines.cli\n"
        "try: code = pipelines.cli.main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, 'apache_beam' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 False\n", done.stderr
    assert flag.partition("=")[2] in done.stderr


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["--model=x"], "unknown option --model; see foretide models --help"),
        (["a", "b"], "foretide models list takes one task, or none for all"),
        (["compare", "a"], "foretide models compare takes two models"),
        (["promote"], "foretide models promote takes one version"),
        (["rollback", "a", "b"], "foretide models rollback takes one task"),
        (["list"], "holds no models: make one with foretide train"),
    ],
)
def test_models_takes_what_its_action_needs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, names: list[str], told: str
) -> None:
    assert told in refused(capsys, ["models", "--models", str(tmp_path), *names])


def test_there_must_be_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "COMMAND" in refused(capsys, [])
    assert "invalid choice: 'scrore'" in refused(capsys, ["scrore"])


def raising(error: BaseException) -> Callable[..., int]:
    def command(*given: object) -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("no"), 2, "foretide score: no\n"),
        (UserError("no", Exit.MODEL), 5, "foretide score: no\n"),
        (KeyboardInterrupt(), 130, "foretide score: interrupted; the same command starts it anew\n"),
        (ZeroDivisionError("by 0"), 1, "foretide score: ZeroDivisionError: by 0 (--debug shows the trace)\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: Path,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    monkeypatch.setattr("pipelines.jobs.score.score", raising(error))
    assert main(arguments("score", task)) == code
    assert capsys.readouterr() == ("", told)


def test_debug_shows_the_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: Path) -> None:
    monkeypatch.setattr("pipelines.jobs.score.score", raising(ZeroDivisionError("by 0")))
    assert main([*arguments("score", task), "--debug"]) == Exit.FAILED
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "code"), [("query", Exit.OK), ("train", Exit.FAILED)])
def test_a_reader_who_leaves_ends_a_query_well_and_a_training_badly(command: str, code: int) -> None:
    """In a process of its own: the handler closes standard output."""
    script = (
        "import pipelines.cli as c, sys\n"
        "def printing(args, rest): return [print('x' * 70) for _ in range(5)] and 0\n"
        "for command in c.COMMANDS: vars(command).update(run=printing)\n"
        f"sys.exit(c.main({[command, '--output=o', *(['S'] if command == 'query' else ['--task=t', '--input=i'])]}"
        f" + {[] if command == 'query' else ['--test-as-of=2024-01-01']}))"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run([sys.executable, "-c", script], stdout=gone, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize(("command", "flag"), [("examples", "output"), ("train", "models"), ("train", "examples")])
def test_a_place_that_cannot_be_is_told_before_the_work(
    capsys: pytest.CaptureFixture[str], task: Path, command: str, flag: str
) -> None:
    from tests.support import small_shop

    _, events = small_shop.write(task.parent / "shop")
    (task.parent / "file").write_text("")
    places = {"models": str(task.parent / "models"), "examples": str(task.parent / "examples")}
    rest = {} if command == "examples" else places
    flags = [command, *arguments("examples" if command == "examples" else "train", task, input=str(events), **rest)[1:]]
    for place, told in (("gs://bucket/x", "local folder"), (str(task.parent / "file" / "x"), "file")):
        assert told in refused(capsys, [*flags, f"--{flag}={place}"])
    assert (task.parent / "file").read_text() == ""
