"""Flags say all that is said of them once, commands are listed, and configs are filled by name."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from dataclasses import dataclass

import pytest

import pipelines.commands
from pipelines.cli import COMMANDS
from pipelines.commands.command import Command, CommandGroup, filled
from pipelines.commands.flag import Flag, OneOf, TemplateForm, flag, positive
from pipelines.commands.flags import BATCH_SIZE, EVERY, OUTPUT
from pipelines.errors import Exit


@dataclass(frozen=True)
class Config:
    rows: int
    place: str
    again: bool = False


ROWS = flag(
    "--rows", TemplateForm("Model", "Rows"), type=positive, default=7, metavar="N", help="at once (%(default)s)"
)


def test_a_flag_tells_of_itself() -> None:
    assert (ROWS.parameter, ROWS.default, ROWS.help, ROWS.required, ROWS.many) == (
        "rows",
        7,
        "at once (7)",
        False,
        False,
    )
    assert BATCH_SIZE.parameter == "batch_size"
    assert (flag("--x", action="store_true").switch, flag("--x", action="store_true").default) == (True, False)
    assert OUTPUT.is_place
    assert not ROWS.is_place
    assert OUTPUT.changed(help="there").settings == {**OUTPUT.settings, "help": "there"}


def test_a_config_is_what_was_given_by_name_and_what_is_made() -> None:
    args = argparse.Namespace(rows=3, again=True, other=1)
    assert filled(Config, args, place="a") == Config(3, "a", True)
    assert filled(Config, Config(3, "a", True), rows=4) == Config(4, "a", True)
    assert filled(Config, argparse.Namespace(rows=1), place="") == Config(1, "")
    with pytest.raises(TypeError, match="place"):
        filled(Config, args)


def test_every_command_that_is_there_is_listed() -> None:
    modules = [
        importlib.import_module(f"pipelines.commands.{m.name}")
        for m in pkgutil.iter_modules(pipelines.commands.__path__)
    ]
    there = {module.COMMAND.name for module in modules if hasattr(module, "COMMAND")}
    assert there == {command.name for command in COMMANDS}
    assert len(COMMANDS) == len(there)


def test_no_command_declares_a_flag_twice() -> None:
    commands = [c for each in COMMANDS for c in (each.commands if isinstance(each, CommandGroup) else (each,))]
    for command in commands:
        names = [flag.name for each in (*EVERY, *command.flags) for flag in each.flags]
        assert len(names) == len(set(names)), command.name


def parsed(command: Command, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    return parser.parse_args([command.name, *words])


def test_a_command_takes_its_flags_and_those_of_every_command() -> None:
    either = OneOf((flag("--one"), flag("--two", metavar="FILE")))
    command = Command("do", "does it", lambda args, rest: Exit.OK, (ROWS, either))
    args = parsed(command, "--rows=2", "--two", "x", "--debug")
    assert (args.rows, args.one, args.two, args.debug, args.rest) == (2, None, "x", True, None)
    assert [each.name for each in args.flags] == ["--rows", "--one", "--two"]
    assert all(isinstance(each, Flag) for each in args.flags)
    with pytest.raises(SystemExit):
        parsed(command)
