"""Templates ask for what the commands take, and a launch of one is the command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from google.cloud.dataflow_v1beta3.types import ParameterType, TemplateMetadata

from docs.generated import metadata
from pipelines import cli
from pipelines.errors import Exit
from pipelines.flex import COMMANDS, Template, flags, forms, main
from pipelines.jobs.config import Input, ScoreConfig, StreamConfig
from pipelines.jobs.score import score
from pipelines.jobs.stream import stream
from pipelines.models import registry
from pipelines.runners.execution import Execution
from pipelines.task.fields import parse_time
from pipelines.task.file import load_task
from tests.support import docker_images, small_shop
from tests.support.toy_models import untrained
from tests.transforms.test_read_files import memory as memory  # a fixture

IMAGE = "europe-west1-docker.pkg.dev/my-project/foretide/cpu:1"
DATAFLOW = (
    *("--runner=DataflowRunner", "--project=my-project", "--region=europe-west1"),
    "--temp_location=gs://my-bucket/temp",
    "--template_location=gs://my-bucket/staging/template_launches/1/job_object",
    f"--sdk_container_image={IMAGE}",
)
TEMPLATES: tuple[Template, ...] = get_args(Template)
Config = ScoreConfig | StreamConfig
Configs = list[Config]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(small_shop.TASK)
    return tmp_path / "task.yaml"


class Reached(BaseException):
    """A command has checked what it was asked, and turns to the model."""


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> Configs:
    """What the commands are called with, which go no further than to their model."""
    found: Configs = []

    def until_model(command: Callable[[Any], int]) -> Callable[[Config], int]:
        def start(config: Config) -> int:
            with pytest.raises(Reached):
                command(config)
            found.append(config)
            return 0

        return start

    def resolve(_: str) -> Path:
        raise Reached

    monkeypatch.setattr(registry, "resolve", resolve)
    monkeypatch.setattr("pipelines.jobs.score.score", until_model(score))
    monkeypatch.setattr("pipelines.jobs.stream.stream", until_model(stream))
    return found


def parameters(template: Template, file: Path, /, **changes: str) -> dict[str, str]:
    """Those that must be there, changed."""
    own = {
        "batch": {"as_of": "2024-03-01", "input": "gs://my-bucket/events/*"},
        "stream": {"subscription": "projects/p/subscriptions/sub"},
    }
    return {
        "task": str(file),
        "model": "gs://my-bucket/models/m",
        "output": "bq://p.d.scores",
        **own[template],
        **changes,
    }


def arguments(given: dict[str, str], *options: str) -> list[str]:
    return [*(f"--{name}={value}" for name, value in given.items()), *options]


@pytest.mark.parametrize("template", TEMPLATES)
def test_dataflow_knows_every_key(template: Template) -> None:
    read = TemplateMetadata.from_json(json.dumps(metadata(template)), ignore_unknown_fields=False)
    assert [p.name for p in read.parameters] == [p["name"] for p in metadata(template)["parameters"]]
    assert ParameterType.DEFAULT not in {p.param_type for p in read.parameters}
    assert read.streaming == (template == "stream")


def test_every_option_is_a_parameter_or_left_out_for_a_reason() -> None:
    for template in TEMPLATES:
        assert all(flag.form for flag in flags(template).values())
        shown = [p["name"] for p in metadata(template)["parameters"]]
        assert sorted(shown) == sorted(forms(template))
        assert "archive" not in shown


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_the_form_shows(template: Template) -> None:
    shown = {p["name"]: p for p in metadata(template)["parameters"]}
    for name, entry in shown.items():
        flag = flags(template)[name]
        assert entry["isOptional"] == (not flag.required)
        assert entry["label"]
        assert entry["groupName"]
        assert entry["helpText"].startswith(f"{flag.name}: ")
        assert "None" not in entry["helpText"]
        if "parentName" in entry:
            values = [o["value"] for o in shown[entry["parentName"]]["enumOptions"]]
            assert set(entry["parentTriggerValues"]) < set(values)
            assert entry["isOptional"]
        if "defaultValue" in entry and "regexes" in entry:
            assert matches(entry, entry["defaultValue"])
    groups = [entry["groupName"] for entry in shown.values()]
    assert [g for i, g in enumerate(groups) if g not in groups[:i]] == sorted(set(groups), key=groups.index)


def matches(entry: dict[str, Any], value: str) -> bool:
    return all(re.search(pattern, value) for pattern in entry["regexes"])


PLACES = (["gs://b-1/a/b c.yaml", "/opt/x.yaml"], ["x.yaml", "./x.yaml", "gs://", "gs://b", "s3://b/x", "bq://p.d.t"])
SOURCES = (
    ["gs://b-1/a/*", "/data/a", "bq://p.d.t", "gs://b-1/a,gs://b-1/b", "bq://p?SELECT a, b FROM t,/data/a"],
    ["events", "gs://b", "s3://b/x", "gs://b-1/a,events"],
)
TIMES = (["2024-03-01", "2024-03-01T00:00", "2024-03-01T00:00:00Z"], ["now", "2024-3-1", "1.3.2024", "2024-03-01T"])
NATURALS = (["1", "512"], ["0", "-1", "1.5", "many"])
VALUES: dict[str, tuple[list[str], list[str]]] = {  # right and wrong ones; a task file must be there
    "task": ([], PLACES[1]),
    "model": PLACES,
    "avro_schema": (["/opt/x.avsc"], PLACES[1]),
    "input": SOURCES,
    "bootstrap": SOURCES,
    "from": TIMES,
    "as_of": (
        [*TIMES[0], "2024-03-01..2024-05-01", "latest"],
        [*TIMES[1], "2024-03-01..", "2024-03-01..latest", "..2024-03-01", "2024-03-01...now"],
    ),
    "early": (["0s", "500ms", "2w"], ["30", "1 h", "1y", "-1s", "soon"]),
    "subscription": (["projects/p-1/subscriptions/sub"], ["sub", "projects/p/topics/sub", "projects//subscriptions/s"]),
    "dead_letters": (["projects/p-1/topics/dead"], ["dead", "projects/p/subscriptions/s", "projects/p/topics/"]),
    "output": (["bq://p-1.d_1.t-1"], ["scores", "/data/scores", "gs://my-bucket/scores", "bq://d.t", "bq://p.d.t.u v"]),
    "max_bad_share": (["0", "1", "0.05", ".5", "1.0"], ["2", "-1", "1.5", "nan", "5%"]),
    "batch_size": NATURALS,
    "shards": NATURALS,
    "payload": (["json", "avro"], ["JSON", "xml"]),
    "format": (["parquet", "messages"], ["xlsx", "Parquet"]),
    "engine": (["tensorflow", "openvino-bf16"], ["torch", "openvino-"]),
    "device": (["auto", "cpu"], ["tpu", "GPU"]),
    "accelerator": (
        ["type:nvidia-l4;count:1;install-nvidia-driver", "type:nvidia-l4;count:2;install-nvidia-driver;use_nvidia_mps"],
        ["nvidia-l4", "type:nvidia-l4;count:0;install-nvidia-driver", "type:nvidia-l4;count:1"],
    ),
    "inference_ram": (["16GB", "1.5GiB"], ["16", "16 GB", "much"]),
    "replace_model": (["true", "false"], ["yes", "1"]),
    "debug": (["true", "false"], ["yes", "1"]),
}
METHODS = {"batch": (["storage", "load"], ["beam", "x"]), "stream": (["storage", "beam"], ["load", "x"])}


@pytest.mark.parametrize("template", TEMPLATES)
def test_pattern_and_program_take_and_refuse_the_same(
    configs: Configs, capsys: pytest.CaptureFixture[str], task: Path, template: Template
) -> None:
    for entry in metadata(template)["parameters"]:
        name = entry["name"]
        right, wrong = METHODS[template] if name == "bigquery_method" else VALUES[name]
        with_it = {"payload": "avro"} if name == "avro_schema" else {}
        if forms(template)[name].example:
            assert matches(entry, forms(template)[name].example)
        for value in right:
            assert matches(entry, value), (name, value)
            assert run(parameters(template, task, **with_it, **{name: value})) == Exit.OK, (name, value)
            assert capsys.readouterr().err == ""
        count = len(configs)
        for value in wrong:
            assert not matches(entry, value), (name, value)
            assert run(parameters(template, task, **with_it, **{name: value})) == Exit.USAGE, (name, value)
            told = capsys.readouterr().err.splitlines()[-1]
            assert name in told.replace("-", "_") or value in told
        assert len(configs) == count


def run(given: dict[str, str], *options: str) -> int:
    """Exit code of a launch."""
    try:
        return main(arguments(given, *(options or DATAFLOW)))
    except SystemExit as end:  # argparse
        return int(str(end.code))


ALL: dict[Template, tuple[dict[str, str], list[str]]] = {  # a launch with every parameter, and the command that it is
    "batch": (
        {
            "as_of": "2024-03-01..2024-04-01",
            "input": "gs://my-bucket/a*,gs://my-bucket/c,bq://p?SELECT a, b FROM t",
            "format": "csv",
            "max_bad_share": "0.5",
            "engine": "openvino",
            "device": "gpu",
            "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
            "inference_ram": "16GB",
            "batch_size": "32",
            "bigquery_method": "load",
            "replace_model": "true",
            "shards": "5",
            "debug": "TRUE",
        },
        [
            *("--as-of", "2024-03-01..2024-04-01", "--format", "csv", "--max-bad-share", "0.5", "--engine", "openvino"),
            *("--input", "gs://my-bucket/a*", "gs://my-bucket/c", "bq://p?SELECT a, b FROM t"),
            *("--device", "gpu", "--batch-size", "32", "--inference-ram", "16GB"),
            *("--accelerator", "type:nvidia-l4;count:1;install-nvidia-driver"),
            *("--bigquery-method", "load", "--replace-model", "--shards", "5", "--debug"),
        ],
    ),
    "stream": (
        {
            "subscription": "projects/p/subscriptions/sub",
            "from": "2024-03-04T12:00",
            "early": "30s",
            "payload": "avro",
            "avro_schema": "/opt/events.avsc",
            "bootstrap": "gs://my-bucket/history/*",
            "format": "messages",
            "max_bad_share": "1",
            "engine": "openvino-bf16",
            "device": "gpu",
            "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
            "batch_size": "64",
            "bigquery_method": "beam",
            "dead_letters": "projects/p/topics/dead",
            "shards": "7",
            "debug": "false",
        },
        [
            *("--subscription", "projects/p/subscriptions/sub", "--from", "2024-03-04T12:00", "--early", "30s"),
            *("--payload", "avro", "--avro-schema", "/opt/events.avsc", "--bootstrap", "gs://my-bucket/history/*"),
            *("--format", "messages", "--max-bad-share", "1", "--engine", "openvino-bf16", "--device", "gpu"),
            *("--batch-size", "64", "--bigquery-method", "beam", "--dead-letters", "projects/p/topics/dead"),
            *("--shards", "7", "--accelerator", "type:nvidia-l4;count:1;install-nvidia-driver"),
        ],
    ),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_parameter_is_its_option(configs: Configs, task: Path, template: Template) -> None:
    given, options = ALL[template]
    launched = parameters(template, task, **given)
    assert launched.keys() == {p["name"] for p in metadata(template)["parameters"]}
    assert run(launched) == Exit.OK
    same = ["--task", str(task), "--model", "gs://my-bucket/models/m", "--output", "bq://p.d.scores"]
    assert cli.main([COMMANDS[template].name, *same, *options, *DATAFLOW]) == Exit.OK
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    "sources",
    [
        ["gs://b-1/a", "/data/a", "bq://p.d.t", "/x"],
        ["bq://p?SELECT a,/* of it */b FROM t", "/data/a"],
        ["bq://p?SELECT a FROM t WHERE place IN ('x',',/y', \"a',/b\", 'it\\'s,/z')", "bq://p?SELECT ',gs://b/x'"],
        ["bq://p?SELECT a, -- one,/two's\n b FROM `p.d,/x`", "gs://b-1/it's,here", "/b's"],
        ['bq://p?SELECT \'\'\'a\',/b\'\'\', """"x",/""" FROM t', "/data/a?,b"],
        ["bq://p?SELECT 'open"],
    ],
)
def test_a_list_is_parted_where_no_query_goes_on(configs: Configs, task: Path, sources: list[str]) -> None:
    assert run(parameters("batch", task, input=",".join(sources)), "--runner=DirectRunner") == Exit.OK
    [config] = configs
    assert isinstance(config, ScoreConfig)
    assert [Path(p).name if "://" not in p else p for p in config.input.patterns] == [
        Path(p).name if "://" not in p else p for p in sources
    ]


def test_types_of_a_backfill(configs: Configs, task: Path) -> None:
    assert run(parameters("batch", task, batch_size="32", max_bad_share=".5", shards="5", format="")) == Exit.OK
    [config] = configs
    assert isinstance(config, ScoreConfig)
    assert config == ScoreConfig(
        task=load_task(task),
        input=Input(("gs://my-bucket/events/*",), None),
        as_ofs=(parse_time("2024-03-01"),),
        model="gs://my-bucket/models/m",
        engine="tensorflow",
        device="auto",
        batch_size=32,
        output="bq://p.d.scores",
        execution=Execution(1, 5, DATAFLOW, False),
        max_bad_share=0.5,
    )


def test_options_of_the_job_go_to_beam(configs: Configs, task: Path) -> None:
    """As Google's launcher adds them; its flags have values, which Beam's do not take."""
    added = [
        "--job_name=backfill-1",
        "--staging_location=gs://my-bucket/staging",
        '--labels={"goog-dataflow-provided-template-type": "flex"}',
        "--service_account_email=jobs@my-project.iam.gserviceaccount.com",
        "--max_num_workers=4",
        "--machine_type=n1-standard-4",
        "--subnetwork=regions/europe-west1/subnetworks/jobs",
        "--experiments=use_runner_v2",
        "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    ]
    flags = ["--enable_streaming_engine=true", "--no_use_public_ips", "--save_main_session=false"]
    assert run(parameters("batch", task), *DATAFLOW, *added, *flags) == Exit.OK
    expected = (*DATAFLOW, *added, "--enable_streaming_engine", "--no_use_public_ips")
    assert configs[0].execution == Execution(1, None, expected, False)


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        ({"as_of": ""}, DATAFLOW, "give either as_of, for a backfill, or subscription, for a live job"),
        ({"subscription": "projects/p/subscriptions/s"}, DATAFLOW, "give either as_of"),
        (
            {"bootstrap": "gs://my-bucket/x"},
            DATAFLOW,
            "bootstrap: a launch of the batch template has no such parameter",
        ),
        ({}, (*DATAFLOW, "--task=gs://my-bucket/t"), "task is given twice"),
        ({}, (*DATAFLOW, "--debug"), "--debug: a launch gives its parameters as --name=value"),
        ({}, (*DATAFLOW, "true"), "true: a launch gives its parameters as --name=value"),
        ({}, (*DATAFLOW, "--streaming=perhaps"), "streaming perhaps: must be true or false"),
        ({}, (*DATAFLOW, "--wrokers=2"), "unknown option --wrokers: neither foretide nor Beam has it"),
    ],
)
def test_a_launch_that_cannot_be_is_told_in_a_sentence(
    configs: Configs,
    capsys: pytest.CaptureFixture[str],
    task: Path,
    given: dict[str, str],
    options: tuple[str, ...],
    told: str,
) -> None:
    assert run(parameters("batch", task, **given), *options) == Exit.USAGE
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("foretide: ")
    assert error.count("\n") == 1
    assert not configs


def test_files_are_read_where_beam_reads(
    configs: Configs, capsys: pytest.CaptureFixture[str], task: Path, memory: dict[str, bytes]
) -> None:
    memory |= {"mem://b/shop.yaml": small_shop.TASK.encode(), "mem://b/wrong.yaml": b"task: [", "mem://b/e.avsc": b"{}"}
    here = "--runner=PrismRunner"
    schemas: list[bytes] = []
    given = parameters("stream", task, task="mem://b/shop.yaml", payload="avro", avro_schema="mem://b/e.avsc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.jobs.stream.stream", reading(schemas))
        assert run(given, here) == Exit.OK
    assert schemas == [b"{}"]
    assert run({**given, "avro_schema": ""}, here) == Exit.OK
    assert configs[0].task == load_task(task)
    assert run({**given, "task": "mem://b/wrong.yaml"}, here) == Exit.USAGE
    assert "wrong.yaml:1: not valid YAML" in capsys.readouterr().err
    assert run({**given, "task": "mem://b/none.yaml"}, here) == Exit.USAGE
    assert "task mem://b/none.yaml: cannot be read: " in capsys.readouterr().err


def reading(found: list[bytes]) -> Callable[[StreamConfig], int]:
    def command(config: StreamConfig) -> int:
        assert config.avro_schema is not None
        found.append(Path(config.avro_schema).read_bytes())
        return 0

    return command


def test_a_launch_is_the_command(tmp_path: Path) -> None:
    """Both to their end, the launch in a process of its own that has the image's files, variables and folders."""
    task, events = small_shop.write(tmp_path / "shop")
    untrained(load_task(task), tmp_path / "model")
    compare(docker_images.make("cpu", tmp_path / "docker", install=False), task, events, tmp_path / "model", tmp_path)


