"""What a process and those that it started listen on."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

import psutil


class Listener(NamedTuple):
    """A TCP socket, IPv4 or IPv6, to which others can connect."""

    pid: int
    address: str
    port: int

    @property
    def near(self) -> bool:
        """Whether only this machine reaches it."""
        ip = ipaddress.ip_address(self.address)
        return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def listening(pid: int) -> list[Listener]:
    """All on which the process and its descendants listen."""
    found = set()
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in family:
        try:
            connections = process.net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
            continue
        found |= {Listener(process.pid, *c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}
    return sorted(found)
