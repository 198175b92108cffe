"""Casts at every size from 2^7 to 2^27 elements, on one thread, beside torch, NumKong and ml_dtypes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np

import dsv3_numerics as d3
import peers
import suite
from bench_formats import SHORT, WIDE, expected, numbers
from harness import Call, Row, Timed, set_state
from suite import Array

LEGEND = """\
`x name` is the time of that peer over ours, on one thread each. All take turns, a millisecond or a call at a
time, and the fastest turn of each counts, which is one that had the core to itself; `pairs` says how many
turns there were. Outputs are preallocated. Calls on few elements are measured as a Python loop makes them.
`docs/images/sizes.png` is drawn from these rows (`python bench/draw_sizes.py`)."""

EXPONENTS = range(7, 28)
TURNS = 15
TURN_SECONDS = 0.001
MAX_SECONDS = 4.0
"Time after which a size makes do with the turns it has."
IN_CACHE = range(12, 17)
"Sizes at which a cast is to be no slower than any peer."
SLOW = {"ml_dtypes": 20}
"Exponents beyond which a peer is not measured: its rate changes no more."

NARROW = ("float8_e4m3fn", "float8_e5m2")
HALVES = ("bfloat16", "float16")
CASTS = (
    *((a, b) for a in WIDE for b in NARROW),
    *((b, a) for b in NARROW for a in WIDE),
    *(("float32", b) for b in HALVES),
    *((b, "float32") for b in HALVES),
)


def name_of(source: str, target: str) -> str:
    """Return the name of a cast in tables and plots."""
    return f"{SHORT[source]}->{SHORT[target]}"


def cast(x: Array, target: str, out: Array) -> Call:
    """Our cast of `x`: a smaller dtype is a format."""
    smaller = out.itemsize < x.itemsize
    run = partial(d3.encode, x, target) if smaller else partial(d3.decode, x, dtype=target)
    return partial(run, out=out)


def quick() -> str:
    """Check each cast on a few sizes against ml_dtypes, at every level."""
    done = 0
    for level, (source, target), size in product(suite.levels(), CASTS, (1, 63, 4099)):
        set_state(level, 1)
        x = numbers((size,), 3.0).astype(source)
        out = np.zeros(size, target)
        cast(x, target, out)()
        if not np.array_equal(suite.bits(out), suite.bits(expected(x, target))):
            raise AssertionError(f"{name_of(source, target)} of {size} differs at {level}")
        done += 1
    return f"{done} outputs equal to ml_dtypes'"


def fastest(calls: Sequence[Call]) -> tuple[list[float], int]:
    """Time calls in turns: the seconds of the fastest turn of each, and how many turns there were."""
    timed = [Timed(call) for call in calls]
    once = [min(call.sample(1) for _ in range(3)) for call in timed]
    loops = [max(1, round(TURN_SECONDS / seconds)) for seconds in once]
    start, turns = time.perf_counter(), 0
    while turns < TURNS and (turns < 3 or time.perf_counter() - start < MAX_SECONDS):
        once = [min(best, call.sample(n)) for best, call, n in zip(once, timed, loops, strict=True)]
        turns += 1
    return once, turns


def rows() -> Iterator[Row]:
    """Measure each cast at each size."""
    level = suite.levels()[-1]
    set_state(level, 1)
    for source, target in CASTS:
        for exponent in EXPONENTS:
            x = numbers((1 << exponent,), 3.0).astype(source)
            others = peers.casts_into(x, target)
            others = {name: call for name, call in others.items() if exponent <= SLOW.get(name, exponent)}
            ours = cast(x, target, np.zeros(x.shape, target))
            (seconds, *theirs), turns = fastest([ours, *others.values()])
            for peer, other in zip(others, theirs, strict=True):
                gate = 1.0 if exponent in IN_CACHE and peer != "ml_dtypes" else None
                what = (name_of(source, target), f"2^{exponent}", level, 1, "out", f"x {peer}")
                note = f"{peer}: {x.size / other / 1e9:.3f} Gelem/s"
                yield Row(*what, x.size / seconds / 1e9, other / seconds, gate, pairs=turns, note=note)
