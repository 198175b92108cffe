"""The textbook of accumulators: the specification's cases, integers against NumPy, promotion by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics.reference import (
    ACCUMULATORS,
    matmul_grouped_nt,
    matmul_nt,
    mma_step,
    quantize_blocks,
    quantize_tiles,
)
from dsv3_numerics.reference.accumulators import step
from dsv3_numerics.reference.gemm import as_result, fma
from operands import KINDS, TENSOR_CORES, bits, codes, pairs, starts, step_scales

E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
f32 = np.float32

# unit, products of a step, fraction bits kept, exponent floor, fraction bits of the result, result
SPECIFICATION = {
    "hopper_fp8": ("tensor_core", 32, 13, -133, 13, "float32"),
    "hopper_fp8_f16": ("tensor_core", 32, 13, -21, None, "float16"),
    "ada_fp8": ("tensor_core", 16, 13, -132, 13, "float32"),
    "ada_fp8_f16": ("tensor_core", 16, 13, -20, None, "float16"),
    "blackwell_fp8": ("tensor_core", 32, 25, -133, 23, "float32"),
    "blackwell_fp8_f16": ("tensor_core", 32, 25, -21, None, "float16"),
    "blackwell_mxf8": ("tensor_core", 32, 25, -133, 23, "float32"),
    "blackwell_mxf4": ("scaled_groups", 64, 35, -139, 23, "float32"),
    "blackwell_nvfp4": ("scaled_groups", 64, 35, -139, 23, "float32"),
    "rtx_blackwell_mxf8": ("tensor_core", 32, 25, -133, 23, "float32"),
    "rtx_blackwell_mxf4": ("scaled_groups", 64, 35, -139, 23, "float32"),
    "rtx_blackwell_nvfp4": ("scaled_groups", 64, 35, -139, 23, "float32"),
    "hopper_tf32": ("tensor_core", 8, 25, -133, 23, "float32"),
    "blackwell_tf32": ("tensor_core", 8, 25, -133, 23, "float32"),
    "ada_tf32": ("tensor_core", 4, 24, -132, 23, "float32"),
    "ampere_tf32": ("tensor_core", 4, 24, -132, 23, "float32"),
    "turing_f16": ("tensor_core", 8, 24, -132, 23, "float32"),
    "turing_f16_f16": ("tensor_core", 8, 24, -20, None, "float16"),
    "volta_f16": ("tensor_core", 4, 23, -131, 23, "float32"),
    "volta_f16_f16": ("tensor_core", 4, 23, -19, None, "float16"),
    "cdna3_fp8": ("matrix_core_fp8", 16, 24, None, None, "float32"),
    "cdna3_f16": ("matrix_core", 8, 24, None, None, "float32"),
    "cdna3_bf16": ("matrix_core", 8, 24, None, None, "float32"),
    "hopper_f16": ("tensor_core", 16, 25, -133, 23, "float32"),
    "hopper_f16_f16": ("tensor_core", 16, 25, -21, None, "float16"),
    "hopper_bf16": ("tensor_core", 16, 25, -133, 23, "float32"),
    "blackwell_f16": ("tensor_core", 16, 25, -133, 23, "float32"),
    "blackwell_f16_f16": ("tensor_core", 16, 25, -21, None, "float16"),
    "blackwell_bf16": ("tensor_core", 16, 25, -133, 23, "float32"),
    "ada_f16": ("tensor_core", 8, 24, -132, 23, "float32"),
    "ada_f16_f16": ("tensor_core", 8, 24, -20, None, "float16"),
    "ada_bf16": ("tensor_core", 8, 24, -132, 23, "float32"),
    "ampere_f16": ("tensor_core", 8, 24, -132, 23, "float32"),
    "ampere_f16_f16": ("tensor_core", 8, 24, -20, None, "float16"),
    "ampere_bf16": ("tensor_core", 8, 24, -132, 23, "float32"),
    "hopper_mma_fp8": ("software", 32, 25, -133, 23, "float32"),
    "hopper_mma_fp8_f16": ("software", 32, 25, -21, None, "float16"),
    "exact": ("exact", 32, 0, None, None, "float32"),
    "float32": ("float32", 32, 0, None, None, "float32"),
    "vdpbf16ps": ("bf16_dot", 2, 0, None, None, "float32"),
}


def dot(a: list[float], b: list[float], c: float = 0.0, acc: str = "hopper_fp8", fmt: str = E4M3) -> Any:
    """One step on numbers, zeros to the right."""
    x = np.zeros((2, ACCUMULATORS[acc].products))
    x[0, : len(a)], x[1, : len(b)] = a, b
    left, right = x.astype(fmt)
    return mma_step(left, right, c, accumulator=acc)


def test_the_table_is_the_specification() -> None:
    assert {name: row[:6] for name, row in ACCUMULATORS.items()} == SPECIFICATION


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_numpy_agrees_with_integers(accumulator: str) -> None:
    row, rng = ACCUMULATORS[accumulator], np.random.default_rng(1)
    for left, right in pairs(accumulator):
        shape = (len(KINDS), 6, row.products)
        a, b = (np.stack([codes(rng, x, shape[1:], kind) for kind in KINDS]) for x in (left, right))
        c = starts(rng, shape[:-1], row.result)
        scales = step_scales(rng, accumulator, shape[:-1])
        got = mma_step(a, b, c, accumulator=accumulator, **scales)
        for place in np.ndindex(*shape[:-1]):
            x, y = bits(a[place]).tolist(), bits(b[place]).tolist()
            inside = [bits(v[place]).tolist() for v in scales.values()]
            want = as_result(np.array(step(x, left, y, right, float(c[place]), accumulator, *inside)), row)
            assert bits(got)[place] == bits(want), (left, right, place, c[place])


def test_a_zero_takes_no_part() -> None:
    """The specification's open corner: 0 * 448 has exponent 2, which would cost 2**-6 * 1.25 its low bits."""
    a, b = np.zeros((2, 32), np.uint8)
    a[:2], b[:2] = (0x00, 0x39), (0x7E, 0x09)
    got = mma_step(a.view(E4M3), b.view(E4M3), accumulator="hopper_fp8")
    assert bits(got) == 0x3CA20000


