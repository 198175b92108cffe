"""All pairs of FP8 codes with accumulators of every exponent that matters, against an oracle of its own.

One product beside C, and the sum of two codes beside C: whatever a step does to a term (alignment, cutting,
loss, cancellation, renormalization) it does to these. The oracle works on float64 values and knows nothing of
the textbook.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core
from operands import bits

Float64s = NDArray[np.float64]
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
SMALLEST = {E4M3: -6, E5M2: -14}
CODES = np.arange(256, dtype=np.uint8)
# Unit -> bits kept of a term, bits kept of the result, distance between exponents of C.
UNITS = {"hopper_fp8": (13, 13, 1), "ada_fp8": (13, 13, 2), "blackwell_fp8": (25, 23, 2)}


def exponent(x: Float64s, smallest: int) -> NDArray[Any]:
    """Exponent of a number in a format whose normal exponents begin at `smallest`."""
    return np.maximum(np.frexp(x)[1] - 1, smallest)


def oracle(terms: list[tuple[Float64s, NDArray[Any]]], fraction: int, keep: int) -> NDArray[np.float32]:
    """Terms and their exponents, aligned, cut, added and cut again; all in float64, where it is exact."""
    nowhere = -10_000
    largest = np.maximum.reduce([np.where(value != 0, e, nowhere) for value, e in terms])
    unit = np.ldexp(1.0, np.where(largest == nowhere, 0, largest) - fraction)
    total = np.sum([np.trunc(value / unit) * unit for value, _ in terms], axis=0)
    last = np.ldexp(1.0, exponent(total, -126) - keep)
    return (np.trunc(total / last) * last + 0.0).astype(np.float32)


@pytest.mark.parametrize("right", [E4M3, E5M2])
@pytest.mark.parametrize("left", [E4M3, E5M2])
@pytest.mark.parametrize("unit", UNITS)
def test_every_pair_of_codes_beside_every_accumulator(unit: str, left: Any, right: Any) -> None:
    fraction, keep, step = UNITS[unit]
    rng = np.random.default_rng(0)
    a, b = (CODES.view(t)[np.isfinite(CODES.view(t).astype(np.float64))] for t in (left, right))
    x, y = a.astype(np.float64)[:, None], b.astype(np.float64)[None, :]
    ex, ey = exponent(x, SMALLEST[left]), exponent(y, SMALLEST[right])
    one_a, one_b = np.ones(len(a), left), np.ones(len(b), right)
    low, high = SMALLEST[left] + SMALLEST[right] - fraction - 2, 33 + fraction
    before = _core.simd_level()
    for e in [None, *range(low, high, step)]:
        significand = 1 + rng.integers(0, 1 << 23, (len(a), len(b))) * 2.0**-23
        significand[::3] = np.trunc(significand[::3] * 2**13) / 2**13  # what a unit of 13 bits gives itself
        c = np.zeros_like(significand) if e is None else np.ldexp(significand, e)
        c[:, ::2] *= -1
        start = (c, exponent(c, -126))
        single = oracle([(x * y, ex + ey), start], fraction, keep)
        double = oracle([(x + 0 * y, ex + 0 * ey), (y + 0 * x, ey + 0 * ex), start], fraction, keep)
        options: dict[str, Any] = {"c": c.astype(np.float32), "accumulator": unit, "promote_every": None}
        try:
            for level in _core.simd_levels():
                _core.set_simd_level(level)
                got = dn.matmul_nt(a[:, None], b[:, None], **options)
                np.testing.assert_array_equal(bits(got), bits(single), f"{level}, {e}")
                pairs = np.stack([a, one_a], axis=1), np.stack([one_b, b], axis=1)
                got = dn.matmul_nt(*pairs, **options)
                np.testing.assert_array_equal(bits(got), bits(double), f"{level}, {e}, two terms")
        finally:
            _core.set_simd_level(before)
