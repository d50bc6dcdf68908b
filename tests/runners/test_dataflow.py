"""Jobs for Dataflow: what is asked of it, that a running job can be updated, and what is refused before a launch."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from apache_beam.coders import BytesCoder, StrUtf8Coder, VarIntCoder
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines.errors import UserError
from pipelines.runners.execution import Execution, Job
from tests.support import golden_jobs as jobs
from tests.support import small_shop
from tests.support.asked_runners import asked
from tests.support.fake_dataflow import BUCKET, PROJECT, Cloud, cloud
from tests.support.golden_jobs import FLAGS, IMAGE, Proto, backfill, live

GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
ALLOWED = {"impulse", "pardo", "flatten", "group_by_key", "pubsub_read"}
STATEFUL = "beam:requirement:pardo:stateful:v1"


@pytest.fixture(scope="module")
def batch() -> Proto:
    return jobs.proto(backfill())


@pytest.fixture(scope="module")
def stream() -> Proto:
    return jobs.proto(live(), streaming=True)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with cloud(monkeypatch) as services:
        yield services


@pytest.mark.parametrize("name", ["batch", "stream"])
def test_steps_have_the_names_coders_and_state_of_running_jobs(name: str, request: pytest.FixtureRequest) -> None:
    changed = jobs.difference(name, jobs.described(request.getfixturevalue(name)))
    assert not changed, changed


def test_a_renamed_step_is_told_with_the_mapping_that_an_update_takes(stream: Proto) -> None:
    lines = [line.replace("RunningTotal/Running ", "RunningTotal/Total ") for line in jobs.described(stream)]
    told = jobs.difference("stream", lines)
    mapping = '--transform_name_mapping=\'{"Write/Append/RunningTotal/Running": "Write/Append/RunningTotal/Total"}\''
    assert mapping in told
    assert "python -m tests.support.golden_jobs" in told


@pytest.mark.parametrize("name", ["batch", "stream"])
def test_keys_have_coders_that_give_the_same_bytes_on_every_worker(name: str, request: pytest.FixtureRequest) -> None:
    graph = request.getfixturevalue(name)
    coders = jobs.key_coders(graph)
    assert len(coders) == (4 if name == "batch" else 3)
    for step, coder in coders.items():
        assert coder.is_deterministic(), step
        if not step.endswith("/CombinePerKey/GroupByKey"):  # whose only key is None, for which Beam has no coder
            assert isinstance(coder, VarIntCoder | StrUtf8Coder | BytesCoder), f"{step}: {coder}"
    combined = {step.removesuffix("/CombinePerKey/GroupByKey") for step in coders if "/CombinePerKey/" in step}
    names = {str(t.unique_name) for t in graph.components.transforms.values()}
    assert {f"{step}/KeyWithVoid" for step in combined} <= names


@pytest.mark.parametrize("name", ["batch", "stream"])
def test_all_steps_are_of_kinds_that_dataflow_runs(name: str, request: pytest.FixtureRequest) -> None:
    graph = request.getfixturevalue(name)
    for step in jobs.leaves(graph):
        kind = step.spec.urn.removeprefix("beam:transform:").removesuffix(":v1")
        if set(step.inputs.values()) != set(step.outputs.values()):  # a step that hands on its input is none
            assert kind in ALLOWED, step.unique_name
        pardo = jobs.payload(step)
        assert not pardo.restriction_coder_id, f"{step.unique_name} is a splittable DoFn of our own"
        assert not pardo.requests_finalization, f"{step.unique_name} waits for the end of bundles"
    assert list(graph.requirements) == ([STATEFUL] if name == "stream" else [])
    reads = [step for step in jobs.leaves(graph) if step.spec.urn == "beam:transform:pubsub_read:v1"]
    if name == "stream":
        (read,) = reads
        source = beam_runner_api_pb2.PubSubReadPayload.FromString(read.spec.payload)
        assert source.subscription == f"projects/{PROJECT}/subscriptions/events"
        assert source.with_attributes, "arrivals are the publish times of messages, which come with the attributes"
        assert not source.timestamp_attribute, "the watermark would not be that of publish times"
    else:
        assert not reads


def test_what_the_state_of_a_job_holds_can_be_read_by_later_code() -> None:
    kept = json.loads((jobs.GOLDEN / "state.json").read_text())
    assert kept.keys() == jobs.state().keys()
    for name, (value, pack, unpack) in jobs.state().items():
        raw = base64.b64decode(kept[name])
        if name == "block":
            assert pack(value) == raw
            assert all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in _columns(value, unpack(raw)))
        else:
            assert unpack(raw) == value, f"{name}: jobs that run could not go on with this code"


def _columns(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    assert a.keys.to_pylist() == b.keys.to_pylist()
    return ((x, y) for x, y in list(zip(astuple(a), astuple(b), strict=True))[1:])


def test_options_that_change_no_meaning_leave_a_job_that_can_be_updated(stream: Proto) -> None:
    flags = [*FLAGS, "--num_workers=3", "--max_num_workers=9", "--machine_type=n1-standard-8", "--job_name=live"]
    other = live(flags, engine="openvino", batch_size=64, max_bad_share=0.5, early=30_000_000, pullers=4)
    graph = jobs.pipeline(other, *flags, "--dry_run=yes", streaming=True, accelerator=GPU).run().job.proto_pipeline
    assert jobs.described(graph) == jobs.described(stream)


def test_leaving_out_the_history_takes_away_its_steps_alone(stream: Proto) -> None:
    shorter = jobs.proto(live(history=False), streaming=True)
    with_history, without = ({line.split()[0] for line in jobs.described(graph)} for graph in (stream, shorter))
    assert without < with_history
    assert all(step.startswith("Read/History/") for step in with_history - without)
    assert jobs.key_coders(shorter).keys() < jobs.key_coders(stream).keys()
    assert [s.unique_name for s in jobs.stateful(shorter)] == [s.unique_name for s in jobs.stateful(stream)]


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ({}, True),
        ({"task": jobs.shop(small_shop.TASK.replace("units: [8]", "units: [16]"))}, True),
        ({"first": jobs.AS_OF + 7 * 86_400_000_000}, False),
        ({"shards": 32}, False),
        ({"task": jobs.shop(small_shop.TASK.replace("steps: 28", "steps: 56"))}, False),
        ({"task": jobs.shop(small_shop.TASK.replace("{agg: sum, field: price}", "{agg: mean, field: price}"))}, False),
    ],
)
def test_a_job_that_would_misread_the_state_has_another_name_for_what_keeps_it(
    changed: dict[str, Any], fits: bool, stream: Proto
) -> None:
    shards = changed.pop("shards", None)
    execution = Execution(1, shards, FLAGS, False)
    (before, _), (after, _) = (
        [str(step.unique_name) for step in jobs.stateful(graph)]
        for graph in (stream, jobs.proto(live(execution=execution, **changed), streaming=True))
    )
    assert before.endswith("/LiveSequences/Live/ParDo(_Live)")
    assert (before == after) == fits


def test_a_backfill_asks_for_workers_with_an_accelerator_for_inference_alone(services: Cloud) -> None:
    flags = [*FLAGS, "--num_workers=2", "--max_num_workers=20", "--machine_type=n1-standard-8", "--job_name=backfill"]
    wanted = asked(*FLAGS, accelerator=GPU, ram="16GB").hints
    jobs.pipeline(backfill(flags, wanted), *flags, accelerator=GPU).run()
    (job,) = services.jobs
    environment, (pool,) = job["environment"], job["environment"]["workerPools"]
    assert (job["name"], job["type"], environment["version"]["job_type"]) == ("backfill", 1, "FNAPI_BATCH")
    assert {"use_runner_v2", "use_portable_job_submission", "beam_fn_api"} <= set(environment["experiments"])
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert "serviceOptions" not in environment, "all workers would have the accelerator"
    assert (pool["kind"], pool["numWorkers"], pool["machineType"]) == ("harness", 2, "n1-standard-8")
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 20}
    assert "packages" not in pool, "something of this process would be sent to the workers"
    assert environment["tempStoragePrefix"].startswith(f"storage.googleapis.com/{BUCKET}/temp/backfill.")
    given = environment["sdkPipelineOptions"]["options"]
    assert (given["project"], given["region"]) == (PROJECT, "europe-west1")
    assert given["pipelineUrl"].startswith(f"gs://{BUCKET}/temp/backfill.")

    graph = Proto.FromString(services.staged("pipeline.pb"))
    environments = graph.components.environments
    images = {image["environmentId"]: image["containerImage"] for image in pool["sdkHarnessContainerImages"]}
    assert images == dict.fromkeys(environments, IMAGE)
    hinted = {step.unique_name for step in jobs.leaves(graph) if environments[step.environment_id].resource_hints}
    assert hinted == {"Infer/Score/ParDo(_Score)"}
    (special,) = (e for e in environments.values() if e.resource_hints)
    assert dict(special.resource_hints) == {
        "beam:resources:accelerator:v1": GPU.encode(),
        "beam:resources:min_ram_bytes:v1": b"16000000000",
    }


def test_hints_do_not_change_steps_or_coders(batch: Proto) -> None:
    flags = [*FLAGS, "--dry_run=yes"]
    graph = (
        jobs.pipeline(backfill(flags, asked(*FLAGS, accelerator=GPU, ram="16GB").hints), *flags)
        .run()
        .job.proto_pipeline
    )
    assert jobs.described(graph) == jobs.described(batch)


def test_a_live_job_asks_for_one_pool_that_has_the_accelerator(services: Cloud) -> None:
    flags = [*FLAGS, "--job_name=live", "--dataflow_service_options=min_num_workers=2"]
    jobs.pipeline(live(flags), *flags, streaming=True, accelerator=GPU).run()
    (job,) = services.jobs
    environment, (pool,) = job["environment"], job["environment"]["workerPools"]
    assert (job["name"], job["type"], environment["version"]["job_type"]) == ("live", 2, "FNAPI_STREAMING")
    assert {"use_runner_v2", "enable_streaming_engine", "enable_windmill_service"} <= set(environment["experiments"])
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert environment["serviceOptions"] == ["min_num_workers=2", f"worker_accelerator={GPU}"]
    assert "packages" not in pool
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == pool["workerHarnessContainerImage"] == IMAGE
    graph = Proto.FromString(services.staged("pipeline.pb"))
    assert not any(e.resource_hints for e in graph.components.environments.values())
    assert jobs.described(graph) == (jobs.GOLDEN / "stream.txt").read_text().splitlines()


def test_an_update_names_the_job_that_it_replaces_and_the_steps_that_have_other_names(services: Cloud) -> None:
    flags = [*FLAGS, "--job_name=live"]
    jobs.pipeline(live(flags), *flags, streaming=True).run()
    mapping = '{"Infer/Predict": "Infer/Score"}'
    flags += ["--update", f"--transform_name_mapping={mapping}"]
    jobs.pipeline(live(flags), *flags, streaming=True).run()
    first, second = services.jobs
    assert "replaceJobId" not in first
    assert second["replaceJobId"] == "job-1"
    assert second["transformNameMapping"] == json.loads(mapping)
    assert first["clientRequestId"] != second["clientRequestId"]


def test_a_template_is_written_and_nothing_is_launched(services: Cloud) -> None:
    flags = [*FLAGS, f"--template_location=gs://{BUCKET}/templates/backfill"]
    assert asked(*flags).template
    jobs.pipeline(backfill(flags), *flags).run().wait_until_finish()
    assert not services.jobs
    described = json.loads(services.staged("backfill"))
    assert described["environment"]["workerPools"][0]["workerHarnessContainerImage"] == IMAGE
    assert described["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"].endswith("/pipeline.pb")


def test_options_are_added_that_are_missing_and_no_others() -> None:
    assert "--experiments=no_use_multiple_sdk_containers" not in asked("--runner=FlinkRunner", accelerator=GPU).added()
    assert asked(*FLAGS).added() == ["--no_save_main_session"]
    assert asked(*FLAGS, "--save_main_session").added() == []
    pool = f"--dataflow_service_options=worker_accelerator={GPU}"
    one = "--experiments=no_use_multiple_sdk_containers"
    assert asked(*FLAGS, "--no_save_main_session", accelerator=GPU).added() == [one]
    assert asked(*FLAGS, "--no_save_main_session", accelerator=GPU, live=True).added() == [pool, one]
    assert asked(*FLAGS, "--no_save_main_session", pool, live=True).added() == [one]
    assert (
        asked(*FLAGS, "--no_save_main_session", "--experiments=use_multiple_sdk_containers", accelerator=GPU).added()
        == []
    )
    assert asked(*FLAGS, "--no_save_main_session", accelerator=f"{GPU};use_nvidia_mps").added() == []


def test_a_template_is_of_dataflow_alone() -> None:
    assert not asked(*FLAGS).template
    assert not asked("--runner=FlinkRunner", "--template_location=gs://my-bucket/t").template


def check(
    flags: Sequence[str], job: Job, live: bool = False, accelerator: str | None = None, ram: str | None = None
) -> None:
    asked(*flags, live=live, accelerator=accelerator, ram=ram).check(job)


GOOD = Job(jobs.MODEL, None)


def test_good_jobs_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    check(FLAGS, GOOD)
    check(FLAGS, replace(GOOD, device="gpu"), live=True, accelerator=GPU)
    check(FLAGS, GOOD, accelerator=f"{GPU}:latest;use_nvidia_mps", ram="1.5GiB")
    check([*FLAGS, "--update", "--job_name=live"], GOOD, live=True)
    in_image = replace(GOOD, model="/models/shop", inputs=("/data/events",))
    check([*FLAGS, f"--template_location=gs://{BUCKET}/launch"], in_image)
    check([f for f in FLAGS if "image" not in f] + [f"--setup_file={__file__}"], GOOD)
    check(["--runner=FlinkRunner"], Job("models/shop", "scores", ("events",)))
    monkeypatch.setenv("CLOUDSDK_COMPUTE_REGION", "europe-west1")
    check(_without("--region"), GOOD)


def _without(flag: str, *more: str) -> list[str]:
    return [each for each in FLAGS if not each.startswith(flag)] + list(more)


@pytest.mark.parametrize(
    ("flags", "changed", "told"),
    [
        (_without("--project"), {}, "needs --project=PROJECT"),
        (_without("--project", "--project=123456"), {}, "123456 is no name of one"),
        (_without("--region"), {}, "needs --region=REGION"),
        (_without("--temp_location"), {}, "needs --temp_location=gs://BUCKET/FOLDER"),
        (_without("--temp_location", "--temp_location=/tmp"), {}, "--temp_location=/tmp: must be a folder of a bucket"),
        (_without("--temp_location", "--temp_location=gs://my-bucket"), {}, "must be a folder of a bucket"),
        ([*FLAGS, "--staging_location=there"], {}, "--staging_location=there: must be a folder of a bucket"),
        (_without("--sdk_container_image"), {}, r"needs --sdk_container_image=IMAGE, built from templates/Dockerfile"),
        (_without("--sdk_container_image", "--setup_file=no.py"), {}, r"--setup_file=no\.py: no such file"),
        ([*FLAGS, "--job_name=My_Job"], {}, "--job_name=My_Job: takes a-z, 0-9 and -"),
        ([*FLAGS, "--update", "--job_name=j"], {}, "--update is for live jobs"),
        ([*FLAGS, '--transform_name_mapping={"a":"b"}'], {"live": True}, "goes with --update"),
        (FLAGS, {"inputs": ("/data/events",)}, "/data/events: workers of Dataflow cannot read it here"),
        (FLAGS, {"model": "models/shop"}, "--model models/shop: workers of Dataflow cannot read it here"),
        (FLAGS, {"output": "scores"}, "--output scores: jobs on Dataflow write to BigQuery"),
        (FLAGS, {"output": "/mnt/scores"}, "jobs on Dataflow write to BigQuery"),
        (FLAGS, {"archive": "archive", "live": True}, "--archive archive: workers of Dataflow cannot write it"),
        (FLAGS, {"accelerator": "nvidia-tesla-t4"}, "--accelerator nvidia-tesla-t4: must be such as 'type:nvidia-tes"),
        (FLAGS, {"accelerator": "type:nvidia-tesla-t4;count:0"}, "must be such as"),
        (FLAGS, {"accelerator": "type:nvidia-tesla-t4;count:1"}, "must be such as .*;install-nvidia-driver'"),
        (FLAGS, {"accelerator": GPU, "device": "cpu"}, "--accelerator does not go with --device cpu"),
        (FLAGS, {"device": "gpu"}, "--device gpu needs --accelerator"),
        (_without("--sdk", f"--setup_file={__file__}"), {"accelerator": GPU}, "needs --sdk_container_image=IMAGE with"),
        (
            [*FLAGS, f"--dataflow_service_options=worker_accelerator={GPU}"],
            {"ram": "16GB"},
            "--inference-ram does not go with --dataflow_service_options=worker_accelerator",
        ),
        ([*FLAGS, "--flexrs_goal=COST_OPTIMIZED"], {"accelerator": GPU}, "does not go with --flexrs_goal"),
        (FLAGS, {"ram": "16"}, "--inference-ram 16: must be such as 16GB"),
        (FLAGS, {"ram": "16GB", "live": True}, "--inference-ram is for backfills"),
        (["--runner=FlinkRunner"], {"accelerator": GPU}, "--accelerator is for --runner=DataflowRunner"),
        ([], {"ram": "16GB"}, "--inference-ram is for --runner=DataflowRunner"),
    ],
)
def test_what_cannot_work_is_refused_before_a_launch(
    flags: list[str], changed: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    of_job = {name: value for name, value in changed.items() if hasattr(GOOD, name)}
    with pytest.raises(UserError, match=told) as refused:
        check(flags, replace(GOOD, **of_job), **{k: v for k, v in changed.items() if k not in of_job})
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_found_and_the_first_of_it_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    job = replace(GOOD, output="scores", inputs=("a", "b"))
    found = [str(problem) for problem in asked(*_without("--region", "--update"), ram="much").problems(job)]
    starts = [
        "--runner=DataflowRunner needs --region",
        "--update is",
        "a: ",
        "b: ",
        "--output scores",
        "--inference-ram",
    ]
    assert [told[: len(start)] for told, start in zip(found, starts, strict=True)] == starts
    with pytest.raises(UserError, match="needs --region"):
        check(_without("--region", "--update"), job, ram="much")
