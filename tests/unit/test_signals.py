"""Signals during long calls of the core: Ctrl-C ends them, and handlers that do not raise run meanwhile."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import _core

SIDE, LONG = 512, 1 << 14


@pytest.fixture
def scalar() -> Iterator[None]:
    """Slow enough that a call is not over before the signal, on any machine."""
    before = _core.simd_level(), _core.get_num_threads()
    _core.set_simd_level("scalar")
    yield
    _core.set_simd_level(before[0])
    _core.set_num_threads(before[1])


class Sender(threading.Thread):
    """Sends a signal once a call has written its first results, and notes that it was not done."""

    def __init__(self, number: signal.Signals, out: np.ndarray, wanted: float) -> None:
        super().__init__(daemon=True)
        self._number, self._out, self._wanted, self.early = number, out, wanted, False
        self.sent, self.give_up = threading.Event(), threading.Event()

    def run(self) -> None:
        """Wait for the first results."""
        while np.isnan(self._out).all():
            if self.give_up.wait(0.01):
                return
        self.early = bool((self._out != self._wanted).any())
        signal.raise_signal(self._number)
        self.sent.set()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("accumulator", ["hopper_fp8", "exact", "float32"])
@pytest.mark.parametrize("workers", [1, 2])
def test_control_c_ends_a_long_product(scalar: None, accumulator: str, workers: int) -> None:
    d3.set_num_threads(workers)
    codes = d3.encode(np.ones((SIDE, LONG), np.float32), "float8_e4m3fn")
    out = np.full((SIDE, SIDE), np.nan, np.float32)
    wanted = float(d3.matmul_nt(codes[:1], codes[:1], accumulator=accumulator)[0, 0])
    sender = Sender(signal.SIGINT, out, wanted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            d3.matmul_nt(codes, codes, accumulator=accumulator, out=out)
    finally:
        sender.give_up.set()
        sender.join()
        signal.signal(signal.SIGINT, before)
    assert sender.early
    assert (out != wanted).any(), "it was ended half-way"
    small = d3.encode(np.ones((2, 4), np.float32), "float8_e4m3fn")
    assert d3.matmul_nt(small, small, accumulator=accumulator).tolist() == [[4, 4], [4, 4]]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_handler_that_returns_runs_within_the_call(scalar: None) -> None:
    """The call goes on after it, and its result is whole."""
    d3.set_num_threads(2)
    codes = d3.encode(np.ones((128, 1 << 13), np.float32), "float8_e4m3fn")
    out = np.full((128, 128), np.nan, np.float32)
    sender, unfinished = Sender(signal.SIGUSR1, out, np.nan), []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: unfinished.append(np.isnan(out).any()))
    try:
        sender.start()
        d3.matmul_nt(codes, codes, accumulator="hopper_fp8", out=out)
    finally:
        sender.give_up.set()
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    assert unfinished
    assert np.array_equal(out, d3.matmul_nt(codes, codes, accumulator="hopper_fp8"))
