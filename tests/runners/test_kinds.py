"""Runners are resolved once, answer for themselves, and nobody else compares their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipelines
from pipelines.errors import UserError
from pipelines.runners.base import Runner
from pipelines.runners.dataflow import OnDataflow
from pipelines.runners.flink import OnFlink, OnPortable
from pipelines.runners.kinds import KINDS, named
from pipelines.runners.this_machine import InProcess, OnPrism
from tests.support.asked_runners import asked

ROOT = Path(pipelines.__path__[0])
NAME = re.compile(rf"""["'](--runner=)?({"|".join([*KINDS, "DirectRunner"])})["']|endswith\(.*Runner""")


def test_no_other_package_knows_a_runner_by_its_name() -> None:
    known = [file for file in ROOT.rglob("*.py") if NAME.search(file.read_text())]
    assert {file.parent.name for file in known} == {"runners"}


@pytest.mark.parametrize(
    ("options", "live", "kind"),
    [
        ((), False, InProcess),
        (("--runner=DirectRunner",), False, InProcess),
        (("--runner=FnApiRunner",), False, InProcess),
        ((), True, OnPrism),
        (("--runner=DirectRunner",), True, OnPrism),
        (("--runner=PrismRunner",), True, OnPrism),
        (("--runner=PrismRunner",), False, OnPrism),
        (("--runner=flink",), False, OnFlink),
        (("--runner=FlinkRunner",), True, OnFlink),
        (("--runner=apache_beam.runners.FlinkRunner",), True, OnFlink),
        (("--runner", "PortableRunner"), True, OnPortable),
        (("--runner=dataflow",), True, OnDataflow),
        (("--runner=apache_beam.runners.DataflowRunner",), False, OnDataflow),
    ],
)
def test_a_runner_is_known_by_each_name_that_beam_takes(
    options: tuple[str, ...], live: bool, kind: type[Runner]
) -> None:
    runner = asked(*options, live=live)
    assert type(runner) is kind
    assert KINDS[runner.name] is kind
    assert (runner.live, runner.execution.beam_args) == (live, options)


def test_one_that_nobody_knows_keeps_its_name() -> None:
    assert named("apache_beam.runners.spark.SparkRunner") == "SparkRunner"
    assert asked("--runner=SparkRunner").name == "SparkRunner"
    assert not asked("--runner=SparkRunner").local


@pytest.mark.parametrize("runner", ["PrismRunner", "DataflowRunner", "apache_beam.runners.PrismRunner"])
def test_good_runners_pass(runner: str) -> None:
    asked(f"--runner={runner}", live=True).check_live()


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        ("BundleBasedDirectRunner", "before they are processed"),
        ("SwitchingDirectRunner", "before they are processed"),
        ("SparkRunner", "not known to acknowledge messages only after they are kept"),
    ],
)
def test_runners_that_lose_messages_are_refused_with_the_reason(runner: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        asked(f"--runner={runner}", live=True).check_live()


@pytest.mark.parametrize("runner", ["FlinkRunner", "PortableRunner"])
def test_flink_needs_checkpoints_often_enough(runner: str) -> None:
    asked(f"--runner={runner}", "--checkpointing_interval=3000", live=True).check_live()
    asked(f"--runner={runner}", "--flink_master=x", "--checkpointing_interval", "3000", live=True).check_live()
    for args in ([], ["--checkpointing_interval=-1"]):
        with pytest.raises(UserError, match="needs --checkpointing_interval"):
            asked(f"--runner={runner}", *args, live=True).check_live()
    with pytest.raises(UserError, match="at most 150000"):
        asked(f"--runner={runner}", "--checkpointing_interval=600000", live=True).check_live()
    with pytest.raises(UserError, match="whole number"):
        asked(f"--runner={runner}", "--checkpointing_interval=soon", live=True).check_live()


def test_an_attribute_is_no_clock_on_dataflow() -> None:
    with pytest.raises(UserError, match="does not tell how far a replay has come"):
        asked("--runner=DataflowRunner", live=True).check_live("arrived")
    asked(live=True).check_live("arrived")
