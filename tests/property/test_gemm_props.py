"""Properties of products: any shape, unit and data give the textbook's bytes, and what is irrelevant is."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsv3_numerics as dn
from dsv3_numerics import _core, reference
from dsv3_numerics.reference import ACCUMULATORS, FORMATS
from operands import (
    FP8_UNITS,
    KINDS,
    SCALED_UNITS,
    TENSOR_CORES,
    bits,
    codes,
    pairs,
    side,
    starts,
    step_scales,
    twin,
)

E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
f32 = np.float32
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)
units = st.sampled_from(list(ACCUMULATORS))


def same(got: Any, want: Any) -> None:
    """Equal bytes."""
    np.testing.assert_array_equal(bits(got), bits(want))


@given(units, kinds, kinds, seeds, st.data())
@settings(max_examples=150)
def test_a_step_is_the_textbooks(unit: str, left: str, right: str, seed: int, data: st.DataObject) -> None:
    rng, row = np.random.default_rng(seed), ACCUMULATORS[unit]
    x, y = data.draw(st.sampled_from(pairs(unit)))
    used = data.draw(st.integers(0, row.products))
    a, b = codes(rng, x, (8, row.products), left), codes(rng, y, (8, row.products), right)
    bits(a)[:, used:] = 0
    c, scales = starts(rng, (8,), row.result), step_scales(rng, unit, (8,))
    want = reference.mma_step(a, b, c, accumulator=unit, **scales)
    same(dn.mma_step(a, b, c, accumulator=unit, **scales), want)


@pytest.mark.parametrize("level", _core.simd_levels())
@given(
    units,
    st.tuples(st.integers(0, 20), st.integers(0, 40), st.integers(0, 140)),
    kinds,
    kinds,
    seeds,
    st.sampled_from([None, 1, 2, 3, 4]),
    st.booleans(),
    st.booleans(),
)
def test_a_product_is_the_textbooks(
    level: str,
    unit: str,
    shape: tuple[int, int, int],
    left: str,
    right: str,
    seed: int,
    steps: int | None,
    with_c: bool,
    narrow: bool,
) -> None:
    rng, row, (m, n, k) = np.random.default_rng(seed), ACCUMULATORS[unit], shape
    x, y = pairs(unit)[seed % len(pairs(unit))]
    options: dict[str, Any] = {
        "accumulator": unit,
        "promote_every": None if steps is None else steps * dn.accumulator_info(unit).interval,
        "dtype": ml_dtypes.bfloat16 if narrow else np.float32,
        "c": starts(rng, (m, n), row.result) if with_c else None,
    }
    a, b = side(rng, unit, x, (m, k), left), side(rng, unit, y, (n, k), right)
    want = reference.matmul_nt(twin(a), twin(b), **options)
    before = _core.simd_level()
    try:
        _core.set_simd_level(level)
        same(dn.matmul_nt(a, b, **options), want)
    finally:
        _core.set_simd_level(before)


@pytest.mark.parametrize("level", _core.simd_levels())
@given(st.sampled_from(FP8_UNITS), seeds, st.integers(1, 300), st.sampled_from([32, 64, 128]))
@settings(max_examples=40)
def test_scaled_products_are_the_textbooks(level: str, unit: str, seed: int, k: int, tile: int) -> None:
    rng = np.random.default_rng(seed)
    spread = np.exp2(rng.integers(-40, 40, (2, 12, 1)))
    x, y = (rng.standard_normal((2, 12, k)) * spread).astype(f32)
    a, b = dn.quantize_tiles(x[:5], tile=tile), dn.quantize_blocks(y, block=(4, tile), fmt=E5M2)
    theirs = [reference.Quantized(**vars(q)) for q in (a, b)]
    want = reference.matmul_nt(*theirs, accumulator=unit, promote_every=32)
    before = _core.simd_level()
    try:
        _core.set_simd_level(level)
        same(dn.matmul_nt(a, b, accumulator=unit, promote_every=32), want)
    finally:
        _core.set_simd_level(before)


@given(st.sampled_from(TENSOR_CORES), kinds, seeds)
def test_the_order_within_a_step_does_not_matter(unit: str, kind: str, seed: int) -> None:
    rng, row = np.random.default_rng(seed), ACCUMULATORS[unit]
    a, b = (codes(rng, name, (6, row.products), kind) for name in (row.inputs[0], row.inputs[-1]))
    c, order = starts(rng, (6,), row.result), rng.permutation(row.products)
    step = dn.mma_step(a, b, c, accumulator=unit)
    same(dn.mma_step(a[:, order], b[:, order], c, accumulator=unit), step)
    same(dn.mma_step(b, a, c, accumulator=unit), step)


@given(st.sampled_from([*TENSOR_CORES, "exact"]), st.sampled_from(KINDS[:-1]), seeds)
def test_the_sign_of_all_terms_is_the_sign_of_the_sum(unit: str, kind: str, seed: int) -> None:
    """Truncation and rounding are symmetric; only +0 has no counterpart."""
    rng, row = np.random.default_rng(seed), ACCUMULATORS[unit]
    name = row.inputs[0]
    a, b = codes(rng, name, (9, 70), kind), codes(rng, name, (11, 70), kind)
    c = np.where(np.isfinite(start := starts(rng, (9, 11), row.result)), start, f32(1)).astype(f32)
    negated = (bits(a) ^ bits(a).dtype.type(FORMATS[name].sign)).view(a.dtype)
    got = dn.matmul_nt(a, b, c=c, accumulator=unit, promote_every=None)
    mirrored = dn.matmul_nt(negated, b, c=-c, accumulator=unit, promote_every=None)
    np.testing.assert_array_equal(-mirrored, got)


@given(
    st.sampled_from([unit for unit in ACCUMULATORS if unit not in SCALED_UNITS]),
    kinds,
    seeds,
    st.integers(1, 100),
)
def test_zeros_that_fill_the_last_step_change_nothing(unit: str, kind: str, seed: int, k: int) -> None:
    rng, row = np.random.default_rng(seed), ACCUMULATORS[unit]
    left, right = pairs(unit)[seed % len(pairs(unit))]
    a, b = codes(rng, left, (5, k), kind), codes(rng, right, (6, k), kind)
    filled = -(-k // row.products) * row.products
    wide_a, wide_b = (np.zeros((len(x), filled), x.dtype) for x in (a, b))
    wide_a[:, :k], wide_b[:, :k] = a, b
    options: dict[str, Any] = {"accumulator": unit, "promote_every": row.products}
    same(dn.matmul_nt(wide_a, wide_b, **options), dn.matmul_nt(a, b, **options))


@given(st.sampled_from(FP8_UNITS), seeds)
def test_rows_and_columns_are_products_of_their_own(unit: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = codes(rng, E4M3, (30, 128), "special"), codes(rng, E5M2, (50, 128), "bits")
    whole = dn.matmul_nt(a, b, accumulator=unit)
    rows, cols = rng.permutation(30)[:7], rng.permutation(50)[:33]
    same(dn.matmul_nt(a[rows], b[cols], accumulator=unit), whole[rows][:, cols])


@given(st.sampled_from(FP8_UNITS), seeds, st.integers(-60, 60))
def test_powers_of_two_in_scales_are_exact(unit: str, seed: int, power: int) -> None:
    """Far from the ends of float32, a scale that is a power of two moves the result and nothing else."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 6, 256)).astype(f32)
    a, b = dn.quantize_tiles(x), dn.quantize_blocks(y)
    moved = dn.Quantized(**{**vars(a), "scales": np.ldexp(a.scales, power)})
    got = dn.matmul_nt(moved, b, accumulator=unit)
    same(got, np.ldexp(dn.matmul_nt(a, b, accumulator=unit), power))


