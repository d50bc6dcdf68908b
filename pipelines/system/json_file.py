"""Small JSON files that others may have written: whatever is there, reading ends with what they say or an error."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 1 << 24  # bytes
DEEPEST = 50  # lists and mappings in one another


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no file, is larger than LARGEST, is no JSON, or is nested deeper than DEEPEST.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # who opens a pipe otherwise waits until somebody writes
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file")
        read = file.read(LARGEST + 1)
    if len(read) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        content = json.loads(read)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [content]
    for _ in range(DEEPEST):
        level = [v for c in level if isinstance(c, dict | list) for v in (c.values() if isinstance(c, dict) else c)]
    if level:
        raise ValueError("it is nested too deep")
    json.dumps(content, ensure_ascii=False).encode()  # half of a character, which no file or screen takes, is an error
    return content
