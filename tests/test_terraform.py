"""The infrastructure as code: that it is well formed, refers to what there is, and gives away no more than it says."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from google.cloud.dataflow_v1beta3.types import FlexTemplateRuntimeEnvironment, LaunchFlexTemplateParameter
from google.pubsub_v1.types import Subscription

from pipelines import cli
from pipelines.google.subscription import check_pullable, facts
from pipelines.google.tables import Table
from pipelines.ledger.metrics import BY_NAME
from pipelines.sandbox.pubsub_emulator import binary
from pipelines.storage.bigquery.schema import LAYOUTS
from tests.support.terraform_files import PLAIN, Body, Module, literal, module, strings

ROOT = Path(__file__).parents[1]
MAIN = ROOT / "templates/terraform"
FOLDERS = (MAIN, MAIN / "bootstrap")
FILES = sorted(path for path in MAIN.rglob("*") if path.suffix in (".tf", ".tfvars"))
WORKFLOW = ROOT / ".github/workflows/infrastructure.yml"
DOCUMENT = ROOT / "docs/infrastructure.md"

PRIMITIVE = {"roles/owner", "roles/editor", "roles/viewer"}
PUBLIC = re.compile(r"\ball(Authenticated)?Users\b")
SECRET = re.compile(r"password|secret|token|credential|_key\b")
WHOLE = re.compile(r"_(key|iam_binding|iam_policy|acl|access_control)$")  # types that replace all, or hold secrets
PROJECT = ("google_project_iam_member",)
STORING = ("google_storage_bucket", "google_bigquery_dataset", "google_artifact_registry_repository")
SERIES = {  # what Dataflow and Pub/Sub measure themselves: cloud.google.com/monitoring/api/metrics_gcp
    "dataflow_googleapis_com:job_current_num_vcpus",
    "dataflow_googleapis_com:job_data_watermark_age",
    "dataflow_googleapis_com:job_is_failed",
    "dataflow_googleapis_com:job_system_lag",
    "dataflow_googleapis_com:job_user_counter",
    "logging_googleapis_com:log_entry_count",
    "pubsub_googleapis_com:subscription_oldest_unacked_message_age",
}


@cache
def main() -> Module:
    return module(MAIN)


@cache
def parameters(template: str) -> Mapping[str, Body]:
    """What a template asks for, by name."""
    found = json.loads((ROOT / f"templates/flex/{template}.json").read_text())["parameters"]
    return {each["name"]: each for each in found}


@cache
def workflow() -> Body:
    found = yaml.safe_load(WORKFLOW.read_text())
    return {**found, "on": found[True]}  # YAML takes the word for a truth


def passed(template: str) -> Body:
    """What a launch passes to a template, beside what its variable adds."""
    variable = {"batch": "backfill", "stream": "stream"}[template]
    return literal(main()["local"][f"{variable}_parameters"], f"merge(var.{variable}.parameters, ")


# Form


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MAIN)))
def test_files_are_well_formed_and_formatted(path: Path) -> None:
    hclfmt = str(binary("hclfmt"))
    checked = subprocess.run([hclfmt, "-check", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    formatted = subprocess.run([hclfmt, str(path)], capture_output=True, text=True, check=True)
    assert formatted.stdout == path.read_text(), f"terraform fmt {path}"


def test_a_file_that_is_not_well_formed_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.tf"
    path.write_text('resource "google_pubsub_topic" "a" {\n  name = "a\n}\n')
    assert subprocess.run([binary("hclfmt"), "-check", path], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_that_is_mentioned_is_declared_and_all_that_is_declared_is_used(folder: Path) -> None:
    found = module(folder)
    assert found.references - found.declared == set()
    assert {n for n in found.declared - found.references if n.startswith(("var.", "local."))} == set()


def test_undeclared_names_are_seen() -> None:
    found = Module('locals {\n  a = "${var.b}-${google_pubsub_topic.c["d"].name}"\n}\n')
    assert found.references - found.declared == {"var.b", "google_pubsub_topic.c"}
    with pytest.raises(ValueError, match="declared twice"):
        Module('variable "a" {}', 'variable "a" {}')


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_versions_are_pinned(folder: Path) -> None:
    found = module(folder)
    for provider in found["terraform"]["required_providers"]:
        assert all(re.fullmatch(r"[0-9.]+", each["version"]) for each in provider.values())
        assert len({each["version"] for each in provider.values()}) == 1
    assert found["terraform"]["required_version"] == ">= 1.9, < 2.0"
    assert re.fullmatch(r"1\.(9|[1-9][0-9])\.[0-9]+", workflow()["env"]["TERRAFORM"])


def test_the_example_sets_what_there_is() -> None:
    values = hcl2.loads((MAIN / "example.tfvars").read_text(), serialization_options=PLAIN)
    assert values.keys() <= main()["variable"].keys()
    assert {name for name, body in main()["variable"].items() if "default" not in body} <= values.keys()
    for name in ("stream", "backfill"):
        asked = literal(main()["variable"][name]["type"], "object(")
        assert values[name].keys() <= asked.keys()
        assert {key for key, kind in asked.items() if "optional" not in kind} <= values[name].keys()
    assert values["stream"]["parameters"].keys() <= parameters("stream").keys()


# What it refers to


@pytest.mark.parametrize("template", ["batch", "stream"])
def test_launches_pass_parameters_that_there_are(template: str) -> None:
    given, asked = passed(template), parameters(template)
    assert given.keys() <= asked.keys()
    assert {name for name, each in asked.items() if not each["isOptional"]} <= given.keys()
    if template == "batch":
        default = re.search(r'"(.*)"', literal(main()["variable"]["backfill"]["type"], "object(")["as_of"])
        assert default is not None
        assert re.fullmatch(asked["as_of"]["regexes"][0], default[1])
    names = {"var.project": "my-project", "var.name": "foretide", "local.bucket.models": "gs://my-bucket"}
    names |= {f"var.{variable}.task": "churn_shop" for variable in ("stream", "backfill")}
    for name in ("task", "model"):
        value = re.sub(r"\$\{([\w.]+)}", lambda match: names[match[1]], given[name])
        assert re.fullmatch(asked[name]["regexes"][0], value), name


def test_a_misspelt_parameter_ends_a_plan() -> None:
    for resource, template in (
        ("google_cloud_scheduler_job.backfill", "batch"),
        ("google_dataflow_flex_template_job.stream", "stream"),
    ):
        [lifecycle] = main()["resource"][resource]["lifecycle"]
        [precondition] = lifecycle["precondition"]
        assert f"local.template_parameters.{template}" in precondition["condition"]
        assert f"templates/flex/{template}.json" in precondition["error_message"]


def test_the_scheduler_sends_what_dataflow_takes() -> None:
    [target] = main()["resource"]["google_cloud_scheduler_job.backfill"]["http_target"]
    assert target["uri"] == (
        "https://dataflow.googleapis.com/v1b3/projects/${var.project}/locations/${var.region}/flexTemplates:launch"
    )
    body = literal(target["body"], "jsonencode(")
    assert body.keys() == {"launchParameter"}
    launch = body["launchParameter"]
    assert set(map(snake, launch)) <= set(LaunchFlexTemplateParameter.meta.fields)
    environment = literal(launch["environment"], "value in ")
    assert set(map(snake, environment)) <= set(FlexTemplateRuntimeEnvironment.meta.fields)
    assert environment["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert environment["serviceAccountEmail"] == "${local.worker}"


def test_accelerators_come_with_the_image_that_uses_them() -> None:
    [target] = main()["resource"]["google_cloud_scheduler_job.backfill"]["http_target"]
    launch = literal(target["body"], "jsonencode(")["launchParameter"]
    environment = literal(launch["environment"], "value in ")
    switched = {
        "image": environment["sdkContainerImage"],
        "machine": environment["machineType"],
        "options": environment["additionalPipelineOptions"],
        "template": launch["containerSpecGcsPath"],
    }
    assert all("local.gpu == null ?" in value for value in switched.values())
    assert main()["local"]["backfill_parameters"].endswith('}, local.gpu == null ? {} : {device = "gpu"})}')
    assert "gpu" in parameters("batch")["device"]["regexes"][0]
    option = re.search(r'\[\s*"dataflow_service_options=(.*?)"', switched["options"])
    assert option is not None
    assert option[1] == "worker_accelerator=type:${local.gpu.type};count:${local.gpu.count};install-nvidia-driver"
    template = launch["containerSpecGcsPath"].removeprefix("${local.bucket.templates}")
    assert template == '/flex/batch${local.gpu == null ? "" : "-gpu"}.json'
    assert all(f"{name}.json`" in DOCUMENT.read_text() for name in ("/flex/batch", "batch-gpu", "stream"))
    images = {path.suffix[1:] for path in (ROOT / "templates").glob("Dockerfile.?pu")}
    assert images == set(re.findall(r'"(\wpu)"', main()["local"]["images"])) == {"cpu", "gpu"}


def test_tables_are_those_that_the_program_makes() -> None:
    tables, layouts = main()["local"]["tables"], {str(kind): layout for kind, layout in LAYOUTS.items()}
    assert tables.keys() == layouts.keys()
    for kind, table in tables.items():
        assert (table["day"], tuple(table["clusters"])) == (layouts[kind].day, layouts[kind].clusters)
        assert table["description"] == layouts[kind].description
        assert getattr(Table("p", "d", "t"), kind) == f"p.d.t{table['suffix']}"
        assert (ROOT / f"schemas/{kind}.json").exists()
    body = main()["resource"]["google_bigquery_table.tables"]
    assert body["schema"] == '${file("${path.module}/../../schemas/${each.key}.json")}'
    assert body["time_partitioning"][0]["type"] == "DAY"
    assert body["lifecycle"] == [{"ignore_changes": ["schema"]}]  # or columns of `foretide schema apply` would go


def test_the_live_job_has_nothing_to_say_about_its_subscription() -> None:
    body = main()["resource"]["google_pubsub_subscription.events"]
    known = {"name", "topic", "message_retention_duration", "expiration_policy"}
    given = {name: value[0] if isinstance(value, list) else value for name, value in body.items() if name not in known}
    declared = Subscription(given)
    check_pullable("events", declared)
    assert facts("projects/p/subscriptions/events", declared).warnings == ()


def test_alerts_watch_metrics_that_there_are() -> None:
    local = main()["local"]
    declared = re.search(r"for name in \[(.*?)]", local["count"])
    assert declared is not None
    counters = re.findall(r'"(\w+)"', declared[1])
    assert [BY_NAME[name].kind for name in counters] == ["counter"] * len(counters)
    queries = {name: alert["query"] for name, alert in local["alerts"].items()}
    used = {name for query in queries.values() for name in re.findall(r'local\.count\["(\w+)"]', query)}
    assert used == set(counters)
    series = {name for text in (*queries.values(), local["count"]) for name in re.findall(r"\w+_com:\w+", text)}
    assert series == SERIES
    assert {"watermark_lag", "dead_letters", "model_errors"} <= queries.keys()
    [target] = main()["resource"]["google_cloud_scheduler_job.backfill"]["http_target"]
    for watched, job in (
        ("stream_job", main()["resource"]["google_dataflow_flex_template_job.stream"]["name"]),
        ("backfill_job", literal(target["body"], "jsonencode(")["launchParameter"]["jobName"]),
    ):
        assert f'job_name="{job}"' in local[watched]


def test_alerts_say_what_to_do_in_words_that_mean_something() -> None:
    alerts = main()["local"]["alerts"]
    commands = set(re.findall(r"^ {4}(\w+)\b", cli.parser().format_help(), re.MULTILINE))
    assert "replay" in commands
    for alert in alerts.values():
        assert alert["severity"] in ("CRITICAL", "ERROR", "WARNING")
        assert alert["of"] in main()["local"]["wanted"]
        assert len(alert["text"]) > 100
        assert set(re.findall(r"foretide (\w+)", alert["text"])) <= commands
        assert set(re.findall(r"`(?:stream|backfill)\.(\w+)`", alert["text"])) <= set(
            literal(main()["variable"]["stream"]["type"], "object(")
        )
    body = main()["resource"]["google_monitoring_alert_policy.alerts"]
    assert body["documentation"][0]["content"] == "${each.value.text}"


# What it gives away


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_keeps_the_policies(folder: Path) -> None:
    assert list(findings(module(folder))) == []


def findings(found: Module) -> Iterator[str]:
    """What breaks a policy."""
    for name, provider in found["provider"].items():
        if "default_labels" not in provider:
            yield f"provider {name}: no labels"
    for kind in ("variable", "output"):
        for name, body in found[kind].items():
            if not body.get("description", "").endswith(".") or (kind == "variable" and "type" not in body):
                yield f"{kind} {name}: no type, or no description"
            if SECRET.search(name):
                yield f"{kind} {name}: no secrets"
    texts = list(strings([found["resource"], found["local"]]))
    yield from (f"{text}: a role in everything" for text in texts if any(role in text for role in PRIMITIVE))
    yield from (f"{text}: open to all" for text in texts if PUBLIC.search(text))
    for name in found["resource"]:
        if WHOLE.search(name.partition(".")[0]):
            yield f"{name}: a key, or takes away what others gave"
    for kinds, rule, holds in RULES:
        yield from (f"{name}: {rule}" for name, body in found.resources(*kinds) if not holds(body))


def inner(body: Body, block: str) -> Body:
    """The first block of a kind in another, {} for none."""
    return dict(body.get(block, [{}])[0])


RULES: tuple[tuple[tuple[str, ...], str, Callable[[Body], Any]], ...] = (
    (STORING, "not where the rest is", lambda b: b.get("location") == "${var.region}"),
    (("google_storage_bucket",), "access to single objects", lambda b: b.get("uniform_bucket_level_access") is True),
    (("google_storage_bucket",), "could be public", lambda b: b.get("public_access_prevention") == "enforced"),
    (("google_storage_bucket",), "no life cycle", lambda b: b.get("lifecycle_rule")),
    (("google_bigquery_table",), "not protected", lambda b: b.get("deletion_protection") == "${var.protect}"),
    (("google_bigquery_dataset",), "not protected", lambda b: b["delete_contents_on_destroy"] == "${!var.protect}"),
    (
        ("google_pubsub_topic", "google_pubsub_subscription"),
        "no retention",
        lambda b: "message_retention_duration" in b,
    ),
    (("google_pubsub_topic",), "kept anywhere", lambda b: "message_storage_policy" in b),
    (("google_pubsub_subscription",), "expires", lambda b: inner(b, "expiration_policy").get("ttl") == ""),
    (("google_monitoring_alert_policy",), "no word on it", lambda b: inner(b, "documentation").get("content")),
    (("google_monitoring_alert_policy",), "nobody hears it", lambda b: b.get("notification_channels")),
    (
        ("google_monitoring_alert_policy", "google_monitoring_notification_channel"),
        "no labels",
        lambda b: b.get("user_labels") == "${local.labels}",
    ),
    (("google_dataflow_flex_template_job",), "addresses", lambda b: b.get("ip_configuration") == "WORKER_IP_PRIVATE"),
    (("google_dataflow_flex_template_job",), "the default account", lambda b: "service_account_email" in b),
    (("google_dataflow_flex_template_job",), "loses what is under way", lambda b: b.get("on_delete") == "drain"),
    (("google_cloud_scheduler_job",), "nobody's call", lambda b: "oauth_token" in inner(b, "http_target")),
    (("google_compute_subnetwork",), "no way to Google", lambda b: b.get("private_ip_google_access") is True),
    (("google_compute_firewall",), "open to addresses", lambda b: "source_ranges" not in b and b.get("source_tags")),
    (
        ("google_project_iam_custom_role",),
        "may do too much",
        lambda b: not any("*" in each or "setIamPolicy" in each or "actAs" in each for each in b["permissions"]),
    ),
    (("google_iam_workload_identity_pool_provider",), "trusts all", lambda b: "_id ==" in b["attribute_condition"]),
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('provider "google" {\n}', "no labels"),
        ('variable "a" {\n  type = string\n}', "no type, or no description"),
        ('variable "a" {\n  description = "A."\n}', "no type, or no description"),
        ('variable "db_password" {\n  description = "A."\n  type = string\n}', "no secrets"),
        ('resource "google_project_iam_member" "a" {\n  role = "roles/editor"\n}', "a role in everything"),
        ('locals {\n  roles = ["roles/owner"]\n}', "a role in everything"),
        ('resource "google_pubsub_topic_iam_member" "a" {\n  member = "allUsers"\n}', "open to all"),
        ('resource "google_service_account_key" "a" {\n}', "a key"),
        ('resource "google_project_iam_policy" "a" {\n}', "takes away"),
        ('resource "google_storage_bucket" "a" {\n  location = "US"\n}', "not where the rest is"),
        ('resource "google_storage_bucket" "a" {\n}', "access to single objects"),
        ('resource "google_storage_bucket" "a" {\n  public_access_prevention = "inherited"\n}', "could be public"),
        ('resource "google_storage_bucket" "a" {\n}', "no life cycle"),
        ('resource "google_bigquery_table" "a" {\n  deletion_protection = false\n}', "not protected"),
        ('resource "google_bigquery_dataset" "a" {\n  delete_contents_on_destroy = true\n}', "not protected"),
        ('resource "google_pubsub_topic" "a" {\n}', "no retention"),
        ('resource "google_pubsub_topic" "a" {\n}', "kept anywhere"),
        ('resource "google_pubsub_subscription" "a" {\n}', "expires"),
        ('resource "google_monitoring_alert_policy" "a" {\n  documentation {\n  }\n}', "no word on it"),
        ('resource "google_monitoring_alert_policy" "a" {\n}', "nobody hears it"),
        ('resource "google_monitoring_notification_channel" "a" {\n}', "no labels"),
        ('resource "google_dataflow_flex_template_job" "a" {\n}', "addresses"),
        ('resource "google_dataflow_flex_template_job" "a" {\n}', "the default account"),
        ('resource "google_dataflow_flex_template_job" "a" {\n  on_delete = "cancel"\n}', "loses what is under way"),
        ('resource "google_cloud_scheduler_job" "a" {\n  http_target {\n  }\n}', "nobody's call"),
        ('resource "google_compute_subnetwork" "a" {\n}', "no way to Google"),
        ('resource "google_compute_firewall" "a" {\n  source_ranges = ["0.0.0.0/0"]\n}', "open to addresses"),
        ('resource "google_project_iam_custom_role" "a" {\n  permissions = ["x.setIamPolicy"]\n}', "may do too much"),
        (
            'resource "google_iam_workload_identity_pool_provider" "a" {\n  attribute_condition = "true"\n}',
            "trusts all",
        ),
    ],
)
def test_what_breaks_a_policy_is_found(text: str, message: str) -> None:
    assert any(message in finding for finding in findings(Module(text + "\n")))


def test_data_are_protected_unless_somebody_says_otherwise() -> None:
    assert main()["variable"]["protect"]["default"] is True
    assert (
        main()["resource"]["google_storage_bucket.buckets"]["force_destroy"] == "${!(var.protect && each.value.data)}"
    )
    assert main()["local"]["buckets"]["events"]["data"] is main()["local"]["buckets"]["models"]["data"] is True


def test_the_workflow_cannot_change_who_may_do_what_in_the_project() -> None:
    """Accounts and their roles in the project are the bootstrap's, which a person applies."""
    assert list(main().resources("google_service_account", "google_project_iam_custom_role", *PROJECT)) == []
    roles = module(MAIN / "bootstrap")["local"]["project_roles"]
    assert not any(re.search(r"roles/(iam|resourcemanager)\.", role) for role in roles["apply"])
    assert not any(re.search(r"[aA]dmin|[eE]ditor|Owner", role) for role in roles["plan"])
    assert set(roles["worker"]) == {"roles/dataflow.worker", "roles/bigquery.jobUser", "roles/bigquery.readSessionUser"}
    assert "scheduler" not in roles


