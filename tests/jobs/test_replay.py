from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import UserError
from pipelines.events.messages import Messages
from pipelines.google.subscription import client
from pipelines.jobs.replay import ReplayConfig, replay
from pipelines.ledger.counts import DeadLetter
from pipelines.storage.folder.live import append, make_folders
from pipelines.storage.rows import DEAD_LETTERS, live_schema
from pipelines.transforms.output_rows import letter_fields
from pipelines.transforms.publish_letters import message, publish
from tests.support import event_files
from tests.support.event_files import task
from tests.support.sent_messages import KINDS, NOW, messages, received, text
from tests.support.services import Emulator

ROWS = event_files.records(30)
LATE = DeadLetter("late", "sub", "u1", "too late for 2024-01-01", 1, "")
Pulled = list[tuple[bytes, dict[str, str]]]


@pytest.fixture
def service(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    for name, value in pubsub.environment.items():
        monkeypatch.setenv(name, value)
    return pubsub


@pytest.fixture
def topic(service: Emulator) -> str:
    """A topic with a subscription of the same name."""
    name = service.topic(f"replay-{uuid.uuid4().hex[:8]}")
    service.subscription(name)
    return name


def subscription(topic: str) -> str:
    return topic.replace("/topics/", "/subscriptions/")


def everything(topic: str) -> Pulled:
    """What is in the subscription of a topic, acknowledged."""
    out: Pulled = []
    name, source = subscription(topic), client()
    while got := source.pull(name, 1_000):
        out += [(m.message.data, dict(m.message.attributes)) for m in got]
        source.acknowledge(name, [m.ack_id for m in got])
    return sorted(out, key=repr)


def refused() -> list[DeadLetter]:
    """Two reasons, several kinds of message, one of them delivered twice, and a letter with nothing to send."""
    bad = [{**row, "amount": "much"} for row in ROWS[:5]]
    missing = [{**row, "user": None} for row in ROWS[5:8]]
    sent = messages([*text(bad), *KINDS["list"][0](missing), *KINDS["container"][0](missing)], attributes={"r": "eu"})
    dead = received(task(), sent).dead
    assert len(dead) == 11
    return [*dead, *dead[:2], LATE]


def keep(folder: Path, letters: Sequence[DeadLetter]) -> None:
    make_folders(folder, "run")
    columns = zip(*map(letter_fields, letters), strict=True)
    names = DEAD_LETTERS.names[:-1]
    table = pa.table(
        {**dict(zip(names, columns, strict=True)), "run_id": ["run"] * len(letters), "written_at": [1] * len(letters)},
        schema=live_schema(DEAD_LETTERS),
    )
    append(folder, "run", "dead_letters", table, 1)


def put(service: Emulator, topic: str, letters: Sequence[DeadLetter]) -> None:
    with service.publisher() as client:
        publish(client, topic, [message(letter) for letter in letters])


def again(found: Pulled) -> Messages:
    names = tuple(attributes["foretide_id"] for _, attributes in found)
    assert all(attributes == {"r": "eu", "foretide_id": attributes["foretide_id"]} for _, attributes in found)
    return Messages(tuple(d for d, _ in found), names, np.full(len(found), NOW), ({},) * len(found))


@pytest.mark.parametrize("where", ["folder", "subscription"])
def test_replay(service: Emulator, topic: str, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    letters = refused()
    dead_topic = service.topic(f"dead-{uuid.uuid4().hex[:8]}")
    dead = service.subscription(dead_topic)
    if where == "folder":
        keep(tmp_path, letters)
        config = ReplayConfig(str(tmp_path), None, topic)
    else:
        put(service, dead_topic, letters)
        config = ReplayConfig(None, dead, topic)
    assert replay(config, pause=0) == 0
    found = everything(topic)
    assert sorted(d for d, _ in found) == sorted(x.payload or b"" for x in letters[:11])
    assert capsys.readouterr().out.splitlines() == [
        f"dead letters: sent 11 to {topic}",
        "  6  user is missing",
        "  5  amount is not a number",
        *(["skipped 2 more of the same events"] if where == "subscription" else []),  # a folder shows a letter once
        "skipped 1 with nothing to send (of files, late events, scores)",
    ]
    assert len(received(task(entity="id"), again(found)).events) == 6  # the field that was null is not needed now
    if where == "subscription":
        rest = [attributes["reason"] for _, attributes in everything(dead_topic)]
        assert rest == [LATE.reason]  # what has nothing to send stays


@pytest.mark.parametrize("where", ["folder", "subscription"])
def test_replay_by_reason(
    service: Emulator, topic: str, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = refused()
    dead_topic = service.topic(f"dead-{uuid.uuid4().hex[:8]}")
    dead = service.subscription(dead_topic)
    keep(tmp_path, letters)
    put(service, dead_topic, letters)
    output, source = (str(tmp_path), None) if where == "folder" else (None, dead)
    assert replay(ReplayConfig(output, source, topic, "user is"), pause=0) == 0
    assert {json.loads(d)["user"] if d[:1] == b"{" else None for d, _ in everything(topic)} == {None}
    out = capsys.readouterr().out
    assert "sent 6 to" in out
    assert f"skipped {8 if where == 'subscription' else 6} of another reason" in out
    if where == "subscription":
        assert len(everything(dead_topic)) == 8


@pytest.mark.parametrize("where", ["folder", "subscription"])
def test_a_dry_run_sends_nothing(
    service: Emulator, topic: str, tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = refused()
    dead_topic = service.topic(f"dead-{uuid.uuid4().hex[:8]}")
    dead = service.subscription(dead_topic)
    keep(tmp_path, letters)
    put(service, dead_topic, letters)
    output, source = (str(tmp_path), None) if where == "folder" else (None, dead)
    assert replay(ReplayConfig(output, source, topic, dry_run=True), pause=0) == 0
    assert "11 would be sent" in capsys.readouterr().out
    assert everything(topic) == []
    assert len(everything(dead_topic)) == len(letters)


def test_a_second_replay_sends_the_same_ids(service: Emulator, topic: str, tmp_path: Path) -> None:
    keep(tmp_path, refused())
    replay(ReplayConfig(str(tmp_path), None, topic))
    first = everything(topic)
    replay(ReplayConfig(str(tmp_path), None, topic))
    assert everything(topic) == first


def test_what_cannot_be(service: Emulator, topic: str, tmp_path: Path) -> None:
    make_folders(tmp_path, "run")
    for config, problem in (
        (ReplayConfig(str(tmp_path), None, "nowhere"), "a topic is named"),
        (ReplayConfig(str(tmp_path), None, "projects/test/topics/nowhere"), "topics/nowhere does not exist"),
        (ReplayConfig(str(tmp_path / "none"), None, topic), "there is no folder"),
        (ReplayConfig(None, "nowhere", topic), "a subscription is named"),
        (ReplayConfig(None, "projects/test/subscriptions/nowhere", topic), "subscriptions/nowhere: NOT_FOUND"),
    ):
        with pytest.raises(UserError, match=problem):
            replay(config, pause=0)
    with pytest.raises(UserError, match="either --output or --subscription"):
        ReplayConfig(None, None, topic)


def test_many_letters(service: Emulator, topic: str, capsys: pytest.CaptureFixture[str]) -> None:
    """More than one pull gives."""
    letters = received(task(), messages(text([{**ROWS[0], "user": None}] * 2_500))).dead
    put(service, topic, letters)
    target = service.topic(f"many-{uuid.uuid4().hex[:8]}")
    service.subscription(target)
    replay(ReplayConfig(None, subscription(topic), target), pause=0)
    assert len(everything(target)) == 2_500
    assert everything(topic) == []
    assert "sent 2,500" in capsys.readouterr().out
