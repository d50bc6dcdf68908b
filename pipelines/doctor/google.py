"""What Google's services say to the account of this machine: credentials, permissions, Dataflow, and quota of GPUs.

All of it is asked over REST, changes nothing, and needs no client library but google-auth. Where a service is asked can
be set as gcloud has it: CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAFLOW=http://host:port/ and so on.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from apache_beam.options.pipeline_options import GoogleCloudOptions, WorkerOptions

from pipelines.errors import Finding, UserError
from pipelines.google.permissions import WHO, Grants, input_grants, merged, on_project
from pipelines.jobs.checks.facts import Facts
from pipelines.jobs.checks.findings import error, ok, skipped, warning
from pipelines.jobs.launch import Launch

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
TIMEOUT = 10.0  # s, of a request
ROLES = {
    "bigquery.jobs.create": "roles/bigquery.jobUser",
    "bigquery.readsessions.create": "roles/bigquery.readSessionUser",
    "bigquery.tables.create": "roles/bigquery.dataEditor",
    "bigquery.tables.get": "roles/bigquery.dataViewer",
    "bigquery.tables.getData": "roles/bigquery.dataViewer",
    "bigquery.tables.updateData": "roles/bigquery.dataEditor",
    "compute.regions.get": "roles/compute.viewer",
    "dataflow.jobs.create": "roles/dataflow.developer",
    "dataflow.jobs.get": "roles/dataflow.developer",
    "dataflow.jobs.list": "roles/dataflow.viewer",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "pubsub.subscriptions.consume": "roles/pubsub.subscriber",
    "pubsub.subscriptions.get": "roles/pubsub.viewer",
    "pubsub.topics.get": "roles/pubsub.viewer",
    "pubsub.topics.publish": "roles/pubsub.publisher",
    "storage.objects.create": "roles/storage.objectAdmin",
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.list": "roles/storage.objectViewer",
}
ACCELERATOR = re.compile(r"type:([\w-]+)(?:;count:(\d+))?")
SERVICE_ACCOUNT = "projects/-/serviceAccounts/"
TOLD = ("bigquery", "pubsub")  # services of which other checks tell what is not there


class Unasked(Exception):
    """A service gave no answer. The message says why."""


@dataclass(frozen=True)
class ServiceAnswer:
    """What a service said."""

    status: int  # of HTTP
    content: dict[str, Any]

    @property
    def message(self) -> str:
        """The message of an error; empty for others."""
        found = self.content.get("error")
        return str(found.get("message", "")) if isinstance(found, dict) else f"HTTP {self.status}"

    @property
    def disabled(self) -> bool:
        """Whether the API is switched off in the project."""
        return self.status == 403 and "SERVICE_DISABLED" in str(self.content)


class Google:
    """The services, as the account of this machine sees them."""

    @property
    def session(self) -> Any:
        """The session that requests go through. Raises UserError where no credentials are accepted."""
        if isinstance(self._session, UserError):
            raise self._session
        return self._session

    @cached_property
    def _session(self) -> Any:
        """Also of what is missing: to look for credentials takes a while."""
        try:
            import google.auth
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import AuthorizedSession, Request
        except ImportError:
            return UserError(
                "google-auth is not installed", remedy="Run pip install 'foretide[gcp]'", code="credentials"
            )
        try:
            credentials, _ = google.auth.default(scopes=SCOPES)
            credentials.refresh(Request())  # type: ignore[no-untyped-call]
        except GoogleAuthError as problem:
            said = str(problem.args[0] if problem.args else problem).splitlines()[0]
            return UserError(f"no Google credentials that are accepted: {said}", code="credentials")
        return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]

    @property
    def account(self) -> str:
        """The account of the credentials, as policies write it."""
        email = getattr(self.session.credentials, "service_account_email", None)
        return f"serviceAccount:{email}" if email else "user:YOUR_ACCOUNT"

    @property
    def whom(self) -> str:
        """The account; words that stand for it where there is none."""
        try:
            return self.account
        except UserError:
            return "user:YOUR_ACCOUNT"

    def ask(self, service: str, path: str, body: dict[str, Any] | None = None) -> ServiceAnswer:
        """Asks a service, by GET, or by POST where there is a body.

        Raises:
          Unasked: nobody answers.
        """
        override = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}")
        url = f"{(override or f'https://{service}.googleapis.com').rstrip('/')}/{path}"
        try:
            session = self.session
        except UserError as problem:
            raise Unasked("there are no credentials") from problem
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        try:
            found = session.request("GET" if body is None else "POST", url, json=body, timeout=TIMEOUT)
        except (RequestException, GoogleAuthError) as problem:
            raise Unasked(f"{urlsplit(url).netloc} gives no answer ({type(problem).__name__})") from problem
        try:
            content = found.json()
        except ValueError:
            content = {}
        return ServiceAnswer(found.status_code, content if isinstance(content, dict) else {})

    def document(self, url: str, accept: str) -> dict[str, Any]:
        """A JSON object, asked for with the credentials. Raises OSError or ValueError."""
        try:
            found = self.session.get(url, headers={"Accept": accept}, timeout=TIMEOUT)
        except UserError as problem:
            raise OSError(str(problem)) from problem
        found.raise_for_status()
        return dict(found.json())


def credentials(google: Google, facts: Facts) -> Iterator[Finding]:
    """Whether there are any, where any of Google's services is to be used."""
    if _grants(facts.launch) or facts.launch.runner.on_google:
        yield ok("credentials", f"of {google.account}")


