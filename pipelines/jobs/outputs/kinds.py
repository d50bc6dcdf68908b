"""The kinds of outputs: the one list that turns a name into a place. A new kind is a line here, see `base`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.errors import UserError
from pipelines.google.tables import WriteMethod

if TYPE_CHECKING:
    from pipelines.jobs.outputs.base import Options, Output


def _folder(place: str, options: Options) -> Output:
    from pipelines.jobs.outputs.folder import FolderOutput

    return FolderOutput.named(place, options)


def _bigquery(place: str, options: Options) -> Output:
    from pipelines.jobs.outputs.bigquery import TableOutput

    return TableOutput.named(place, options)


KINDS: dict[str, Callable[[str, Options], Output]] = {"bq": _bigquery}  # by what stands before the colon of a name


def output(place: str, method: WriteMethod = "storage", replace_model: bool = False) -> Output:
    """What `--output` names. Raises UserError for a name that is none, and for flags that its kind does not have."""
    from pipelines.jobs.outputs.base import Options

    scheme = _scheme(place)
    if scheme not in KINDS and "://" in place:
        others = ", ".join(f"{each}:" for each in KINDS)
        raise UserError(f"--output {place}: is no folder of this machine, and other outputs begin with {others}")
    return KINDS.get(scheme, _folder)(place, Options(method, replace_model))


def located(place: str) -> str:
    """The name of an output for processes in any folder. An empty one stays empty, and is refused."""
    return place if not place or _scheme(place) in KINDS or "://" in place else os.path.abspath(place)


def _scheme(place: str) -> str:
    head, colon, _ = place.partition(":")
    return head if colon else ""
