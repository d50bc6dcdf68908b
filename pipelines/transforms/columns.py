"""One column as text, numbers or codes, whatever its Arrow type. Pure functions, all vectorised.

A column that does not convert raises; that only some rows are at fault is found in `decode`, times are in `times`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EXACT = 1 << 53  # whole numbers from here on are not exact as 64-bit floats
MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "None", "-")  # text that stands for no number


class DecodeError(ValueError):
    """A column that does not convert; the message names the field."""


class WrongType(DecodeError):
    """A column of a type that has no value that would convert."""


def text(column: pa.Array, name: str) -> pa.Array:
    """Text form of a column (n): strings as they are, 5 and 5.0 as '5', true as 'true'; null and NaN stay null.

    Raises:
      DecodeError: bytes that are not UTF-8, whole numbers too large for the float they are in, or a nested type.
    """
    kind = column.type
    if kind == pa.string():
        return column
    if pa.types.is_dictionary(kind):
        return text(column.dictionary, name).take(column.indices)
    if pa.types.is_floating(kind):
        return _float_text(column.cast(pa.float64()), name)
    if pa.types.is_decimal(kind):
        return _float_text(convert(column, pa.float64(), name, "a number"), name)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp(kind.unit))  # without the zone: its text would need a table of zones
    return convert(column, pa.string(), name, "text")


def _float_text(column: pa.Array, name: str) -> pa.Array:
    cells = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        whole = np.floor(cells) == cells
        if (np.abs(cells[whole]) >= EXACT).any():
            raise DecodeError(f"{name} is a number too large to be an exact one")
    null = np.isnan(cells)
    strings = pa.array(np.where(whole, cells, 0).astype(np.int64)).cast(pa.string())
    if not (whole | null).all():
        strings = pc.if_else(pa.array(whole), strings, pa.array(cells).cast(pa.string()))
    return pc.if_else(pa.array(null), None, strings)


def numbers(column: pa.Array, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """f4 (n) of a numeric, boolean or text column; null, NaN and empty text are NaN. Always through 64 bits.

    Raises:
      DecodeError: text that is not a number, or another type.
    """
    column = plain(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if is_text(column.type):
        column = _words(column, name)
    column = convert(column, pa.float64(), name, "a number")
    with np.errstate(over="ignore"):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64).astype(np.float32)


def codes(column: pa.Array, values: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """u2 (n) of text or dictionary-encoded text: index into `values`; their number for null and for any other value."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    known = pc.index_in(encoded.dictionary, pa.array(values, pa.string()))
    lut = np.append(filled(known, len(values)), len(values)).astype(np.uint16)
    return np.asarray(lut[filled(encoded.indices, len(lut) - 1)])


def _words(column: pa.Array, name: str) -> pa.Array:
    """Text of numbers, with null for the words that stand for no number."""
    column = convert(column, pa.string(), name, "text")
    try:
        return column.cast(pa.float64())
    except pa.ArrowException:
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.is_in(column, pa.array(MISSING)), None, column)


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding."""
    return column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column


def filled(column: pa.Array, value: int) -> npt.NDArray[Any]:
    """(n) with `value` for null."""
    return np.asarray((column.fill_null(value) if column.null_count else column).to_numpy(zero_copy_only=False))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column may hold text: strings, or bytes that may be UTF-8."""
    return any(
        is_a(kind)
        for is_a in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    )


def convert(column: pa.Array, kind: pa.DataType, name: str, what: str) -> pa.Array:
    """A cast; whole numbers may become floats that are not exact.

    Raises:
      DecodeError: `name` is not `what`; WrongType if no value of that type could be.
    """
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        if pa.types.is_integer(column.type) and kind == pa.float64():
            return column.cast(kind, safe=False)  # whole numbers above 2**53 lose their last digits
        wrong = WrongType if isinstance(error, pa.ArrowNotImplementedError) else DecodeError
        raise wrong(f"{name} is not {what}") from error


def is_utf8(raw: bytes) -> bool:
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
