"""What commands and services listen on while they run, and whether a stranger gets in.

`python -m tests.support.open_ports COMMAND...` runs a command on a network of its own, which has the loopback and one
other address (`ELSEWHERE`), tries every port that it listens on from both, and prints what it found as JSON. It ends
with 77 where the system gives it no network of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence

from pipelines.system.processes import Listener, listeners

ELSEWHERE = "10.213.7.1"
NO_NETWORK = 77  # exit code
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # of unshare(2)
SET_ADDRESS, SET_FLAGS, UP = 0x8916, 0x8914, 0x1  # of netdevice(7)


def watch(process: subprocess.Popen[bytes], every: float = 0.1) -> set[Listener]:
    """All that a process and its children have listened on until it has ended."""
    seen: set[Listener] = set()
    while process.poll() is None:
        seen.update(listeners(process.pid))
        time.sleep(every)
    return seen


def strangers(seen: set[Listener]) -> list[str]:
    """Those that other machines can reach, in words."""
    return [str(each) for each in sorted(seen) if not each.loopback]


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def tried(command: Sequence[str], every: float = 0.2) -> dict[str, dict[str, bool]]:
    """Whether each port of a command took a connection at each address."""
    found: dict[str, dict[str, bool]] = {}
    process = subprocess.Popen(command, stdout=sys.stderr)
    while process.poll() is None:
        for each in listeners(process.pid):
            name = f"{each.program} {each.port}"
            answers = found.setdefault(name, {"127.0.0.1": False, ELSEWHERE: False})
            for host in answers:
                answers[host] = answers[host] or accepts(host, each.port)
        time.sleep(every)
    if process.returncode:
        sys.exit(process.returncode)
    return found


def own_network() -> bool:
    """Puts this process on a network of its own; False where the system does not allow it."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    flags = NEW_NETWORK if user == 0 else NEW_NETWORK | NEW_USER
    if libc.unshare(flags) and libc.unshare(NEW_NETWORK | NEW_USER):
        return False
    if flags & NEW_USER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SET_FLAGS, struct.pack("16sH14x", b"lo", UP))
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(ELSEWHERE))
        fcntl.ioctl(s, SET_ADDRESS, struct.pack("16s16s", b"lo:1", address))
    return True


if __name__ == "__main__":
    if not own_network():
        sys.exit(NO_NETWORK)
    print(json.dumps(tried(sys.argv[1:])))