def test_every_account_gets_roles_and_every_role_is_explained() -> None:
    bootstrap, document = module(MAIN / "bootstrap"), DOCUMENT.read_text()
    accounts = set(bootstrap["local"]["accounts"])
    assert bootstrap["local"]["project_roles"].keys() | main()["local"]["bucket_roles"].keys() == accounts
    buckets = {bucket for roles in main()["local"]["bucket_roles"].values() for bucket in roles}
    assert buckets == main()["local"]["buckets"].keys()
    for found in (bootstrap, main()):
        for text in strings([found["resource"], found["local"]]):
            for role in re.findall(r"roles/([\w.]+)", text):
                assert f"`{role}`" in document, role
    for custom in ("launch", "operate"):
        for permission in bootstrap["resource"][f"google_project_iam_custom_role.{custom}"]["permissions"]:
            assert f"`{permission}`" in document, permission


# The workflow


def steps() -> Iterator[tuple[str, Body]]:
    return ((job, step) for job, body in workflow()["jobs"].items() for step in body["steps"])


def test_a_pull_request_is_planned_and_only_an_approval_applies() -> None:
    jobs = workflow()["jobs"]
    assert set(workflow()["on"]) == {"pull_request", "push", "workflow_dispatch"}
    assert "environment" not in jobs["plan"]
    assert "head.repo.full_name == github.repository" in jobs["plan"]["if"]
    assert jobs["apply"]["needs"] == "plan"
    for job in ("apply", "destroy"):
        assert jobs[job]["environment"] == "production"
        assert "github.ref == 'refs/heads/main'" in jobs[job]["if"]
    assert "github.event_name != 'pull_request'" in jobs["apply"]["if"]
    assert jobs["destroy"]["if"].startswith("startsWith(inputs.action, 'destroy')")
    [member] = (
        body["member"]
        for name, body in module(MAIN / "bootstrap").resources("google_service_account_iam_member")
        if name.endswith(".apply")
    )
    assert member.endswith("/subject/repo:${var.github_repository}:environment:production")


