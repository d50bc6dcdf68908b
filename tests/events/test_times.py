from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from pipelines.events.columns import DecodeError
from pipelines.events.times import micros
from pipelines.task.fields import parse_time
from pipelines.task.spec import TimeField
from tests.support.event_files import DAY, START

T0 = START * 1_000_000


def times(column: pa.Array, unit: str | None = "iso", format: str | None = None) -> list[int | None]:
    spec = TimeField.model_validate({"field": "ts", "unit": unit, "format": format})
    values, ok = micros(column, spec)
    return [int(v) if good else None for v, good in zip(values, ok, strict=True)]


def test_times_in_every_unit() -> None:
    for unit, scale in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        for kind in (pa.int64(), pa.uint64(), pa.float64(), pa.string(), pa.decimal128(30, 2)):
            assert times(pa.array([START * scale, None]).cast(kind, safe=False), unit) == [T0, None], (unit, kind)
    assert times(pa.array([-1, 0, 100], pa.int16()), "s") == [-1_000_000, 0, 100_000_000]
    assert times(pa.array([-1, 999, 1_000]), "ns") == [-1, 0, 1]
    assert times(pa.array([START + 0.25, -0.5, None]), "s") == [T0 + 250_000, -500_000, None]
    assert times(pa.array([str(START), f"{START}.25"])[1:], "s") == [T0 + 250_000]
    year_9999 = parse_time("9999-12-31T23:59:59")
    assert times(pa.array([year_9999 // 10**6]), "s") == times(pa.array([year_9999 / 10**6]), "s") == [year_9999]


def test_iso_times() -> None:
    noon = parse_time("2024-01-02T12:00")
    same = [
        "2024-01-02T12:00:00",
        "2024-01-02 12:00:00",
        "2024-01-02T12:00:00Z",
        "2024-01-02T14:00:00+02:00",
        "2024-01-02T12:00:00.000000000",
    ]
    for value in same:
        assert times(pa.array([value, None])) == [noon, None], value
    assert times(pa.array(["2024-01-02", "2024-01-02T00:00:00.123456"])) == [noon - DAY // 2, noon - DAY // 2 + 123_456]
    assert times(pa.array(["1969-12-31T23:59:59.9999999"])) == [-1]
    assert times(pa.array([noon * 1_000 + 1]).cast(pa.timestamp("ns", "Europe/Berlin"))) == [noon]
    assert times(pa.array([noon]).cast(pa.timestamp("us")).cast(pa.timestamp("s"))) == [noon]
    assert times(pa.array([date(2024, 1, 2)])) == times(pa.array([date(2024, 1, 2)], pa.date64())) == [noon - DAY // 2]
    assert times(pa.array([datetime(9999, 12, 31, tzinfo=UTC)])) == [parse_time("9999-12-31")]
    year_2300 = parse_time("2300-01-01")
    fine = ["2300-01-01T00:00:00.0000009", "9999-12-31T23:59:59.9999999Z", "2024-01-02T12:00"]  # no 64 bits of ns
    assert times(pa.array(fine)) == [year_2300, parse_time("9999-12-31T23:59:59.999999"), noon]
    assert times(pa.array(fine[:1])) == [year_2300]
    for wrong in ("yesterday", "2024-13-01", "2024-01-02T25:00:00", "02/01/2024"):
        with pytest.raises(DecodeError, match="not an ISO 8601 time"):
            times(pa.array([wrong]))


def test_times_in_a_format() -> None:
    assert times(pa.array(["02/01/2024", None, ""]), None, "%d/%m/%Y") == [parse_time("2024-01-02"), None, None]
    assert times(pa.array(["2024-01-02 12:00 +0200"]), None, "%Y-%m-%d %H:%M %z") == [parse_time("2024-01-02T10:00")]
    assert times(pa.array([20240102]), None, "%Y%m%d") == [parse_time("2024-01-02")]
    with pytest.raises(DecodeError, match="does not match the format"):
        times(pa.array(["2024-01-02"]), None, "%d/%m/%Y")