def test_terms_are_truncated_toward_zero() -> None:
    """Beside 16 a unit is 2**(4 - 13); 15 * 2**-11 is 3.75 units and keeps 3 of them, whatever its sign."""
    unit, small = 2.0**-9, 2.0**-6
    for sign in (1, -1):
        assert dot([4.0, sign * 0.46875], [4.0, small]) == 16 + sign * 3 * unit
        assert dot([4.0, *[sign * 0.46875] * 2], [4.0, small, small]) == 16 + sign * 6 * unit
        assert dot([4.0, sign * 0.1171875], [4.0, small]) == 16
        assert dot([4.0, sign * 0.46875], [4.0, small], acc="blackwell_fp8") == 16 + sign * 3.75 * unit


def test_the_exponent_of_a_product_is_the_sum() -> None:
    """1.75 * 1.75 lies in [2, 4) with exponent 0: 2**-13 beside it stays whole, 2**-14 goes."""
    assert dot([1.75, 2.0**-6], [1.75, 2.0**-7], fmt=E5M2) == 3.0625
    assert dot([1.75, 2.0**-6], [1.75, 2.0**-7], acc="blackwell_fp8", fmt=E5M2) == 3.0625 + 2.0**-13
    assert dot([1.75, -1.75, 2.0**-6], [1.75, 1.75, 2.0**-7], fmt=E5M2) == 2.0**-13
    assert dot([1.75, -1.75, 2.0**-7], [1.75, 1.75, 2.0**-7], fmt=E5M2) == 0


def test_subnormal_codes_keep_the_smallest_exponent() -> None:
    """2**-9 * 2**-9 of E4M3 has exponent -12, not -18, so a term of 2**-26 vanishes beside it."""
    assert dot([2.0**-9], [2.0**-9], 2.0**-25) == 2.0**-18 + 2.0**-25
    assert dot([2.0**-9], [2.0**-9], 2.0**-26) == 2.0**-18


