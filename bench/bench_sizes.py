"""Casts at every size from 2^7 to 2^27 elements, on one thread, beside torch, NumKong and ml_dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

import dsv3_numerics as d3
import peers
import suite
from bench_formats import SHORT, WIDE, expected, numbers
from harness import Call, Row, Timed, measure, set_state
from suite import Array

LEGEND = """\
`x name` is the time of that peer over ours, on one thread each: the median over alternating pairs taken in
the same second; `(-n)`: n pairs were dropped as disturbed. Outputs are preallocated. Calls on few elements
are measured as a Python loop makes them. `docs/images/sizes.png` is drawn from these rows
(`python bench/draw_sizes.py`)."""

EXPONENTS = range(7, 28)
PAIRS = 5
IN_CACHE = range(12, 17)
"Sizes at which a cast is to be no slower than any peer."
SLOW = {"ml_dtypes": 20}
"Exponents beyond which a peer is not measured: its rate changes no more."

NARROW = ("float8_e4m3fn", "float8_e5m2")
CASTS = (*((a, b) for a in WIDE for b in NARROW), *((b, a) for b in NARROW for a in WIDE))


def name_of(source: str, target: str) -> str:
    """Return the name of a cast in tables and plots."""
    return f"{SHORT[source]}->{SHORT[target]}"


def cast(x: Array, target: str, out: Array) -> Call:
    """Our cast of `x`, one of whose dtypes is FP8."""
    run = partial(d3.encode, x, target) if x.dtype.name in WIDE else partial(d3.decode, x, dtype=target)
    return partial(run, out=out)


def quick() -> str:
    """Check each cast on a few sizes against ml_dtypes."""
    done = 0
    for source, target in CASTS:
        for size in (1, 63, 4099):
            x = numbers((size,), 3.0).astype(source)
            out = np.zeros(size, target)
            cast(x, target, out)()
            if not np.array_equal(suite.bits(out), suite.bits(expected(x, target))):
                raise AssertionError(f"{name_of(source, target)} of {size} differs")
            done += 1
    return f"{done} outputs equal to ml_dtypes'"


def rows() -> Iterator[Row]:
    """Measure each cast at each size."""
    level = suite.levels()[-1]
    set_state(level, 1)
    for source, target in CASTS:
        for exponent in EXPONENTS:
            x = numbers((1 << exponent,), 3.0).astype(source)
            ours = Timed(cast(x, target, np.zeros(x.shape, target)))
            for peer, call in peers.casts_into(x, target).items():
                if exponent > SLOW.get(peer, EXPONENTS[-1]):
                    continue
                gate = 1.0 if exponent in IN_CACHE and peer != "ml_dtypes" else None
                m = measure(ours, Timed(call), pairs=PAIRS)
                what = (name_of(source, target), f"2^{exponent}", level, 1, "out", f"x {peer}")
                yield m.row(
                    *what, x.size, gate, note=f"{peer}: {x.size / m.ratio / m.seconds / 1e9:.3f} Gelem/s"
                )
