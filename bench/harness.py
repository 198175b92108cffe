"""Times a kernel beside a yardstick taken in the same second, and judges the ratio.

Absolute rates on a shared machine swing by a factor of two within seconds; ratios of two neighbours in time
do not. So every figure here is the median of the ratios of at least nine *pairs* (kernel, yardstick), in
alternating order. A pair in which the process was preempted is dropped, or, where threads work and preempt
the one that waits for them, one in which they had less of their cores than in the best pair; for a
compute-bound row, so is a pair beside a slow arithmetic probe.
"""

from __future__ import annotations

import ctypes
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dsv3_numerics import _core

Call = Callable[[], object]

PAIRS = 9
MIN_SAMPLE_SECONDS = 0.004
"A sample repeats its call until it lasts at least this long."
MAX_SECONDS = 12.0
"Time after which a row makes do with the pairs it has (slow peers)."
QUIET = 0.85
"A pair counts if the probe beside it, or its threads' share of cores, reached this part of the best seen."


@dataclass(frozen=True)
class Use:
    """Time that the process has had so far of the machine."""

    wall: float
    cpu: float
    "seconds, of all threads"
    preemptions: int
    "involuntary context switches of all threads"

    @classmethod
    def now(cls) -> Use:
        """Read the clocks."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), time.process_time(), used.ru_nivcsw)


class Probe:
    """Rate of a product of two small matrices that stay in cache: is the core all ours at this moment?"""

    def __init__(self) -> None:
        self._a = np.ones((384, 384), np.float32)
        self._out = np.empty_like(self._a)
        self.best = 0.0

    def __call__(self) -> float:
        start = time.perf_counter()
        np.matmul(self._a, self._a, out=self._out)
        rate = 2 * 384**3 / (time.perf_counter() - start) / 1e9
        self.best = max(self.best, rate)
        return rate


PROBE = Probe()


@dataclass(frozen=True)
class Timed:
    """A call to time, and what has to be set before it (outside the clock)."""

    call: Call
    setup: Call = lambda: None

    def loops(self) -> int:
        """Repetitions that make one sample long enough; also the warm-up."""
        self.setup()
        self.call()
        start = time.perf_counter()
        self.call()
        once = time.perf_counter() - start
        return max(1, round(MIN_SAMPLE_SECONDS / max(once, 1e-9)))

    def sample(self, loops: int) -> float:
        """Seconds per call."""
        self.setup()
        call = self.call
        start = time.perf_counter()
        for _ in range(loops):
            call()
        return (time.perf_counter() - start) / loops


@dataclass(frozen=True)
class Measured:
    """Outcome of the pairs of one row."""

    ratio: float
    "median of yardstick time / kernel time: above 1, the kernel is the faster one"
    seconds: float
    "median time of one kernel call"
    pairs: int
    dropped: int

    def row(
        self,
        kernel: str,
        size: str,
        level: str,
        threads: int,
        output: str,
        yardstick: str,
        elements: float,
        gate: float | None = None,
        **more: Any,
    ) -> Row:
        """The line of a results table, of a call that works on so many elements."""
        what = (kernel, size, level, threads, output, yardstick)
        rate = elements / self.seconds / 1e9
        return Row(*what, rate, self.ratio, gate, pairs=self.pairs, dropped=self.dropped, **more)


def measure(kernel: Timed, yardstick: Timed, *, compute_bound: bool = False, pairs: int = PAIRS) -> Measured:
    """Alternate the two until enough undisturbed pairs are there."""
    loops = kernel.loops(), yardstick.loops()
    every: list[Pair] = []
    kept: list[Pair] = []
    start = time.perf_counter()
    while len(kept) < pairs and len(every) < 3 * pairs:
        if len(every) >= 3 and time.perf_counter() - start > MAX_SECONDS:
            break
        probe = PROBE() if compute_bound else 0.0
        before = Use.now()
        if len(every) % 2:
            b, others = yardstick.sample(loops[1]), _core.get_num_threads()
            a = kernel.sample(loops[0])
        else:
            a, others = kernel.sample(loops[0]), _core.get_num_threads()
            b = yardstick.sample(loops[1])
        threads = max(others, _core.get_num_threads())
        after = Use.now()
        probe = min(probe, PROBE()) if compute_bound else 0.0
        every.append(Pair(b / a, a, probe, threads, before, after))
        kept = undisturbed(every)
    used = kept if len(kept) >= min(3, pairs) else every  # a crowded machine: say so through `dropped`
    ratio = statistics.median(pair.ratio for pair in used)
    seconds = statistics.median(pair.seconds for pair in used)
    return Measured(ratio, seconds, len(kept), len(every) - len(kept))


@dataclass(frozen=True)
class Pair:
    """A kernel and its yardstick, one after the other."""

    ratio: float
    seconds: float
    "of the kernel"
    probe: float
    "0 where none was taken"
    threads: int
    "the most that either had"
    before: Use
    after: Use

    @property
    def preempted(self) -> bool:
        """Test if a thread had to leave its core."""
        return self.after.preemptions > self.before.preemptions

    @property
    def share(self) -> float:
        """CPU time in a second: of two threads at work, up to two."""
        return (self.after.cpu - self.before.cpu) / (self.after.wall - self.before.wall)


def undisturbed(pairs: list[Pair]) -> list[Pair]:
    """The pairs that had the machine to themselves, as far as can be seen."""
    best = max(pair.share for pair in pairs)
    return [
        pair
        for pair in pairs
        if (pair.share >= QUIET * best if pair.threads > 1 else not pair.preempted)
        and (not pair.probe or pair.probe >= QUIET * PROBE.best)
    ]


class Copy:
    """The yardstick M: a memory copy of `elements` float32 values, over as many threads as the kernel has."""

    def __init__(self, elements: int) -> None:
        self._source = np.ones(elements, np.float32)
        self._target = np.zeros(elements, np.float32)
        self._pool = ThreadPoolExecutor(2)

    def one(self) -> None:
        """Copy with one thread."""
        np.copyto(self._target, self._source)

    def two(self) -> None:
        """Copy with two threads, half each, by `memmove`: it releases the GIL, which `np.copyto` may not."""
        half = self._source.nbytes // 2
        target, source = self._target.ctypes.data, self._source.ctypes.data
        parts = (0, half), (half, self._source.nbytes - half)
        list(self._pool.map(lambda part: ctypes.memmove(target + part[0], source + part[0], part[1]), parts))

    def __call__(self, threads: int) -> Call:
        # In cache the hand-over to a second thread costs more than the copy, so M keeps one thread there.
        return self.two if threads == 2 and len(self._source) > 1 << 20 else self.one


@dataclass(frozen=True)
class Gate:
    """Bars of a row at each SIMD level, in multiples of its yardstick."""

    avx512: float
    avx2: float | None = None
    scalar: float | None = None
    compute_bound: bool = False

    def at(self, level: str) -> float | None:
        """The bar at one level; levels above AVX-512 have its bar."""
        return {"scalar": self.scalar, "avx2": self.avx2}.get(level, self.avx512)


@dataclass(frozen=True)
class Row:
    """One line of a results table."""

    kernel: str
    size: str
    level: str
    threads: int
    output: str
    yardstick: str
    gelem_s: float | None
    ratio: float | None
    gate: float | None = None
    at_most: bool = False
    compute_bound: bool = False
    pairs: int = 0
    dropped: int = 0
    note: str = ""
    verdict: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "verdict", self._judge())

    def _judge(self) -> str:
        if self.gate is None or self.ratio is None:
            return ""
        if self.ratio <= self.gate if self.at_most else self.ratio >= self.gate:
            return "pass"
        return "c" if self.compute_bound else "FAIL"

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADINGS`."""
        sign = "<=" if self.at_most else ">="
        return (
            self.kernel,
            self.size,
            self.level,
            str(self.threads),
            self.output,
            "" if self.gelem_s is None else f"{self.gelem_s:.3f}",
            ""
            if self.ratio is None
            else f"{self.ratio:.2f} {self.yardstick}"
            if self.ratio > 0.1
            else f"{self.ratio:.2g} {self.yardstick}",
            "" if self.gate is None else f"{sign} {self.gate:g}",
            self.verdict,
            f"{self.pairs}" + (f" (-{self.dropped})" if self.dropped else ""),
            self.note,
        )


HEADINGS = ("kernel", "size", "level", "thr", "output", "Gelem/s", "ratio", "gate", "", "pairs", "note")


def set_state(level: str, threads: int) -> None:
    """Force a SIMD level and a thread count."""
    _core.set_simd_level(level)
    _core.set_num_threads(threads)


def fields(row: Row) -> dict[str, Any]:
    """A row as plain data, figures rounded to what they are worth."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in asdict(row).items()}
