"""What of Google Cloud a launch asks, on this machine: a bucket service and Dataflow's own, which only keeps what it is
sent. No worker ever runs."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c
import pytest
from apache_beam.internal.gcp import auth
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow

PROJECT, REGION, BUCKET = "my-project", "europe-west1", "my-bucket"


class Cloud(ThreadingHTTPServer):
    """The services, on a free port of loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}  # by path in the bucket
        self.uploads: dict[str, list[bytes]] = {}
        self.jobs: list[dict[str, Any]] = []  # as they were sent
        self.running: dict[str, str] = {}  # name of a job -> id

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def flags(self) -> list[str]:
        """For a job that is launched here."""
        return [
            "--runner=DataflowRunner",
            f"--project={PROJECT}",
            f"--region={REGION}",
            f"--temp_location=gs://{BUCKET}/temp",
            "--experiments=disable_logging_submission_environment",
        ]

    def staged(self, name: str) -> bytes:
        """The newest object of that name, in any folder."""
        return [content for path, content in self.objects.items() if path.rpartition("/")[2] == name][-1]


@contextmanager
def cloud(patch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Runs the services, where libraries of this process find them, without credentials.

    Beam takes no endpoint of Dataflow with a port, and with one on `localhost` it asks for other workers: so its client
    is told.
    """
    real = dataflow.JobsV1Beta3Client

    def client(**_: Any) -> Any:
        options = ClientOptions(api_endpoint=server.url)
        return real(credentials=AnonymousCredentials(), client_options=options, transport="rest")  # type: ignore[no-untyped-call]

    with Cloud() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setattr(auth._Credentials, "_credentials_init", True)
        patch.setattr(auth._Credentials, "_credentials", None)
        patch.setattr(dataflow, "JobsV1Beta3Client", client)
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Cloud
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", url.path)
        if found is None:
            self._dataflow(url.path)
        elif found[1] != BUCKET:
            self._answer(404, {})
        elif found[2]:
            self._object(unquote(found[2]), query)
        elif url.path.endswith("/o"):
            prefix = query.get("prefix", "")
            names = sorted(name for name in self.server.objects if name.startswith(prefix))
            self._answer(200, {"kind": "storage#objects", "items": [self._about(name) for name in names]})
        else:
            self._answer(
                200, {"kind": "storage#bucket", "name": BUCKET, "softDeletePolicy": {"retentionDurationSeconds": "0"}}
            )

    def do_POST(self) -> None:
        url, body = urlsplit(self.path), self._body()
        if url.path.startswith("/upload/storage/") or url.path.startswith("/resumable/upload/storage/"):
            name = parse_qs(url.query).get("name", [""])[0] or json.loads(body)["name"]
            self.server.uploads[name] = []
            self._answer(200, {}, {"Location": f"{self.server.url}/put/{name}"})
        elif re.fullmatch(rf"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs", url.path):
            job = json.loads(body)
            self.server.jobs.append(job)
            self.server.running[job["name"]] = name = f"job-{len(self.server.jobs)}"
            self._answer(200, {"id": name, "name": job["name"], "clientRequestId": job["clientRequestId"]})
        else:
            self._answer(404, {})

    def do_PUT(self) -> None:
        name = unquote(urlsplit(self.path).path.removeprefix("/put/"))
        parts = self.server.uploads[name]
        parts.append(self._body())
        if self.headers["Content-Range"].endswith("/*"):
            self._answer(308, {}, {"Range": f"bytes=0-{sum(map(len, parts)) - 1}"})
        else:
            self.server.objects[name] = b"".join(parts)
            self._answer(200, self._about(name))

    def _dataflow(self, path: str) -> None:
        jobs = [
            {"id": id, "name": name, "currentState": "JOB_STATE_RUNNING"} for name, id in self.server.running.items()
        ]
        if path.endswith("/jobs"):
            self._answer(200, {"jobs": jobs})
        else:
            found = [job for job in jobs if path.endswith(f"/jobs/{job['id']}")]
            self._answer(200 if found else 404, found[0] if found else {})

    def _object(self, name: str, query: dict[str, str]) -> None:
        content = self.server.objects.get(name)
        if content is None:
            self._answer(404, {})
        elif query.get("alt") != "media":
            self._answer(200, self._about(name))
        else:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-")).groups()  # type: ignore[union-attr]
            part = content[int(first) : int(last) + 1 if last else None]
            ranged = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self._send(206 if part else 416, part, {"Content-Range": ranged})

    def _about(self, name: str) -> dict[str, Any]:
        content = self.server.objects[name]
        checksum = google_crc32c.value(content).to_bytes(4, "big")
        size, crc32c = str(len(content)), base64.b64encode(checksum).decode()
        updated = "2026-01-01T00:00:00.000Z"
        facts = {"bucket": BUCKET, "name": name, "size": size, "updated": updated, "generation": "1", "crc32c": crc32c}
        return {"kind": "storage#object", "etag": size, **facts}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
