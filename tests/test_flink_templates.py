"""The templates for Flink: profiles, Kubernetes, one host. Schemas know them, they agree with each other and with the
versions here, Flink itself takes the settings, and Beam's job server the options."""

from __future__ import annotations

import fnmatch
import re
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
import yaml
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from pipelines import cli
from pipelines.commands.option_files import expanded
from pipelines.runners import flink, flink_job
from pipelines.runners.kinds import check_beam_args
from pipelines.sandbox.flink_cluster import FlinkCluster, Ports, java
from tests.support.asked_runners import asked
from tests.support.command_line import foretide
from tests.support.live_world import AS_OFS, World
from tests.support.services import Emulator

ROOT = Path(__file__).parents[1]
FLINK = ROOT / "templates" / "flink"
PROFILES = ("batch", "stream")
COMMANDS = {"batch": "score", "stream": "stream"}
KUBERNETES = "1.29"  # the first with side-cars of its own
UNITS = {"k": 10, "m": 20, "g": 30}
DIST = flink.folder() / "dist" / "pyflink"
RELEASE = (ROOT / "emulators" / "flink" / "requirements.txt").read_text().split("==")[1].split()[0]


def config(profile: str) -> dict[str, str]:
    """A profile's settings of Flink, as it reads them."""
    given = yaml.safe_load((FLINK / profile / "config.yaml").read_text())
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in given.items()}


def options(profile: str) -> list[str]:
    """A profile's options of the launch."""
    lines = (FLINK / profile / "options").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def option(words: Sequence[str], name: str) -> str:
    (found,) = [word.partition("=")[2] for word in words if word.partition("=")[0] == f"--{name}"]
    return found


