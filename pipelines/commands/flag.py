"""A flag: declared once, with its type, default and help, the field that it fills, and its place on Dataflow's form.

`settings` are those of `argparse.ArgumentParser.add_argument`. A flag fills the field of the config that has its name
(`--batch-size`: `batch_size`), or that `dest` says.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

PLACES = ("FILE", "FOLDER", "PATH", "PLACE", "TABLE")  # as help shows their values


@dataclass(frozen=True)
class TemplateForm:
    """How a flag is asked for when a job is launched by a template, beyond what the flag says."""

    group: str
    label: str
    kind: str = "TEXT"  # one of Dataflow's ParameterType, for what is no choice
    pattern: str | None = None
    example: str = ""
    help: str = ""  # instead of that of the flag
    parent: tuple[str, str] | None = None  # asked for when this other parameter has this value


@dataclass(frozen=True)
class Flag:
    """A flag of one or more commands; without hyphens, a word by its place."""

    name: str
    form: TemplateForm | str | None  # or why templates do not ask for it; None where no template has the command
    settings: Mapping[str, Any]

    def add(self, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(self.name, **self.settings)

    def changed(self, **settings: Any) -> Flag:
        """The same with other settings, for another command."""
        return replace(self, settings={**self.settings, **settings})

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Itself, as `OneOf` has several."""
        return (self,)

    @property
    def is_place(self) -> bool:
        """Whether it names a file, a folder or a table."""
        return self.settings.get("metavar") in PLACES

    @property
    def parameter(self) -> str:
        return parameter(self.name)

    @property
    def required(self) -> bool:
        return bool(self.settings.get("required"))

    @property
    def many(self) -> bool:
        return self.settings.get("nargs") == "+"

    @property
    def switch(self) -> bool:
        """Whether it takes no value."""
        return self.settings.get("action") == "store_true"

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.settings.get("choices", ()))

    @property
    def default(self) -> object:
        return self.settings.get("default", False if self.switch else None)

    @property
    def help(self) -> str:
        return str(self.settings.get("help") or "") % {"default": self.default}


@dataclass(frozen=True)
class OneOf:
    """Flags of which one must be given."""

    flags: tuple[Flag, ...]

    def add(self, parser: argparse._ActionsContainer) -> None:
        group = parser.add_mutually_exclusive_group(required=True)
        for flag in self.flags:
            flag.add(group)


def parameter(option: str) -> str:
    """The name of a template's parameter that stands for an option: names have no hyphens."""
    return option.lstrip("-").replace("-", "_")


def flag(name: str, form: TemplateForm | str | None = None, **settings: Any) -> Flag:
    """`flag("--shards", type=positive, metavar="N", help="groups of entities")`."""
    return Flag(name, form, settings)


def positive(text: str) -> int:
    """A whole number above 0."""
    if text.isdecimal() and len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:20]} is too large; the most is 999,999,999")
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """A whole number."""
    return 0 if text == "0" else positive(text)


def seed(text: str) -> int:
    """A whole number of 32 bits."""
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1, such as 0.05")
    return value