def permissions(google: Google, facts: Facts) -> Iterator[Finding]:
    """Whether this account has what the launch and the job need. On Dataflow the job itself is another account's."""
    for grants in _grants(facts.launch):
        try:
            answer = _held(grants, google)
        except Unasked as why:
            yield skipped(grants.subject, f"{grants.subject}: {why}")
            continue
        yield _judged(grants, answer, google)


def _held(grants: Grants, google: Google) -> ServiceAnswer:
    """The answer has the permissions that are held. Raises Unasked."""
    if grants.service == "storage":
        query = "&".join(f"permissions={p}" for p in grants.permissions)
        return google.ask(grants.service, f"{grants.path}/iam/testPermissions?{query}")
    return google.ask(grants.service, f"{grants.path}:testIamPermissions", {"permissions": list(grants.permissions)})


def _judged(grants: Grants, answer: ServiceAnswer, google: Google) -> Finding:
    if answer.status == 404 and grants.service not in TOLD:
        return error(grants.subject, f"{grants.subject} is not there, or may not be seen")
    if answer.status not in (200, 403) or answer.disabled:
        why = f"{grants.service} does not say which permissions are held ({answer.message})"
        return skipped(grants.subject, f"{grants.subject}: {why}")
    held = answer.content.get("permissions", []) if answer.status == 200 else []
    missing = [p for p in grants.permissions if p not in held]
    if not missing:
        return ok(grants.subject, f"{grants.subject}: {', '.join(grants.permissions)}")
    roles = dict.fromkeys(ROLES[p] for p in missing)
    commands = "; ".join(grants.grant.format(role=role, member=google.account) for role in roles)
    return error(
        grants.subject,
        f"{google.account} lacks {', '.join(missing)} on {grants.subject}: it is in {', '.join(roles)}",
        f"Run {commands}",
    )


def _grants(launch: Launch) -> list[Grants]:
    """All that is needed of services that are not emulated."""
    out = []
    job = launch.stream if launch.real_pubsub else None
    if job is not None and job.subscription.count("/") == 3:
        out.append(
            _pubsub(job.subscription, "subscriptions", "pubsub.subscriptions.consume", "pubsub.subscriptions.get")
        )
        if job.dead_letters and job.dead_letters.count("/") == 3:
            out.append(_pubsub(job.dead_letters, "topics", "pubsub.topics.publish", "pubsub.topics.get"))
    tables = (grants for table in launch.tables for grants in input_grants(table))
    out += merged([*tables, *(launch.place.grants() if launch.place else ())])
    out += merged(_buckets(launch))
    cloud = launch.options.view_as(GoogleCloudOptions)
    if launch.runner.on_google and cloud.project:
        out.append(on_project(cloud.project, "dataflow.jobs.create", "dataflow.jobs.get"))
        email = cloud.service_account_email
        if email:
            command = "gcloud iam service-accounts add-iam-policy-binding " + shlex.quote(email)
            path = f"v1/{SERVICE_ACCOUNT}{email}"
            out.append(Grants(email, "iam", path, ("iam.serviceAccounts.actAs",), command + WHO))
    return out


def _pubsub(name: str, kind: str, *wanted: str) -> Grants:
    _, project, _, short = map(shlex.quote, name.split("/"))
    return Grants(
        name,
        "pubsub",
        f"v1/{name}",
        wanted,
        f"gcloud pubsub {kind} add-iam-policy-binding {short} --project={project}{WHO}",
    )


def _buckets(launch: Launch) -> Iterator[Grants]:
    """What must be allowed in the buckets that hold files, the model, and what the job puts down meanwhile."""
    read, write = ("storage.objects.get", "storage.objects.list"), ("storage.objects.create",)
    cloud = launch.options.view_as(GoogleCloudOptions)
    temporary = [p for p in (cloud.temp_location, cloud.staging_location) if p] if launch.runner.on_google else []
    wanted = [*((p, read) for p in (*launch.files, launch.job.model)), *((p, (*read, *write)) for p in temporary)]
    for place, permissions in wanted:
        bucket = urlsplit(place).netloc
        if place.startswith("gs://") and bucket:
            command = f"gcloud storage buckets add-iam-policy-binding {shlex.quote(f'gs://{bucket}')}{WHO}"
            path = f"storage/v1/b/{quote(bucket, safe='')}"
            yield Grants(f"gs://{bucket}", "storage", path, permissions, command)


