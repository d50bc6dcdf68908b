"""What people see: text with its control characters shown, not obeyed; numbers with a unit, and tables.

File names, headers, manifests and names of entities come from others, and a terminal obeys what stands in them: it
moves the cursor, hides lines, or types for the user. `shown_streams` stands between every `print` of a command and its
streams. Moves of the cursor that are our own go to the stream behind it: those of `tell`, for what is told meanwhile.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

# C0 but tab and line feed, DEL, C1, what turns the direction of text, other line ends, bytes that are no character.
CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
CONTROL = re.compile(f"[{CONTROLS}]")
IN_A_LINE = re.compile(f"[\t\n{CONTROLS}]")


def shown(text: str) -> str:
    r"""Text whose control characters can be read: `\x1b` for an escape. Line feeds and tabs stay."""
    return CONTROL.sub(_escape, text)


def one_line(text: str) -> str:
    """The same without line feeds and tabs: what others wrote cannot pass for a line of ours."""
    return IN_A_LINE.sub(_escape, text)


def in_json(text: str) -> str:
    r"""JSON that holds the same, with `\u001b` for an escape."""
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def behind(stream: TextIO | Shown) -> TextIO:
    """The stream itself, for our own moves of the cursor and for data that must stay exact."""
    return stream.stream if isinstance(stream, Shown) else stream


def for_data(stream: TextIO | Shown) -> TextIO:
    """The stream for data that programs read: exact, but on a terminal with control characters shown."""
    return cast(TextIO, stream) if stream.isatty() else behind(stream)


def tell(stream: TextIO, text: str, stays: bool = True) -> None:
    """Writes a line on how something goes. On a terminal it takes the place of the last one that did not stay."""
    terminal = stream.isatty()
    over = "\r\x1b[2K" if terminal else ""
    if terminal and not stays:
        text = text[: shutil.get_terminal_size().columns - 1]
    print(f"{over}{shown(text)}", end="" if terminal and not stays else "\n", file=behind(stream), flush=True)


class Shown(io.TextIOBase):
    """A stream that shows control characters, and characters that its encoding does not have."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        text = shown(text)
        if encoding := self.encoding:
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or ""

    def close(self) -> None:
        """The stream behind it is not ours to close."""


@contextmanager
def shown_streams() -> Iterator[None]:
    """Standard output and standard error show control characters until the end of the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Shown(behind(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def quantity(number: float, unit: str = "") -> str:
    """Two or three digits with a decimal prefix: 1.2 GB, 61 MB, 850 k; 850 and less as it is."""
    for prefix in ("", "k", "M", "G", "T"):
        if number < 999.5 or prefix == "T":
            break
        number /= 1000
    digits = f"{number:.1f}" if number < 9.95 and (prefix or number != int(number)) else f"{number:.0f}"
    return f"{digits} {prefix}{unit}".rstrip()


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s // 60 % 60} min"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, with its columns one below the other."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _escape(found: re.Match[str]) -> str:
    names: dict[str, Any] = {"\t": "\\t", "\n": "\\n"}
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        code -= 0xDC00
    return names.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
