"""Layouts of scales both ways: against loops that follow the kernels' index arithmetic, and refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import layouts, shards

f32, E8M0 = np.float32, ml_dtypes.float8_e8m0fnu
RNG = np.random.default_rng(3)
SHAPES = [(1, 1), (3, 5), (4, 4), (5, 8), (128, 4), (129, 5), (300, 17), (2, 3, 7), (0, 4), (4, 0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_mn_major(shape: tuple[int, ...]) -> None:
    scales = RNG.standard_normal(shape).astype(f32)
    stored = layouts.to_mn_major(scales)
    aligned = -(-shape[-2] // 4) * 4
    assert stored.shape == (*shape[:-2], shape[-1], aligned)
    for place in np.ndindex(*shape):
        # DeepGEMM's strides are (1, aligned mn)
        *lead, row, group = place
        assert stored[tuple(lead)].reshape(-1)[row + group * aligned] == scales[place]
    np.testing.assert_array_equal(layouts.from_mn_major(stored, shape[-2]), scales)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_ue8m0(shape: tuple[int, ...]) -> None:
    codes = RNG.integers(0, 255, shape).astype(np.uint8)
    stored = layouts.to_packed_ue8m0(codes.view(E8M0))
    aligned = -(-shape[-2] // 4) * 4
    assert stored.dtype == np.int32
    assert stored.shape == (*shape[:-2], -(-shape[-1] // 4), aligned)
    for place in np.ndindex(*shape):
        *lead, row, group = place
        word = int(stored[tuple(lead)].reshape(-1)[row + group // 4 * aligned])
        assert word >> 8 * (group % 4) & 255 == codes[place]
    np.testing.assert_array_equal(
        layouts.from_packed_ue8m0(stored, shape[-2], shape[-1]).view(np.uint8), codes
    )
    powers = np.ldexp(f32(1), codes.astype(int) - 127).astype(f32)
    np.testing.assert_array_equal(layouts.to_packed_ue8m0(powers), stored)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.float8_e4m3fn, E8M0])
def test_128x4(shape: tuple[int, ...], dtype: Any) -> None:
    scales = RNG.integers(0, 256, shape).astype(np.uint8)
    stored = layouts.to_128x4(scales.view(dtype))
    assert stored.dtype == dtype
    columns = -(-shape[-1] // 4)
    assert stored.shape == (*shape[:-2], -(-shape[-2] // 128) * 128, columns * 4)
    for place in np.ndindex(*shape):
        *lead, row, col = place
        tile = row // 128 * columns + col // 4
        at = tile * 512 + row % 32 * 16 + row % 128 // 32 * 4 + col % 4
        assert stored.view(np.uint8)[tuple(lead)].reshape(-1)[at] == scales[place]
    back = layouts.from_128x4(stored, shape[-2], shape[-1])
    np.testing.assert_array_equal(back.view(np.uint8), scales)


def test_four_bit_codes_stand_low_nibble_first() -> None:
    codes = np.uint8([0x1, 0x2, 0xF, 0x8]).view(ml_dtypes.float4_e2m1fn)
    packed = dn.pack(codes)
    assert packed.tolist() == [0x21, 0x8F]
    np.testing.assert_array_equal(
        dn.unpack(packed, fmt="float4_e2m1fn", size=4).view(np.uint8), codes.view(np.uint8)
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_shards_that_begin_inside_a_block(axis: int) -> None:
    """V3's gate and up projections have 18432 rows: in 32 shards each begins at a multiple of 576."""
    shape = [1152 + 100, 256]
    shape = shape if axis == 0 else shape[::-1]
    q = dn.quantize_blocks(
        RNG.standard_normal(shape).astype(f32) * np.exp2(RNG.integers(-9, 9, shape)).astype(f32)
    )
    numbers, bounds = q.dequantize(), [0, 576, 1152, 1252]
    parts = [shards.take_shard(q, a, b, axis=axis) for a, b in pairwise(bounds)]
    for shard, (a, b) in zip(parts, pairwise(bounds), strict=True):
        want = numbers[a:b] if axis == 0 else numbers[:, a:b]
        np.testing.assert_array_equal(shard.dequantize(), want)
    assert parts[0].block == (128, 128)
    assert parts[1].block[axis] == 64
    assert parts[1].block[1 - axis] == 128
    joined = shards.join_shards(parts, axis=axis)
    np.testing.assert_array_equal(joined.dequantize(), numbers)
    back = shards.join_shards(parts, axis=axis, block=(128, 128))
    np.testing.assert_array_equal(back.scales, q.scales)
    np.testing.assert_array_equal(back.codes.view(np.uint8), q.codes.view(np.uint8))
    with pytest.raises(ValueError, match="within which scales differ"):
        shards.join_shards(parts, axis=axis, block=(256, 256))


