"""Matrix products against the textbook, byte for byte, at every SIMD level; shapes, scales, array rules."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.reference import ACCUMULATORS
from operands import FP8_UNITS, KINDS, TENSOR_CORES, bits, codes, pairs, side, starts, step_scales, twin

E4M3, E5M2 = "float8_e4m3fn", "float8_e5m2"
f32 = np.float32
Array = NDArray[Any]
# Lengths of the sum around every step and interval.
LENGTHS = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 160, 257]
# Generations that share a unit with another one; their rows in the table are compared instead.
TWINS = {
    "rtx_blackwell_mxf8": "blackwell_mxf8",
    "rtx_blackwell_mxf4": "blackwell_mxf4",
    "rtx_blackwell_nvfp4": "blackwell_nvfp4",
    "blackwell_f16": "hopper_f16",
    "blackwell_f16_f16": "hopper_f16_f16",
    "blackwell_bf16": "hopper_bf16",
    "blackwell_tf32": "hopper_tf32",
    "ampere_tf32": "ada_tf32",
    "turing_f16": "ada_f16",
    "turing_f16_f16": "ada_f16_f16",
    "ampere_f16": "ada_f16",
    "ampere_f16_f16": "ada_f16_f16",
    "ampere_bf16": "ada_bf16",
}
DISTINCT = [name for name in ACCUMULATORS if name not in TWINS]


@pytest.fixture(params=[1, 3])
def any_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, and more than this suite's machines have cores to spare."""
    before = dn.get_num_threads()
    dn.set_num_threads(request.param)
    yield
    dn.set_num_threads(before)


def same(got: Any, want: Any) -> None:
    """Equal bytes, NaN and the signs of zeros included."""
    np.testing.assert_array_equal(bits(got), bits(want))


def seeded(*parts: Any) -> np.random.Generator:
    """Random numbers that depend on the case, not on the order of tests."""
    return np.random.default_rng(list(repr(parts).encode()))


def test_the_table_is_the_textbook() -> None:
    rows = {info.name: info for info in dn.accumulators()}
    assert list(rows) == list(ACCUMULATORS)
    for name, row in ACCUMULATORS.items():
        info = dn.accumulator_info(name)
        assert {key: getattr(info, key) for key in row._fields if key != "inputs"} == {
            key: value for key, value in row._asdict().items() if key != "inputs"
        }, name
        assert sorted(info.inputs) == sorted(row.inputs), name


@pytest.mark.parametrize("twin", TWINS)
def test_twins_are_one_unit(twin: str) -> None:
    one, other = dn.accumulator_info(twin), dn.accumulator_info(TWINS[twin])
    assert {**vars(one), "name": other.name, "evidence": other.evidence} == vars(other)


@pytest.mark.parametrize("accumulator", ACCUMULATORS)
def test_fused_step(accumulator: str) -> None:
    rng, row = seeded(accumulator), ACCUMULATORS[accumulator]
    for left, right in pairs(accumulator):
        a, b = (np.stack([codes(rng, x, (50, row.products), kind) for kind in KINDS]) for x in (left, right))
        c = starts(rng, a.shape[:-1], row.result)
        scales = step_scales(rng, accumulator, a.shape[:-1])
        want = reference.mma_step(a, b, c, accumulator=accumulator, **scales)
        same(dn.mma_step(a, b, c, accumulator=accumulator, **scales), want)


def test_fused_step_of_one_and_of_many() -> None:
    rng = seeded("axes")
    a, b, c = codes(rng, E4M3, (4, 1, 32)), codes(rng, E5M2, (3, 32)), starts(rng, (2, 4, 3))
    got = dn.mma_step(a, b, c, accumulator="hopper_fp8")
    same(got, reference.mma_step(a, b, c, accumulator="hopper_fp8"))
    one = dn.mma_step(a[1, 0], b[2], c[0, 1, 2], accumulator="hopper_fp8")
    assert isinstance(one, np.float32)
    assert bits(one) == bits(got)[0, 1, 2]
    assert dn.mma_step(a[:0], b, accumulator="hopper_fp8").shape == (0, 3)
    assert dn.mma_step(b, b, 1.5, accumulator="hopper_fp8").shape == (3,)


