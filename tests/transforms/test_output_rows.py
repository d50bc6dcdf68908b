"""Rows of scores and of dead letters."""

from __future__ import annotations

import json
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from pipelines.ledger.counts import Ledger
from pipelines.storage.rows import DEAD_LETTERS, Run, score_schema
from pipelines.transforms.output_rows import block_table, letter_fields, letter_rows, run_status, score_id, score_rows
from pipelines.transforms.write_folder import part_of
from tests.support.score_blocks import DAY, ROWS, block, blocks, letter

RUN = Run("churn-1", "a", "churn", ("churn",), ("in/*.parquet",), 5, "m1")


def test_score_rows_are_in_canonical_order_and_complete() -> None:
    rows = score_rows([block_table(b, ["churn"]) for b in blocks(1, 7)], RUN)
    assert rows.schema == score_schema(["churn"])
    keys = [(r["as_of"], r["entity_id"], r["revision"]) for r in rows.to_pylist()]
    assert keys == sorted(keys)
    assert len(keys) == len(ROWS)
    first = rows.slice(0, 1).to_pylist()[0]
    assert first["score_id"] == score_id("churn", "user 0", 19_000 * DAY)
    assert first["churn"] == np.float32(part_of("user 0", 997) + 19_000) / np.float32(1000)
    assert (first["task"], first["model_version"], first["run_id"], first["n_events"]) == (
        "churn",
        "m1",
        "churn-1",
        19_001,
    )


def test_score_ids_can_be_computed_in_sql() -> None:
    con = duckdb.connect()
    rows = score_rows([block_table(block([("ü|'x", 19_000, 0), ("", -3, 0)]), ["churn"])], RUN)
    con.register("scores", rows)
    sql = "SELECT bool_and(score_id = md5(task || '|' || entity_id || '|' || epoch_us(as_of))), count(*) FROM scores"
    assert con.execute(sql).fetchall() == [(True, 2)]


def test_several_outputs() -> None:
    names = ["step_1", "step_2", "step_3"]
    wide = block([("a", 1, 0)], 3)
    rows = score_rows([block_table(wide, names)], replace(RUN, outputs=tuple(names)))
    assert [rows[n][0].as_py() for n in names] == wide.scores[0].tolist()


def test_dead_letters_are_in_the_order_of_their_positions() -> None:
    letters = [letter(p) for p in ("row 10", "row 9", "file", "row 100", "row " + "9" * 5000)] + [letter("row 1", "e")]
    rows = letter_rows(map(letter_fields, letters), "churn-1")
    assert rows.schema == DEAD_LETTERS
    assert [p[:8] for p in rows["position"].to_pylist()] == ["row 1", "file", "row 9", "row 10", "row 100", "row 9999"]
    assert rows["run_id"].to_pylist() == ["churn-1"] * 6
    assert letter_rows([], "churn-1").num_rows == 0


def test_dead_letters_hold_any_text() -> None:
    odd = letter("row 1", raw="half \ud83d, whole 😀, nul \x00, \\xff")
    assert letter_rows([letter_fields(odd)], "r")["raw"].to_pylist() == ["half \\ud83d, whole 😀, nul \x00, \\xff"]


def test_dead_letters_keep_what_is_to_be_sent_again() -> None:
    plain = letter("message 1")
    sent = replace(plain, payload=b"\xff\x00", attributes=(("k", "ü\ud83d"), ("a", "")))
    rows = letter_rows(map(letter_fields, [sent, plain, replace(plain, payload=b"")]), "r")
    assert rows["payload"].to_pylist() == [None, b"", b"\xff\x00"]
    assert rows["attributes"].to_pylist()[:2] == [None, None]
    assert json.loads(rows["attributes"].to_pylist()[2]) == {"k": "ü\ud83d", "a": ""}


@pytest.mark.parametrize(
    ("ledger", "status"),
    [
        (Ledger(), "published"),
        (Ledger(read=100, accepted=95, rejected=5, reasons=(("bad", 5),)), "published"),
        (Ledger(read=100, accepted=94, rejected=6, reasons=(("bad", 6),)), "refused"),
        (Ledger(read=100, accepted=99), "unbalanced"),
        (Ledger(read=100, accepted=1, rejected=50), "refused"),
    ],
)
def test_status(ledger: Ledger, status: str) -> None:
    assert run_status(ledger, 0.05) == status
