"""The services that tests run against: what the emulators keep, count and forget."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.google import bigquery as client
from tests.support.services import Emulator, TopicCounts, binary, emulator
from tests.support.warehouse import PROJECT, Warehouse


def test_publish_pull_and_count(pubsub: Emulator) -> None:
    topic = pubsub.topic("services-count")
    subscription = pubsub.subscription(topic, ack_deadline_seconds=60)
    payloads = [b"x" * (1 + i % 7) for i in range(2500)]
    ids = pubsub.publish(topic, payloads, [{"n": str(i)} for i in range(2500)])
    assert len(set(ids)) == 2500
    assert pubsub.counts(topic) == TopicCounts(2500, 0, 0, 0)
    with pubsub.subscriber() as client:
        first = client.pull(request={"subscription": subscription, "max_messages": 1000}).received_messages
        assert {(m.message.data, m.message.attributes["n"]) for m in first} <= {
            (payload, str(i)) for i, payload in enumerate(payloads)
        }
        client.acknowledge(request={"subscription": subscription, "ack_ids": [m.ack_id for m in first]})
    assert pubsub.counts(topic) == TopicCounts(2500, 1000, 1000, 1000)
    assert pubsub.counts(topic).outstanding == 1500
    with pytest.raises(TimeoutError, match="acked=1000"):
        pubsub.wait_until_acked(topic, timeout=0.1)


def test_large_payloads_go_in_several_requests(pubsub: Emulator) -> None:
    topic = pubsub.topic("services-large")
    assert len(pubsub.publish(topic, [bytes(1 << 20)] * 7)) == 7


def test_a_killed_emulator_comes_back_empty_at_its_address() -> None:
    with emulator() as service:
        topic, address = service.topic("gone"), service.address
        service.publish(topic, [b"a"])
        service.kill()
        service.start()
        assert service.address == address
        assert service.counts(topic) == TopicCounts(0, 0, 0, 0)
        service.pause()
        service.resume()
        assert service.topic("gone") == topic


def test_a_killed_emulator_with_a_journal_goes_on(tmp_path: Path) -> None:
    with emulator(journal=tmp_path / "journal") as service:
        topic = service.topic("kept")
        pull = {"subscription": service.subscription(topic), "max_messages": 9}
        service.publish(topic, [b"a", b"b", b"c"], [{"n": x} for x in "123"])
        with service.subscriber() as client:
            before = {m.message.data: m for m in client.pull(request=pull).received_messages}
            ids = [before.pop(b"b").ack_id]
            client.acknowledge(request={"subscription": pull["subscription"], "ack_ids": ids})
        service.kill()
        service.start()
        assert service.counts(topic) == TopicCounts(3, 1, 1, 0)
        with service.subscriber() as client:
            after = {m.message.data: m.message for m in client.pull(request=pull).received_messages}
        assert after == {data: m.message for data, m in before.items()}


def test_a_killed_warehouse_comes_back_with_its_rows_at_its_address(tmp_path: Path) -> None:
    before = os.environ.get(client.EMULATOR)
    with Warehouse(tmp_path) as warehouse:
        name = f"{warehouse.dataset()}.t"
        warehouse.sql(f"CREATE TABLE {name} AS SELECT 1 AS n")
        mine = client.client(PROJECT)
        warehouse.restart()
        assert warehouse.sql(f"SELECT n FROM {name}") == [{"n": 1}]
        assert client.client(PROJECT) is mine
        assert warehouse.dataset() != warehouse.dataset()
        assert os.environ[client.EMULATOR] == warehouse.environment[client.EMULATOR]
    assert os.environ.get(client.EMULATOR) == before
    assert client.client.cache_info().currsize == 0


def test_a_missing_program_names_its_target() -> None:
    with pytest.raises(UserError, match="run `make services`"):
        binary("no-such-program")
