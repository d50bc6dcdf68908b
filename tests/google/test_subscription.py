"""What is looked at before a live job starts, and what it says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.cloud.pubsub_v1 import types

from pipelines.errors import UserError
from pipelines.google.leases import ServiceRefused
from pipelines.google.subscription import (
    Client,
    check_name,
    check_pullable,
    client,
    explained,
    facts,
    preflight,
)
from tests.support.services import Emulator, free_port

NAME = "projects/shop/subscriptions/orders"


@pytest.mark.parametrize("name", [NAME, "projects/a.com:b-1/subscriptions/a-b_c.d~e+f%"])
def test_full_names_are_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["orders", "projects/shop/subscriptions/", "projects/shop/subscriptions/1x", "projects//subscriptions/abc", ""],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="projects/PROJECT/subscriptions/NAME"):
        check_name(name)


def test_a_topic_is_no_subscription() -> None:
    with pytest.raises(UserError, match="this is a topic"):
        check_name("projects/shop/topics/orders")


def subscription(**settings: object) -> types.Subscription:
    return types.Subscription({"name": NAME, "topic": "projects/shop/topics/t", "ack_deadline_seconds": 10, **settings})


def test_a_plain_subscription_has_nothing_to_warn_of() -> None:
    found = facts(NAME, subscription())
    assert (found.name, found.topic, found.deadline, found.backoff) == (NAME, "projects/shop/topics/t", 10, 0)
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ack_deadline_seconds": 600}, "ack deadline (600 s)"),
        ({"retry_policy": types.RetryPolicy(minimum_backoff=timedelta(seconds=90))}, "retry delay (90 s)"),
        ({"enable_message_ordering": True}, "order of messages"),
        ({"enable_exactly_once_delivery": True}, "exactly once"),
        (
            {
                "dead_letter_policy": types.DeadLetterPolicy(
                    dead_letter_topic="projects/p/topics/d", max_delivery_attempts=5
                )
            },
            "after 5 deliveries it moves a message to projects/p/topics/d",
        ),
    ],
)
def test_settings_that_cost_something_are_named(settings: dict[str, object], words: str) -> None:
    (line,) = facts(NAME, subscription(**settings)).warnings
    assert line.message.startswith(f"{NAME}: ")
    assert words in line.message


def test_the_delay_of_a_retry_policy_is_known() -> None:
    policy = types.RetryPolicy(minimum_backoff=timedelta(seconds=12))
    assert facts(NAME, subscription(retry_policy=policy)).backoff == 12


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detached": True}, "detached"),
        ({"topic": "_deleted-topic_"}, "was deleted"),
        ({"push_config": types.PushConfig(push_endpoint="https://x")}, "pushes its messages"),
        ({"bigquery_config": types.BigQueryConfig(table="t")}, "BigQuery"),
        ({"cloud_storage_config": types.CloudStorageConfig(bucket="b")}, "bucket"),
    ],
)
def test_subscriptions_that_cannot_be_pulled_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_pullable(NAME, subscription(**settings))


def test_preflight_finds_a_subscription(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    topic = pubsub.topic("preflight")
    name = pubsub.subscription(topic, ack_deadline_seconds=25)
    found = preflight(name)
    assert (found.topic, found.deadline, found.warnings) == (topic, 25, ())


def test_preflight_says_that_it_is_not_there(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    with pytest.raises(UserError, match=f"does not exist in the emulator at {pubsub.address}"):
        preflight("projects/test/subscriptions/nothing")


def test_preflight_says_that_the_emulator_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", host)
    with pytest.raises(UserError, match=rf"no Pub/Sub emulator answers at {host} \(PUBSUB_EMULATOR_HOST\)"):
        preflight(NAME)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.pubsub_v1", None)
    for call in (lambda: preflight(NAME), client):
        with pytest.raises(UserError, match=r"pip install 'foretide\[stream\]'"):
            call()


@pytest.mark.parametrize(
    ("error", "text", "words"),
    [
        (api.NotFound, "x", "gcloud pubsub subscriptions create orders --project=shop --topic=TOPIC --ack-deadline=10"),
        (api.PermissionDenied, "x", "roles/pubsub.subscriber, and the same with roles/pubsub.viewer"),
        (api.Unauthenticated, "x", "gcloud auth application-default login"),
        (auth.DefaultCredentialsError, "x", "gcloud auth application-default login"),
        (api.ServiceUnavailable, "no route", "cannot be looked at: ServiceUnavailable: 503 no route"),
    ],
)
def test_what_fails_on_the_real_service_is_explained(
    error: Callable[[str], Exception], text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    message = str(explained(NAME, error(text)))
    assert message.startswith(NAME)
    assert words in message


def test_the_client_is_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
    first = client()
    assert client() is first
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:2")
    assert client() is not first


def test_a_client_refuses_with_the_service_s_words(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    with pytest.raises(ServiceRefused, match="NOT_FOUND") as final:
        Client().pull("projects/test/subscriptions/nothing", 10)
    assert final.value.final
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    with pytest.raises(ServiceRefused, match="UNAVAILABLE") as passing:
        Client().acknowledge(NAME, ["x"])
    assert not passing.value.final


def test_messages_that_are_given_back_come_again_at_once(pubsub: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.address)
    topic = pubsub.topic("given-back")
    name = pubsub.subscription(topic)
    pubsub.publish(topic, [b"a", b"b"])
    c = Client()
    first = c.pull(name, 10)
    assert len(first) == 2
    assert len(c.pull(name, 10)) == 0
    c.lease(name, [m.ack_id for m in first], 0)
    again = c.pull(name, 10)
    assert {m.message.data for m in again} == {b"a", b"b"}
    c.acknowledge(name, [m.ack_id for m in again])
    assert pubsub.counts(topic).outstanding == 0
