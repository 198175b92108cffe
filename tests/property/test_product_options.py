"""Every option of products, packings and LogFMT at once, core against textbook, at every SIMD level."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.grouped import matmul_contiguous_nt, matmul_k_grouped_nt, matmul_masked_nt
from dsv3_numerics.reference import ACCUMULATORS, FORMATS
from operands import KINDS, bits, codes, pairs, starts, twin, unit_scales
from samples import SOURCES, raw, same_logfmt

f32 = np.float32
PLAIN_SCALES = ("float32", "ue8m0", "mx")


@st.composite
def scaled(
    draw: st.DrawFn, unit: str, name: str, shape: tuple[int, ...], every: int | None, one_row: bool = False
) -> Any:
    """Draw codes with no scales, or scales of any kind, grouping and scale of scales that the unit takes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x, row = codes(rng, name, shape, draw(st.sampled_from(KINDS))), ACCUMULATORS[unit]
    if row.scale is None and (name == "tf32" or draw(st.booleans())):
        return x
    k = shape[-1]
    if row.scale is not None:
        lengths = [n * row.blocks[0] for n in (1, 2, 3) if (n * row.blocks[0]) % min(row.blocks) == 0]
        width = draw(st.sampled_from([*row.blocks, *lengths]))
    else:
        width = k if every is None else every * draw(st.integers(1, 3))
    width = max(width, 1)
    tiles = one_row or draw(st.booleans())
    height = 1 if tiles else draw(st.integers(1, 4))
    grid = (*shape[:-2], -(-shape[-2] // height), -(-k // width))
    kind = draw(st.sampled_from(PLAIN_SCALES)) if row.scale is None else "mx"
    if row.scale == "float8_e4m3fn" or (
        row.scale is None and name == "float4_e2m1fn" and draw(st.booleans())
    ):
        kind = "nvfp4"
    outer: Any = None
    if row.scale is not None:
        scales = unit_scales(rng, unit, grid, draw(st.sampled_from(["plain", "bits"])))
    elif kind == "float32":
        scales = np.exp2(rng.uniform(-20, 20, grid)).astype(f32)
    elif kind == "nvfp4":
        scales = rng.integers(0, 0x7F, grid).astype(np.uint8).view(ml_dtypes.float8_e4m3fn)
    else:
        scales = rng.integers(100, 150, grid).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
    if kind == "nvfp4":
        rows = (*grid[:-1], 1)
        each = np.exp2(rng.uniform(-9, 3, rows)).astype(f32)
        outer = draw(st.sampled_from([None, f32(0.75), f32(3e-5), *([each] if height == 1 else [])]))
    block, axis = ((width,), len(shape) - 1) if tiles else ((height, width), None)
    return dn.Quantized(x, scales, name, block, axis, kind, None, outer)


def promotion(draw: Any, unit: str) -> int | None:
    steps = draw(st.sampled_from([None, 1, 2, 4]))
    return None if steps is None else steps * dn.accumulator_info(unit).interval


def strided(x: Any, draw: Any) -> Any:
    """The same numbers, sometimes laid out otherwise in memory."""
    if isinstance(x, dn.Quantized) or not draw(st.booleans()):
        return x
    return np.repeat(x, 2, axis=-1)[..., ::2]


units = st.sampled_from(list(ACCUMULATORS))


@pytest.mark.usefixtures("simd_level")
class TestAllProductOptions:
    """One class, so that each SIMD level is set once for all examples."""

    @settings(max_examples=12)
    @given(units, st.data())
    def test_matmul_nt(self, unit: str, data: st.DataObject) -> None:
        draw, row = data.draw, ACCUMULATORS[unit]
        m, n, k = (draw(st.integers(0, top)) for top in (4, 5, 80))
        stack = draw(st.sampled_from([(), (), (2,), (1, 2)]))
        every = promotion(draw, unit)
        left, right = draw(st.sampled_from(pairs(unit)))
        a = draw(scaled(unit, left, (*stack, m, k), every))
        b = draw(scaled(unit, right, (*(stack if draw(st.booleans()) else ()), n, k), every))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        c = starts(rng, (*stack, m, n), row.result) if draw(st.booleans()) else None
        dtype = draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
        options: dict[str, Any] = {"accumulator": unit, "promote_every": every, "dtype": dtype, "c": c}
        want = reference.matmul_nt(twin(a), twin(b), **options)
        out = np.empty_like(want) if draw(st.booleans()) else None
        got = dn.matmul_nt(strided(a, draw), strided(b, draw), **options, out=out)
        assert out is None or got is out
        np.testing.assert_array_equal(bits(got), bits(want))
        again = dn.matmul_nt(a, b, **options)  # by what was kept of the call before, where it was plain
        np.testing.assert_array_equal(bits(again), bits(want))

    @settings(max_examples=12)
    @given(units, st.data())
    def test_grouped(self, unit: str, data: st.DataObject) -> None:
        draw, row = data.draw, ACCUMULATORS[unit]
        m, n, k, experts = (draw(st.integers(1, top)) for top in (5, 3, 70, 3))
        every = promotion(draw, unit)
        left, right = draw(st.sampled_from(pairs(unit)))
        a = draw(scaled(unit, left, (m, k), every, one_row=True))
        b = draw(scaled(unit, right, (experts, n, k), every))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        c = starts(rng, (m, n), row.result) if draw(st.booleans()) else None
        dtype = draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
        options: dict[str, Any] = {"accumulator": unit, "promote_every": every, "dtype": dtype}
        ends = np.sort(rng.integers(0, m + 1, experts - 1))
        offsets = np.concatenate([[0], ends, [m]])
        want = reference.matmul_grouped_nt(twin(a), twin(b), offsets, c=c, **options)
        np.testing.assert_array_equal(bits(dn.matmul_grouped_nt(a, b, offsets, c=c, **options)), bits(want))
        indices = np.repeat(np.arange(experts), np.diff(offsets))
        padding = rng.random(m) < 0.3
        kept = np.where(padding, -1, indices)
        got = matmul_contiguous_nt(a, b, kept, c=c, **options)
        np.testing.assert_array_equal(bits(got)[~padding], bits(want)[~padding])
        start = np.zeros((m, n), f32) if c is None else c
        np.testing.assert_array_equal(bits(got)[padding], bits(start.astype(dtype))[padding])

    @settings(max_examples=12)
    @given(units, st.data())
    def test_masked_and_k_grouped(self, unit: str, data: st.DataObject) -> None:
        draw, row = data.draw, ACCUMULATORS[unit]
        m, n, experts = (draw(st.integers(1, top)) for top in (3, 3, 2))
        every = promotion(draw, unit)
        left, right = draw(st.sampled_from(pairs(unit)))
        k = draw(st.integers(1, 70))
        a = draw(scaled(unit, left, (experts, m, k), every, one_row=True))
        b = draw(scaled(unit, right, (experts, n, k), every))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        counts = rng.integers(0, m + 1, experts)
        c = starts(rng, (experts, m, n), row.result) if draw(st.booleans()) else None
        dtype = draw(st.sampled_from([np.float32, ml_dtypes.bfloat16]))
        options: dict[str, Any] = {"accumulator": unit, "promote_every": every, "dtype": dtype}
        want = reference.matmul_nt(twin(a), twin(b), c=c, **options)
        got = matmul_masked_nt(a, b, counts, c=c, **options)
        within = np.arange(m) < counts[:, None]
        np.testing.assert_array_equal(bits(got)[within], bits(want)[within])

        group = max(x.block[-1] if isinstance(x, dn.Quantized) else 1 for x in (a, b))
        if unit in ("exact",) or group >= k:
            return  # one part: nothing to group
        step = int(np.lcm.reduce([x.block[-1] if isinstance(x, dn.Quantized) else 1 for x in (a, b)]))
        cut = min(step * draw(st.integers(0, 3)), k)
        x, y = (first(v) for v in (a, b))
        parts = matmul_k_grouped_nt(x, y, [cut, k - cut], **options)
        for got_part, (lo, hi) in zip(parts, ((0, cut), (cut, k)), strict=True):
            sides = [part_of_k(v, lo, hi) for v in (x, y)]
            want = reference.matmul_nt(*(twin(v) for v in sides), **options)
            np.testing.assert_array_equal(bits(got_part), bits(want))

    @settings(max_examples=12)
    @given(st.data())
    def test_logfmt(self, data: st.DataObject) -> None:
        draw = data.draw
        mode = draw(st.sampled_from(["paper", "paper", "deepep"]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        length = draw(st.sampled_from([512, 1024])) if mode == "deepep" else draw(st.integers(1, 90))
        shape = [*draw(st.sampled_from([(), (2,), (3, 1)])), length]
        axis = draw(st.integers(0, len(shape) - 1))
        shape[-1], shape[axis] = shape[axis], shape[-1]
        x = rng.standard_normal(shape) * np.exp2(rng.integers(-30, 6, shape))
        x[rng.random(shape) < draw(st.sampled_from([0, 0.2]))] = 0
        nonfinite = draw(
            st.sampled_from(["raise", "escape", "ignore"] if mode == "deepep" else ["raise", "escape"])
        )
        if nonfinite != "raise":
            x[rng.random(shape) < 0.01] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        array = x.astype(SOURCES[draw(st.sampled_from(list(SOURCES)))])
        options: dict[str, Any] = {
            "bits": draw(st.integers(3, 16 if mode == "paper" else 10)),
            "tile": 128 if mode == "deepep" else draw(st.sampled_from([None, 1, 7, 32, 128])),
            "axis": axis,
            "mode": mode,
            "rounding": draw(st.sampled_from(["linear", "log", "stochastic"])),
            "nonfinite": nonfinite,
            "seed": draw(st.integers(0, 2**64 - 1)),
        }
        got, want = dn.logfmt_encode(array, **options), reference.logfmt_encode(array, **options)
        same_logfmt(got, want)
        dtype = SOURCES[draw(st.sampled_from(list(SOURCES)))]
        precision: Any = draw(st.sampled_from(["exact", "quick"]))
        mine = dn.logfmt_decode(got, dtype=dtype, precision=precision)
        theirs = reference.logfmt_decode(want, dtype=dtype, precision=precision)
        nan = np.isnan(theirs.astype(np.float64))
        np.testing.assert_array_equal(np.isnan(mine.astype(np.float64)), nan)
        np.testing.assert_array_equal(raw(mine)[~nan], raw(theirs)[~nan])
        packed = dn.logfmt_pack(got.codes, bits=got.bits)
        np.testing.assert_array_equal(packed, reference.logfmt_pack(want.codes, bits=got.bits))
        unpacked = dn.logfmt_unpack(packed, bits=got.bits, size=got.codes.shape[-1])
        np.testing.assert_array_equal(unpacked, got.codes)


def first(x: Any) -> Any:
    """The first of a stack of matrices."""
    return x[0]


def part_of_k(x: Any, lo: int, hi: int) -> Any:
    """A part of the last axis, scales included."""
    if lo == hi == x.shape[-1]:
        lo = hi = 0  # the end need not be the border of a group; nothing is nothing anywhere
    return x[:, lo:hi]


def test_every_unit_and_format_is_drawn() -> None:
    assert {name for unit in ACCUMULATORS for pair in pairs(unit) for name in pair} <= {*FORMATS, "tf32"}


def test_a_chain_of_nvfp4_without_a_scale_of_scales_starts_in_the_unit() -> None:
    """c is the unit's own first addend: it is aligned and cut with the products, not added afterwards."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((4, 192)).astype(f32), rng.standard_normal((5, 192)).astype(f32)
    c = (rng.standard_normal((4, 5)) * 2.0**22).astype(f32)
    a, b = (dn.quantize_tiles(v, scale="nvfp4", global_scale=None) for v in (x, y))
    got = dn.matmul_nt(a, b, c=c, accumulator="blackwell_nvfp4", promote_every=None)
    want = c
    for k in range(0, 192, 64):
        scales = {
            "a_scales": a.scales[:, None, k // 16 : k // 16 + 4],
            "b_scales": b.scales[None, :, k // 16 : k // 16 + 4],
        }
        step: NDArray[Any] = np.asarray(
            dn.mma_step(
                a.codes[:, None, k : k + 64],
                b.codes[None, :, k : k + 64],
                want,
                accumulator="blackwell_nvfp4",
                **scales,
            )
        )
        want = step
    np.testing.assert_array_equal(bits(got), bits(want))
    late = c + dn.matmul_nt(a, b, accumulator="blackwell_nvfp4", promote_every=None)
    assert (got != late).any()