def deployment(profile: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster, and the job that launches."""
    cluster, launch = yaml.safe_load_all((FLINK / profile / "kubernetes.yaml").read_text())
    return cluster, launch


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((FLINK / "compose.yaml").read_text()))


def properties() -> dict[str, str]:
    """What the compose file sets beside the profile."""
    text = compose()["services"]["jobmanager"]["environment"]["FLINK_PROPERTIES"]
    return dict(line.split(": ", 1) for line in text.splitlines())


def size(text: str) -> int:
    """Bytes of `4g`, `1600m`, `6Gi`."""
    number, unit = re.fullmatch(r"(\d+)([kmg])i?", text.lower()).groups()  # type: ignore[union-attr]
    return int(number) << UNITS[unit]


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(FROM, what) and so on."""
    text = (FLINK / dockerfile).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def unknown(keys: Iterable[str]) -> list[str]:
    """Those that no class of options in Flink names."""
    with zipfile.ZipFile(DIST / "lib" / f"flink-dist-{RELEASE}.jar") as jar:
        names = [n for n in jar.namelist() if n.startswith("org/apache/flink/") and n.endswith("Options.class")]
        classes = b"".join(map(jar.read, names))
    return [key for key in keys if b"\x01" + struct.pack(">H", len(key)) + key.encode() not in classes]


def worked_out(profile: str, who: str) -> dict[str, str]:
    """The memory of a process, as Flink's own scripts have it worked out from a profile."""
    jars = [DIST / "lib" / f"flink-dist-{RELEASE}.jar", DIST / "bin" / "bash-java-utils.jar"]
    main = ["org.apache.flink.runtime.util.bash.BashJavaUtils", f"GET_{who}_RESOURCE_PARAMS"]
    command = [java(), "-cp", ":".join(map(str, jars)), *main, "--configDir", str(FLINK / profile)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = told.rpartition("BASH_JAVA_UTILS_EXEC_RESULT:")[2].split()
    return dict(word.split("=") for word in words if word != "-D")


def bytes_of(settings: Mapping[str, str], prefix: str) -> int:
    """The sum of all memory; of what has a fraction, minimum and maximum are equal by now."""
    return sum(int(v[:-1]) for k, v in settings.items() if k.startswith(prefix) and not k.endswith(".min"))


def pod(template: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """A pod of a template, and of what the operator adds from others."""
    spec = {key: value for part in (*others, template) for key, value in part["spec"].items()}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", ()), *spec.get("containers", ())]


def strict(schema: Any) -> Any:
    """A schema that refuses what it does not know, where Kubernetes would leave it out without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**{key: strict(value) for key, value in schema.items()}, **closed}


def refused(spec: Mapping[str, Any]) -> list[str]:
    """What the operator's schema has against a FlinkDeployment."""
    schema = strict(yaml.safe_load((ROOT / "tests" / "flinkdeployment.yaml").read_text()))
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(spec)]


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)


def kubernetes(document: Mapping[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """What Kubernetes' schemas say of a document."""
    (folder / "document.yaml").write_text(yaml.safe_dump(dict(document)))
    return checked("kubernetes_validate", "--strict", "-k", KUBERNETES, str(folder / "document.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_flink_has_every_setting(profile: str) -> None:
    keys = [*deployment(profile)[0]["spec"]["flinkConfiguration"], *properties()]
    assert unknown(keys) == []
    assert unknown(["taskmanager.memory.proces.size"]) == ["taskmanager.memory.proces.size"]


@pytest.mark.parametrize("profile", PROFILES)
def test_memory_adds_up_in_flink_in_the_pod_and_on_the_host(profile: str) -> None:
    settings, (cluster, _), services = config(profile), deployment(profile), compose()["services"]
    for who, kind, service in (("TM", "taskManager", "taskmanager"), ("JM", "jobManager", "jobmanager")):
        process = size(settings[f"{service}.memory.process.size"])
        assert bytes_of(worked_out(profile, who), f"{service}.memory.") == process
        assert size(cluster["spec"][kind]["resource"]["memory"]) == process
        assert size(services[service]["mem_limit"]) >= process
    for container in containers(cluster["spec"]["taskManager"]["podTemplate"]["spec"]):
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_command_and_beam_take_the_options(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = deployment(profile)[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert launch[:2] == ["foretide", COMMANDS[profile]]
    monkeypatch.chdir(ROOT)
    args, rest = cli.parser().parse_known_args(expanded(launch[1:]))
    assert set(options(profile)) - {"--shards=64"} <= set(rest)
    check_beam_args(rest)
    if profile == "stream":
        asked(*rest, live=True).check_live()
    assert args.output == "bq://my-project.churn.scores"


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_profile_says_is_what_kubernetes_gets(profile: str) -> None:
    cluster, launch = deployment(profile)
    given = dict(cluster["spec"]["flinkConfiguration"])
    place = {key: given.pop(key) for key in list(given) if key.startswith("high-availability.")}
    assert given == config(profile)
    assert bool(place) == (profile == "stream")
    spec = launch["spec"]["template"]["spec"]
    assert f"--options=templates/flink/{profile}/options" in spec["containers"][0]["args"]
    server, words = spec["initContainers"][0]["args"], spec["containers"][0]["args"]
    assert option(words, "flink_master") == option(server, "flink-master") == f"{cluster['metadata']['name']}-rest:8081"
    assert option(words, "job_endpoint") == f"localhost:{Ports.jobs}"
    assert [option(server, "job-host"), option(server, "job-port")] == ["localhost", str(Ports.jobs)]
    assert launch["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_kubernetes_takes_it(profile: str, tmp_path: Path) -> None:
    cluster, launch = deployment(profile)
    spec = cluster["spec"]
    assert (cluster["apiVersion"], cluster["kind"]) == ("flink.apache.org/v1beta1", "FlinkDeployment")
    assert refused(spec) == []
    pods = [pod(spec["podTemplate"]), pod(spec["taskManager"]["podTemplate"], spec["podTemplate"])]
    for document in (launch, *pods):
        told = kubernetes(document, tmp_path)
        assert told.returncode == 0, told.stdout + told.stderr
    for part in (launch["spec"]["template"]["spec"], pods[1]["spec"]):
        assert part["securityContext"]["runAsNonRoot"] is True
        for container in containers(part):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for sidecar in part["initContainers"]:
            assert sidecar["restartPolicy"] == "Always"


def test_what_kubernetes_would_leave_out_is_found(tmp_path: Path) -> None:
    cluster, launch = deployment("stream")
    spec = cluster["spec"]
    assert refused({**spec, "flinkVersion": "v1_9"}) != []
    assert refused({**spec, "taskManager": {"resource": {"cpus": 1}}}) != []
    assert refused({**spec, "flinkConfiguration": {"taskmanager.numberOfTaskSlots": 2}}) != []
    launch["spec"]["template"]["spec"]["initContainers"][0]["startProbe"] = {}
    told = kubernetes(launch, tmp_path)
    assert told.returncode == 1
    assert "startProbe" in told.stdout + told.stderr


def test_a_host_of_containers_holds_together(tmp_path: Path) -> None:
    told = checked("check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FLINK / "compose.yaml"))
    assert told.returncode == 0, told.stdout
    whole = compose()
    services = whole["services"]
    assert services["taskmanager"]["network_mode"] == services["workers"]["network_mode"] == "service:network"
    server = services["jobserver"]["command"]
    assert [option(server, "job-host"), option(server, "job-port")] == ["jobserver", str(Ports.jobs)]
    assert option(server, "flink-master") == f"{properties()['rest.address']}:8081"
    assert services["jobmanager"]["ports"] == ["127.0.0.1:8081:8081"]
    assert properties()["high-availability.zookeeper.quorum"] == "zookeeper:2181"
    mounts = {mount.partition(":")[0] for service in services.values() for mount in service.get("volumes", ())}
    assert {mount for mount in mounts if not mount.startswith("$")} == set(whole["volumes"])
    kept = [value for value in properties().values() if value.startswith("file:")]
    assert [path.startswith("file:///flink/") for path in kept] == [True] * 3
    slots = str(services["taskmanager"]["environment"]["TASK_MANAGER_NUMBER_OF_TASK_SLOTS"])
    assert {option(options(profile), "parallelism") for profile in PROFILES} == {slots}


def test_workers_are_where_the_options_look_for_them() -> None:
    (pool,) = [rest for word, rest in instructions("Dockerfile") if word == "CMD"]
    assert yaml.safe_load(pool) == ["python", "-m", "pipelines.runners.worker_pool", str(Ports.pool)]
    for profile in PROFILES:
        assert option(options(profile), "environment_type") == "EXTERNAL"
        assert option(options(profile), "environment_config") == f"localhost:{Ports.pool}"
        (workers,) = deployment(profile)[0]["spec"]["taskManager"]["podTemplate"]["spec"]["initContainers"]
        assert f"('localhost', {Ports.pool})" in workers["startupProbe"]["exec"]["command"][-1]
        assert "command" not in workers
        assert "args" not in workers


def test_images_have_the_versions_that_are_tested_here() -> None:
    worker, cluster = dict(instructions("Dockerfile")), instructions("Dockerfile.flink")
    text = " ".join(rest for _, rest in instructions("Dockerfile"))
    assert worker["FROM"].startswith("python:3.11-")
    extras = set(re.findall(r"--extra (\w+)", text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extras == {"bigquery", "gcp", "stream"} <= set(project["optional-dependencies"])
    base = [rest for word, rest in cluster if word == "FROM"][-1]
    assert base.partition("@")[0] == f"flink:{RELEASE}-scala_2.12-java17"
    assert RELEASE.startswith(f"{flink.VERSION}.")
    assert f"beam-runners-flink-{flink.VERSION}<" in (ROOT / "emulators" / "flink" / "pom.xml").read_text()
    assert any(f"flink-gs-fs-hadoop-{RELEASE}.jar" in rest for _, rest in cluster)
    version = project["version"]
    deployed = [document["spec"] for profile in PROFILES for document in deployment(profile)]
    images = set(re.findall(r"foretide[/-](?:worker|flink):[\d.]+", f"{deployed} {compose()}"))
    assert {image.split(":")[1] for image in images} == {version}
    assert {d["flinkVersion"] for d in deployed if "flinkVersion" in d} == {f"v{flink.VERSION.replace('.', '_')}"}


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "Dockerfile.flink"])
def test_what_an_image_copies_is_there_and_nobody_is_root(dockerfile: str) -> None:
    users = [rest for word, rest in instructions(dockerfile) if word == "USER"]
    assert int(users[-1]) > 0
    copies = [rest for word, rest in instructions(dockerfile) if word == "COPY" and "--from" not in rest]
    assert copies
    for profile in PROFILES:
        words = [w.replace("${PROFILE}", profile) for c in copies for w in c.split()[:-1] if not w.startswith("--")]
        assert [word for word in words if not (ROOT / word).exists()] == []


def test_no_port_is_open_to_other_machines() -> None:
    published = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert published == ["127.0.0.1:8081:8081"]
    assert "network_mode: host" not in (FLINK / "compose.yaml").read_text()
    for profile in PROFILES:
        text = (FLINK / profile / "kubernetes.yaml").read_text()
        assert not re.search("hostNetwork|hostPort|NodePort|LoadBalancer|kind: Ingress", text)


def test_the_image_has_the_jars_of_the_cluster_that_tests_run(tmp_path: Path) -> None:
    text = " ".join(rest for word, rest in instructions("Dockerfile.flink") if word == "RUN")
    removed = re.findall(r"lib/(flink-\S+)", text.partition("rm ")[2].partition("&&")[0])
    left_out = re.findall(r"! -name '([^']+)'", text)
    own = [jar.name for jar in (DIST / "lib").glob("*.jar")]
    beam = [jar.name for jar in (flink.folder() / "job-server" / "lib").glob("*.jar")]
    image = {jar for jar in own if not any(fnmatch.fnmatch(jar, f"{name}*") for name in removed)} | {
        jar for jar in beam if not any(fnmatch.fnmatch(jar, name) for name in left_out)
    }
    assert image == {Path(jar).name for jar in FlinkCluster(tmp_path)._jars().split(":")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """One with the settings for batch."""
    settings = {k: v for k, v in config("batch").items() if not k.endswith("process.size") and k != "env.java.opts.all"}
    settings |= worked_out("batch", "TM") | {"taskmanager.numberOfTaskSlots": settings["taskmanager.numberOfTaskSlots"]}
    with FlinkCluster(tmp_path_factory.mktemp("flink"), settings=settings) as running:
        yield running


def test_a_cluster_of_the_profile_runs_its_options(
    world: World, cluster: FlinkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}", f"--job_endpoint={cluster.job_endpoint}"]
    where.append(f"--environment_config={cluster.pool}")
    work = ["--task", str(world.task), "--input", str(world.events), "--as-of", AS_OFS, "--model", str(world.model)]
    profile = ["--options=templates/flink/batch/options", "--parallelism=2"]
    assert "386 of 386 sequences" in foretide("score", *profile, *where, *work, "--output", str(tmp_path / "out"))
    (manager,) = flink_job.ask(f"http://{cluster.master}/taskmanagers")["taskmanagers"]
    managed = int(worked_out("batch", "TM")["taskmanager.memory.managed.size"][:-1])
    assert manager["totalResource"]["managedMemory"] == managed >> 20
    (job,) = flink_job.ask(f"http://{cluster.master}/jobs")["jobs"]
    facts = flink_job.ask(f"http://{cluster.master}/jobs/{job['id']}/config")["execution-config"]
    assert facts["job-parallelism"] == 2
    assert facts["restart-strategy"] == "Cluster level default restart strategy"


def test_the_job_server_knows_the_options_that_beam_in_python_does_not(cluster: FlinkCluster) -> None:
    with grpc.insecure_channel(cluster.job_endpoint) as channel:
        stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
        known = stub.DescribePipelineOptions(beam_job_api_pb2.DescribePipelineOptionsRequest()).options
    named = {o.name: o.type == beam_job_api_pb2.PipelineOptionType.BOOLEAN for o in known}
    ours = {"environment_type", "environment_config", "shards"}
    for profile in PROFILES:
        for word in options(profile):
            name, equals, _ = word.removeprefix("--").partition("=")
            assert name in ours or named[name] == (not equals), word


def test_a_live_job_with_the_profile_passes_every_check(
    world: World, cluster: FlinkCluster, pubsub: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    where = ["--runner=FlinkRunner", f"--flink_master={cluster.master}", f"--environment_config={cluster.pool}"]
    work = ["--task", str(world.task), "--model", str(world.model), "--output", str(tmp_path / "out")]
    subscription = pubsub.subscription(pubsub.topic("profile"))
    profile = ["--options=templates/flink/stream/options", "--parallelism=2"]
    told = foretide("stream", *profile, *where, *work, "--subscription", subscription, "--dry-run")
    assert "FlinkRunner, 64 shards" in told
    assert not (tmp_path / "out").exists()
