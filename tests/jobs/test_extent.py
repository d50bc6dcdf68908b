"""About how many rows an input has."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipelines.events.formats.base import ROW
from pipelines.jobs.extent import rows
from pipelines.transforms.read_files import File, find, plan
from tests.support import small_shop

TABLE = small_shop.events()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.slice(0, 100), tmp_path / "b.parquet")
    return tmp_path


def test_rows_of_files_and_of_their_pieces(folder: Path) -> None:
    files = find([str(folder)])
    assert rows(plan(files)) == rows(files)
    assert len(TABLE) <= rows(files) < 1.5 * len(TABLE)


def test_lines_count_by_their_length(tmp_path: Path) -> None:
    pacsv.write_csv(pa.concat_tables([TABLE] * 10), tmp_path / "a.csv")
    packed = gzip.compress((tmp_path / "a.csv").read_bytes())
    (tmp_path / "b.csv.gz").write_bytes(packed)
    for name, least, most in (("a.csv", 9.8, 10.2), ("b.csv.gz", 4, 25)):
        found = rows(find([str(tmp_path / name)]))
        assert least * len(TABLE) < found < most * len(TABLE), name


def test_what_cannot_be_read_counts_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"x" * 6400)
    assert rows(find([str(tmp_path / "bad.parquet")])) == 6400 // ROW
    assert rows([File("bq://p.d.t", 6400, "bigquery"), File(str(tmp_path / "gone.csv"), 640, "csv")]) == 110
    assert rows([]) == 0
