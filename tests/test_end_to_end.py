"""Whole commands through the real command line: train, score, query; reruns, kills, and mistakes."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipelines.errors import Exit
from tests.support import small_shop
from tests.support.command_line import digest, foretide
from tests.support.live_world import ENGINE

pytestmark = pytest.mark.long

AS_OF = "2024-05-13"


@dataclass(frozen=True)
class Shop:
    """A trained model and scores that nothing disturbed."""

    folder: Path
    task: Path
    events: Path
    model: Path
    out: Path

    def score(self, out: Path, *more: str, events: Sequence[Path] = (), expect: int = Exit.OK) -> str:
        paths = [str(p) for p in events or [self.events]]
        arguments = ["--task", str(self.task), "--input", *paths, "--as-of", AS_OF]
        return foretide("score", *arguments, "--model", str(self.model), "--output", str(out), *more, expect=expect)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    task, events = small_shop.write(folder)
    shop = Shop(folder, task, events, folder / "models" / "small_shop", folder / "out")
    arguments = ["--task", str(task), "--input", str(events), "--test-as-of", "2024-05-06", "--train-every", "7d"]
    stores = ["--models", str(folder / "models"), "--examples", str(folder / "examples")]
    told = foretide("train", *arguments, "--train-as-ofs", "6", *stores)
    assert "AUC" in told
    shop.score(shop.out)
    return shop


def rows(out: Path, columns: str = "* EXCLUDE (run_id, scored_at)") -> list[dict[str, Any]]:
    """Scores as SQL users see them."""
    text = foretide(
        "query", "--output", str(out), "--format", "json", f"SELECT {columns} FROM scores ORDER BY score_id"
    )
    return [json.loads(line) for line in text.splitlines()]


def ledger(out: Path) -> dict[str, Any]:
    text = foretide(
        "query", "--output", str(out), "--format", "json", "SELECT * FROM ledger ORDER BY finished_at DESC LIMIT 1"
    )
    return dict(json.loads(text))


def test_every_user_of_the_history_is_scored_and_every_event_accounted_for(shop: Shop) -> None:
    table = small_shop.events()
    end = small_shop.START + 133 * small_shop.DAY  # AS_OF
    seen = [
        u
        for u, t in zip(table["user"].to_pylist(), table["at"].to_pylist(), strict=True)
        if end - 28 * small_shop.DAY <= t < end
    ]
    scores = rows(shop.out)
    assert {r["entity_id"] for r in scores} == set(seen)
    assert all(0 < r["churn"] < 1 for r in scores)
    counts = ledger(shop.out)
    assert counts["read"] == len(table)
    assert counts["accepted"] == len(
        {
            i
            for i, t in zip(table["id"].to_pylist(), table["at"].to_pylist(), strict=True)
            if end - 28 * small_shop.DAY <= t < end
        }
    )
    assert counts["read"] == sum(counts[k] for k in ("accepted", "rejected", "duplicates", "outside", "filtered"))
    assert counts["duplicates"] > 0
    assert counts["scored"] == len(scores)


def test_a_rerun_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(shop.out, out, symlinks=True)
    before = digest(out), os.readlink(next(out.glob("current/*")))
    assert "nothing was changed" in shop.score(out)
    assert (digest(out), os.readlink(next(out.glob("current/*")))) == before


def other_formats(shop: Shop, folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """The same events: rows shuffled, one file, other formats."""
    table = small_shop.events()
    order = list(range(len(table)))
    random.Random(3).shuffle(order)
    shuffled = table.take(pa.array(order))
    pq.write_table(shuffled, folder / "shuffled.parquet", row_group_size=777)
    yield "shuffled", [folder / "shuffled.parquet"]
    records = table.to_pylist()
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (folder / "a.jsonl").write_text(lines)
    yield "jsonl", [folder / "a.jsonl"]
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    yield "gzip", [folder / "b.jsonl.gz"]
    pyarrow.csv.write_csv(shuffled, folder / "c.csv")
    yield "csv", [folder / "c.csv"]
    types = {"user": "string", "at": "long", "id": "string", "kind": "string", "price": "double"}
    schema = {"type": "record", "name": "event", "fields": [{"name": k, "type": t} for k, t in types.items()]}
    with (folder / "d.avro").open("wb") as f:
        fastavro.writer(f, schema, records, sync_interval=4000)
    yield "avro", [folder / "d.avro"]


def test_scores_depend_on_nothing_but_the_events(shop: Shop, tmp_path: Path) -> None:
    want = rows(shop.out)
    files = sorted(shop.events.iterdir())
    variants = {
        "files in another order": (files[::-1], ["--shards", "1"]),
        "many shards": (files, ["--shards", "61"]),
        "two processes": (files, ["--workers", "2"]),
        "small batches": (files, ["--batch-size", "256"]),
    }
    variants |= {name: (paths, []) for name, paths in other_formats(shop, tmp_path)}
    for i, (name, (paths, more)) in enumerate(variants.items()):
        shop.score(tmp_path / str(i), *more, events=paths)
        assert rows(tmp_path / str(i)) == want, name


def flags(shop: Shop, out: Path) -> list[str]:
    values = {"task": shop.task, "input": shop.events, "as-of": AS_OF, "model": shop.model, "output": out}
    return [f"--{name}={value}" for name, value in values.items()]


@pytest.mark.soak
def test_killed_at_any_moment_a_rerun_ends_in_the_same_bytes(shop: Shop, tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    command = [sys.executable, "-m", "pipelines.cli", "score", *ENGINE]
    started = time.monotonic()
    subprocess.run([*command, *flags(shop, undisturbed)], check=True, capture_output=True, timeout=600)
    whole = time.monotonic() - started
    seeded = random.Random(5)
    for _ in range(10 if "FORETIDE_SOAK" in os.environ else 2):
        run = subprocess.Popen([*command, *flags(shop, out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seeded.uniform(0.6, 1.0) * whole)  # what comes before is the import of libraries
        run.kill()
        run.wait()
        if out.exists():
            assert len(rows(out)) in (0, len(rows(shop.out)))
    shop.score(out, *ENGINE)
    assert digest(out) == digest(undisturbed)
    assert list((out / "tmp").glob("[!.]*")) == []


def test_one_bad_row_costs_one_row(shop: Shop, tmp_path: Path) -> None:
    good = [json.dumps(r) for r in small_shop.events().to_pylist()]
    bad = ['{"user": "user-001", "at": "soon"}', "not json", '{"at": 1715000000}', '{"user": "x", "at": 1e300}']
    (tmp_path / "a.jsonl").write_text("\n".join([*good[:500], *bad, *good[500:]]) + "\n")
    shop.score(tmp_path / "out", events=[tmp_path / "a.jsonl"])
    assert rows(tmp_path / "out") == rows(shop.out)
    text = foretide(
        "query", "--output", str(tmp_path / "out"), "--format", "json", "SELECT raw, reason FROM dead_letters"
    )
    letters = [json.loads(line) for line in text.splitlines()]
    assert sorted(x["raw"] for x in letters) == sorted(bad)
    assert all(x["reason"] for x in letters)


def test_too_many_bad_rows_stop_the_run(shop: Shop, tmp_path: Path) -> None:
    good = [json.dumps(r) for r in small_shop.events().to_pylist()[:900]]
    (tmp_path / "a.jsonl").write_text("\n".join([*good, *["broken"] * 100]))
    text = shop.score(tmp_path / "out", events=[tmp_path / "a.jsonl"], expect=Exit.REFUSED)
    assert "REFUSED" in text
    assert "10.0 %" in text
    assert rows(tmp_path / "out") == []
    assert ledger(tmp_path / "out")["status"] == "refused"
    shop.score(tmp_path / "out", "--max-bad-share", "0.1", events=[tmp_path / "a.jsonl"])
    assert rows(tmp_path / "out") != []


def test_mistakes_are_told_in_a_line(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "nothing: no such file" in shop.score(out, events=[tmp_path / "nothing"], expect=Exit.USAGE)
    assert "--batch-sise" in shop.score(out, "--batch-sise", "3", expect=Exit.USAGE)
    assert "loses data" in shop.score(out, "--direct_running_mode=multi_threading", expect=Exit.USAGE)
    table = small_shop.events().rename_columns(["user", "time", "id", "kind", "price"])
    pq.write_table(table, tmp_path / "renamed.parquet")
    text = shop.score(out, events=[tmp_path / "renamed.parquet"], expect=Exit.USAGE)
    assert "renamed.parquet" in text
    assert "at" in text
    (tmp_path / "other.yaml").write_text(small_shop.TASK.replace("steps: 28", "steps: 30"))
    other = Shop(shop.folder, tmp_path / "other.yaml", shop.events, shop.model, out)
    assert "28" in other.score(out, expect=Exit.MODEL)
    (tmp_path / "typo.yaml").write_text(small_shop.TASK.replace("features:", "feature:"))
    typo = Shop(shop.folder, tmp_path / "typo.yaml", shop.events, shop.model, out)
    assert "typo.yaml:11: sequence.feature: unknown key" in typo.score(out, expect=Exit.USAGE)
    assert not out.exists()


def test_dry_run_says_what_it_would_do_and_does_nothing(shop: Shop, tmp_path: Path) -> None:
    text = shop.score(tmp_path / "out", "--dry-run")
    assert "small_shop" in text
    assert "nothing was scored or written" in text
    assert not (tmp_path / "out").exists()


def test_no_event_in_range_is_said_with_the_times_there_are(shop: Shop, tmp_path: Path) -> None:
    arguments = ["--task", str(shop.task), "--input", str(shop.events), "--as-of", "2030-01-01"]
    text = foretide("score", *arguments, "--model", str(shop.model), "--output", str(tmp_path / "out"))
    assert "NO SCORES" in text
    assert "from 2024-01-01" in text


def test_the_beam_main_is_the_same_command(shop: Shop, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.run", *flags(shop, tmp_path / "out"), "--runner=DirectRunner"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert "scored" in done.stdout
    assert rows(tmp_path / "out") == rows(shop.out)
