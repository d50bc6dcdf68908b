"""What a process and those that it has started listen on."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

import psutil


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
