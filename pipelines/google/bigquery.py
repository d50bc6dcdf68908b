"""Clients of BigQuery: one of each kind a process, of the service, or of an emulator where the environment names one.

BIGQUERY_EMULATOR_HOST: `http://host:port` of the REST API. BIGQUERY_STORAGE_EMULATOR_HOST: `host:port` of the Storage
APIs, which is gRPC without encryption.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.system.processes import listens

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, QueryJob
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient, BigQueryWriteClient

EMULATOR = "BIGQUERY_EMULATOR_HOST"
STORAGE_EMULATOR = "BIGQUERY_STORAGE_EMULATOR_HOST"
MESSAGE = 64 << 20  # bytes of a gRPC message
PATIENCE = 600.0  # seconds in which BigQuery must have done what it is asked to do
PAUSES = (0.2, 10.0)  # seconds between two tries: of the first, and at most
TIMEOUT = 60.0  # seconds of a request
REQUEST = re.compile(r"^[A-Z]+ https?://\S+: ")  # what stands before a message of the service


def answers() -> None:
    """Checks that the emulator answers, where the environment names one.

    Raises:
      UserError: an emulator does not answer, for which a client would wait.
    """
    host = os.environ.get(EMULATOR)
    why = listens(host.rpartition("//")[2].rstrip("/")) if host is not None else None
    if why is not None:
        remedy = f"Start it, or unset {EMULATOR} to use the real service"
        said = f"no BigQuery emulator answers at {host}: {why}"
        raise UserError(said, remedy=remedy, code="bigquery", subject=EMULATOR)


@functools.cache
def client(project: str) -> Client:
    """The client of the REST API, whose jobs run in, and are paid by, a project.

    Raises:
      UserError: the library is missing, or there are no credentials.
    """
    with explained():
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.bigquery import Client

        host = os.environ.get(EMULATOR)
        if host:
            nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
            return Client(project, credentials=nobody, client_options={"api_endpoint": host})
        return Client(project)


@functools.cache
def writer() -> BigQueryWriteClient:
    """The client of the Storage Write API. Raises UserError as `client` does."""
    with explained():
        from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
        from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

        return _storage(BigQueryWriteClient, BigQueryWriteGrpcTransport)


@functools.cache
def reader() -> BigQueryReadClient:
    """The client of the Storage Read API. Raises UserError as `client` does."""
    with explained():
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        return _storage(BigQueryReadClient, BigQueryReadGrpcTransport)


def _storage(make: Callable[..., Any], transport: Callable[..., Any]) -> Any:
    host = os.environ.get(STORAGE_EMULATOR)
    if not host:
        return make()
    import grpc

    options = [("grpc.max_send_message_length", MESSAGE), ("grpc.max_receive_message_length", MESSAGE)]
    return make(transport=transport(channel=grpc.insecure_channel(host, options=options)))


@contextmanager
def explained(what: str = "") -> Iterator[None]:
    """Turns what BigQuery refuses, and what is missing to ask it, into UserError, with `what` in front."""
    before = f"{what}: " if what else ""
    try:
        yield
    except ImportError as error:
        remedy = "Run pip install 'foretide[bigquery]'"
        raise UserError(f"{before}BigQuery needs its library", remedy=remedy, code="bigquery") from error
    except Exception as error:
        if isinstance(error, UserError) or not _of_google(error):
            raise
        code, remedy = _meaning(type(error).__name__)
        raise UserError(f"{before}{message(error)}", remedy=remedy, code=code) from error


def _meaning(kind: str) -> tuple[str, str]:
    """The code and the remedy of what BigQuery refuses; empty where those who asked know them."""
    if kind == "Forbidden":
        roles = "roles/bigquery.dataEditor and roles/bigquery.jobUser"
        command = "gcloud projects add-iam-policy-binding PROJECT --member=ACCOUNT --role=ROLE"
        return "permissions", f"Grant {roles}: {command}"
    if kind.endswith(("CredentialsError", "RefreshError")):
        return "credentials", ""
    return ("", "") if kind == "NotFound" else ("bigquery", "")


def message(error: Exception) -> str:
    """The message of an error, in one line."""
    text = REQUEST.sub("", str(getattr(error, "message", "") or error).strip())
    return " ".join(text.split("\n\n")[0].split()) or type(error).__name__


def transient(error: Exception) -> bool:
    """Whether the same request may well succeed a little later."""
    from google.api_core import exceptions
    from google.auth.exceptions import TransportError
    from requests.exceptions import ConnectionError, Timeout

    passing = (
        exceptions.Aborted,
        exceptions.Cancelled,
        exceptions.DeadlineExceeded,
        exceptions.RetryError,
        exceptions.ServerError,
        exceptions.TooManyRequests,
        exceptions.Unknown,
        ConnectionError,
        Timeout,
        TransportError,
    )
    return isinstance(error, passing)


def patiently(
    do: Callable[[], Any],
    patience: float = PATIENCE,
    passing: Callable[[Exception], bool] = transient,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """Returns what `do` returns, which is called again, at growing intervals, while its errors are `passing`."""
    end, (pause, most) = time.monotonic() + patience, PAUSES
    while True:
        try:
            return do()
        except Exception as error:
            if not passing(error) or time.monotonic() >= end:
                raise
        sleep(pause)
        pause = min(2 * pause, most)


def execute(
    project: str,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    patience: float = PATIENCE,
) -> QueryJob:
    """Runs a statement, or several, to the end; a dry run only checks it, and says what it would read.

    To be called with statements that may run twice: a job that the service lost is started again.

    Args:
      parameters: by name. Of (type, value), such as ("TIMESTAMP", datetime); a list is an array of the type.

    Raises:
      GoogleAPICallError: it is wrong, refused, or the service did not answer for `patience` seconds.
    """
    from google.api_core.exceptions import NotFound
    from google.cloud.bigquery import ArrayQueryParameter, QueryJobConfig, ScalarQueryParameter

    given = [
        (ArrayQueryParameter if isinstance(value, list) else ScalarQueryParameter)(name, kind, value)
        for name, (kind, value) in (parameters or {}).items()
    ]

    def run() -> QueryJob:
        job = client(project).query(
            sql, job_config=QueryJobConfig(query_parameters=given, dry_run=dry_run), retry=None, job_retry=None
        )
        if not dry_run:
            job.result(retry=None, job_retry=None)
        return job

    def passing(error: Exception) -> bool:
        said = message(error).lower()
        return (
            transient(error)
            or (isinstance(error, NotFound) and "not found: job" in said)
            or "concurrent update" in said
        )

    return patiently(run, patience, passing)


def _of_google(error: Exception) -> bool:
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    return isinstance(error, GoogleAPICallError | RetryError | GoogleAuthError | RequestException)