def test_fp22_results_and_accumulators() -> None:
    """13 fraction bits: a full float32 accumulator loses its low bits in a step, even beside nothing."""
    assert dot([], [], 1 + 2.0**-13) == 1 + 2.0**-13
    assert dot([], [], 1 + 2.0**-14) == 1
    assert dot([], [], -1 - 2.0**-14) == -1
    assert dot([], [], 1 + 2.0**-23, acc="blackwell_fp8") == 1 + 2.0**-23
    assert bits(dot([448.0], [448.0], -(2.0**30))) & 0x3FF == 0


@pytest.mark.parametrize("accumulator", TENSOR_CORES)
def test_specials(accumulator: str) -> None:
    row = ACCUMULATORS[accumulator]
    fmt = E5M2 if E5M2 in row.inputs else row.inputs[0]
    inf = math.inf
    for a, b, c in [
        ([math.nan], [1.0], 0.0),
        ([0.0], [math.nan], 0.0),
        ([1.0], [1.0], math.nan),
        ([inf], [0.0], 0.0),
        ([inf, -inf], [1.0, 1.0], 0.0),
        ([inf], [1.0], -inf),
    ]:
        assert bits(dot(a, b, c, accumulator, fmt)) == 0x7FFFFFFF, (a, b, c)
    for a, b, c, want in [
        ([inf, 1.0], [2.0, 1.0], 1.0, inf),
        ([inf], [-2.0], 1.0, -inf),
        ([inf, -inf], [1.0, -1.0], inf, inf),
        ([1.0], [1.0], -inf, -inf),
    ]:
        assert dot(a, b, c, accumulator, fmt) == want, (a, b, c)


@pytest.mark.parametrize("accumulator", TENSOR_CORES)
def test_no_result_is_minus_zero(accumulator: str) -> None:
    fmt = ACCUMULATORS[accumulator].inputs[0]
    for a, b, c in [([-0.0], [1.0], -0.0), ([1.0, -1.0], [1.0, 1.0], 0.0), ([], [], -0.0)]:
        assert bits(dot(a, b, c, accumulator, fmt)) == 0


def test_range_of_results() -> None:
    """float32 subnormals are produced, what underflows is +0, what overflows is infinite."""
    bf16 = {"acc": "hopper_bf16", "fmt": "bfloat16"}
    assert dot([2.0**-100], [2.0**-49], **bf16) == 2.0**-149
    assert dot([-(2.0**-100)], [1.75 * 2.0**-49], **bf16) == -(2.0**-149)
    assert bits(dot([-(2.0**-100)], [2.0**-50], **bf16)) == 0
    assert dot([2.0**100], [-(2.0**28)], **bf16) == -math.inf
    assert dot([2.0**100, -(2.0**50)], [2.0**28, 2.0**70], **bf16) == 2.0**128 - 2.0**120
    assert dot([448.0], [448.0], float(np.finfo(f32).max)) == f32(2.0**128 - 2.0**114)
    half = {"acc": "hopper_fp8_f16"}
    assert dot([448.0], [146.0], **half) == 448 * 144
    assert dot([256.0, 1.0], [256.0, -16.0], **half) == math.inf  # 65520 is the midpoint to 65536
    assert dot([256.0, 1.0], [256.0, -20.0], **half) == math.inf  # in units of 8, 20 is 16
    assert dot([256.0, 1.0], [256.0, -20.0], acc="blackwell_fp8_f16") == 65504
    assert dot([256.0, 1.0], [256.0, -24.0], **half) == 65504
    assert dot([2.0**-9], [2.0**-9], **half) == 2.0**-18