@given(seeds, st.integers(0, 200))
def test_exact_is_closest(seed: int, k: int) -> None:
    """43 bits hold these sums, so float64 is exact; no unit can be nearer than the rounded sum."""
    rng = np.random.default_rng(seed)
    a, b = codes(rng, E4M3, (4, k)), codes(rng, E4M3, (5, k))
    truth = a.astype(np.float64) @ b.astype(np.float64).T
    exact = dn.matmul_nt(a, b, accumulator="exact", promote_every=None)
    np.testing.assert_array_equal(exact, truth.astype(f32))
    for unit in (unit for unit in FP8_UNITS if ACCUMULATORS[unit].result == "float32"):
        result = dn.matmul_nt(a, b, accumulator=unit, promote_every=None)
        assert (np.abs(result - truth) >= np.abs(exact - truth)).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), seeds, st.sampled_from(["hopper_fp8", "float32"]))
def test_experts_are_products_of_their_own(rows: list[int], seed: int, unit: str) -> None:
    rng, offsets = np.random.default_rng(seed), np.concatenate([[0], np.cumsum(rows)])
    a, b = codes(rng, E4M3, (int(offsets[-1]), 70)), codes(rng, E4M3, (len(rows), 9, 70))
    got = dn.matmul_grouped_nt(a, b, offsets, accumulator=unit)
    for e, (start, stop) in enumerate(pairwise(offsets.tolist())):
        same(got[start:stop], dn.matmul_nt(a[start:stop], b[e], accumulator=unit))