def test_only_the_job_that_may_gets_the_account_that_can() -> None:
    accounts = {
        job: step["with"]["service_account"] for job, step in steps() if "google-github-actions" in step.get("uses", "")
    }
    apply, plan = "${{ vars.GCP_APPLY_ACCOUNT }}", "${{ vars.GCP_PLAN_ACCOUNT }}"
    assert accounts == {"plan": plan, "apply": apply, "destroy": apply}
    assert "secrets." not in WORKFLOW.read_text()
    assert "credentials_json" not in WORKFLOW.read_text()
    assert workflow()["permissions"] == {"contents": "read"}
    for job in workflow()["jobs"].values():
        assert job["permissions"] == {"contents": "read", "id-token": "write"}


def test_what_is_applied_is_the_plan_that_was_approved() -> None:
    scripts = {job: [step["run"] for j, step in steps() if j == job and "run" in step] for job in workflow()["jobs"]}
    assert scripts["apply"][-1] == "terraform apply -lock-timeout=10m plan.tfplan"
    assert any("-out=plan.tfplan" in script and "-lock=false" in script for script in scripts["plan"])
    assert not any("apply" in script or "destroy" in script for script in scripts["plan"])
    up = next(step for job, step in steps() if job == "plan" and "upload-artifact" in step.get("uses", ""))
    assert (up["with"]["name"], up["with"]["path"]) == ("plan", "templates/terraform/plan.tfplan")


