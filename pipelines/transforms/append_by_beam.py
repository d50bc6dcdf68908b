"""Scores of a live job into BigQuery by Beam's own sink, in place of ours in `append_table`: in Java, and on Dataflow
each row is there exactly once.

Launching a job starts Beam's expansion service, a Java program, which puts the Java part into the graph. Dead letters
and the ledger are appended as ever.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import apache_beam as beam
import grpc
import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import CrossLanguageOptions, PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.external import BeamJarExpansionService, SchemaAwareExternalTransform
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.utils.subprocess_server import JavaJarServer

from pipelines.errors import UserError
from pipelines.google.tables import Table
from pipelines.ledger.counts import Appended, DeadLetter, Ledger
from pipelines.runners.base import Runner
from pipelines.storage.bigquery.append import RefusedRow
from pipelines.storage.bigquery.schema import arrow_schema, fields, stored
from pipelines.storage.rows import Run
from pipelines.transforms.append_table import appended
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, now, score_rows, stamped
from pipelines.transforms.write_table import refused_letter

SERVICE = "sdks:java:io:google-cloud-platform:expansion-service:build"  # its name in --beam_services
EVERY = 5  # seconds between two commits
TIMEOUT = 10.0  # seconds for a service that was named to answer
# Times go as the microseconds that BigQuery's API has for them, not as Beam's own type: Java would send the same, but
# (as of Beam 2.77) fails on a refused row that has one.
TYPES = {"STRING": str, "INTEGER": np.int64, "FLOAT": np.float64, "TIMESTAMP": np.int64}


class Written(NamedTuple):
    """What became of the scores that Beam's sink was given."""

    refused: beam.PCollection[DeadLetter]  # those that BigQuery did not take
    counts: beam.PCollection[Appended | Ledger]  # rows handed over, and what the refused ones take back


@dataclass(eq=False)  # not frozen: Beam keeps notes of its own on a transform
class WriteByBeam(beam.PTransform):
    """ScoreBlock -> `Written`. Rows can be seen some seconds after they were handed over.

    The table must be there. The pipeline must be a streaming one; its options say where the expansion service is.
    """

    table: Table
    run: Run
    clock: Callable[[], int] = now

    def expand(self, scores: beam.PCollection[ScoreBlock]) -> Written:
        from apache_beam.io.gcp.bigquery import BigQueryDisposition, WriteToBigQuery

        making = beam.ParDo(_Rows(self.run, self.clock))
        making = making.with_output_types(row_type(self.run.outputs), counts=Appended)
        made = scores | "Rows" >> making.with_outputs("counts", main="rows")
        written = made.rows | "Write" >> WriteToBigQuery(
            f"{self.table.project}:{self.table.dataset}.{self.table.table}",
            method=WriteToBigQuery.Method.STORAGE_WRITE_API,
            create_disposition=BigQueryDisposition.CREATE_NEVER,
            write_disposition=BigQueryDisposition.WRITE_APPEND,
            triggering_frequency=EVERY,
            with_auto_sharding=True,  # without it, or a number of streams, nothing is written
            expansion_service=_service(scores.pipeline.options),
        )
        failed = written.failed_rows_with_errors
        back = beam.ParDo(_TakeBack(self.run, self.table)).with_output_types(DeadLetter, counts=Appended | Ledger)
        back = failed | "Refused" >> back.with_outputs("counts", main="refused")
        return Written(back.refused, (made.counts, back.counts) | "Counts" >> beam.Flatten())


class _Rows(beam.DoFn):
    """Gives the rows of scores; `counts`: how many of each window."""

    def __init__(self, run: Run, clock: Callable[[], int]) -> None:
        self.run, self.clock = run, clock

    def process(self, block: ScoreBlock) -> Iterator[beam.Row | TaggedOutput]:
        rows = stamped(score_rows([block_table(block, self.run.outputs)], self.run), self.clock())
        for row in _times_as_numbers(stored(rows, "scores", self.run.outputs)).to_pylist():
            yield beam.Row(**row)
        yield TaggedOutput("counts", appended(rows, []))


class _TakeBack(beam.DoFn):
    """Gives a dead letter of each row refused; `counts`: what it takes back."""

    def __init__(self, run: Run, table: Table) -> None:
        self.run, self.table = run, table

    def process(self, failed: Any) -> Iterator[DeadLetter | TaggedOutput]:
        row = pa.Table.from_pylist([failed.failed_row._asdict()], schema=arrow_schema("scores", self.run.outputs))
        yield refused_letter(self.table, row, RefusedRow(0, failed.error_message))
        yield TaggedOutput("counts", Appended({window: -n for window, n in appended(row, []).rows.items()}))
        yield TaggedOutput("counts", Ledger(scored=-1, failed=1))


def row_type(outputs: Sequence[str]) -> RowTypeConstraint:
    """The type of the rows that go to Java: the columns of the table of scores."""
    types = [(f["name"], TYPES[f["type"]], f["mode"] == "REQUIRED") for f in fields("scores", outputs)]
    optional = [(name, kind if must else Optional[kind]) for name, kind, must in types]  # noqa: UP045  Beam knows no |
    return RowTypeConstraint.from_fields(optional)


def check(runner: Runner) -> None:
    """Whether a job on a runner can write by this sink. Starts the expansion service.

    Raises:
      UserError: no; the message says why, and what to do.
    """
    flag = "--bigquery-method beam"
    if not runner.has_beam_sink:
        raise UserError(
            f"{flag} is for Dataflow, whose workers run its Java, and where alone it writes each row exactly once",
            remedy="Leave it out, and views make one of rows that are written twice",
            subject="--bigquery-method",
        )
    from apache_beam.io.gcp.bigquery import StorageWriteToBigQuery

    service = _service(runner.given)
    try:
        if service.is_existing_service():  # for which Beam would wait for ever
            with grpc.insecure_channel(service.path_to_jar) as channel:
                grpc.channel_ready_future(channel).result(TIMEOUT)
        SchemaAwareExternalTransform.discover_config(service, StorageWriteToBigQuery.IDENTIFIER)
    except Exception as error:  # of the network, of Java, of its program
        reason = " ".join(str(error).split()).partition(". ")[0][:300] or type(error).__name__
        jar = os.path.join(JavaJarServer.JAR_CACHE, os.path.basename(JavaJarServer.path_to_beam_jar(SERVICE)))
        raise UserError(
            f"{flag} needs Java 17 and Beam's expansion service ({reason})",
            remedy=f"Put its JAR at {jar}, or say where it lies or at which HOST:PORT it runs by "
            f"--beam_services='{json.dumps({SERVICE: '...'})}', or leave the flag out",
            subject="--bigquery-method",
        ) from error


def _service(options: PipelineOptions) -> BeamJarExpansionService:
    """The one that --beam_services names; or Beam's own, which it downloads when it is asked."""
    with JavaJarServer.beam_services(options.view_as(CrossLanguageOptions).beam_services):
        return BeamJarExpansionService(SERVICE)


def _times_as_numbers(rows: pa.Table) -> pa.Table:
    """The table with times as int64, us."""
    types = [(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in rows.schema]
    return rows.cast(pa.schema(types))
