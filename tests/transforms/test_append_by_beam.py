"""Scores of a live job by Beam's own sink. Its Java part is stood in for by a transform in Python, which an expansion
service of the tests' own puts into the graph, and which sends rows to an emulator as Java does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import grpc
import pytest
from apache_beam.coders import RowCoder
from apache_beam.io.gcp.bigquery import StorageWriteToBigQuery
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_expansion_api_pb2,
    beam_expansion_api_pb2_grpc,
    external_transforms_pb2,
    schema_pb2,
)
from apache_beam.runners.portability.expansion_service import ExpansionServiceServicer
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.typehints.row_type import RowTypeConstraint
from apache_beam.typehints.schemas import named_tuple_to_schema, schema_from_element_type
from apache_beam.utils.subprocess_server import JavaJarServer
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipelines.errors import UserError
from pipelines.google.bigquery import writer
from pipelines.google.tables import Table
from pipelines.ledger.counts import Appended, DeadLetter, Ledger, Window
from pipelines.storage.bigquery import reconcile, schema
from pipelines.storage.bigquery.append import RefusedRow, default_stream
from pipelines.storage.rows import Run
from pipelines.transforms import append_by_beam as beamtable
from pipelines.transforms.append_by_beam import SERVICE, WriteByBeam
from pipelines.transforms.append_table import AppendTable
from pipelines.transforms.infer import ScoreBlock
from pipelines.transforms.output_rows import block_table, score_rows, stamped
from pipelines.transforms.write_table import refused_letter
from tests.support.asked_runners import asked
from tests.support.score_blocks import DAY, ROWS, block, blocks, letter
from tests.support.warehouse import Warehouse

RUN = Run("churn-live", "a", "churn", ("churn",), ("s",), 5)
PATH = replace(RUN, outputs=("step_1", "step_1_p10", "step_1_p90"))
DATAFLOW = "--runner=DataflowRunner"


class ErrorHandling(NamedTuple):
    output: str


class Configuration(NamedTuple):
    """What the transform in Java takes."""

    auto_sharding: bool | None
    big_lake_configuration: dict[str, str] | None
    clustering_fields: Sequence[str] | None
    create_disposition: str | None
    error_handling: ErrorHandling | None
    num_streams: int | None
    primary_key: Sequence[str] | None
    table: str
    triggering_frequency_seconds: int | None
    use_at_least_once_semantics: bool | None
    use_cdc_writes: bool | None
    write_disposition: str | None


CONFIGURED: list[tuple[Configuration, schema_pb2.Schema]] = []
BOUNDED: list[bool] = []
REFUSED: list[DeadLetter] = []
COUNTS: list[Appended | Ledger] = []


class Sink(beam.PTransform):
    """Stands for the transform in Java."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    def expand(self, rows: beam.PCollection) -> dict[str, beam.PCollection]:
        columns = schema_from_element_type(rows.element_type)
        CONFIGURED.append((self.configuration, columns))
        BOUNDED.append(rows.is_bounded)
        failed = RowTypeConstraint.from_fields([("failed_row", rows.element_type), ("error_message", str)])
        sending = beam.ParDo(Send(self.configuration.table, columns)).with_output_types(failed)
        refused = rows | "Coded" >> beam.Reshuffle() | beam.BatchElements(100, 100) | sending | beam.Reshuffle()
        return {"FailedRowsWithErrors": refused, "post_write": rows | beam.Filter(lambda _: False)}


