"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

# Models are tested directly too, in two processes side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]

# A job that a shell started in the background inherits that Ctrl-C is ignored, and so would every command under test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The offline mirror of the public data sets; without it CI fails, and elsewhere the test is skipped."""
    path = Path(os.environ.get("RECOMMENDER_DATASETS_MIRROR") or ROOT.parent / "shared" / "datasets")
    if not path.is_dir():
        reason = f"no data-set mirror at {path} (set RECOMMENDER_DATASETS_MIRROR)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no mirror or cache from the environment."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test tried the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("RECOMMENDER_DATASETS_MIRROR", raising=False)
    monkeypatch.delenv("RECOMMENDER_CACHE", raising=False)
