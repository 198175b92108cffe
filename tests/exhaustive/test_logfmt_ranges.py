"""Every float32 between a tile's ends: the code that the textbook's thresholds give, at every SIMD level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics.reference.logfmt import values

f32 = np.float32
ROW = 1 << 16
ROWS = 32
# Least and largest magnitude, and the widths: 32 octaves are 2^28 numbers, an octave 2^23.
RANGES = [
    ((2.0**-32 * 1.37, 1.37), (8, 10)),
    ((1.1, 2.2), (3, 6, 8, 12, 16)),
    ((1.0, 1.001), tuple(range(3, 17))),
    ((2.0**-149, 2.0**-126), (8, 10, 16)),
    ((2.9e38, 3.4028235e38), (8, 10, 16)),
]


def _pieces(lo: np.float32, hi: np.float32) -> Any:
    """All float32 from lo to hi, in tiles whose first two numbers are lo and hi."""
    first, last = (int(end.view(np.uint32)) for end in (lo, hi))
    for start in range(first, last + 1, ROWS * (ROW - 2)):
        bits = start + np.arange(ROWS * (ROW - 2), dtype=np.int64).reshape(ROWS, ROW - 2)
        x = np.empty((ROWS, ROW), f32)
        x[:, 0], x[:, 1] = lo, hi
        x[:, 2:] = np.minimum(bits, last).astype(np.uint32).view(f32)
        yield x


@pytest.mark.exhaustive
@pytest.mark.parametrize("rounding", ["linear", "log"])
@pytest.mark.parametrize(("ends", "bits"), [(ends, bits) for ends, widths in RANGES for bits in widths])
def test_every_float32_of_a_range(
    ends: tuple[float, float], bits: int, rounding: Any, simd_level: str
) -> None:
    lo, hi = (f32(end) for end in ends)
    v = values(np.asarray(lo), np.asarray(hi), bits)
    threshold = (v[:-1] + v[1:]) / 2 if rounding == "linear" else np.sqrt(v[:-1] * v[1:])
    # The least float32 that is not below a threshold: float64's comparison is float32's with it.
    up = threshold.astype(f32)
    up = np.where(up < threshold, np.nextafter(up, np.finfo(f32).max), up)
    for x in _pieces(lo, hi):
        q = dn.logfmt_encode(x, bits=bits, tile=ROW, rounding=rounding)
        assert (q.amin == lo).all()
        assert (q.amax == hi).all()
        wanted: NDArray[Any] = np.searchsorted(up, x.ravel(), side="right")
        np.testing.assert_array_equal(q.codes.ravel(), wanted)
