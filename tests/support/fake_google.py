"""A stand-in for Google's services on loopback: credentials that it accepts, and answers that a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ACCOUNT = "launcher@shop-data.iam.gserviceaccount.com"
SERVICES = ("bigquery", "cloudresourcemanager", "compute", "dataflow", "iam", "pubsub", "storage")


@dataclass
class Google:
    """What is asked without an answer of its own holds every permission that is asked for, and else is empty."""

    address: str  # host:port
    folder: Path
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)  # part of a path -> status, JSON
    asked: list[str] = field(default_factory=list)  # paths

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that takes it for Google."""
        overrides = {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{s.upper()}": f"http://{self.address}/" for s in SERVICES}
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self.folder / "key.json"), **overrides}

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        self.asked.append(path)
        for part, answer in self.answers.items():
            if part in path:
                return answer
        held = body.get("permissions") or [p.partition("=")[2] for p in path.partition("?")[2].split("&")]
        return 200, {"permissions": held} if "ermissions" in path else {}


@contextmanager
def google(folder: Path) -> Iterator[Google]:
    """A running one, with the key of an account in a folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            is_json = "json" in (self.headers.get("Content-Type") or "")
            status, content = service.answer(self.path, json.loads(body) if is_json and body else {})
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service = Google(f"127.0.0.1:{server.server_port}", folder)
        (folder / "key.json").write_text(json.dumps(_key(service.address)))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def _key(address: str) -> dict[str, str]:
    """Of an account that is none of Google's own, of which the library asks Google nothing."""
    secret = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = secret.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    known = {"type": "service_account", "project_id": "shop-data", "private_key_id": "1", "client_email": ACCOUNT}
    return {**known, "private_key": text, "token_uri": f"http://{address}/token", "universe_domain": "google.invalid"}


@contextmanager
def denying() -> Iterator[str]:
    """The address of a gRPC service that denies every call."""

    class Denying(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def deny(request: bytes, context: grpc.ServicerContext) -> None:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "User not authorized to perform this action.")

            return grpc.unary_unary_rpc_method_handler(deny)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Denying()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
