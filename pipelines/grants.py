"""Permissions that a launch needs of services of Google's, and the commands that grant them. Nothing is asked here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace

WHO = " --member={member} --role={role}"


@dataclass(frozen=True)
class Grants:
    """Permissions that are needed on something, and where they are asked for."""

    subject: str
    service: str
    path: str  # of the resource
    permissions: tuple[str, ...]
    grant: str  # the command that gives a role, of which {role} and {member} are the parts


def on_project(project: str, *wanted: str) -> Grants:
    command = f"gcloud projects add-iam-policy-binding {shlex.quote(project)}{WHO}"
    return Grants(f"project {project}", "cloudresourcemanager", f"v1/projects/{project}", wanted, command)


def merged(grants: Iterable[Grants]) -> list[Grants]:
    """All that is needed of each thing at once."""
    found: dict[tuple[str, str], Grants] = {}
    for each in grants:
        before = found.get((each.service, each.path), each).permissions
        wanted = tuple(dict.fromkeys((*before, *each.permissions)))
        found[each.service, each.path] = replace(each, permissions=wanted)
    return list(found.values())
