"""The interface in Python: the page that describes it, executed, and what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import pipelines
from pipelines.cli import main
from pipelines.errors import Exit
from pipelines.storage.folder.query import table
from tests.support import small_shop

pytestmark = pytest.mark.long

Page = tuple[Path, dict[str, Any]]
PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The folder in which all examples of the page were run, one after the other; and their names."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "task.yaml").write_text(small_shop.TASK)
    pq.write_table(small_shop.events(), folder / "events.parquet")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    return folder, names


def test_the_examples_of_the_page_give_what_the_commands_give(page: Page) -> None:
    folder, names = page
    trained, scores = names["trained"], names["scores"]
    assert trained.folder == Path("models/small_shop") / trained.version
    assert (folder / trained.folder / "report.html").exists()
    assert 0 < trained.metrics["auc"] <= 1
    flags = ["--task", str(folder / "task.yaml"), "--input", str(folder / "events.parquet"), "--as-of", "2024-05-06"]
    model = ["--model", str(folder / "models" / "small_shop")]
    assert main(["score", *flags, *model, "--output", str(folder / "by command")]) == Exit.OK
    sql = "SELECT * EXCLUDE (run_id, scored_at) FROM scores ORDER BY as_of, entity_id"
    assert scores.drop_columns(["run_id", "scored_at"]).equals(table(folder / "by command", sql))
    assert scores.num_rows == names["result"].ledger.scored > 100
    assert len(names["likely"]) == 10
    assert names["read"][0]["read"] == pq.read_metadata(folder / "events.parquet").num_rows
    assert names["result"].note == "the same bytes as before: nothing was changed"
    lines = [line for part in folder.glob("leaving*.csv") for line in part.read_text().splitlines()]
    churn = scores.filter(pc.field("churn") > 0.5).to_pylist()
    assert sorted(lines) == sorted(f"{row['entity_id']},{row['churn']:.3f}" for row in churn)


def test_nothing_is_printed_and_what_is_refused_is_warned_of(
    page: Page, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, names = page
    events = pq.read_table(folder / "events.parquet")
    users = [None if i < 3 else user for i, user in enumerate(events["user"].to_pylist())]
    pq.write_table(events.set_column(0, "user", [users]), tmp_path / "events.parquet")
    given: Any = {"as_of": "2024-05-06", "model": folder / "models" / "small_shop"}
    with pytest.warns(UserWarning, match="3 events were refused, and 0 sequences have no score: name an output"):
        scores = pipelines.score(names["task"], tmp_path / "events.parquet", **given)
    assert scores.num_rows > 100
    with pytest.raises(
        pipelines.UserError, match=r"no score was published(.|\n)*  rejected +3 (.|\n)*REFUSED"
    ) as refused:
        pipelines.score(names["task"], tmp_path / "events.parquet", max_bad_share=0, **given)
    assert refused.value.exit == Exit.REFUSED
    assert "next" not in str(refused.value)  # nothing is kept to look at
    assert capfd.readouterr() == ("", "")


def test_what_is_wrong_is_told(page: Page, tmp_path: Path) -> None:
    folder, names = page
    task, events, model = names["task"], folder / "events.parquet", folder / "models" / "small_shop"
    for wrong, ask in (
        ("as_of yesterday: a time is", lambda: pipelines.score(task, events, as_of="yesterday", model=model)),
        ("inputs: name files", lambda: pipelines.score(task, [], as_of="2024-05-06", model=model)),
        ("no such file", lambda: pipelines.ReadEvents(task, tmp_path / "none.csv", as_of="2024-05-06")),
        (
            "train_every 5h: must be a multiple",
            lambda: pipelines.train(task, events, test_as_of="2024-04-22", train_every="5h"),
        ),
        ("there is no folder", lambda: pipelines.query(tmp_path / "none", "SELECT 1")),
        ("reads folders of this machine", lambda: pipelines.query("bq://p.d.t", "SELECT 1")),
        ("The views are", lambda: pipelines.query(folder / "scores", "SELECT nothing FROM scores")),
        ("none", lambda: pipelines.Infer(task, tmp_path / "none")),
    ):
        with pytest.raises(pipelines.UserError, match=wrong):
            ask()
    write = pipelines.WriteScores(task, tmp_path / "out", inputs=events, as_of="2024-05-06", model=model)
    with pytest.raises(RuntimeError, match="`with` statement"):
        write.result()


def test_names_are_loaded_when_they_are_used() -> None:
    code = "import pipelines, sys; assert not {'numpy', 'apache_beam'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(pipelines, name) for name in pipelines.__all__)
    with pytest.raises(AttributeError, match="has no attribute nothing"):
        _ = pipelines.nothing
    assert issubclass(pipelines.ReadEvents, beam.PTransform)
