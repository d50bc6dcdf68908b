"""Both jobs as they go to Dataflow, and what of them a running job holds on to: names of steps, coders, state.

`python -m tests.support.golden_jobs` writes the files of tests/golden anew.
"""

from __future__ import annotations

import base64
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import apache_beam as beam
import numpy as np
import pyarrow as pa
import yaml
from apache_beam.coders import Coder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext

from pipelines.events.block import EventBlock, unpack
from pipelines.events.formats.base import Piece
from pipelines.events.messages import Payload
from pipelines.google.subscription import SubscriptionFacts
from pipelines.google.tables import parse_table
from pipelines.jobs import score, stream
from pipelines.jobs.config import Input, ScoreConfig, StreamConfig
from pipelines.jobs.outputs.bigquery import TableLive
from pipelines.jobs.source import InputSource
from pipelines.ledger.counts import Appended, DeadLetter, Ledger, Running, WindowRows
from pipelines.runners.execution import Execution
from pipelines.storage.rows import Run
from pipelines.system.progress import Progress
from pipelines.task.fields import parse_time
from pipelines.task.spec import Task
from pipelines.transforms.coders import VersionedCoder
from pipelines.transforms.infer import InferBatches
from pipelines.transforms.live_sequences import ShardClock
from pipelines.transforms.write_table import WriteTable
from tests.support import small_shop
from tests.support.asked_runners import asked
from tests.support.fake_dataflow import BUCKET, PROJECT, REGION

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGE = "europe-west1-docker.pkg.dev/my-project/foretide/foretide-cpu:1"
FLAGS = (
    "--runner=DataflowRunner",
    f"--project={PROJECT}",
    f"--region={REGION}",
    f"--temp_location=gs://{BUCKET}/temp",
    f"--sdk_container_image={IMAGE}",
    "--experiments=disable_logging_submission_environment",
)
TABLE = parse_table(f"bq://{PROJECT}.churn.scores")
AS_OF = parse_time("2024-04-01")
FILES = InputSource((Piece(f"gs://{BUCKET}/events/1.parquet", "parquet", 0, 1, 100, True),), 8)
MODEL = f"gs://{BUCKET}/models/small_shop"

Build = Callable[[beam.Pipeline], None]
Proto: TypeAlias = beam_runner_api_pb2.Pipeline


def shop(text: str = small_shop.TASK) -> Task:
    return Task.model_validate(yaml.safe_load(text), strict=False)


def backfill(flags: Sequence[str] = FLAGS, hints: Mapping[str, str] | None = None, batch_size: int = 256) -> Build:
    """What `foretide score` builds, from files and into BigQuery."""
    task = shop()
    execution, place = Execution(1, None, tuple(flags), False), f"bq://{TABLE.scores}"
    events = Input((f"gs://{BUCKET}/events",), None)
    config = ScoreConfig(
        task=task,
        input=events,
        as_ofs=(AS_OF,),
        model=MODEL,
        engine="tensorflow",
        device="auto",
        batch_size=batch_size,
        output=place,
        execution=execution,
        max_bad_share=0.05,
    )
    infer = InferBatches(MODEL, task, "tensorflow", "auto", batch_size).with_resource_hints(**(hints or {}))
    write = WriteTable(_run(task), TABLE, config.as_ofs)
    return lambda p: score.build(p, config, FILES, infer, write, Progress())


def live(flags: Sequence[str] = FLAGS, history: bool = True, task: Task | None = None, **changed: Any) -> Build:
    """What `foretide stream` builds, from a subscription and files, into BigQuery and a topic of dead letters."""
    task = task or shop()
    config = replace(
        StreamConfig(
            task=task,
            subscription=f"projects/{PROJECT}/subscriptions/events",
            arrival_attribute=None,
            payload="json",
            avro_schema=None,
            bootstrap=None,
            first=AS_OF,
            early=0,
            model=MODEL,
            engine="tensorflow",
            device="auto",
            batch_size=256,
            output=f"bq://{TABLE.scores}",
            archive=None,
            dead_letters=f"projects/{PROJECT}/topics/letters",
            max_bad_share=0.05,
            pullers=1,
            execution=Execution(1, None, tuple(flags), False),
        ),
        **changed,
    )
    infer = InferBatches(MODEL, task, config.engine, config.device, config.batch_size, stream.WATCH)
    facts = SubscriptionFacts(config.subscription, f"projects/{PROJECT}/topics/events", 10, 0, ())
    ready = stream.Prepared(cast(Any, None), infer, facts, Payload(), FILES if history else None)
    return lambda p: stream.build(p, config, ready, TableLive(TABLE, _run(task), False, Path("stop"), "storage"))


def pipeline(build: Build, *flags: str, streaming: bool = False, accelerator: str | None = None) -> beam.Pipeline:
    """With the options that a command gives it."""
    args = [*flags, *asked(*flags, live=streaming, accelerator=accelerator).added()]
    p = beam.Pipeline(options=PipelineOptions([*args, *(["--streaming"] if streaming else [])]))
    build(p)
    return p


def proto(build: Build, streaming: bool = False) -> Proto:
    """The graph as Beam hands it to Dataflow."""
    return pipeline(build, *FLAGS, "--dry_run=yes", streaming=streaming).run().job.proto_pipeline


def leaves(graph: Proto) -> list[Any]:
    """The steps that are not made of others, by name."""
    transforms = graph.components.transforms.values()
    return sorted((t for t in transforms if not t.subtransforms), key=lambda t: str(t.unique_name))


