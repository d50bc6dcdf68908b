"""Whether the rows that a live job appended are in its table: asked of each window that changed, and told aloud."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipelines.google.bigquery import execute, message
from pipelines.google.tables import Table
from pipelines.ledger.counts import Window
from pipelines.ledger.metrics import counter
from pipelines.storage.rows import Run
from pipelines.task.fields import EPOCH, format_time

log = logging.getLogger(__name__)

AGAIN = 5.0  # seconds between two looks
PATIENCE = 60.0  # seconds that a job waits for an answer
# A run over files may have put a row of its own in the place of one that was appended. It is then of the same revision
# or a higher one, and counts.
VISIBLE = """
SELECT asked.as_of, asked.revision, count(DISTINCT s.score_id)
FROM (
  SELECT as_of, @revisions[OFFSET(i)] AS revision FROM UNNEST(@as_ofs) AS as_of WITH OFFSET AS i
) AS asked
JOIN `{table}` AS s ON s.as_of = asked.as_of
  AND ((s.run_id = @run_id AND s.revision = asked.revision) OR (s.run_id != @run_id AND s.revision >= asked.revision))
WHERE s.as_of BETWEEN @first AND @last AND s.task = @task
GROUP BY asked.as_of, asked.revision
"""


@dataclass(frozen=True)
class Reconcile:
    """Compares rows meant with rows visible, of some windows, and logs an error for each that lacks some.

    Gives the rows visible; a question that fails is logged as a warning, and gives nothing.

    Args:
      settling: seconds in which rows that were appended become visible.
    """

    run: Run
    table: Table
    settling: float = 0.0

    def __call__(self, meant: Mapping[Window, int]) -> dict[Window, int]:
        if not meant:
            return {}
        end = time.monotonic() + self.settling
        try:
            found = visible(self.table, self.run, meant)
            while any(found[window] < n for window, n in meant.items()) and time.monotonic() < end:
                time.sleep(AGAIN)
                found = visible(self.table, self.run, meant)
        except Exception as error:  # whatever it is, the job goes on, and asks again
            log.warning("%s: %d windows were not compared: %s", self.table.scores, len(meant), message(error))
            return {}
        for (as_of, revision), n in sorted(meant.items()):
            lost = n - found[as_of, revision]
            if lost > 0:
                counter("rows_missing").inc(lost)
                log.error(
                    "%s: as of %s, revision %d: %d rows were appended, %d are visible",
                    self.table.scores,
                    format_time(as_of),
                    revision,
                    n,
                    n - lost,
                )
        return found


def visible(table: Table, run: Run, windows: Collection[Window]) -> dict[Window, int]:
    """How many scores of each window the table has, in the revision of the window or, of another run, a higher one.

    Raises:
      UserError, GoogleAPICallError: BigQuery does not say.
    """
    times = [EPOCH + timedelta(microseconds=as_of) for as_of, _ in windows]
    parameters = {
        "as_ofs": ("TIMESTAMP", times),
        "revisions": ("INT64", [revision for _, revision in windows]),
        "first": ("TIMESTAMP", min(times)),
        "last": ("TIMESTAMP", max(times)),
        "run_id": ("STRING", run.run_id),
        "task": ("STRING", run.task),
    }
    job = execute(table.project, VISIBLE.format(table=table.scores), parameters, patience=PATIENCE)
    found = {((as_of - EPOCH) // timedelta(microseconds=1), revision): n for as_of, revision, n in job.result()}
    return {window: found.get(window, 0) for window in windows}