@pytest.mark.parametrize("start", [0, 1, 7, 16, 32, 33, 100])
def test_shards_of_tiles(start: int) -> None:
    x = RNG.standard_normal((130, 40)).astype(f32)
    for q in (dn.quantize_tiles(x, axis=0, tile=32), dn.quantize_tiles(x, tile=16, scale="mx")):
        for stop in (start, start + 5, 130):
            shard = shards.take_shard(q, start, stop, axis=0)
            np.testing.assert_array_equal(shard.dequantize(), q.dequantize()[start:stop])
        parts = [shards.take_shard(q, 0, start, axis=0), shards.take_shard(q, start, 130, axis=0)]
        np.testing.assert_array_equal(shards.join_shards(parts, axis=0).dequantize(), q.dequantize())


def test_refusals() -> None:
    ones = np.ones((3, 5), f32)
    for call, error, text in [
        (
            lambda: layouts.to_mn_major(ones[0]),
            ValueError,
            r"scales: found shape \(5,\), expected at least two",
        ),
        (
            lambda: layouts.to_mn_major(ones.astype(np.float64)),
            TypeError,
            "found dtype float64, expected float32",
        ),
        (lambda: layouts.from_mn_major(np.ones((5, 4), f32), 5), ValueError, "holds 1 to 4 mn, expected 5"),
        (
            lambda: layouts.to_packed_ue8m0(ones * f32(1.5)),
            ValueError,
            r"found 1.5 at \(0, 0\), expected powers",
        ),
        (lambda: layouts.to_packed_ue8m0(-ones), ValueError, "expected powers of two"),
        (lambda: layouts.to_packed_ue8m0(ones.astype(np.int32)), TypeError, "found dtype int32"),
        (
            lambda: layouts.from_packed_ue8m0(np.ones((2, 4), np.int32), 3, 4),
            ValueError,
            "holds 5 to 8 groups",
        ),
        (lambda: layouts.from_packed_ue8m0(ones, 3, 4), TypeError, "expected int32"),
        (lambda: layouts.to_128x4(ones), TypeError, "expected float8_e4m3fn, float8_e8m0fnu or uint8"),
        (lambda: layouts.from_128x4(np.ones((128, 4), np.uint8), 129, 4), ValueError, "holds 1 to 128 rows"),
        (lambda: layouts.from_128x4(np.ones((128, 4), np.uint8), 128, 5), ValueError, "holds 1 to 4 columns"),
        (lambda: shards.join_shards([], axis=0), ValueError, "shards: found none"),
    ]:
        with pytest.raises(error, match=text):
            call()  # type: ignore[no-untyped-call]
    q, other = dn.quantize_blocks(np.ones((256, 256), f32)), dn.quantize_tiles(np.ones((4, 256), f32))
    for start, stop in [(-1, 3), (5, 3), (0, 257)]:
        with pytest.raises(ValueError, match="start and stop: found"):
            shards.take_shard(q, start, stop, axis=0)
    with pytest.raises(np.exceptions.AxisError):
        shards.take_shard(q, 0, 1, axis=2)
    with pytest.raises(ValueError, match="as number 1, which does not continue"):
        shards.join_shards([q, other], axis=0)