@cache
def case(accumulator: str, k: int, kind: str) -> tuple[Any, ...]:
    """A ragged product of codes, with and without promotion, by the textbook."""
    rng, row = seeded(accumulator, k, kind), ACCUMULATORS[accumulator]
    choices = pairs(accumulator)
    left, right = choices[k % len(choices)]
    a, b = side(rng, accumulator, left, (7, k), kind), side(rng, accumulator, right, (19, k), kind)
    c = starts(rng, (7, 19), row.result) if k % 3 else None
    every = dn.accumulator_info(accumulator).interval * (1 + k % 4)
    options = [{"accumulator": accumulator, "promote_every": e, "c": c} for e in (None, every)]
    return a, b, [(o, reference.matmul_nt(twin(a), twin(b), **o)) for o in options]


@pytest.mark.parametrize("kind", ["bits", "special"])
@pytest.mark.parametrize("accumulator", DISTINCT)
def test_products_of_any_length(accumulator: str, kind: str, product_level: str) -> None:
    for k in LENGTHS:
        a, b, cases = case(accumulator, k, kind)
        for options, want in cases:
            same(dn.matmul_nt(a, b, **options), want)


@cache
def wide_case(accumulator: str, m: int, n: int, kind: str) -> tuple[Any, ...]:
    """Rows and columns around the widths of vectors and tiles."""
    rng, row = seeded(accumulator, m, n, kind), ACCUMULATORS[accumulator]
    left, right = pairs(accumulator)[-1]
    a, b = codes(rng, left, (m, 96), kind), codes(rng, right, (n, 96), kind)
    c = starts(rng, (m, n), row.result)
    want = reference.matmul_nt(a, b, c=c, accumulator=accumulator, promote_every=32)
    return a, b, {"c": c, "accumulator": accumulator, "promote_every": 32}, want


@pytest.mark.parametrize(
    "accumulator", ["hopper_fp8", "ada_fp8", "blackwell_fp8", "hopper_f16", "float32", "vdpbf16ps"]
)
def test_products_of_any_width(accumulator: str, product_level: str) -> None:
    for m, n in [
        (1, 1),
        (2, 16),
        (3, 17),
        (4, 15),
        (6, 33),
        (7, 20),
        (8, 47),
        (9, 18),
        (16, 31),
        (17, 32),
        (33, 64),
        (5, 65),
        (1, 130),
        (70, 3),
        (65, 48),
    ]:
        a, b, options, want = wide_case(accumulator, m, n, "cancel" if m % 2 else "special")
        same(dn.matmul_nt(a, b, **options), want)


@cache
def scaled(left: str, right: str, k: int) -> tuple[dn.Quantized, dn.Quantized, dn.Quantized]:
    """Two tiled operands and one in blocks."""
    rng = seeded(left, right, k)
    x, y = (rng.standard_normal((m, k)).astype(f32) for m in (9, 21))
    return (
        dn.quantize_tiles(x, fmt=left, tile=128),
        dn.quantize_tiles(y, fmt=right, tile=128, scale="ue8m0"),
        dn.quantize_blocks(y, fmt=right, block=(16, 128)),
    )


@cache
def scaled_products(accumulator: str, every: int) -> list[tuple[Any, Any, dict[str, Any], Array]]:
    """Their products by the textbook."""
    found = []
    for k in (1, 100, 128, 300, 384):
        a, tiles, blocks = scaled(E4M3, E5M2 if k % 100 else E4M3, k)
        for b in (tiles, blocks):
            options: dict[str, Any] = {"accumulator": accumulator, "promote_every": every}
            options["dtype"] = ml_dtypes.bfloat16 if (b is tiles) == (k == 300) else np.float32
            found.append((a, b, options, product(a, b, **options)))
    return found


@pytest.mark.parametrize("every", [32, 64, 128])
@pytest.mark.parametrize("accumulator", FP8_UNITS)
def test_scales_and_promotion(accumulator: str, every: int, product_level: str) -> None:
    for a, b, options, want in scaled_products(accumulator, every):
        same(dn.matmul_nt(a, b, **options), want)


def product(a: dn.Quantized, b: dn.Quantized, **options: Any) -> Array:
    """The textbook's, which has a container of its own."""
    return reference.matmul_nt(textbook(a), textbook(b), **options)


def textbook(q: dn.Quantized) -> reference.Quantized:
    """The same parts in the textbook's container."""
    return reference.Quantized(**vars(q))