def payload(step: Any) -> Any:
    """Of a ParDo; an empty one for other steps."""
    pardo = beam_runner_api_pb2.ParDoPayload()
    if step.spec.urn == "beam:transform:pardo:v1":
        pardo.ParseFromString(step.spec.payload)
    return pardo


def stateful(graph: Proto) -> list[Any]:
    """The steps that keep state."""
    return [step for step in leaves(graph) if payload(step).state_specs]


def described(graph: Proto) -> list[str]:
    """Each step, with the coders of what goes in and out, and its state and timers."""
    return [" ".join(_words(graph, step)) for step in leaves(graph)]


def key_coders(graph: Proto) -> dict[str, Coder]:
    """Of each step that groups by key or keeps state, by its name."""
    context, found = PipelineContext(graph.components), {}
    for step in leaves(graph):
        if step.spec.urn == "beam:transform:group_by_key:v1" or payload(step).state_specs:
            (pcollection,) = step.inputs.values()
            coder = graph.components.coders[graph.components.pcollections[pcollection].coder_id]
            assert coder.spec.urn == "beam:coder:kv:v1", f"{step.unique_name}: not pairs"
            found[str(step.unique_name)] = context.coders.get_by_id(coder.component_coder_ids[0])
    return found


def difference(name: str, now: Sequence[str]) -> str:
    """What became of a graph since its golden file was written, and what to do; empty if nothing."""
    before = (GOLDEN / f"{name}.txt").read_text().splitlines()
    if before == list(now):
        return ""
    old, new = ({line.split(" ", 1)[0] for line in lines} for lines in (before, now))
    gone, come = sorted(old - new), sorted(new - old)
    mapping = {each: (difflib.get_close_matches(each, come, 1, 0.0) or [""])[0] for each in gone}
    changed = "\n".join(line for line in difflib.ndiff(before, list(now)) if line[0] in "+-")
    return (
        f"tests/golden/{name}.txt differs:\n{changed}\n"
        "A running job can only be updated to a graph that has its steps, under their names and with their coders. "
        f"Steps that were renamed take --transform_name_mapping={json.dumps(mapping)!r} once; another coder or state "
        "takes a new job (docs/dataflow.md). If that is meant: python -m tests.support.golden_jobs"
    )


def state() -> dict[str, tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any]]]:
    """What the state of a live job holds: an example of each kind, and how it becomes bytes and comes back."""
    block = EventBlock(
        keys=pa.array(["user 1", "user 2"]),
        key=np.array([0, 1, 0], np.uint16),
        time=np.array([AS_OF, AS_OF + 1, AS_OF + 2]),
        id=np.array([1, 2, 3], np.uint64),
        codes=np.array([[0, 1, 2]], np.uint16),
        values=np.array([[0.5, 1.5, np.nan]], np.float32),
        hashes=np.array([[7, 0, 9]], np.uint64),
        arrival=np.array([AS_OF + 5, AS_OF + 6, AS_OF + 7]),
    )
    ledger = Ledger(read=3, accepted=2, rejected=1, reasons=(("bad", 1),))
    running = Running("attempt", ledger, 7, True, {(AS_OF, 0): WindowRows(2, 1)}, 5)
    coder = VersionedCoder()
    return {
        "clock": (ShardClock(AS_OF, True, False, AS_OF - 1, None), ShardClock.pack, ShardClock.unpack),
        "block": (block, EventBlock.pack, unpack),
        "running": (running, coder.encode, coder.decode),
        "ledger": (ledger, coder.encode, coder.decode),
        "appended": (Appended({(AS_OF, 0): 2}), coder.encode, coder.decode),
        "dead_letter": (
            DeadLetter("read", "events", "message 1", "bad", 1, "\ud800 é", b"\x00", (("a", "b"),)),
            coder.encode,
            coder.decode,
        ),
    }


def _run(task: Task) -> Run:
    return Run("run", "attempt", task.task, task.outputs, ("gs://bucket/events",), 0)


def _words(graph: Proto, step: Any) -> Iterator[str]:
    components, context = graph.components, PipelineContext(graph.components)

    def text(coder_id: str) -> str:
        coder = components.coders[coder_id]
        if coder.spec.urn == "beam:coder:pickled_python:v1":
            return type(context.coders.get_by_id(coder_id)).__name__
        parts = ",".join(map(text, coder.component_coder_ids))
        return coder.spec.urn.removeprefix("beam:coder:").removesuffix(":v1") + (f"({parts})" if parts else "")

    def coded(pcollections: Any) -> str:
        return ",".join(
            f"{tag}:{text(components.pcollections[pcollections[tag]].coder_id)}" for tag in sorted(pcollections)
        )

    yield str(step.unique_name).replace(" ", "_")
    yield step.spec.urn.removeprefix("beam:transform:").removesuffix(":v1")
    yield f"{coded(step.inputs)} -> {coded(step.outputs)}"
    pardo = payload(step)
    for name, spec in sorted(pardo.state_specs.items()):
        kind = spec.WhichOneof("spec")
        inner = getattr(spec, kind)
        yield f"state:{name}={kind}({text(getattr(inner, 'coder_id', '') or inner.element_coder_id)})"
    for name, spec in sorted(pardo.timer_family_specs.items()):
        yield f"timer:{name}={beam_runner_api_pb2.TimeDomain.Enum.Name(spec.time_domain).lower()}"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, lines in (("batch", described(proto(backfill()))), ("stream", described(proto(live(), True)))):
        (GOLDEN / f"{name}.txt").write_text("\n".join(lines) + "\n")
    kept = {name: base64.b64encode(pack(value)).decode() for name, (value, pack, _) in state().items()}
    (GOLDEN / "state.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
