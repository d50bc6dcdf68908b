"""Airflow 3: each as-of is scored, checked, and published or held back. A workflow for each entry of the variable
`foretide`, see docs/airflow.md. Copy it into the folder of DAGs with `foretide_settings.py`.
"""

from __future__ import annotations

import glob
import json
import subprocess
import urllib.request
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowFailException
from airflow.sdk import DAG, BaseOperator, Param, Variable, chain, task
from airflow.timetables.trigger import CronTriggerTimetable
from foretide_settings import Dataflow, Settings

DAY = timedelta(days=1)
PARAMS = {
    "as_of": Param(None, type=["null", "string"], description="such as 2024-05-06; else the time the run is for"),
    "accept_drift": Param(False, type="boolean", description="publish although scores have drifted"),
}


def workflow(name: str, settings: Settings) -> DAG:
    """The DAG of one task."""
    with DAG(
        dag_id=f"foretide_{name}",
        schedule=CronTriggerTimetable(settings.schedule, timezone="UTC"),
        start_date=datetime.fromisoformat(settings.start).replace(tzinfo=UTC),
        catchup=False,
        max_active_runs=1,  # publishing counts on it
        default_args={"retries": 2, "retry_delay": timedelta(minutes=5)},
        params=PARAMS,
        user_defined_macros={"as_of": as_of, "shell": settings.shell, "job": settings.job},
        tags=["foretide"],
    ) as dag:

        @task.sensor(mode="reschedule", poke_interval=settings.poll_seconds, timeout=12 * 3600)
        def wait_for_data(**context: Any) -> bool:
            when = _as_of(context)
            day = (datetime.fromisoformat(when) - timedelta(microseconds=1)).date().isoformat()
            return all(_ready(settings, pattern.format(day=day, as_of=when), day) for pattern in settings.ready)

        @task
        def check(**context: Any) -> dict[str, Any]:
            return json.loads(_gate(settings, context, "--dry-run", "--json"))  # type: ignore[no-any-return]

        @task.branch
        def decide(**context: Any) -> str:
            return "hold_and_alert" if _held(context) else "publish"

        @task
        def publish(**context: Any) -> str:
            return _gate(settings, context)

        @task
        def hold_and_alert(**context: Any) -> None:
            when = _as_of(context)
            place = settings.output(when, _started(context))
            text = (
                f"{dag.dag_id}: scores as of {when} are held back: {'; '.join(_held(context))}. "
                f"They are in {place}; {settings.published} is as it was"
            )
            if settings.alert_url:
                _post(settings.alert_url, text)
            raise AirflowFailException(text)  # a run that is held back is not a success

        chain(
            wait_for_data(),
            *_job(settings),
            check(),
            decide(),
            [publish(), hold_and_alert()],
        )
    return dag


def as_of(params: Any, dag_run: Any) -> str:
    """2024-05-06, or with the time of day where it is no midnight; in UTC."""
    given = params["as_of"] or dag_run.logical_date
    if given is None:
        raise AirflowFailException("give the run a logical date, or the parameter as_of")
    when = datetime.fromisoformat(given) if isinstance(given, str) else given
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return when.replace(tzinfo=None).isoformat().removesuffix("T00:00:00")


def _job(settings: Settings) -> tuple[BaseOperator, BaseOperator]:
    """`backfill` and `wait_for_job`. On this machine the one ends with the job, and the other has nothing to do."""
    where = settings.dataflow
    if where is None:
        from airflow.providers.standard.operators.bash import BashOperator
        from airflow.providers.standard.operators.empty import EmptyOperator

        command = "{{ shell(as_of(params, dag_run)) }}"
        return BashOperator(task_id="backfill", bash_command=command), EmptyOperator(task_id="wait_for_job")
    from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
    from airflow.providers.google.cloud.sensors.dataflow import DataflowJobStatusSensor

    common = {"project_id": where.project, "location": where.region, "gcp_conn_id": where.connection}
    backfill = DataflowStartFlexTemplateOperator(
        task_id="backfill",
        body=settings.launch("{{ as_of(params, dag_run) }}", "{{ job(as_of(params, dag_run)) }}"),
        append_job_name=False,  # a second try does not start a second job beside the first
        wait_until_finished=False,
        **common,
    )
    wait = DataflowJobStatusSensor(
        task_id="wait_for_job",
        job_id="{{ ti.xcom_pull(task_ids='backfill')['id'] }}",
        expected_statuses={"JOB_STATE_DONE"},
        mode="reschedule",
        poke_interval=settings.poll_seconds,
        timeout=12 * 3600,
        **common,
    )
    return backfill, wait


def _ready(settings: Settings, place: str, day: str) -> bool:
    """Whether data is there: a file, an object of a bucket, or the partition of the day in a table."""
    if place.startswith("gs://"):
        from google.cloud import storage

        bucket, _, name = place.removeprefix("gs://").partition("/")
        return bool(storage.Client(credentials=_credentials(settings)).bucket(bucket).blob(name).exists())
    if place.startswith("bq://"):
        from google.cloud import bigquery

        name = place.removeprefix("bq://")
        client = bigquery.Client(name.split(".")[0], credentials=_credentials(settings))
        return day.replace("-", "") in client.list_partitions(name)
    return bool(glob.glob(place))


def _as_of(context: Any) -> str:
    return as_of(context["params"], context["dag_run"])


def _started(context: Any) -> str:
    """When the backfill began."""
    job = context["ti"].xcom_pull(task_ids="backfill")
    return str(job["createTime"] if isinstance(job, dict) else job)


def _held(context: Any) -> list[str]:
    """The reasons to hold back what was scored."""
    held: list[str] = context["ti"].xcom_pull(task_ids="check")["held"]
    return held


def _gate(settings: Settings, context: Any, *more: str) -> str:
    """What `foretide gate` prints. It ends with 3 when it holds scores back, and with 2 for what no retry mends."""
    accept = ["--accept-drift"] if context["params"]["accept_drift"] else []
    words = settings.gate(_as_of(context), _started(context), *accept, *more)
    with _hook(settings).provide_gcp_credential_file_as_context() if settings.in_tables else nullcontext():
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode == 0 or (done.returncode == 3 and "--dry-run" in more):
        return done.stdout.strip()
    failure = AirflowFailException if done.returncode in (2, 3) else RuntimeError
    raise failure(done.stderr.strip())


def _credentials(settings: Settings) -> Any:
    return _hook(settings).get_credentials()


def _hook(settings: Settings) -> Any:
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook

    connection = settings.dataflow.connection if settings.dataflow else Dataflow.connection
    return GoogleBaseHook(gcp_conn_id=connection)


def _post(url: str, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).close()


dags = {
    name: workflow(name, Settings.read(f"foretide: {name}", values))
    for name, values in Variable.get("foretide", default={}, deserialize_json=True).items()
}
globals().update({dag.dag_id: dag for dag in dags.values()})