class Send(beam.DoFn):
    """Sends rows as messages whose fields have the types of the columns. Refuses those of entities named so."""

    def __init__(self, table: str, columns: schema_pb2.Schema) -> None:
        self.stream = default_stream(table.replace(":", "."))
        kind = descriptor_pb2.FieldDescriptorProto
        kinds = {schema_pb2.STRING: kind.TYPE_STRING, schema_pb2.INT64: kind.TYPE_INT64}
        kinds[schema_pb2.DOUBLE] = kind.TYPE_DOUBLE
        self.proto = descriptor_pb2.DescriptorProto(name="Row")
        for i, field in enumerate(columns.fields):
            label = kind.LABEL_OPTIONAL if field.type.nullable else kind.LABEL_REQUIRED
            self.proto.field.add(name=field.name, number=i + 1, type=kinds[field.type.atomic_type], label=label)

    def process(self, batch: Sequence[Any]) -> Iterator[beam.Row]:
        file = descriptor_pb2.FileDescriptorProto(name="row.proto", message_type=[self.proto])
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        message = message_factory.GetMessageClass(pool.FindMessageTypeByName("Row"))
        taken = []
        for row in batch:
            if row.entity_id.startswith("refused"):
                yield beam.Row(failed_row=row, error_message="not this one")
            else:
                values = {name: value for name, value in row._asdict().items() if value is not None}
                taken.append(message(**values).SerializeToString())
        data = types.AppendRowsRequest.ProtoData(
            writer_schema=types.ProtoSchema(proto_descriptor=self.proto), rows=types.ProtoRows(serialized_rows=taken)
        )
        [answer] = writer().append_rows(iter([types.AppendRowsRequest(write_stream=self.stream, proto_rows=data)]))
        assert not answer.row_errors


def received(_: Any, payload: external_transforms_pb2.SchemaTransformPayload, __: Any) -> Sink:
    assert payload.identifier == StorageWriteToBigQuery.IDENTIFIER
    return Sink(RowCoder(payload.configuration_schema).decode(payload.configuration_row))


class Expansion(ExpansionServiceServicer):
    def DiscoverSchemaTransform(self, request: Any, context: Any = None) -> Any:
        config = beam_expansion_api_pb2.SchemaTransformConfig(config_schema=named_tuple_to_schema(Configuration))
        return beam_expansion_api_pb2.DiscoverSchemaTransformResponse(
            schema_transform_configs={StorageWriteToBigQuery.IDENTIFIER: config}
        )


