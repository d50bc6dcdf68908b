"""Options for Beam are checked, and what fails in a pipeline is told in a line."""

from __future__ import annotations

import re

import apache_beam as beam
import pytest

from pipelines.errors import Exit, UserError
from pipelines.runners.bounded import run
from pipelines.runners.endings import cause
from pipelines.runners.execution import Execution
from pipelines.runners.kinds import SECRETS, beam_parser, check_beam_args


def test_options_of_beam_pass_and_others_do_not() -> None:
    check_beam_args(["--runner=FlinkRunner", "--flink_master", "localhost:8081", "--job_name=x"])
    with pytest.raises(UserError, match="unknown option --bach-size"):
        check_beam_args(["--runner=DirectRunner", "--bach-size=3"])
    with pytest.raises(UserError, match="loses data"):
        check_beam_args(["--direct_running_mode=multi_threading"])
    with pytest.raises(UserError, match="nobody watches: use --workers N"):
        check_beam_args(["--direct_running_mode=multi_processing"])


def test_what_nobody_knows_is_told_without_its_value() -> None:
    with pytest.raises(UserError, match=r"^unknown option --api_tokn: neither foretide nor Beam has it"):
        check_beam_args(["--api_tokn=hidden"])
    with pytest.raises(UserError, match=r"^unknown option --api_tokn:"):
        check_beam_args(["--api_tokn", "hidden"])
    with pytest.raises(UserError, match=r"^unknown option -p:"):
        check_beam_args(["-phidden"])
    with pytest.raises(UserError, match=r"^word belongs to no option: neither"):
        check_beam_args(["word"])


@pytest.mark.parametrize(
    "where", [[], ["--runner=FlinkRunner", "--flink_master=flink:8081"], ["--runner=DataflowRunner"]]
)
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_for_a_command_line(where: list[str], name: str) -> None:
    for words in ([f"--{name}=hidden"], [f"--{name}", "hidden"], [f"--{name}=hid", "den"]):
        with pytest.raises(UserError, match=f"^--{name}: .* set {SECRETS[name]} in the environment") as told:
            check_beam_args([*where, *words])
        assert "hid" not in str(told.value)


def test_all_secrets_of_beam_are_known() -> None:
    names = {name.removeprefix("--") for action in beam_parser()._actions for name in action.option_strings}
    assert {n for n in names if re.search("secret|token|passw|pwd|credential|connection_string|api_?key", n)} == {
        *SECRETS
    }


def test_options_of_streams_pass_where_they_are_known() -> None:
    check_beam_args(["--prism_location=/opt/prism", "--prism_log_level=debug"])
    flink = ["--checkpointing_interval=3000", "--state_backend", "filesystem", "--finish_bundle_before_checkpointing"]
    check_beam_args(["--runner=FlinkRunner", *flink])
    check_beam_args(["--runner=PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=EXTERNAL", *flink])
    with pytest.raises(UserError, match="unknown option --checkpointing_interval"):
        check_beam_args(flink)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain", "ValueError: plain"),
        ("Traceback:\n  File x\nKeyError: 'a'\n\n", "KeyError: 'a'"),
        ("bundle inst001 failed:Traceback\n  x\npipelines.errors.UserError: no.\n", "pipelines.errors.UserError: no"),
        ("", "ValueError: "),
    ],
)
def test_the_cause_is_the_last_error(text: str, told: str) -> None:
    assert cause(ValueError(text)) == told


def fail(_: int) -> None:
    raise LookupError("the shelf is empty")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_its_cause(workers: int) -> None:
    def build(p: beam.Pipeline) -> None:
        _ = p | beam.Create([1]) | beam.Map(fail)

    with pytest.raises(UserError, match="LookupError: the shelf is empty") as caught:
        run(Execution(workers, None, (), False), build)
    assert caught.value.exit == Exit.FAILED