def compare(root: Path, task: Path, events: Path, model: Path, folder: Path) -> None:
    """Runs a backfill by a launch in the image at `root` and by the command line."""
    files = sorted(map(str, events.iterdir()))
    given = {"task": str(task), "input": ",".join(files), "as_of": "2024-04-15..2024-05-13", "model": str(model)}
    request = folder / "request.json"
    launched = {**given, "output": str(folder / "launched"), "shards": "3", "debug": "false"}
    request.write_text(json.dumps({"launchParameter": {"jobName": "backfill-1", "parameters": launched}}))
    done = docker_images.launch("cpu", root, request, "--runner=DirectRunner", "--job_name=backfill-1")
    assert done.returncode == Exit.OK, done.stderr
    assert "Traceback" not in done.stderr
    flags = ["--task", str(task), "--as-of", "2024-04-15..2024-05-13", "--model", str(model), "--shards", "3"]
    assert cli.main(["score", "--input", *files, *flags, "--output", str(folder / "commanded")]) == Exit.OK
    assert published(folder / "launched") == published(folder / "commanded")
    request.write_text(json.dumps({"launchParameter": {"parameters": {**launched, "as_of": "2024-04-15T06:00"}}}))
    refused = docker_images.launch("cpu", root, request, "--runner=DirectRunner")
    assert refused.returncode == Exit.USAGE
    assert "foretide score: --as-of 2024-04-15T06:00 is not a step boundary" in refused.stderr


def published(out: Path) -> dict[str, bytes]:
    """Scores and dead letters, byte for byte, by the names of their files."""
    files = [f for kind in ("scores", "dead_letters") for f in out.glob(f"current/*/{kind}/*")]
    assert files
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in files}
