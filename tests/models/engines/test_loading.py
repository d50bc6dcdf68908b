"""What TensorFlow writes while it is imported is kept back, and nothing else is."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from pipelines.models.engines.loading import silent_stderr


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "level", logging.CRITICAL)
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]


def speak() -> None:
    with silent_stderr():
        os.write(2, b"in C\n")
    os.write(2, b"after\n")


def test_the_main_thread_keeps_it_back(capfd: pytest.CaptureFixture[str]) -> None:
    speak()
    assert capfd.readouterr().err == "after\n"


def test_another_thread_silences_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=speak)
    thread.start()
    thread.join()
    assert capfd.readouterr().err == "in C\nafter\n"


def test_whoever_debugs_hears_all(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    logging.root.manager._clear_cache()  # type: ignore[attr-defined]
    speak()
    assert capfd.readouterr().err == "in C\nafter\n"
