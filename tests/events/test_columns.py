from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from pipelines.events.columns import DecodeError, codes, numbers, text
from tests.support.event_files import START

T0 = START * 1_000_000


def test_text_of_numbers() -> None:
    assert text(pa.array([5.0, 5.25, -0.0, float("nan"), None]), "x").to_pylist() == ["5", "5.25", "0", None, None]
    assert text(pa.array([True, None]), "x").to_pylist() == ["true", None]
    assert text(pa.array([T0]).cast(pa.timestamp("us", "Asia/Tokyo")), "x").to_pylist() == [
        "2024-01-01 00:00:00.000000"
    ]


def test_numbers() -> None:
    np.testing.assert_array_equal(numbers(pa.array([True, False, None]), "x"), np.array([1, 0, np.nan], np.float32))
    np.testing.assert_array_equal(
        numbers(pa.array(["1.5", "", " 2 ", "NA"]), "x"), np.array([1.5, np.nan, 2, np.nan], np.float32)
    )
    assert numbers(pa.array([2**63 - 1, 2**53 + 1]), "x").tolist() == [2.0**63, 2.0**53]
    assert numbers(pa.array([2**64 - 1], pa.uint64()), "x").tolist() == [2.0**64]
    assert numbers(pa.array([Decimal("1.25")]), "x").tolist() == [1.25]
    assert numbers(pa.array([1.5], pa.float16()), "x").tolist() == [1.5]
    with pytest.raises(DecodeError, match="x is not a number"):
        numbers(pa.array([T0]).cast(pa.timestamp("us")), "x")


def test_codes() -> None:
    column = pa.array(["b", "a", None, "c", "b"])
    assert (
        codes(column, ("a", "b")).tolist() == codes(column.dictionary_encode(), ("a", "b")).tolist() == [1, 0, 2, 2, 1]
    )
