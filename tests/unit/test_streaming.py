"""Outputs beyond the cache take streaming stores, whose groups begin on a boundary of the output."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import reference


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("offset", [0, 1, 4, 13])
@pytest.mark.parametrize("tile", [1, 16, 100, 128, 1 << 19])
def test_dequantize_streams_the_product(simd_level: str, dtype: Any, offset: int, tile: int) -> None:
    x = np.random.default_rng(tile).standard_normal((1, 600_003), dtype=np.float32)
    q = d3.quantize_tiles(x, tile=tile)
    scales = np.repeat(q.scales, tile, axis=1)[:, : x.shape[1]]
    expected = (d3.decode(q.codes) * scales).astype(dtype)
    out = np.zeros(x.size + offset, dtype)[offset:].reshape(x.shape)
    assert q.dequantize(dtype=dtype, out=out) is out
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("cols", [1000, 8192])
@pytest.mark.parametrize("offset", [0, 3])
def test_blocks_stream_too(simd_level: str, cols: int, offset: int) -> None:
    x = np.random.default_rng(cols).standard_normal((300, cols), dtype=np.float32)
    q = d3.quantize_blocks(x)
    scales = np.repeat(np.repeat(q.scales, 128, axis=0), 128, axis=1)[:300, :cols]
    out = np.zeros(x.size + offset, np.float32)[offset:].reshape(x.shape)
    q.dequantize(out=out)
    assert out.tobytes() == (d3.decode(q.codes) * scales).tobytes()


@cache
def _logfmt(bits: int, tile: int, precision: str) -> tuple[d3.LogFmt, Any]:
    x = np.random.default_rng(tile).standard_normal(600_003, dtype=np.float32)
    q: Any = d3.logfmt_encode(x, bits=bits, tile=tile)
    return q, reference.logfmt_decode(q, precision=precision)


@pytest.mark.parametrize("precision", ["exact", "quick"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("offset", [0, 13])
@pytest.mark.parametrize(("bits", "tile"), [(8, 128), (8, 100), (10, 128), (6, 17), (10, 1 << 18)])
def test_logfmt_streams_too(
    simd_level: str, dtype: Any, offset: int, bits: int, tile: int, precision: Any
) -> None:
    q, expected = _logfmt(bits, tile, precision)
    out = np.zeros(q.codes.size + offset, dtype)[offset:]
    assert q.dequantize(dtype, precision=precision, out=out) is out
    assert out.tobytes() == expected.astype(dtype).tobytes()
