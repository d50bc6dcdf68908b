"""What a run reads: files and tables, pieces and the number of shards."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from google.cloud.bigquery import LoadJobConfig, SourceFormat

from pipelines.errors import UserError
from pipelines.events.decode import Span
from pipelines.events.formats.base import ROW
from pipelines.google.bigquery import client
from pipelines.jobs import source
from pipelines.jobs.config import ScoreConfig
from pipelines.jobs.source import rows
from pipelines.ledger.counts import Ledger, total
from pipelines.runners.execution import Execution
from pipelines.system.progress import Progress
from pipelines.task.fields import parse_time
from pipelines.task.file import load_task
from pipelines.task.spec import Task
from pipelines.transforms.read_files import File, ReadPieces, find, plan, read_piece
from tests.support import small_shop
from tests.support.checked import checked
from tests.support.command_line import foretide
from tests.support.live_world import ENGINE
from tests.support.toy_models import untrained
from tests.support.warehouse import PROJECT, Warehouse

TASK = Task.model_validate_json(json.dumps(yaml.safe_load(small_shop.TASK)))
SPAN = Span((parse_time("2024-04-01"),))

TABLE = small_shop.events()


class Shop(NamedTuple):
    folder: Path
    files: Path
    table: str

    def foretide(self, command: str, *arguments: str) -> str:
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            return foretide(command, "--task", "small_shop.yaml", *arguments)
        finally:
            os.chdir(before)


def sourced(*patterns: str) -> source.InputSource:
    return checked(TASK, *patterns, span=SPAN).source


def shards(monkeypatch: pytest.MonkeyPatch, sizes: list[int], asked: int | None = None) -> int:
    files = [File(f"{i}.csv", size, "csv") for i, size in enumerate(sizes)]
    monkeypatch.setattr(source, "plan", lambda found: ())
    return source.planned(files, (), Execution(1, asked, (), False)).shards


@pytest.mark.parametrize(
    ("sizes", "want"),
    [
        ([0], 8),
        ([100 << 20], 8),
        ([8 * (16 << 20), 16 << 20], 9),
        ([1 << 30] * 10, 640),
        ([1 << 40], 4096),
    ],
)
def test_more_input_means_more_shards_within_bounds(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], want: int
) -> None:
    assert shards(monkeypatch, sizes) == want


@pytest.mark.parametrize("asked", [1, 3, 10_000])
def test_shards_that_were_asked_for_win(monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    assert shards(monkeypatch, [1 << 40], asked) == asked


def test_size_and_files_are_those_of_the_pieces(tmp_path: Path) -> None:
    _, events = small_shop.write(tmp_path)
    found = sourced(str(events), str(events / "*.parquet"))
    files = sorted(events.iterdir())
    assert found.files == len(files) == len({p.path for p in found.pieces})
    assert found.size == sum(p.size for p in found.pieces) > 0


def test_files_that_do_not_fit_are_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"user": "u", "when": 1}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: the task needs the field"):
        sourced(str(tmp_path))


@pytest.fixture(scope="module")
def shop(warehouse: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Events in files and in a table, a task, and a model that nobody trained."""
    folder = tmp_path_factory.mktemp("shop")
    task, files = small_shop.write(folder)
    untrained(load_task(str(task)), folder / "model")
    name = f"{PROJECT}.{warehouse.dataset()}.events"
    for file in sorted(files.iterdir()):
        with open(file, "rb") as raw:
            config = LoadJobConfig(source_format=SourceFormat.PARQUET)
            client(PROJECT).load_table_from_file(raw, name, job_config=config).result()
    return Shop(folder, files, f"bq://{name}")


def test_files_and_tables_are_read_side_by_side(shop: Shop) -> None:
    query = f"bq://{PROJECT}?SELECT * FROM `{shop.table.removeprefix('bq://')}` LIMIT 5"
    found = sourced(shop.table, str(shop.files), query, shop.table)
    assert found.files == 5
    assert {p.path for p in found.pieces} == {*map(str, shop.files.iterdir()), shop.table, query}
    assert [table.path for table in found.tables] == [shop.table, query]
    assert found.size == sum(p.size for p in found.pieces)
    alone = [part for piece in found.pieces for part in read_piece(TASK, SPAN, piece) if isinstance(part, Ledger)]
    with beam.Pipeline(runner=FnApiRunner()) as p:
        read = p | ReadPieces(TASK, SPAN, found.pieces, found.shards, Progress())
        assert_that(read.ledger | beam.CombineGlobally(total), equal_to([total(alone)]))
    assert total(alone).files == 5
    with pytest.raises(UserError, match="no such file"):
        sourced(shop.table, str(shop.files / "none"))


def test_scores_of_a_table_are_those_of_its_files_to_the_byte(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though of the table only the history of the as-ofs is read, by several processes."""
    monkeypatch.setattr(ScoreConfig, "run_id", lambda *_: "run")  # else it says where the events came from
    arguments = ["--as-of", "2024-04-01..2024-04-15", "--model", "model", *ENGINE, "--output"]
    files = shop.foretide("score", *arguments, "of-files", "--input", str(shop.files))
    table = shop.foretide("score", *arguments, "of-table", "--input", shop.table, "--workers", "2")
    scores = [
        {f.name: f.read_bytes() for f in (shop.folder / out).glob("current/*/scores/*")}
        for out in ("of-files", "of-table")
    ]
    assert scores[0]
    assert scores[0] == scores[1]
    counts = [re.findall(r"accepted .*|duplicate .*|rejected .*", told) for told in (files, table)]
    assert counts[0] == counts[1]
    read = [int(re.findall(r"read +([\d,]+) events", told)[0].replace(",", "")) for told in (files, table)]
    assert read[1] < read[0] / 2


def test_examples_of_a_table_are_those_of_its_files(shop: Shop) -> None:
    arguments = ["--as-of", "2024-04-01..2024-04-08", "--output", "examples", "--input"]
    told = [shop.foretide("examples", *arguments, input) for input in (str(shop.files), shop.table)]
    counts = [re.findall(r"accepted .*|duplicate .*|[\d,]+ labelled sequences", text) for text in told]
    assert counts[0] == counts[1]
    assert len(counts[0]) == 3
    stores = (shop.folder / "examples" / "small_shop").iterdir()
    rows = [
        sorted(str(row) for f in store.glob("*/*.arrow") for row in pa.ipc.open_file(f).read_all().to_pylist())
        for store in stores
    ]
    assert len(rows) == 2
    assert rows[0] == rows[1]


def test_a_dry_run_says_what_would_be_read(shop: Shop) -> None:
    told = shop.foretide(
        "score", "--input", shop.table, "--as-of", "2024-04-01", "--model", "model", "--output", "dry", "--dry-run"
    )
    assert re.search(rf"input +\d+ kB .*{shop.table}", told)


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