@pytest.mark.parametrize("scale", ["float32", "ue8m0", "mx", "nvfp4"])
def test_every_kind_of_scale(scale: Any, product_level: str) -> None:
    rng = seeded(scale)
    x, y = (rng.standard_normal((5, 300)).astype(f32) for _ in "xy")
    nv = scale == "nvfp4"
    fmt, every = ("float4_e2m1fn", 16) if nv else (E4M3, 32)
    a, b = (dn.quantize_tiles(v, fmt=fmt, scale=scale, tile=16 if nv else 64) for v in (x, y))
    w = dn.quantize_blocks(y, fmt=fmt, scale=scale, block=(2, 16 if nv else 96))
    options: dict[str, Any] = {"accumulator": "exact" if nv else "hopper_fp8", "promote_every": every}
    for right in (b, w):
        same(dn.matmul_nt(a, right, **options), product(a, right, **options))


def test_groups_of_the_two_sides_may_differ(product_level: str) -> None:
    """A scale for each row or for the whole matrix on one side, tiles on the other, or none at all."""
    rng = seeded("groups")
    x, y = (rng.standard_normal((6, 320)).astype(f32) for _ in "xy")
    lefts = [dn.quantize_tiles(x, tile=t) for t in (64, 128, None)] + [dn.quantize_blocks(x, block=(4, 64))]
    rights = [
        dn.quantize_tiles(y, tile=None),
        dn.quantize_blocks(y, block=None),
        dn.quantize_tiles(y, tile=192),
    ]
    for a in lefts:
        for b in rights:
            same(dn.matmul_nt(a, b, promote_every=64), product(a, b, promote_every=64))
        plain = y.astype(ml_dtypes.float8_e4m3fn)
        want = reference.matmul_nt(textbook(a), plain, promote_every=64)
        same(dn.matmul_nt(a, plain, promote_every=64), want)
    whole = dn.quantize_tiles(x, tile=None)
    c = starts(rng, (6, 6), "float16")
    for c_or_none in (None, c):
        got = dn.matmul_nt(whole, rights[1], promote_every=None, c=c_or_none)
        same(got, product(whole, rights[1], promote_every=None, c=c_or_none))


def test_scales_at_the_ends_of_float32(product_level: str) -> None:
    """Products of scales that overflow, vanish or are subnormal, and infinite ones."""
    extremes = f32([np.finfo(f32).max, 2.0**-149, 2.0**-126, 1e30, 1e-30, np.inf, 0.0, -1.0])
    rng = seeded("extremes")
    a = dn.Quantized(codes(rng, E4M3, (8, 64)), extremes.reshape(8, 1), E4M3, (64,), 1)
    b = dn.Quantized(codes(rng, E4M3, (8, 64)), extremes.reshape(8, 1), E4M3, (64,), 1)
    for accumulator in ("hopper_fp8", "float32", "exact"):
        got = dn.matmul_nt(a, b, accumulator=accumulator, promote_every=32)
        same(got, product(a, b, accumulator=accumulator, promote_every=32))
        assert np.isnan(got).any()
        assert np.isinf(got).any()


def test_formats_without_a_dtype_come_quantized() -> None:
    x = np.linspace(-3, 3, 300, dtype=f32).reshape(3, 100)
    q = dn.quantize_tiles(x, fmt="e5m6", tile=32)
    same(
        dn.matmul_nt(q, q, accumulator="exact", promote_every=32),
        product(q, q, accumulator="exact", promote_every=32),
    )


@pytest.mark.parametrize("accumulator", FP8_UNITS)
def test_blocking_and_threads_change_nothing(accumulator: str, product_level: str, any_threads: None) -> None:
    """A product larger than any tile of the core; parts of it, computed alone, are the same bytes."""
    rng = seeded("large")
    a, b = codes(rng, E4M3, (150, 330), "special"), codes(rng, E4M3, (140, 330), "plain")
    options: dict[str, Any] = {"accumulator": accumulator, "promote_every": 64}
    whole = dn.matmul_nt(a, b, **options)
    for rows, cols in [
        (slice(0, 3), slice(0, 17)),
        (slice(60, 70), slice(120, 140)),
        (slice(149, 150), slice(None)),
    ]:
        same(whole[rows, cols], dn.matmul_nt(a[rows], b[cols], **options))
    same(whole[::29, ::27], reference.matmul_nt(a[::29], b[::27], **options))


