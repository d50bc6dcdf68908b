"""Processes of this one, which end with it, and the ports that they listen on."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

import psutil

# Linux ends a process with its parent, whatever ended that one (PR_SET_PDEATHSIG is 1, SIGKILL is 9).
BOUND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]): os.execvp(sys.argv[2], sys.argv[2:])
"""


def bound(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a process that does not outlive this one, nor, on Linux, the thread that called; not even a kill -9.

    It has a session of its own: Ctrl-C in the terminal does not reach it.
    """
    words = list(command)
    if shutil.which(words[0]) is None:
        raise FileNotFoundError(f"no program {words[0]}")
    if platform.system() == "Linux":
        words = [sys.executable, "-I", "-S", "-c", BOUND, str(os.getpid()), *words]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, **options)


def end(process: subprocess.Popen[Any], seconds: float) -> None:
    """SIGTERM, and SIGKILL if it has not ended after so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nothing listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def listens(address: str, timeout: float = 5.0) -> str | None:
    """None if somebody listens at host:port, else the reason why not."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return "it is not of the form HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except (OSError, OverflowError) as error:
        return reason(error)
    return None


def reason(error: BaseException) -> str:
    """Why something cannot be reached, in a few words."""
    inner = getattr(error, "reason", error)
    found = inner if isinstance(inner, BaseException) else error
    return str(getattr(found, "strerror", None) or found) or type(found).__name__


class Listener(NamedTuple):
    """A TCP port that a process listens on."""

    pid: int
    program: str
    host: str  # an address of IPv4 or IPv6
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = ip_address(self.host.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.program} ({self.pid}) at {host}:{self.port}"


def listeners(pid: int | None = None) -> list[Listener]:
    """The listening sockets of a process (None: this one) and of all that came from it; none of one that has ended."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return sorted({each for process in processes for each in _of(process)})


def _of(process: psutil.Process) -> Iterator[Listener]:
    try:
        for found in process.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN:
                yield Listener(process.pid, process.name(), found.laddr.ip, found.laddr.port)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return