def test_float16_results_are_rounded_once() -> None:
    """2049 lies between 2048 and 2050; anything above makes it 2050, however far below 13 bits."""
    assert dot([64.0, 1.0], [32.0, 1.0], acc="hopper_fp8_f16") == 2048
    assert dot([64.0, 1.0, 2.0**-2], [32.0, 1.0, 1.0], acc="hopper_fp8_f16") == 2050
    assert dot([64.0, 1.0, 2.0**-5], [32.0, 1.0, 2.0**-5], acc="hopper_fp8_f16") == 2048
    assert dot([64.0, 1.0, 2.0**-5], [32.0, 1.0, 2.0**-5], acc="blackwell_fp8_f16") == 2050


def test_mma_on_hopper_is_two_steps_of_float16() -> None:
    """k mod 4 in {0, 1} first; beside 2**26 a unit is 2 in both steps; C is added at the end."""
    big, mma = 2.0**13, {"acc": "hopper_mma_fp8", "fmt": E5M2}
    assert dot([big, 1.0, -big], [big, 1.0, big], **mma) == 0
    assert dot([big, -big, 1.0], [big, big, 1.0], **mma) == 1
    assert dot([big, 0, -big, 2.0], [big, 0, big, 1.0], **mma) == 2
    assert dot([big, 0, -big, 1.0], [big, 0, big, 1.0], **mma) == 0
    assert dot([big, 1.0, -big], [big, 1.0, big], 1 + 2.0**-23, **mma) == 1 + 2.0**-23
    assert dot([1.0], [1.0], 2.0**-24, **mma) == 1
    assert dot([1.0], [1.0], 1.5 * 2.0**-24, **mma) == 1 + 2.0**-23


def test_exact_is_the_correctly_rounded_sum() -> None:
    """43 bits hold every sum of E4M3 products of this length, so float64 is exact and rounds once."""
    rng = np.random.default_rng(2)
    a, b = codes(rng, E4M3, (20, 300)), codes(rng, E4M3, (30, 300))
    want = (a.astype(float) @ b.astype(float).T).astype(f32)
    np.testing.assert_array_equal(matmul_nt(a, b, accumulator="exact", promote_every=None), want)


def test_float32_is_two_chains() -> None:
    """1 is lost beside 2**24 in the even chain; two ones in the odd chain are one 2 at the end."""
    one, big = 1.0, 2.0**12
    assert dot([big, 0, one], [big, 0, one], acc="float32", fmt=E5M2) == 2.0**24
    assert dot([big, one, 0, one], [big, one, 0, one], acc="float32", fmt=E5M2) == 2.0**24 + 2
    assert dot([one], [one], 2.0**24, acc="float32") == 2.0**24
    assert bits(dot([math.nan], [1.0], acc="float32")) == 0x7FC00000
    assert bits(dot([], [], -0.0, acc="float32")) == 0


def test_fma_rounds_once() -> None:
    rng = np.random.default_rng(3)
    x, y, z = (starts(rng, (4000,)) for _ in "xyz")
    x[:2000], y[:2000] = (rng.integers(2**23, 2**24, (2, 2000)) * 2.0**-23).astype(f32)
    z[:1000] = (x[:1000] * y[:1000] * f32(2.0**-24)).astype(f32)  # halves of a unit in the last place
    with np.errstate(all="ignore"):
        got = fma(x, y, z)
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    for i in np.flatnonzero(finite):
        whole = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        assert abs(whole) >= 2**128 - 2**103 or got[i] == nearest(whole), i
    assert np.isnan(got[np.isnan(x) | np.isnan(y) | np.isnan(z)]).all()


def nearest(x: Fraction) -> np.float32:
    """The nearest float32, ties to even, by comparing with its neighbours."""
    guess = f32(float(x))
    around = [np.nextafter(guess, f32(-np.inf)), guess, np.nextafter(guess, f32(np.inf))]
    return min(around, key=lambda g: (abs(Fraction(float(g)) - x), int(bits(g)) % 2))


