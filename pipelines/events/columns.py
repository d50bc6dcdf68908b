"""One column as text, numbers or codes, whatever its Arrow type. Pure functions, all vectorised.

A column that does not convert raises an error that says which rows are at fault: `decode` leaves them out and converts
the others. Arrow's casts do not say which value is wrong, so the patterns here describe what they take. Times are in
`times`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EXACT = 1 << 53  # whole numbers from here on are not exact as 64-bit floats
LARGEST = np.uint64((1 << 63) - 1)  # of the whole numbers of 64 bits
MISSING = ("", "NA", "N/A", "n/a", "NULL", "null", "None", "-")  # text that stands for no number
NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:nan(?:\([a-z0-9_]*\))?|inf(?:inity)?))$"
WHOLE = r"^-?0*[0-9]{1,18}$|^0[xX][0-9a-fA-F]{1,16}$"
WHOLE_19 = r"^-?0*[1-9][0-9]{18}$"  # only some of them fit in 64 bits

Mask = npt.NDArray[np.bool_]


class DecodeError(ValueError):
    """Some values of a column do not convert; the message names the field.

    Attributes:
      wrong: (n) which values.
    """

    def __init__(self, message: str, wrong: Mask) -> None:
        super().__init__(message)
        self.wrong = wrong


class WrongType(DecodeError):
    """No value of the column's type converts, so all of them are wrong."""

    def __init__(self, message: str, column: pa.Array) -> None:
        super().__init__(message, np.ones(len(column), bool))


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
        large = whole & (np.abs(cells) >= EXACT)
    if large.any():
        raise DecodeError(f"{name} is a number too large to be an exact one", large)
    null = np.isnan(cells)
    strings = pa.array(np.where(whole, cells, 0).astype(np.int64)).cast(pa.string())
    if not (whole | null).all():
        strings = pc.if_else(pa.array(whole), strings, pa.array(cells).cast(pa.string()))
    return pc.if_else(pa.array(null), None, strings)


def numbers(column: pa.Array, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Numbers, f4 (n), of a numeric, boolean or text column, always through 64 bits; NaN for null and text that stands
    for none.

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
    """u2 (n): the index in `values` of each text; `len(values)` for null and for any other text."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    known = pc.index_in(encoded.dictionary, pa.array(values, pa.string()))
    lut = np.append(filled(known, len(values)), len(values)).astype(np.uint16)
    return np.asarray(lut[filled(encoded.indices, len(lut) - 1)])


def _words(column: pa.Array, name: str) -> pa.Array:
    """A column of text as numbers if Arrow can read them all; else as text, trimmed, with null for words that stand for
    no number.

    Raises:
      DecodeError: bytes that are not UTF-8.
    """
    column = convert(column, pa.string(), name, "text")
    try:
        return column.cast(pa.float64())
    except pa.ArrowException:
        good = utf8(column)
        if not good.all():
            raise DecodeError(f"{name} is not text", ~good) from None
        column = pc.utf8_trim_whitespace(column)
        return pc.if_else(pc.is_in(column, pa.array(MISSING)), None, column)


def plain(column: pa.Array) -> pa.Array:
    """The column without dictionary encoding."""
    return column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column


def filled(column: pa.Array, value: int) -> npt.NDArray[Any]:
    """(n) the column's values as an array, with `value` for null."""
    return np.asarray((column.fill_null(value) if column.null_count else column).to_numpy(zero_copy_only=False))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column may hold text: strings, or bytes that may be UTF-8."""
    return any(
        is_a(kind)
        for is_a in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    )


def convert(column: pa.Array, kind: pa.DataType, name: str, what: str) -> pa.Array:
    """The column cast to text, 64-bit floats or whole numbers; whole numbers may become floats that are not exact.

    Args:
      name: the field, for the error, which says that it is not `what`, such as `a number`.

    Raises:
      DecodeError: some values do not convert.
      WrongType: none of that type would.
    """
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError as error:
        raise WrongType(f"{name} is not {what}", column) from error
    except pa.ArrowException as error:
        if pa.types.is_integer(column.type) and kind == pa.float64():
            return column.cast(kind, safe=False)  # whole numbers above 2**53 lose their last digits
        good = utf8 if kind == pa.string() else whole if kind == pa.int64() else number
        raise DecodeError(f"{name} is not {what}", known(column) & ~good(column)) from error


def utf8(column: pa.Array) -> Mask:
    """(n) which values of a column of text or bytes are UTF-8, or null."""
    try:
        if column.type == pa.string():
            column.validate(full=True)
            return np.ones(len(column), bool)
    except pa.ArrowInvalid:
        pass
    return np.array([value is None or is_utf8(value) for value in column.cast(pa.binary()).to_pylist()], bool)


def number(column: pa.Array) -> Mask:
    """(n) which values of a column of text are numbers, as Arrow reads them."""
    return matches(column, NUMBER)


def whole(column: pa.Array) -> Mask:
    """(n) which values are whole numbers of 64 bits, of a column of text or of unsigned numbers."""
    if pa.types.is_integer(column.type):
        return filled(pc.less_equal(column, LARGEST), False)
    out, long = matches(column, WHOLE), matches(column, WHOLE_19)
    if long.any():
        below = matches(column, "^-").astype(np.uint64)  # -2**63 is one, 2**63 is none
        digits = pc.replace_substring_regex(pc.if_else(pa.array(long), column.cast(pa.binary()), None), "^-", "")
        out[long] = (filled(digits.cast(pa.uint64()), 0) <= LARGEST + below)[long]
    return out


def matches(column: pa.Array, pattern: str) -> Mask:
    """(n) which values of a column of text match a pattern of ASCII; null does not."""
    return filled(pc.match_substring_regex(column.cast(pa.binary()), pattern), False)


def known(column: pa.Array) -> Mask:
    """(n) which values are not null."""
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))


def is_utf8(raw: bytes) -> bool:
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
