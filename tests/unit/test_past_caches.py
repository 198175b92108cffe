"""Streaming stores, and the room codes go through, write the bytes of plain ones, wherever arrays begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core, reference

SHAPES = ((3, 300), (1, 9000), (130, 260), (2, 4224), (200, 1152))


@pytest.fixture(params=[1, 1 << 60], ids=["streamed", "kept"])
def stores(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stream everything, or nothing."""
    _core.set_least_streamed(request.param)
    yield
    _core.set_least_streamed(0)


def numbers(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Normal numbers with zeros, subnormal ones and a tile of its own magnitude."""
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    x[:, ::7] = 0
    x[:, 1::11] = -0.0
    x[:, 2::13] = -1e-42
    x[0, :100] *= 1e4
    return x


def placed(shape: tuple[int, ...], dtype: Any, offset: int) -> NDArray[Any]:
    """An array that begins so many elements off a boundary of 64 bytes."""
    size, item = int(np.prod(shape)), np.dtype(dtype).itemsize
    room = np.zeros(size * item + 64 + offset * item, np.uint8)
    start = -room.ctypes.data % 64 + offset * item
    return room[start : start + size * item].view(dtype).reshape(shape)


@pytest.mark.usefixtures("simd_level", "stores")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0, 16, 5])
@pytest.mark.parametrize(
    ("fmt", "options"),
    [("float8_e4m3fn", {}), ("e5m6", {}), ("float8_e5m2", {"rounding": "toward_zero"})],
    ids=["e4m3", "e5m6", "e5m2-toward-zero"],
)
def test_quantizers_write_the_textbook_s_bytes(
    shape: tuple[int, ...], offset: int, fmt: str, options: dict[str, Any]
) -> None:
    x = numbers(shape)
    calls: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
        (dn.quantize_tiles, reference.quantize_tiles),
        (dn.quantize_blocks, reference.quantize_blocks),
    )
    for call, textbook in calls:
        want = textbook(x, fmt=fmt, **options)
        codes = placed(shape, want.codes.dtype, offset)
        got = call(x, fmt=fmt, out=(codes, None), **options)
        assert codes.tobytes() == want.codes.tobytes()
        assert got.scales.tobytes() == want.scales.tobytes()
        if not options:
            wide = call(x.astype(np.float64), fmt=fmt)
            assert wide.codes.tobytes() == want.codes.tobytes()


@pytest.mark.usefixtures("simd_level", "stores")
@pytest.mark.parametrize("tile", [16, 96, 100, 1024, 2000])
@pytest.mark.parametrize("offset", [0, 16, 5])
def test_tiles_of_any_width_go_on_where_codes_left_off(tile: int, offset: int) -> None:
    x = numbers((2, 4 * 2000 + 7))
    for fmt, rounding in (("float8_e4m3fn", "nearest_even"), ("e5m6", "nearest_even"), ("float8_e5m2", "up")):
        options = {"fmt": fmt, "tile": tile, "rounding": rounding}
        want = reference.quantize_tiles(x, **options)
        codes = placed(x.shape, want.codes.dtype, offset)
        got = dn.quantize_tiles(x, out=(codes, None), **options)
        assert codes.tobytes() == want.codes.tobytes()
        assert got.scales.tobytes() == want.scales.tobytes()


@pytest.mark.usefixtures("simd_level", "stores")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0, 4, 8, 3])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_dequantizing_writes_the_textbook_s_bytes(shape: tuple[int, ...], offset: int, dtype: Any) -> None:
    x = numbers(shape)
    for tile in (16, 128, 96):
        q, want = dn.quantize_tiles(x, tile=tile), reference.quantize_tiles(x, tile=tile)
        out = placed(shape, dtype, offset)
        q.dequantize(dtype, out=out)
        assert out.tobytes() == reference.dequantize(want, dtype).tobytes()


@pytest.mark.usefixtures("simd_level", "stores")
@pytest.mark.parametrize("offset", [0, 4, 3])
@pytest.mark.parametrize("fmt", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3", "int8", "float6_e3m2fn"])
def test_every_code_is_decoded_beside_every_other(offset: int, fmt: str) -> None:
    codes = np.arange(256 * 80, dtype=np.uint32) * 37 // 5
    codes = (codes % (1 << dn.format_info(fmt).bits)).astype(np.uint8)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        out = placed(codes.shape, dtype, offset)
        dn.decode(codes, fmt=fmt, out=out, dtype=dtype)
        assert out.tobytes() == reference.decode(codes, fmt=fmt, dtype=dtype).tobytes()


@pytest.mark.usefixtures("simd_level", "stores")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (150, 130), (1, 700), (260, 257)], ids=str)
@pytest.mark.parametrize("offset", [0, 16, 5])
def test_columns_are_quantized_where_they_stand(shape: tuple[int, int], offset: int, dtype: Any) -> None:
    lying = placed(shape[::-1], dtype, offset)
    lying[:] = numbers(shape).T
    for options in ({}, {"scale": "ue8m0"}, {"fmt": "float8_e5m2", "rounding": "toward_zero"}):
        for call, textbook in (
            (dn.quantize_tiles, reference.quantize_tiles),
            (dn.quantize_blocks, reference.quantize_blocks),
        ):
            want = textbook(lying.T, **options)
            codes = placed(shape, want.codes.dtype, offset)
            got = call(lying.T, out=(codes, None), **options)
            assert codes.tobytes() == want.codes.tobytes()
            assert got.scales.tobytes() == want.scales.tobytes()
    codes = placed(shape, ml_dtypes.float8_e4m3fn, offset)
    dn.encode(lying.T, "float8_e4m3fn", out=codes)
    assert codes.tobytes() == reference.encode(lying.T, "float8_e4m3fn").tobytes()


@pytest.mark.parametrize("offset", [0, 16, 5])
@pytest.mark.parametrize("rows", [2048, 2051])
def test_columns_from_far_away(rows: int, offset: int) -> None:
    """From 8 MiB on rows are cut where cache lines begin, and codes go past the caches in whole lines."""
    lying = placed((1216, rows), np.float32, offset)
    lying[:] = np.random.default_rng(7).standard_normal((1216, rows), dtype=np.float32)
    x = np.ascontiguousarray(lying.T)
    for call in (dn.quantize_tiles, dn.quantize_blocks):
        want, got = call(x), call(lying.T)
        assert got.codes.tobytes() == want.codes.tobytes()
        assert got.scales.tobytes() == want.scales.tobytes()
    codes = placed(x.shape, ml_dtypes.float8_e4m3fn, 16)
    dn.encode(lying.T, "float8_e4m3fn", out=codes)
    assert codes.tobytes() == dn.encode(x, "float8_e4m3fn").tobytes()
    # The first in C order is named, whichever comes first in memory.
    lying[1200, 700] = lying[3, 1900] = np.nan
    for call in (dn.quantize_tiles, dn.quantize_blocks):
        with pytest.raises(ValueError, match=str(700 * 1216 + 1200)):
            call(lying.T)
    with pytest.raises(ValueError, match=str(700 * 1216 + 1200)):
        dn.encode(lying.T, "float8_e4m3fn", nan="raise")
