"""The unit `vdpbf16ps` at every level: its order, zeros for subnormal numbers, and products near them."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as d3
from dsv3_numerics import reference
from dsv3_numerics.reference.accumulators import step
from operands import bits

UNIT = "vdpbf16ps"
f32 = np.float32
SPECIALS = np.array([0, 0x7F80, 0x7FC0, 0x7F81, 1, 0x7F, 0x80, 0x7F7F, 0x3F80], np.uint16)
KINDS = ["near one", "near the smallest product", "any", "special", "large"]


def words(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Numbers in bfloat16, of both signs, whose products are hard to add."""
    low, high = {"near one": (120, 135), "near the smallest product": (56, 72), "large": (180, 196)}.get(
        kind, (0, 256)
    )
    codes = rng.integers(low, high, shape) << 7 | rng.integers(0, 128, shape)
    if kind == "special":
        codes = np.where(rng.random(shape) < 0.3, rng.choice(SPECIALS, shape), codes)
    if kind == "near the smallest product":  # few bits, so that sums cancel and are ties
        codes = np.where(rng.random(shape) < 0.5, codes & 0x7F80, codes)
    return (codes | rng.integers(0, 2, shape) << 15).astype(np.uint16).view(ml_dtypes.bfloat16)


def starts(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Initial sums: subnormal, the smallest normal ones, small, ordinary, zeros of both signs."""
    field = rng.choice([0, 1, 2, 20, 23, 24, 25, 127, 255], shape)
    mantissa = rng.integers(0, 1 << 23, shape) & rng.choice([0, 1, 3, (1 << 23) - 1], shape)
    return (rng.integers(0, 2, shape) << 31 | field << 23 | mantissa).astype(np.uint32).view(f32)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_textbook_s(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    a, b, c = words(rng, (3000, 2), kind), words(rng, (3000, 2), kind), starts(rng, (3000,))
    found = d3.mma_step(a, b, c, accumulator=UNIT)
    want = [
        step(x, "bfloat16", y, "bfloat16", float(z), UNIT)
        for x, y, z in zip(a.view(np.uint16).tolist(), b.view(np.uint16).tolist(), c, strict=True)
    ]
    quiet = np.where(np.isnan(want), np.uint32(0x7FC00000).view(f32), np.array(want, f32))
    np.testing.assert_array_equal(bits(found), bits(quiet))
    np.testing.assert_array_equal(bits(reference.mma_step(a, b, c, accumulator=UNIT)), bits(quiet))


@pytest.mark.parametrize("power", [75, 76])
def test_what_is_subnormal_after_rounding_is_zero(power: int, product_level: str) -> None:
    """2^-126 - 2^-152 rounds to 2^-126; 2^-126 - 2^-150 needs no rounding, and is subnormal."""
    a, b = (np.array([[sign * 2.0**-power, 0]], ml_dtypes.bfloat16) for sign in (1, -1))
    got = d3.matmul_nt(a, b, c=np.full((1, 1), 2.0**-126, f32), accumulator=UNIT, promote_every=None)
    assert got[0, 0] == (0 if power == 75 else 2.0**-126)


def test_the_second_product_comes_first(product_level: str) -> None:
    ones, pair = np.ones((1, 2), ml_dtypes.bfloat16), np.array([[1, 2.0**24]], ml_dtypes.bfloat16)
    start: dict[str, Any] = {
        "c": np.full((1, 1), -(2.0**25), f32),
        "accumulator": UNIT,
        "promote_every": None,
    }
    assert d3.matmul_nt(pair, ones, **start)[0, 0] == 1 - 2.0**24
    assert d3.matmul_nt(pair[:, ::-1], ones, **start)[0, 0] == -(2.0**24)  # 1 - 2^25 is a tie


@cache
def case(kind: str, shape: tuple[int, int, int], every: int | None, chained: bool) -> tuple[Any, ...]:
    """Two operands, an initial sum and the product by the textbook."""
    rng = np.random.default_rng([KINDS.index(kind), *shape])
    m, n, k = shape
    a, b = words(rng, (m, k), kind), words(rng, (n, k), kind)
    if kind == "near one":  # a few rows that fused steps alone would get wrong
        a[::7], b[::5] = words(rng, a[::7].shape, "any"), words(rng, b[::5].shape, "special")
    c = starts(rng, (m, n)) if chained else None
    return a, b, c, reference.matmul_nt(a, b, c=c, accumulator=UNIT, promote_every=every)


@pytest.mark.parametrize("every", [None, 6, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_products_have_the_textbook_s_bytes(kind: str, every: int | None, product_level: str) -> None:
    for shape in [(1, 1, 1), (2, 3, 5), (5, 70, 33), (17, 33, 260), (50, 40, 131)]:
        for chained in (False, True):
            a, b, c, want = case(kind, shape, every, chained)
            got = d3.matmul_nt(a, b, c=c, accumulator=UNIT, promote_every=every)
            np.testing.assert_array_equal(bits(got), bits(want))


@cache
def long_case(k: int, power: int, words_first: bool) -> tuple[Any, ...]:
    """bfloat16 and FP8 in either order, products near 1 or the smallest, and their sums by the textbook."""
    rng = np.random.default_rng(5)
    words_ = (rng.standard_normal((40, k)) * 2.0**power).astype(ml_dtypes.bfloat16)
    bytes_ = (rng.standard_normal((35, k)) * 2.0**-8).astype(ml_dtypes.float8_e5m2)
    a, b = (words_, bytes_) if words_first else (bytes_, words_)
    return a, b, reference.matmul_nt(a, b, accumulator=UNIT, promote_every=None)


@pytest.mark.parametrize("power", [0, -112])
def test_long_sums_and_bytes_beside_words(power: int, product_level: str, threads: int) -> None:
    for words_first in (False, True):
        a, b, want = long_case(1030, power, words_first)
        got = d3.matmul_nt(a, b, accumulator=UNIT, promote_every=None)
        np.testing.assert_array_equal(bits(got), bits(want))
        narrow = d3.matmul_nt(a, b, accumulator=UNIT, promote_every=None, dtype=ml_dtypes.bfloat16)
        np.testing.assert_array_equal(bits(narrow), bits(want.astype(ml_dtypes.bfloat16)))


def test_scales_are_those_of_other_units(product_level: str) -> None:
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((30, 300), f32), rng.standard_normal((45, 300), f32)
    a, b = d3.quantize_tiles(x), d3.quantize_blocks(w)
    want = reference.matmul_nt(*(reference.Quantized(**vars(q)) for q in (a, b)), accumulator=UNIT)
    np.testing.assert_array_equal(bits(d3.matmul_nt(a, b, accumulator=UNIT)), bits(want))
    prepared = d3.prepare(b, accumulator=UNIT)
    assert prepared.nbytes == 0
    np.testing.assert_array_equal(bits(d3.matmul_nt(a, prepared, accumulator=UNIT)), bits(want))


def test_other_operands_are_refused() -> None:
    with pytest.raises(TypeError, match="vdpbf16ps"):
        d3.matmul_nt(np.ones((2, 4), np.float16), np.ones((2, 4), np.float16), accumulator=UNIT)
    with pytest.raises(ValueError, match="multiple of 2"):
        d3.matmul_nt(*np.ones((2, 2, 4), ml_dtypes.bfloat16), accumulator=UNIT, promote_every=3)