@pytest.fixture
def service() -> Iterator[str]:
    """An option that names an expansion service which is not Java's."""
    beam.PTransform.register_urn(
        common_urns.schematransform_based_expand.urn, external_transforms_pb2.SchemaTransformPayload, received
    )
    server = grpc.server(ThreadPoolExecutor(2))
    beam_expansion_api_pb2_grpc.add_ExpansionServiceServicer_to_server(Expansion(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield named(f"127.0.0.1:{port}")
    server.stop(None).wait()
    del beam.PTransform._known_urns[common_urns.schematransform_based_expand.urn]


def named(place: str) -> str:
    return f"--beam_services={json.dumps({SERVICE: place})}"


def made(warehouse: Warehouse) -> Table:
    """Empty tables, for the scores of both tasks."""
    return warehouse.scores_tables(*RUN.outputs, *PATH.outputs)


def write(table: Table, service: str, scores: Sequence[ScoreBlock], run: Run = RUN) -> None:
    for told in (CONFIGURED, REFUSED, COUNTS):
        told.clear()
    p = beam.Pipeline("FnApiRunner", options=PipelineOptions(["--streaming", service]))
    out = p | beam.Create(scores, reshuffle=False) | "Scores" >> WriteByBeam(table, run, partial(int, 7))
    out.refused | "KeepRefused" >> beam.Map(keep_letter)
    out.counts | "KeepCounts" >> beam.Map(keep_count)
    p.run().wait_until_finish()


def keep_letter(each: DeadLetter) -> None:
    REFUSED.append(each)


def keep_count(count: Appended | Ledger) -> None:
    COUNTS.append(count)


def by_ourselves(table: Table, scores: Sequence[ScoreBlock], run: Run) -> None:
    p = beam.Pipeline("FnApiRunner")
    nothing = [p | name >> beam.Create([], reshuffle=False) for name in ("Dead", "Ledgers")]
    created = p | "Scores" >> beam.Create(scores, reshuffle=False)
    (created, *nothing) | "Append" >> AppendTable(run, table, clock=partial(int, 7))
    p.run().wait_until_finish()


def rows(warehouse: Warehouse, table: Table) -> list[dict[str, Any]]:
    return warehouse.sql(f"SELECT * FROM `{table.scores}` ORDER BY score_id, revision")


@pytest.mark.parametrize("run", [RUN, PATH])
def test_rows_are_those_of_our_own_sink(warehouse: Warehouse, service: str, run: Run) -> None:
    scores = [block([*ROWS[:20], ("Ünal", 19_001, -1), ("0\u3042", -400_000, 0)], len(run.outputs))]
    scores[0].last_event_time[:3] += [1, -999_999, 123_457]
    beams, ours = made(warehouse), made(warehouse)
    write(beams, service, scores, run)
    by_ourselves(ours, scores, run)
    assert len(rows(warehouse, beams)) == 22
    assert rows(warehouse, beams) == rows(warehouse, ours)
    assert REFUSED == []


def test_rows_handed_over_are_counted_by_window(warehouse: Warehouse, service: str) -> None:
    write(made(warehouse), service, [*blocks(1, 7), block([("early", 19_000, -1)])])
    meant: dict[Window, int] = {}
    for count in COUNTS:
        assert isinstance(count, Appended)
        for window, n in count.rows.items():
            meant[window] = meant.get(window, 0) + n
    assert meant == {(day * DAY, revision): 50 for day in (19_000, 19_007) for revision in (0, 1)}


def test_a_row_that_is_refused_is_a_dead_letter_and_taken_back(warehouse: Warehouse, service: str) -> None:
    table = made(warehouse)
    scores = block([("a", 19_000, 0), ("refused", 19_000, 0), ("refused early", 19_000, -1)])
    write(table, service, [scores])
    assert [row["entity_id"] for row in rows(warehouse, table)] == ["a"]
    ours = stamped(score_rows([block_table(scores, RUN.outputs)], RUN), 7)
    want = [refused_letter(table, ours, RefusedRow(i, "not this one")) for i in (1, 2)]
    assert sorted(REFUSED, key=lambda each: len(each.position)) == want
    told = [count for count in COUNTS if isinstance(count, Appended)]
    assert sorted(count.rows.get((19_000 * DAY, 0), 0) for count in told) == [-1, 0, 2]
    assert [count for count in COUNTS if isinstance(count, Ledger)] == [Ledger(scored=-1, failed=1)] * 2


def test_the_ledger_has_what_can_be_seen_and_what_was_refused(
    warehouse: Warehouse, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows that can be seen a while after they were handed over."""
    monkeypatch.setattr(reconcile, "AGAIN", 0.1)
    table, looks, seen = made(warehouse), list[int](), reconcile.visible

    def late(*asked: Any) -> dict[Window, int]:
        looks.append(1)
        return seen(*asked) if len(looks) > 1 else dict.fromkeys(seen(*asked), 0)

    monkeypatch.setattr(reconcile, "visible", late)
    scores = [*blocks(1, 70), block([("refused", 19_000, 0), ("refused early", 19_000, -1)])]
    p = beam.Pipeline("FnApiRunner", options=PipelineOptions(["--streaming", service]))
    inputs = (
        p | "Scores" >> beam.Create(scores, reshuffle=False),
        p | "Dead" >> beam.Create([letter("row 3")], reshuffle=False),
        p | "Ledgers" >> beam.Create([Ledger(sequences=202, scored=202)], reshuffle=False),
    )
    clock = partial(int, 7)
    inputs | "Append" >> AppendTable(RUN, table, clock=clock, by=WriteByBeam(table, RUN, clock))
    p.run().wait_until_finish()
    [ledger] = warehouse.sql(f"SELECT * FROM `{table.ledger}`")
    assert (ledger["scored"], ledger["failed"], ledger["meant"], ledger["visible"]) == (200, 2, 200, 200)
    assert ledger["differences"] == []
    letters = warehouse.sql(f"SELECT stage, position FROM `{table.dead_letters}` ORDER BY position")
    assert [(each["stage"], each["position"]) for each in letters] == [
        ("write", "refused as of 2022-01-08"),
        ("write", "refused early as of 2022-01-08"),
        ("read", "row 3"),
    ]


def test_what_java_is_asked_for(warehouse: Warehouse, service: str) -> None:
    """Exactly once, into a table that is there; and columns as they are there, times as numbers."""
    table = made(warehouse)
    write(table, service, [block([("a", 19_000, 0)], 3)], PATH)
    [(configuration, columns)] = CONFIGURED
    assert configuration._asdict() == {
        "auto_sharding": True,
        "big_lake_configuration": None,
        "clustering_fields": [],
        "create_disposition": "CREATE_NEVER",
        "error_handling": {"output": "FailedRowsWithErrors"},
        "num_streams": 0,
        "primary_key": None,
        "table": f"{table.project}:{table.dataset}.scores",
        "triggering_frequency_seconds": 5,
        "use_at_least_once_semantics": False,
        "use_cdc_writes": False,
        "write_disposition": "WRITE_APPEND",
    }
    kinds = {schema_pb2.STRING: {"STRING"}, schema_pb2.INT64: {"INTEGER", "TIMESTAMP"}, schema_pb2.DOUBLE: {"FLOAT"}}
    for column, field in zip(columns.fields, schema.fields("scores", PATH.outputs), strict=True):
        assert (column.name, column.type.nullable) == (field["name"], field["mode"] == "NULLABLE")
        assert field["type"] in kinds[column.type.atomic_type]


def test_java_is_told_that_the_input_is_endless(service: str) -> None:
    """What it takes to have an end it writes in another way."""
    BOUNDED.clear()
    p = beam.Pipeline("FnApiRunner", options=PipelineOptions(["--streaming", service]))
    scores = p | PeriodicImpulse() | beam.Map(lambda _: block([])).with_output_types(ScoreBlock)
    scores | WriteByBeam(Table("project", "d", "t"), RUN)
    assert BOUNDED == [False]


def test_a_runner_without_java_is_refused() -> None:
    for runner in ("PrismRunner", "FlinkRunner"):
        with pytest.raises(UserError, match="--bigquery-method beam is for Dataflow, whose workers run its Java"):
            beamtable.check(asked(f"--runner={runner}"))


def test_a_service_that_answers_will_do(service: str) -> None:
    beamtable.check(asked(DATAFLOW, service))


def test_a_service_that_cannot_be_had_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beamtable, "TIMEOUT", 0.2)
    monkeypatch.setattr(JavaJarServer, "JAR_CACHE", str(tmp_path))
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    for place, reason in {
        "http://127.0.0.1:9/x.jar": "Unable to fetch remote job server jar at http://127.0.0.1:9/x.jar",
        "/nowhere/x.jar": "[Errno 2] No such file or directory: '/nowhere/x.jar'",
        "127.0.0.1:9": "FutureTimeoutError",
        f"127.0.0.1:{port}": "<_InactiveRpcError of RPC that terminated with: status = StatusCode.UNIMPLEMENTED",
    }.items():
        with pytest.raises(UserError) as refused:
            beamtable.check(asked(DATAFLOW, named(place)))
        said = str(refused.value)
        assert said.startswith(f"--bigquery-method beam needs Java 17 and Beam's expansion service ({reason}")
        assert f"Put its JAR at {tmp_path}/beam-sdks-java-io-google-cloud-platform-expansion-service-2." in said
        assert f"by --beam_services='{json.dumps({SERVICE: '...'})}', or leave the flag out" in said
        assert "\n" not in said
    other.stop(None).wait()


def test_java_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = tmp_path / "x.jar"
    jar.touch()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=re.escape("(Java must be installed on this system to use this")):
        beamtable.check(asked(DATAFLOW, named(str(jar))))