@pytest.mark.parametrize("every", [32, 64, 128, None])
@pytest.mark.parametrize("accumulator", ["hopper_fp8", "ada_fp8_f16", "exact", "float32", "vdpbf16ps"])
def test_promotion_by_hand(accumulator: str, every: int | None) -> None:
    """Chains from zero, each added to a float32 by one fma with the product of the scales."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((3, 256)).astype(f32), rng.standard_normal((2, 256)).astype(f32)
    tiles = 256 if every is None else 128
    a = quantize_tiles(x, tile=tiles, amax=np.full((3, 256 // tiles), 99, f32))
    b = quantize_blocks(y, block=(128, tiles))
    row, c = ACCUMULATORS[accumulator], rng.standard_normal((3, 2)).astype(f32)
    got = matmul_nt(a, b, c=c, accumulator=accumulator, promote_every=every)
    interval = every or 256
    length = interval if row.unit == "exact" else row.products
    for i, j in np.ndindex(3, 2):
        final = c[i, j]
        for start in range(0, 256, interval):
            partial = f32(0)
            for k in range(start, start + interval, length):
                codes_a, codes_b = a.codes[i, k : k + length], b.codes[j, k : k + length]
                partial = mma_step(codes_a, codes_b, partial, accumulator=accumulator)
            scale = a.scales[i, start // tiles] * b.scales[0, start // tiles]
            final = nearest(Fraction(float(scale)) * Fraction(float(partial)) + Fraction(float(final)))
        assert got[i, j] == final


def test_codes_without_scales_start_at_c() -> None:
    rng = np.random.default_rng(5)
    a, b, c = codes(rng, E4M3, (4, 70)), codes(rng, E5M2, (3, 70)), starts(rng, (4, 3))
    chained = matmul_nt(a, b, c=c, promote_every=None)
    assert bits(chained).tolist() != bits(matmul_nt(a, b, c=c, promote_every=96)).tolist()
    for i, j in np.ndindex(4, 3):
        part = c[i, j]
        for k in (0, 32, 64):
            part = mma_step(a[i, k : k + 32], b[j, k : k + 32], part, accumulator="hopper_fp8")
        assert bits(chained)[i, j] == bits(part)


def test_nothing_to_add() -> None:
    none = np.zeros((2, 0), E4M3)
    c = f32([[1 + 2.0**-23, -0.0], [np.inf, -3]])
    for every in (128, None):
        assert matmul_nt(none, none, promote_every=every).tolist() == [[0, 0], [0, 0]]
        np.testing.assert_array_equal(bits(matmul_nt(none, none, c=c, promote_every=every)), bits(c))


def test_stacks_and_experts_are_products_side_by_side() -> None:
    rng = np.random.default_rng(6)
    a, b = codes(rng, E4M3, (2, 3, 40), "plain"), codes(rng, E4M3, (2, 4, 40), "plain")
    stacked = matmul_nt(a, b)
    shared = matmul_nt(a, b[1])
    grouped = matmul_grouped_nt(a.reshape(6, 40), b, [0, 3, 6])
    for i in range(2):
        np.testing.assert_array_equal(stacked[i], matmul_nt(a[i], b[i]))
        np.testing.assert_array_equal(shared[i], matmul_nt(a[i], b[1]))
    np.testing.assert_array_equal(grouped.reshape(2, 3, 4), stacked)
    ragged = matmul_grouped_nt(a.reshape(6, 40), np.stack([b[0], b[1], b[0], b[1]]), [0, 0, 5, 5, 6])
    np.testing.assert_array_equal(ragged[:5], matmul_nt(a.reshape(6, 40)[:5], b[1]))
    np.testing.assert_array_equal(ragged[5:], matmul_nt(a.reshape(6, 40)[5:], b[1]))


def test_bfloat16_is_one_more_rounding() -> None:
    rng = np.random.default_rng(7)
    a, b = codes(rng, E5M2, (8, 64), "special"), codes(rng, E4M3, (8, 64), "special")
    wide = matmul_nt(a, b)
    assert np.isnan(wide).any()
    narrow = matmul_nt(a, b, dtype=ml_dtypes.bfloat16)
    want = np.where(np.isnan(wide), 0x7FFF, bits(wide.astype(ml_dtypes.bfloat16)))
    np.testing.assert_array_equal(bits(narrow), want)