@pytest.mark.parametrize("accumulator", ["hopper_fp8", "float32", "blackwell_fp8", "vdpbf16ps"])
def test_stacks(accumulator: str, product_level: str, any_threads: None) -> None:
    rng = seeded("stack", accumulator)
    x, y = rng.standard_normal((2, 3, 5, 160)).astype(f32), rng.standard_normal((2, 3, 18, 160)).astype(f32)
    a, b = dn.quantize_tiles(x), dn.quantize_blocks(y, block=(8, 128))
    one = dn.quantize_blocks(y[0, 0], block=(8, 128))
    c = starts(rng, (2, 3, 5, 18), "float16")
    for right in (b, one):
        options: dict[str, Any] = {"accumulator": accumulator, "c": c}
        same(dn.matmul_nt(a, right, **options), product(a, right, **options))
    blocks = dn.quantize_blocks(x, block=(4, 128))  # whose blocks end with each matrix of the stack
    same(dn.matmul_nt(blocks, one, accumulator=accumulator), product(blocks, one, accumulator=accumulator))
    empty = dn.matmul_nt(a.codes[:0], one.codes)
    assert empty.shape == (0, 3, 5, 18)


@pytest.mark.parametrize("accumulator", ["hopper_fp8", "float32", "exact", "vdpbf16ps"])
def test_experts(accumulator: str, product_level: str, any_threads: None) -> None:
    rng = seeded("experts", accumulator)
    x, y = rng.standard_normal((23, 200)).astype(f32), rng.standard_normal((6, 20, 200)).astype(f32)
    a, b = dn.quantize_tiles(x), dn.quantize_blocks(y)
    c = starts(rng, (23, 20), "float16")
    for offsets in ([0, 0, 5, 5, 6, 23, 23], [0, 23, 23, 23, 23, 23, 23], [0, 4, 8, 12, 16, 20, 23]):
        for start in (None, c):
            options: dict[str, Any] = {"c": start, "accumulator": accumulator, "dtype": ml_dtypes.bfloat16}
            got = dn.matmul_grouped_nt(a, b, np.array(offsets, np.int32), **options)
            same(got, reference.matmul_grouped_nt(textbook(a), textbook(b), offsets, **options))
    plain = dn.matmul_grouped_nt(
        a.codes, b.codes, np.uint64([0, 3, 3, 3, 9, 20, 23]), accumulator=accumulator
    )
    want = reference.matmul_grouped_nt(a.codes, b.codes, [0, 3, 3, 3, 9, 20, 23], accumulator=accumulator)
    same(plain, want)
    none = dn.matmul_grouped_nt(a.codes[:0], b.codes[:0], [0])
    assert none.shape == (0, 20)


@pytest.mark.parametrize("shape", [(0, 5, 64), (5, 0, 64), (0, 0, 0), (3, 4, 0)])
def test_empty(shape: tuple[int, int, int], product_level: str) -> None:
    m, n, k = shape
    a, b = np.zeros((m, k), E4M3), np.zeros((n, k), E4M3)
    for accumulator in ("hopper_fp8", "exact", "float32", "vdpbf16ps"):
        got = dn.matmul_nt(a, b, accumulator=accumulator)
        assert got.shape == (m, n)
        assert not bits(got).any()
    c = f32([[1 + 2.0**-23, -0.0, np.inf, 3]] * 3)
    if (m, n) == c.shape:
        same(dn.matmul_nt(a, b, c=c, promote_every=None), c)
        same(dn.matmul_nt(dn.quantize_tiles(np.zeros((3, 0), f32)), b, c=c), c)


def test_input_in_any_order_and_alignment(product_level: str) -> None:
    rng = seeded("strides")
    a, b, c = codes(rng, E4M3, (10, 70)), codes(rng, E5M2, (12, 70)), starts(rng, (10, 12))
    want = dn.matmul_nt(a, b, c=c, promote_every=32)
    shifted = np.empty(10 * 70 + 1, np.uint8)[1:].view(E4M3).reshape(10, 70)
    shifted[...] = a
    wide = np.zeros((20, 140), E5M2)
    wide[:12, ::2] = b[:, ::-1][:, ::-1]
    readonly = a.copy()
    readonly.flags.writeable = False
    for left in (np.asfortranarray(a), shifted, readonly, a[::-1][::-1]):
        same(dn.matmul_nt(left, wide[:12, :140:2], c=np.asfortranarray(c), promote_every=32), want)
    half = a.astype(np.float16)
    same(
        dn.matmul_nt(half.astype(">f2"), half, accumulator="hopper_f16"),
        dn.matmul_nt(half, half, accumulator="hopper_f16"),
    )
    same(dn.matmul_nt(a, b, c=c.astype(">f4"), promote_every=32), want)


