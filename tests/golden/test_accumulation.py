"""Known figures: worked results of units, and what accumulation costs at DeepSeek-V3's lengths of sums.

The statistical figures were measured with other programs on other random data; each tolerance says how far
such figures move from one set of data to the next.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from operands import bits

E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
f32 = np.float32

# unit, format, codes of a, codes of b, bits of c -> bits of the result (float16 results widened)
WORKED: list[tuple[str, Any, list[int], list[int], int, int]] = [
    # A zero beside a large operand takes no part in the largest exponent.
    ("hopper_fp8", E4M3, [0x00, 0x39], [0x7E, 0x09], 0, 0x3CA20000),
    # 1 + 2**-13 stays, 1 + 2**-14 does not: 13 fraction bits.
    ("hopper_fp8", E4M3, [], [], 0x3F800400, 0x3F800400),
    ("hopper_fp8", E4M3, [], [], 0x3F800200, 0x3F800000),
    ("blackwell_fp8", E4M3, [], [], 0x3F800001, 0x3F800001),
    # NaN, infinity times zero, and infinities of both signs are one NaN.
    ("hopper_fp8", E4M3, [0x7F], [0x38], 0, 0x7FFFFFFF),
    ("hopper_fp8", E5M2, [0x7C], [0x00], 0, 0x7FFFFFFF),
    ("hopper_fp8", E5M2, [0x7C, 0xFC], [0x3C, 0x3C], 0, 0x7FFFFFFF),
    ("hopper_fp8", E5M2, [0x7C], [0xBC], 0, 0xFF800000),
    ("hopper_fp8", E4M3, [0x38], [0x38], 0xFF800000, 0xFF800000),
    # Minus zero never comes out, not even of minus zeros.
    ("hopper_fp8", E4M3, [0x80], [0x38], 0x80000000, 0),
    # 448 * 448 vanishes beside an accumulator near the top; FP8 alone cannot overflow.
    ("hopper_fp8", E4M3, [0x7E], [0x7E], 0x7F7FFC00, 0x7F7FFC00),
    ("hopper_fp8", E4M3, [0x7E], [0x7E], 0x7F7FFFFF, 0x7F7FFC00),
    # float16 results round once: 65504 + 16 is halfway and becomes infinite.
    ("hopper_fp8_f16", E4M3, [0x78, 0x38], [0x78, 0xD8], 0, 0x7F800000),
    ("hopper_fp8_f16", E4M3, [0x78, 0x38], [0x78, 0xDC], 0, 0x477FE000),
    # 2**-149 - 2**-160: the second term is cut, as terms are aligned to 2**-133 at least, with 25 bits below.
    ("hopper_bf16", ml_dtypes.bfloat16, [0x1A00, 0x1780], [0x1A80, 0x9780], 0, 0x00000001),
    ("ampere_bf16", ml_dtypes.bfloat16, [0x1A00, 0x1780], [0x1A80, 0x9780], 0, 0x00000001),
    # 1.5 * 2**-24 - 2**-48 in float16: aligned to 2**-21 it is a tie, and even is above.
    ("hopper_f16_f16", np.float16, [0x0C00, 0x0001], [0x0E00, 0x8001], 0, 0x34000000),
    ("ampere_f16_f16", np.float16, [0x0C00, 0x0001], [0x0E00, 0x8001], 0, 0x34000000),
    # The four-bit format's largest number, squared.
    ("blackwell_fp8", ml_dtypes.float4_e2m1fn, [0x07], [0x07], 0, 0x42100000),
]


@pytest.mark.parametrize("row", WORKED, ids=lambda row: f"{row[0]}-{row[4]:x}-{row[5]:x}")
def test_worked_results(row: tuple[Any, ...], product_level: str) -> None:
    unit, dtype, left, right, start, want = row
    length = dn.accumulator_info(unit).products
    a, b = np.zeros((2, 1, length), np.uint8 if np.dtype(dtype).itemsize == 1 else np.uint16)
    a[0, : len(left)], b[0, : len(right)] = left, right
    c = np.uint32([[start]]).view(f32)
    got = dn.mma_step(a[0].view(dtype), b[0].view(dtype), c[0, 0], accumulator=unit)
    assert hex(bits(got)) == hex(want)
    chained = dn.matmul_nt(a.view(dtype), b.view(dtype), c=c, accumulator=unit, promote_every=None)
    assert hex(bits(chained)[0, 0]) == hex(want)


SAMPLE = 128


@cache
def operands(data: str, k: int) -> tuple[Any, Any, Any]:
    """Random matrices scaled to an amax of 448 and cast to E4M3, and their exact product."""
    rng = np.random.default_rng(0)
    draw = {"normal": rng.standard_normal, "positive": rng.random}[data]
    rows = SAMPLE if k <= 4096 else SAMPLE // 3
    x, y = draw((rows, k)), draw((rows, k))
    a, b = ((v * (448 / np.abs(v).max())).astype(f32).astype(E4M3) for v in (x, y))
    return a, b, a.astype(np.float64) @ b.astype(np.float64).T  # exact: 43 bits


def errors(data: str, k: int, every: int | None, unit: str = "hopper_fp8") -> tuple[Any, Any]:
    """Errors of a product of such matrices, and the exact product."""
    a, b, exact = operands(data, k)
    return dn.matmul_nt(a, b, accumulator=unit, promote_every=every) - exact, exact


# Interval of promotion -> relative Frobenius error of sums over 4096 products of normal numbers.
FROBENIUS = {32: 4.5e-5, 64: 7.6e-5, 128: 1.28e-4, 256: 2.1e-4, 512: 3.4e-4, None: 1.33e-3}


@pytest.mark.parametrize("every", FROBENIUS)
def test_error_by_interval_of_promotion(every: int | None) -> None:
    """5 %: 16384 outputs determine the norm to 1 %, and the figures have two digits."""
    error, exact = errors("normal", 4096, every)
    assert np.linalg.norm(error) / np.linalg.norm(exact) == pytest.approx(FROBENIUS[every], rel=0.05)


def test_nearly_two_percent_at_4096() -> None:
    """The largest error over the result's RMS: 1.9 % among 2**20 outputs, 1.7 % among 2**18.

    A maximum grows slowly with the outputs that it is taken over, and moves by a tenth between samples; among
    2**14 it lies between 1.2 and 1.6 %. Promotion every 128 divides it by more than 20.
    """
    error, exact = errors("normal", 4096, None)
    rms = np.sqrt(np.mean(exact**2))
    assert 0.012 < np.abs(error).max() / rms < 0.016
    promoted, _ = errors("normal", 4096, 128)
    assert np.abs(promoted).max() < np.abs(error).max() / 20


@pytest.mark.parametrize(("k", "drift"), [(4096, -0.075), (16384, -0.25)])
def test_sums_of_one_sign_drift(k: int, drift: float) -> None:
    """Truncation toward zero makes them too small; the mean over outputs moves by less than 1 % of itself."""
    error, exact = errors("positive", k, None)
    assert np.mean(error / exact) == pytest.approx(drift, rel=0.02)
    assert (error < 0).all()
    promoted, _ = errors("positive", k, 128)
    assert np.abs(promoted / exact).max() < 0.0008


def test_other_units_at_4096() -> None:
    """float32 has its own rounding at random, 6e-8 to 7e-8; Blackwell keeps 12 bits more than Hopper."""
    for unit, low, high in [("float32", 5e-8, 9e-8), ("exact", 0, 3e-8), ("blackwell_fp8", 1e-8, 3e-6)]:
        error, exact = errors("normal", 4096, None, unit)
        assert low < np.linalg.norm(error) / np.linalg.norm(exact) < high, unit
