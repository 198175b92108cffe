"""The run of anything that takes long and can be interrupted: its threads, its time, its provenance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ..machine import get_num_threads, set_num_threads
from .provenance import environment


class Timed(Protocol):
    """A result that says how it was made."""

    settings: dict[str, Any]
    seconds: float


Result = TypeVar("Result")


@contextmanager
def recorded(result: Timed, threads: int | None) -> Iterator[None]:
    """Run a block with some threads; its versions, machine and time go into the result, however it ends."""
    before = get_num_threads()
    if threads is not None:
        set_num_threads(threads)
    result.settings |= environment()
    start = time.perf_counter()
    try:
        yield
    finally:
        result.seconds += time.perf_counter() - start
        set_num_threads(before)


def possible(make: tuple[Callable[[Result], str], ...], result: Result) -> list[str]:
    """Make sentences from a result; those that raise LookupError, for lack of figures, are left out."""
    found = []
    for sentence in make:
        try:
            found.append(sentence(result))
        except LookupError:
            continue
    return [text for text in found if text]
