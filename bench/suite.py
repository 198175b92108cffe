"""Turns a table of kernels into rows: every size, SIMD level, thread count and output kind, and every peer.

A bench file supplies `Kernel`s, data and no loops; the loops are here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsv3_numerics import _core
from harness import Call, Copy, Gate, Row, Timed, measure, set_state

Array = NDArray[Any]

THREADS = (1, 2)
TWO_THREADS_GATE = 1.6
DENORMAL_GATE = 1.5


@dataclass(frozen=True)
class Work:
    """One kernel on one array of numbers."""

    elements: int
    run: Call
    "writes into preallocated, touched output"
    fresh: Call
    "allocates its output"
    result: Callable[[], list[Array]]
    "what `run` wrote"
    expected: Callable[[], list[Array]]
    "what it should have written, by the reference"
    peers: Mapping[str, Call] = field(default_factory=dict)
    "the same operation as others do it"


Prepare = Callable[[tuple[int, ...], float], Work]


@dataclass(frozen=True)
class Size:
    """A problem size: its label in the table, and the shape of the array."""

    label: str
    shape: tuple[int, ...]
    streaming: bool = True
    "far larger than the caches"


@dataclass(frozen=True)
class Kernel:
    """One row group of a bench."""

    name: str
    prepare: Prepare
    "shape and magnitude of the input -> work"
    sizes: Sequence[Size]
    quick: Sequence[tuple[int, ...]]
    "small shapes on which the outputs are checked"
    gates: Mapping[str, Gate] = field(default_factory=dict)
    "size label -> bar in multiples of M"
    peer_gates: Mapping[str, float] = field(default_factory=dict)
    "peer -> how many times faster we have to be (streaming, one thread)"
    from_float32: bool = False
    "takes float32 input, which may be denormal"


def levels() -> list[str]:
    """SIMD levels of this machine, slowest first; those above avx512 are for products."""
    return [level for level in product_levels() if level not in ("avx512_bf16", "amx")]


def product_levels() -> list[str]:
    """SIMD levels of this machine that products may differ at, slowest first."""
    return list(_core.simd_levels())


def replace_sizes(kernel: Kernel, *sizes: Size) -> Kernel:
    """The same kernel, measured on other sizes."""
    return replace(kernel, sizes=sizes)


def bits(array: Array) -> Array:
    """The bytes of an array, flat, whatever its dtype."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def check(kernel: Kernel) -> int:
    """Run a kernel once on each small shape, level and thread count; its bytes must be the reference's."""
    done = 0
    for shape in kernel.quick:
        for magnitude in (3.0, 1e-42) if kernel.from_float32 else (3.0,):
            work = kernel.prepare(shape, magnitude)
            expected = work.expected()
            for level in levels():
                for threads in THREADS:
                    set_state(level, threads)
                    work.fresh()
                    work.run()
                    for got, want in zip(work.result(), expected, strict=True):
                        if not np.array_equal(bits(got), bits(want)):
                            raise AssertionError(
                                f"{kernel.name} {shape} differs at {level}, {threads} threads"
                            )
                    done += 1
            for call in work.peers.values() if work.elements else ():
                call()
    return done


def rows(kernel: Kernel) -> Iterator[Row]:
    """Measure a kernel."""
    for size in kernel.sizes:
        work = kernel.prepare(size.shape, 3.0)
        copy = Copy(work.elements)
        yield from _levels(kernel, size, work, copy)
        yield from _fresh(kernel, size, work, copy)
        if size.streaming:
            yield from _threads(kernel, size, work)
            yield from _denormal(kernel, size, work)
        yield from _peers(kernel, size, work)


def _levels(kernel: Kernel, size: Size, work: Work, copy: Copy) -> Iterator[Row]:
    gate = kernel.gates.get(size.label)
    for level in levels():
        for threads in THREADS:
            # The bars for data in cache are for one thread: splitting 64 Ki elements is not a goal.
            bar = gate.at(level) if gate and (size.streaming or threads == 1) else None
            bound = bool(gate and gate.compute_bound)
            kernel_call = Timed(work.run, lambda level=level, threads=threads: set_state(level, threads))  # type: ignore[misc]
            m = measure(kernel_call, Timed(copy(threads)), compute_bound=bound)
            what = (kernel.name, size.label, level, threads, "out", "M")
            yield m.row(*what, work.elements, bar, compute_bound=bound)


def _fresh(kernel: Kernel, size: Size, work: Work, copy: Copy) -> Iterator[Row]:
    level = levels()[-1]
    for threads in THREADS:
        set_state(level, threads)
        m = measure(Timed(work.fresh), Timed(copy(threads)))
        yield m.row(kernel.name, size.label, level, threads, "fresh", "M", work.elements)


def _threads(kernel: Kernel, size: Size, work: Work) -> Iterator[Row]:
    level = levels()[-1]
    two = Timed(work.run, lambda: set_state(level, 2))
    one = Timed(work.run, lambda: set_state(level, 1))
    m = measure(two, one)
    yield m.row(kernel.name, size.label, level, 2, "out", "x 1T", work.elements, TWO_THREADS_GATE)


def _denormal(kernel: Kernel, size: Size, work: Work) -> Iterator[Row]:
    if not kernel.from_float32:
        return
    denormal = kernel.prepare(size.shape, 1e-42)
    for level in levels():
        set_state(level, 1)
        m = measure(Timed(denormal.run), Timed(work.run))
        note = "float32-denormal input: time over the time of normal input"
        yield replace(m, ratio=1 / m.ratio).row(
            kernel.name,
            size.label,
            level,
            1,
            "out",
            "x normal",
            denormal.elements,
            DENORMAL_GATE,
            at_most=True,
            note=note,
        )


def _peers(kernel: Kernel, size: Size, work: Work) -> Iterator[Row]:
    level = levels()[-1]
    set_state(level, 1)
    for peer, call in work.peers.items():
        output = "fresh" if peer.endswith(" fresh") else "out"
        m = measure(Timed(work.fresh if output == "fresh" else work.run), Timed(call))
        seconds = m.ratio * m.seconds
        gate = kernel.peer_gates.get(peer) if size.streaming else None
        what = (kernel.name, size.label, level, 1, output, f"x {peer.removesuffix(' fresh')}")
        note = f"{peer}: {work.elements / seconds / 1e9:.3f} Gelem/s"
        yield m.row(*what, work.elements, gate, note=note)