def dataflow(google: Google, facts: Facts) -> Iterator[Finding]:
    """Whether Dataflow answers for the project and region of the launch."""
    if not facts.launch.runner.on_google:
        return
    cloud = facts.launch.options.view_as(GoogleCloudOptions)
    if not cloud.project or not cloud.region:
        yield skipped("Dataflow", "Dataflow is not asked: the launch names no project or region")
        return
    where = f"Dataflow of {cloud.project} in {cloud.region}"
    try:
        path = f"v1b3/projects/{cloud.project}/locations/{cloud.region}/jobs?pageSize=1"
        answer = google.ask("dataflow", path)
    except Unasked as why:
        yield error(
            "Dataflow",
            f"{where}: {why}",
            "Mend the credentials, or the way to dataflow.googleapis.com",
        )
        return
    if answer.status == 200:
        yield ok("Dataflow", f"{where} answers")
    elif answer.disabled:
        yield error(
            "Dataflow",
            f"{where}: {answer.message}",
            f"Enable the API: gcloud services enable dataflow.googleapis.com --project={shlex.quote(cloud.project)}",
        )
    elif answer.status == 403:
        role = ROLES["dataflow.jobs.list"]
        project = shlex.quote(cloud.project)
        command = f"gcloud projects add-iam-policy-binding {project} --member={google.account} --role={role}"
        yield error(where, f"{where}: {google.account} lacks dataflow.jobs.list", f"Run {command}", code="permissions")
    else:
        yield error("Dataflow", f"{where}: {answer.message}", "Correct --project and --region, or try later")


def accelerators(google: Google, facts: Facts) -> Iterator[Finding]:
    """Whether the region has the GPUs that workers are to have."""
    launch = facts.launch
    cloud = launch.options.view_as(GoogleCloudOptions)
    wanted = _wanted(launch) if launch.runner.on_google else None
    if wanted is None:
        return
    kind, each = wanted
    most = launch.options.view_as(WorkerOptions).max_num_workers or launch.options.view_as(WorkerOptions).num_workers
    workers = int(most or 1)
    if not cloud.project or not cloud.region:
        yield skipped(kind, f"quota of {kind} is not asked: the launch names no project or region")
        return
    region = launch.options.view_as(WorkerOptions).worker_region or cloud.region
    try:
        answer = google.ask("compute", f"compute/v1/projects/{cloud.project}/regions/{region}")
    except Unasked as why:
        yield skipped(kind, f"quota of {kind} in {region} is not known: {why}")
        return
    if answer.status != 200:
        why_not = f"{answer.message} (it takes {ROLES['compute.regions.get']})"
        yield skipped(kind, f"quota of {kind} in {region} is not known: {why_not}")
        return
    yield _quota(kind, each * workers, region, cloud.project, answer.content.get("quotas", []))


def _quota(kind: str, needed: int, region: str, project: str, quotas: list[dict[str, Any]]) -> Finding:
    metric = metric_of(kind)
    found = next((q for q in quotas if q.get("metric") == metric), None)
    if found is None:
        return skipped(kind, f"{region} tells no quota {metric}")
    limit, usage = int(found.get("limit", 0)), int(found.get("usage", 0))
    said = f"{metric} of {project} in {region}: {usage} of {limit} in use, and the workers take up to {needed}"
    if limit - usage >= needed:
        return ok(kind, said)
    less = f", or --max_num_workers={limit - usage} with one GPU each" if limit > usage else ""
    remedy = f"Ask for a quota {metric} of {usage + needed} in {region}, take another region or type{less}"
    report = warning if limit > usage else error  # with some of them the job starts
    return report(kind, said, remedy)


def metric_of(kind: str) -> str:
    """The quota of a type of GPU: nvidia-tesla-t4 -> NVIDIA_T4_GPUS, nvidia-h100-80gb -> NVIDIA_H100_GPUS."""
    name = kind.upper().replace("-", "_").replace("NVIDIA_TESLA_", "NVIDIA_")
    return name.replace("H100_80GB", "H100") + "_GPUS"


def _wanted(launch: Launch) -> tuple[str, int] | None:
    """(type, how many for a worker) of the GPUs that Dataflow is asked for."""
    options = launch.runner.accelerators
    hints = launch.options.get_all_options().get("resource_hints") or ()
    options += [h.partition("=")[2] for h in hints if h.startswith("accelerator=")]
    for option in options:
        match = ACCELERATOR.search(option)
        if match:
            return match[1], int(match[2] or 1)
    return None
