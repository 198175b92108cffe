"""Guards of hostile tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_hanging() -> Iterator[None]:
    """End a test that waits for ever, as by a pipe, as an error."""
    signal.alarm(600)
    yield
    signal.alarm(0)
