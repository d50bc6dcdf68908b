"""Values that travel between stages and lie in the state of a job, in plain terms: a name, a version, and fields.

There is no module path in them, as there is in pickled values: code can move, and a job that goes on from its state
reads it all the same. A field that comes later has a default. What else changes takes a higher version, and values of
another version are refused by name. How plain terms become bytes is in `transforms.coders`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

import numpy as np

C = TypeVar("C", bound=type)

ATOMS = frozenset((bool, int, float, bytes, str, type(None)))
VALUE, ARRAY, HALF = b"\0value", b"\0array", b"\0half"  # first in a tuple: a named value, an array, broken text

_classes: dict[str, tuple[type, int]] = {}  # by name, with the version
_names: dict[type, str] = {}


class StateError(Exception):
    """State that cannot be gone on with: another job's, or of another version."""


def versioned(name: str, version: int = 1) -> Callable[[C], C]:
    """Names a dataclass for its values in bytes: `@versioned("ledger")`.

    Args:
      name: kept for ever.
      version: of the fields; higher when older values can no longer be read.
    """

    def register(cls: C) -> C:
        if name in _classes:
            raise ValueError(f"two values are named {name}")
        _classes[name], _names[cls] = (cls, version), name
        return cls

    return register


def name_of(cls: object) -> str | None:
    """The name of a dataclass that has one."""
    return _names.get(cls) if isinstance(cls, type) else None


def plain(value: Any, broken: bool = False) -> Any:
    """A value in terms of None, bool, int, float, bytes, text, and tuples, lists and dicts of them.

    Args:
      broken: some of the text in it cannot be UTF-8.

    Raises:
      TypeError: it holds what has no version.
    """
    kind = type(value)
    if kind in ATOMS:
        return (HALF, value.encode("utf-8", "surrogatepass")) if broken and kind is str else value
    if kind in (tuple, list):
        return value if not broken and ATOMS.issuperset(map(type, value)) else kind(plain(v, broken) for v in value)
    if kind is dict:
        return {plain(k, broken): plain(v, broken) for k, v in value.items()}
    if kind is np.ndarray:
        return ARRAY, value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    if isinstance(value, np.generic):
        return value.item()
    if kind not in _names:
        raise TypeError(f"{kind.__qualname__} has no version: values that are kept or handed on need one")
    name = _names[kind]
    content = {field: plain(getattr(value, field), broken) for field in _fields(name)}
    return VALUE, name, _classes[name][1], content


def made(terms: Any) -> Any:
    """Makes a value of its plain terms: the inverse of `plain`.

    Raises:
      StateError: a value of another version, or of a name that nobody has.
    """
    kind = type(terms)
    if kind is dict:
        return {made(k): made(v) for k, v in terms.items()}
    if kind not in (tuple, list) or not terms:
        return terms
    if kind is tuple and terms[0] == HALF:
        return terms[1].decode("utf-8", "surrogatepass")
    if kind is tuple and terms[0] == ARRAY:
        _, dtype, shape, raw = terms
        return np.frombuffer(raw, dtype).reshape(shape)
    if kind is tuple and terms[0] == VALUE:
        return _value(*terms[1:])
    return terms if ATOMS.issuperset(map(type, terms)) else kind(map(made, terms))


def _value(name: str, version: int, content: dict[str, Any]) -> Any:
    cls, known = _classes.get(name, (None, 0))
    if cls is None or version != known or not content.keys() <= set(_fields(name)):
        reads = f"version {known}" if cls is not None else "none of that name"
        raise StateError(
            f"the state holds a value {name} of version {version}, and this version of foretide reads {reads}: go on "
            "with the version that kept it, or start anew, with --bootstrap of the archive"
        )
    return cls(**{field: made(value) for field, value in content.items()})


@cache
def _fields(name: str) -> tuple[str, ...]:
    return tuple(field.name for field in fields(_classes[name][0]) if field.init)
