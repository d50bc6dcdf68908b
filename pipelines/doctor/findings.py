"""What a look before a launch finds: codes that stay, how bad it is, and what to do. As text, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, get_args

from pipelines.errors import Finding, Severity
from pipelines.system.screen import in_json

SHOWN = ("code", "severity", "subject", "message", "remedy")  # of a finding
VERSION = 1  # of the JSON; a change that a reader of it would notice makes it 2


class Code(NamedTuple):
    """What a code stands for."""

    about: str  # what is found wrong
    remedy: str


CODES: dict[str, Code] = {
    "task-file": Code("The task file cannot be read, or says what it cannot.", "Mend the lines that are named."),
    "arguments": Code("A flag does not go with the task or with another flag.", "Change the flag as the message says."),
    "runner-options": Code(
        "An option for Beam is not known, loses data, is missing for the runner, or is not of its form.",
        "Give the option as the message says.",
    ),
    "input-found": Code(
        "No such file, folder, table or query, or one that cannot be opened.",
        "Correct `--input` or `--bootstrap`, or say the format with `--format`.",
    ),
    "input-rows": Code("The input holds no row at all.", "Wait until the data is there, or name another input."),
    "data-columns": Code(
        "A field of the task is not among the columns.", "Name the right field in the task file, or mend the data."
    ),
    "data-types": Code(
        "Most values of a column are of a type that the task cannot use.",
        "Name the column that is meant in the task file, or convert it where the data is made.",
    ),
    "time-unit": Code(
        "Times make no sense in the unit of the task, and do in another one.", "Set the `unit` in the task file."
    ),
    "time-zone": Code(
        "Some times have a zone and others none; or most events lie after their own arrival, as local times do.",
        "Write all times with their zone, or in UTC; a time without a zone is read as UTC.",
    ),
    "time-future": Code("Events are newer than now.", "Mend the clock, the unit or the zone of those who write them."),
    "rows-refused": Code(
        "Rows of the sample would be refused; more than `--max-bad-share` is an error.",
        "Mend the data; or, if they may be left out, raise `--max-bad-share`.",
    ),
    "rows-filtered": Code(
        "`events.where` leaves out every row of the sample.", "Compare its values with those of the data."
    ),
    "entities": Code(
        "There is one entity only, or nearly every event has its own.",
        "Set `events.entity` to the field that says who or what is scored.",
    ),
    "identity": Code(
        "Many events count as copies of others, or copies differ in what the task reads.",
        "Set `events.identity` to the fields that tell two events apart.",
    ),
    "as-of-covered": Code(
        "The data has nothing for an as-of, or ends long before it.", "Choose another as-of, or add the data."
    ),
    "model-found": Code("There is no model, or it cannot be read.", "Name its folder, or train one: `foretide train`."),
    "model-task": Code(
        "The model was made for another task, or another version of it.",
        "Train a model for this task, or score with the task it was made for.",
    ),
    "model-loads": Code(
        "The engine cannot load the model, or it gives no finite scores of the right shape.", "Train the model again."
    ),
    "engine": Code("The library of the engine is not installed.", "Install its extra, or choose another `--engine`."),
    "device": Code("There is no such device, or the engine cannot use it.", "Take `--device auto` or `cpu`."),
    "memory": Code(
        "The launch surely takes more memory than there is here; a warning if it is likely to take nearly all.",
        "Lower what the finding names, or take a larger machine.",
    ),
    "output-place": Code(
        "The output or archive cannot be written to, or its name is none.", "Name a folder that you may write to."
    ),
    "output-tables": Code(
        "Tables of BigQuery are not there, or lack columns, or have others.",
        "Run `foretide schema apply`, or what the finding says.",
    ),
    "bigquery": Code(
        "BigQuery cannot be asked: its library, its emulator or an answer is missing.",
        "Install the extra `bigquery`, start the emulator, or unset its variable.",
    ),
    "pubsub": Code(
        "Pub/Sub cannot be asked: its library, its emulator or an answer is missing.",
        "Install the extra `stream`, start the emulator, or unset its variable.",
    ),
    "subscription": Code(
        "The subscription does not exist, or hands out no messages to those who ask.",
        "Create a pull subscription of the topic.",
    ),
    "subscription-settings": Code(
        "A setting of the subscription costs time or messages: ack deadline, retry delay, order, exactly once, dead "
        "letters, filter, short retention.",
        "Change it with `gcloud pubsub subscriptions update`, or create another subscription.",
    ),
    "dead-letter-topic": Code(
        "The topic of `--dead-letters` is not there, or may not be seen.", "Create it, or correct its name."
    ),
    "messages": Code(
        "Messages cannot be read as `--payload` says.", "Set `--payload` and `--avro-schema` to what is published."
    ),
    "messages-arrival": Code(
        "Messages lack the attribute of `--arrival-attribute`, or it is no time.",
        "Publish it, name the one that is there, or leave the flag out: the publish time is the arrival then.",
    ),
    "credentials": Code(
        "There are no Google credentials, or they are not accepted.",
        "Run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS`.",
    ),
    "permissions": Code(
        "The account here lacks a permission on a project, table, topic, subscription or bucket.",
        "Grant the role that is named to the account, or ask who can.",
    ),
    "runner-reachable": Code(
        "No Prism, Flink cluster, job server or worker pool answers, nor Dataflow.",
        "Start it, or correct its address; for Dataflow enable the API.",
    ),
    "job-running": Code(
        "The live job runs on the cluster already.", "Stop it with `foretide savepoint`, or leave it running."
    ),
    "flink-slots": Code(
        "The Flink cluster has fewer task slots than the job takes.", "Start more, or lower `--parallelism`."
    ),
    "flink-version": Code(
        "The Flink cluster is of another version than the job server.", "Give its version with `--flink_version`."
    ),
    "worker-places": Code(
        "A place is a folder or service of this machine, and the workers are elsewhere.",
        "Name one that the workers reach, such as gs:// or bq://.",
    ),
    "worker-image": Code(
        "Workers would not have this package; or the image has another version of Python, Beam or Foretide, or no tag.",
        "Give `--sdk_container_image` an image that was built from this version.",
    ),
    "versions": Code(
        "Libraries here are not of the versions that were tested together.",
        "Install with `uv pip install --constraint requirements.lock`.",
    ),
    "accelerators": Code(
        "The quota of the region has too few GPUs for the workers, or a GPU is wanted and none asked for.",
        "Ask for quota, take another region or type, or lower `--max_num_workers`.",
    ),
}


def text(findings: Sequence[Finding]) -> str:
    """Findings as text for people: a line for each, its remedy below, and how many of each severity there are."""
    lines = []
    for f in findings:
        head = f"{f.severity:<8} {f.code:<22} "
        lines.append(head + f.message.replace("\n", "\n" + " " * len(head)))
        if f.remedy:
            lines.append(" " * len(head) + f"-> {f.remedy}")
    counts = tally(findings)
    lines.append(", ".join(f"{counts[severity]} {severity}" for severity in get_args(Severity)))
    return "\n".join(lines)


def as_json(command: str, task: str | None, findings: Sequence[Finding]) -> str:
    """Findings as JSON for programs. Its schema is in docs/doctor.md."""
    document = {
        "version": VERSION,
        "command": command,
        "task": task,
        "healthy": healthy(findings),
        "counts": tally(findings),
        "findings": [{name: getattr(f, name) for name in SHOWN} for f in findings],
    }
    return in_json(json.dumps(document, indent=2, ensure_ascii=False))


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether no finding is an error."""
    return all(f.severity != "error" for f in findings)


def tally(findings: Sequence[Finding]) -> dict[str, int]:
    """Counts findings by severity."""
    counts = Counter(f.severity for f in findings)
    return {severity: counts[severity] for severity in get_args(Severity)}