def test_actions_are_pinned_and_scripts_take_nothing_from_events() -> None:
    for _, step in steps():
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        else:
            assert "${{" not in step["run"]
            checked = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(("confirm", "code"), [("my-project", 0), ("my-projec", 1), ("", 1), ("$(touch x)", 1)])
def test_a_destroy_asks_for_the_project(tmp_path: Path, confirm: str, code: int) -> None:
    (tmp_path / "production.tfvars").write_text((MAIN / "example.tfvars").read_text())
    [script] = (step["run"] for _, step in steps() if "CONFIRM" in step.get("env", {}))
    env = {"CONFIRM": confirm, "VAR_FILE": workflow()["env"]["VAR_FILE"], "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=env, check=False)
    assert ran.returncode == code
    assert not (tmp_path / "x").exists()


def test_variables_that_the_workflow_and_the_document_name_are_those_that_there_are() -> None:
    document = DOCUMENT.read_text()
    used = set(re.findall(r"vars\.(\w+)", WORKFLOW.read_text()))
    explained = "".join(body["description"] for body in module(MAIN / "bootstrap")["output"].values())
    assert (
        used
        == set(re.findall(r"\b(?:TF_STATE|GCP)_[A-Z_]+\b", document))
        == set(re.findall("[A-Z]+_[A-Z_]+", explained))
    )
    given = {
        name
        for script in (step["run"] for _, step in steps() if "run" in step)
        for name in re.findall(r"-var (\w+)=", script)
    }
    assert given == {"stream", "backfill", "protect"} <= main()["variable"].keys()


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", name)