def test_columns_of_a_quantized_matrix(product_level: str) -> None:
    """Transposed codes and scales, as the backward products have them."""
    rng = seeded("transposed")
    q = dn.quantize_tiles(rng.standard_normal((160, 9)).astype(f32), axis=0, tile=32)
    assert q.T.axis == 1
    same(dn.matmul_nt(q.T, q.T, promote_every=32), product(q.T, q.T, promote_every=32))


def test_out(product_level: str) -> None:
    rng = seeded("out")
    a, b = codes(rng, E4M3, (6, 64), "plain"), codes(rng, E4M3, (6, 64), "plain")
    want = dn.matmul_nt(a, b)
    for out in (
        np.full((6, 6), np.nan, f32),
        np.asfortranarray(np.zeros((6, 6), f32)),
        np.zeros((6, 12), f32)[:, ::2],
    ):
        assert dn.matmul_nt(a, b, out=out) is out
        same(out, want)
    narrow = np.zeros((6, 6), ml_dtypes.bfloat16)
    assert dn.matmul_nt(a, b, dtype="bfloat16", out=narrow) is narrow
    same(narrow, want.astype(ml_dtypes.bfloat16))
    c = starts(rng, (6, 6), "float16")
    both = c.copy()
    expected = dn.matmul_nt(a, b, c=c)
    assert dn.matmul_nt(a, b, c=both, out=both) is both
    same(both, expected)
    memory = np.zeros(6 * 64, np.uint8)
    codes_in = memory.view(E4M3).reshape(6, 64)
    codes_in[...] = a
    out = memory[: 6 * 6 * 4].view(f32).reshape(6, 6)
    same(dn.matmul_nt(codes_in, b, out=out), want)
    grouped = np.zeros((6, 6), f32)
    assert dn.matmul_grouped_nt(a, b[None], [0, 6], out=grouped) is grouped
    same(grouped, want)


def test_c_may_be_narrow() -> None:
    rng = seeded("narrow c")
    a, b = codes(rng, E4M3, (3, 40)), codes(rng, E4M3, (4, 40))
    c = starts(rng, (3, 4), "float16")
    want = dn.matmul_nt(a, b, c=c)
    same(dn.matmul_nt(a, b, c=c.astype(np.float16)), want)
    brain = c.astype(ml_dtypes.bfloat16)
    same(dn.matmul_nt(a, b, c=brain), dn.matmul_nt(a, b, c=brain.astype(f32)))


@pytest.mark.parametrize("accumulator", TENSOR_CORES)
def test_one_special_changes_its_row_or_column_only(accumulator: str, product_level: str) -> None:
    """Where the vector path cannot go, the step's definition does; the rest stays as it was."""
    rng, row = seeded("specials", accumulator), ACCUMULATORS[accumulator]
    name = row.inputs[1] if E5M2 in row.inputs else row.inputs[0]
    a, b = codes(rng, name, (20, 100), "plain"), codes(rng, name, (40, 100), "plain")
    clean = dn.matmul_nt(a, b, accumulator=accumulator)
    a[7, 50], b[33, 99], b[2, 0] = np.nan, np.inf, -np.inf
    got = dn.matmul_nt(a, b, accumulator=accumulator)
    touched = np.zeros((20, 40), bool)
    touched[7], touched[:, [33, 2]] = True, True
    same(got[~touched], clean[~touched])
    same(got[[7, 7, 0, 3]], reference.matmul_nt(a[[7, 7, 0, 3]], b, accumulator=accumulator))
    assert np.isnan(got[7]).all()


def test_float32_keeps_its_error_bound() -> None:
    """n u / (1 - n u) times the sum of magnitudes, as the docstring says."""
    rng = seeded("bound")
    for kind in KINDS[:-1]:
        for k, every in [(32, 32), (512, 128), (4096, 128), (4096, 4096), (1000, 32)]:
            a, b = codes(rng, E4M3, (4, k), kind), codes(rng, E5M2, (5, k), kind)
            got = dn.matmul_nt(a, b, accumulator="float32", promote_every=every).astype(np.float64)
            x, y = a.astype(np.float64), b.astype(np.float64)
            n = (17 + every / 32 + k / every) * 2.0**-24
            assert (np.abs(got - x @ y.T) <= n / (1 - n) * (np.abs(x) @ np.abs(y).T)).all(), (kind, k, every)
