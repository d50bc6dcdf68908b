"""Options for Beam are checked, and what fails in a pipeline is told in a line."""

from __future__ import annotations

import apache_beam as beam
import pytest

from pipelines.config import Execution
from pipelines.errors import Exit, UserError
from pipelines.execution import check_beam_args, run, runner


def test_options_of_beam_pass_and_others_do_not() -> None:
    check_beam_args(["--runner=FlinkRunner", "--flink_master", "localhost:8081", "--job_name=x"])
    with pytest.raises(UserError, match="unknown option --bach-size"):
        check_beam_args(["--runner=DirectRunner", "--bach-size=3"])
    with pytest.raises(UserError, match="loses data"):
        check_beam_args(["--direct_running_mode=multi_threading"])


def test_the_local_runner_is_pinned() -> None:
    assert runner(Execution(1, None, (), False)) == "FnApiRunner"
    assert runner(Execution(1, None, ("--runner=DirectRunner",), False)) == "FnApiRunner"
    assert runner(Execution(1, None, ("--runner=FlinkRunner",), False)) == "FlinkRunner"


def fail(_: int) -> None:
    raise LookupError("the shelf is empty")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_its_cause(workers: int) -> None:
    def build(p: beam.Pipeline) -> None:
        _ = p | beam.Create([1]) | beam.Map(fail)

    with pytest.raises(UserError, match="LookupError: the shelf is empty") as caught:
        run(Execution(workers, None, (), False), build)
    assert caught.value.code == Exit.FAILED
