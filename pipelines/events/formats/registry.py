"""Which formats of event files and of messages there are. To add one: its module here, and its line in `FORMATS` or
`PAYLOADS`.

A module is imported when its format is first asked for, so that a command can name all of them at once.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.events.formats.base import Format, Reader
    from pipelines.events.formats.payloads import PayloadFormat

FORMATS = {  # name: module
    "parquet": "parquet",
    "jsonl": "jsonl",
    "csv": "csv",
    "avro": "avro",
    "messages": "archived",
}
READERS = {**FORMATS, "bigquery": "bigquery"}
PAYLOADS = {"json": "json_payload", "avro": "avro_payload"}  # of messages


@cache
def reader_of(name: str) -> Reader:
    """What reads pieces of a format, or of BigQuery."""
    found: Reader = import_module(f"pipelines.events.formats.{READERS[name]}").READER
    return found


@cache
def format_of(name: str) -> Format:
    """A format of files, by its name."""
    found: Format = import_module(f"pipelines.events.formats.{FORMATS[name]}").READER
    return found


@cache
def payload_format(name: str) -> PayloadFormat:
    """A format of messages, by its name."""
    found: PayloadFormat = import_module(f"pipelines.events.formats.{PAYLOADS[name]}").PAYLOAD
    return found


@cache
def endings() -> Mapping[str, str]:
    """Endings of file names -> the name of the format; also those of compressed files."""
    from pipelines.events.formats.compressions import COMPRESSIONS

    zipped = [compression.ending for compression in COMPRESSIONS]
    return {
        ending + more: name
        for name in FORMATS
        for ending in format_of(name).endings
        for more in ("", *(zipped if format_of(name).is_compressible else ()))
    }


def named(path: str) -> str | None:
    """The name of the format of a file, by its longest known ending in any case; None if it has none."""
    file = posixpath.basename(path.replace("\\", "/")).lower()
    found = [ending for ending in endings() if file.endswith(ending)]
    return endings()[max(found, key=len)] if found else None
