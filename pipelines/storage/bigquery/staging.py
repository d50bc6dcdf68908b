"""Around a run over files that writes into BigQuery: the table where its rows wait, and what the ledger says of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipelines.google.bigquery import TIMEOUT, client, execute, explained, message, patiently
from pipelines.google.tables import Table
from pipelines.ledger.counts import Ledger, Status
from pipelines.storage.bigquery.merge import BETWEEN, bounds
from pipelines.storage.bigquery.schema import WRITTEN
from pipelines.storage.rows import LAST, Run, ledgers, live_ledger, live_schema, score_schema

log = logging.getLogger(__name__)

LIFE = timedelta(days=1)  # of a staging table that nobody dropped
LATER = timedelta(days=7)  # of one that nobody is to drop


@dataclass(frozen=True)
class StagedResult:
    """How a run over files ended, as the ledger has it. Scores that were meant to be written were staged, and are
    visible; of the staged ones, some were added to the table, some replaced others there, and so on: see `merge`."""

    ledger: Ledger
    status: Status
    differences: tuple[str, ...]
    meant: int
    staged: int
    visible: int
    added: int
    replaced: int
    unchanged: int
    kept: int


@contextmanager
def begin(table: Table, run: Run, later: bool = False) -> Iterator[str]:
    """Makes the staging table of a run, and drops it at the end of the block, however that comes. Gives its name.

    A run that begins `later`, elsewhere, finds the table, which goes when it expires.

    Raises:
      UserError: BigQuery does not make it.
    """
    from google.cloud import bigquery

    service, name = client(table.project), table.staging(run.attempt)
    columns = live_schema(score_schema(run.outputs)).names
    with explained(name):
        fields = patiently(lambda: service.get_table(table.scores, retry=None, timeout=TIMEOUT)).schema
        staging = bigquery.Table(name, [field for field in fields if field.name in columns])
        staging.expires = datetime.now(UTC) + (LATER if later else LIFE)
        patiently(lambda: service.create_table(staging, exists_ok=True, retry=None, timeout=TIMEOUT))
    launched = False
    try:
        yield name
        launched = later
    finally:
        if not launched:
            _drop(table, name)


def _drop(table: Table, name: str) -> None:
    try:
        client(table.project).delete_table(name, not_found_ok=True, retry=None, timeout=TIMEOUT)
    except Exception as error:  # it must not hide what happened in the block
        log.warning("%s was not dropped, and expires by itself: %s", name, message(error))


def read_result(table: Table, run_id: str, attempt: str) -> StagedResult:
    """How an attempt of a run ended. Raises UserError if BigQuery does not say."""
    rows = _ledger_rows(table, "run_id = @run_id AND attempt = @attempt", run_id=run_id, attempt=attempt)
    assert rows.num_rows, f"the pipeline ended without a row in {table.ledger}"
    facts = rows.select(["status", "differences", *WRITTEN]).to_pylist()[0]
    return StagedResult(ledgers(rows)[0], **{**facts, "differences": tuple(facts["differences"])})


def read_live_ledger(table: Table, run_id: str) -> Ledger:
    """What all attempts of a live job have counted; an empty ledger for a job without rows.

    Raises:
      UserError: BigQuery does not say.
    """
    return live_ledger([_ledger_rows(table, "run_id = @run_id", run_id=run_id)])


def cost(table: Table, as_ofs: Sequence[int]) -> int:
    """Bytes of the table of scores that merging scores of these as-ofs (us) would read.

    Raises:
      UserError: BigQuery does not say.
    """
    with explained(table.scores):
        sql = f"SELECT * FROM `{table.scores}` WHERE {BETWEEN}"
        return int(execute(table.project, sql, bounds(as_ofs), dry_run=True).total_bytes_processed or 0)


def _ledger_rows(table: Table, where: str, **values: str) -> pa.Table:
    parameters: dict[str, Any] = {name: ("STRING", value) for name, value in values.items()}
    with explained(table.ledger):
        job = execute(table.project, f"SELECT * FROM `{table.ledger}` WHERE {where} QUALIFY {LAST}", parameters)
        return job.result().to_arrow(create_bqstorage_client=False)
