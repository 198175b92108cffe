"""LogFMT's container and edges: `out=`, strides, empty arrays, escapes, files, bits, known figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from samples import SOURCES, raw, same_logfmt, tensor

f32 = np.float32


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_out_is_filled_and_returned(axis: int) -> None:
    x = tensor((40, 30))
    expected = dn.logfmt_encode(x, axis=axis, tile=16, bits=10)
    big = np.empty((40, 60), np.uint16)
    for codes in (np.empty((40, 30), np.uint16), big[:, ::2], np.empty((30, 40), np.uint16).T):
        out = (codes, np.empty_like(expected.amin), None)
        q = dn.logfmt_encode(x, axis=axis, tile=16, bits=10, out=out)
        assert q.codes is codes
        assert q.amin is out[1]
        for field in ("codes", "amin", "amax"):
            np.testing.assert_array_equal(getattr(q, field), getattr(expected, field))
    numbers = np.empty((30, 40), f32).T
    assert dn.logfmt_decode(expected, out=numbers) is numbers
    np.testing.assert_array_equal(numbers, expected.dequantize())


def test_out_may_overlap_the_input() -> None:
    x = tensor((8, 256)).copy()
    expected = dn.logfmt_encode(x.copy(), bits=10)
    codes = x.view(np.uint16).reshape(-1)[5 : 5 + x.size].reshape(x.shape)
    q = dn.logfmt_encode(x, bits=10, out=(codes, None, None))
    np.testing.assert_array_equal(q.codes, expected.codes)
    memory = np.zeros(4096, np.uint16)
    codes = memory[: 8 * 256].reshape(8, 256)
    codes[...] = expected.codes
    inside = dn.LogFmt(codes, expected.amin, expected.amax, 10, 128, 1)
    numbers = inside.dequantize(np.float16, out=memory[100 : 100 + 2048].view(np.float16).reshape(8, 256))
    np.testing.assert_array_equal(raw(numbers), raw(expected.dequantize(np.float16)))


def test_inputs_of_any_stride_and_byte_order() -> None:
    x = tensor((20, 64))
    expected = dn.logfmt_encode(x, tile=16)
    backwards = np.ascontiguousarray(x[::-1])[::-1]
    for other in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x.astype(">f4"),
        backwards,
        x.tolist(),
    ):
        same_logfmt(dn.logfmt_encode(other, tile=16), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 5)])
@pytest.mark.parametrize("tile", [2, None])
def test_empty(shape: tuple[int, ...], tile: int | None, tmp_path: Path) -> None:
    for axis in range(len(shape)):
        same_logfmt(
            dn.logfmt_encode(np.zeros(shape, f32), tile=tile, axis=axis),
            reference.logfmt_encode(np.zeros(shape, f32), tile=tile, axis=axis),
        )
        q = dn.logfmt_encode(np.zeros(shape, f32), tile=tile, axis=axis)
        assert q.dequantize().shape == shape
        assert math.isnan(q.bits_per_element)
        q.save(tmp_path / "q.npz")
        assert dn.LogFmt.load(tmp_path / "q.npz").shape == shape
    q = dn.logfmt_encode(np.zeros((0, 512), f32), mode="deepep")
    assert q.dequantize().shape == (0, 512)


def test_what_the_paper_calls_min_max_and_step() -> None:
    q = dn.logfmt_encode(f32([[1, 2, 4, 8], [0, 0, 0, 0], [3, 3, 0, 3]]), bits=4)
    np.testing.assert_allclose(q.min.ravel(), [0, -math.inf, math.log(3)], rtol=1e-15)
    np.testing.assert_allclose(q.max.ravel(), [math.log(8), -math.inf, math.log(3)], rtol=1e-15)
    np.testing.assert_allclose(q.step.ravel(), [math.log(8) / 6, 0, 0], rtol=1e-15)
    k = np.arange(1, 8)
    spelled = np.exp(q.min[0] + q.step[0] * (k - 1))
    codes = np.tile(k, (3, 1)).astype(np.uint8)
    table = dn.LogFmt(codes, q.amin, q.amax, 4, 7, 1).dequantize()[0]
    np.testing.assert_allclose(table, spelled, rtol=2**-23)  # float32's rounding and the logarithms' own


def test_bits_of_short_and_escaped_tiles() -> None:
    x = np.ones((2, 300), f32)
    assert dn.logfmt_encode(x).nbits == 600 * 8 + 6 * 64
    x[1, 299] = np.inf
    q = dn.logfmt_encode(x, nonfinite="escape")
    assert q.nbits == (600 - 44) * 8 + 5 * 64 + 44 * 16
    np.testing.assert_array_equal(q.dequantize(), x)
    x = np.full((2, 1024), 0.5, f32)
    x[1, ::2] = 0.25
    assert dn.logfmt_encode(x, mode="deepep", bits=10).nbits == 1024 * 16 + 1024 * 10 + 8 * 32


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_escaped_tiles_are_the_inputs_own_bfloat16(axis: int, source: str, simd_level: str) -> None:
    x = tensor((33, 18, 10), source)
    bad = np.random.default_rng(0).integers(0, x.size, 12)
    x.reshape(-1)[bad] = np.array([np.nan, np.inf, -np.inf, -np.nan] * 3, x.dtype)
    options: Any = {"axis": axis, "tile": 16, "nonfinite": "escape"}
    q = dn.logfmt_encode(x, **options)
    expected: Any = reference.logfmt_encode(x, **options)
    same_logfmt(q, expected)
    for dtype in SOURCES.values():
        np.testing.assert_array_equal(
            raw(q.dequantize(dtype)), raw(reference.logfmt_decode(expected, dtype=dtype))
        )
    assert "bfloat16" in repr(q)
    assert q.nbytes == sum(
        a.nbytes for a in (q.codes, q.amin, q.amax, q.escaped, q.escaped_values) if a is not None
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", ["paper", "deepep"])
def test_float64_escapes_by_way_of_float32(mode: Any, order: str) -> None:
    """1 + 2^-8 + 2^-40 is beside a tie of bfloat16, and on it once it is float32: even, not up."""
    x = np.full((1, 512), 1 + 2.0**-8 + 2.0**-40)
    x[0, 1] = np.nan
    q = dn.logfmt_encode(x.astype(f"{order}f8"), mode=mode, nonfinite="escape")
    same_logfmt(q, reference.logfmt_encode(x, mode=mode, nonfinite="escape"))
    assert q.dequantize()[0, 0] == 1


@pytest.mark.parametrize("mode", ["paper", "deepep"])
@pytest.mark.parametrize("bits", [4, 8, 10])
def test_save_and_load_lose_nothing(bits: int, mode: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 1024)).astype(f32)
    for bad in (False, True):
        x[3, 700] = np.nan if bad else 0.5
        q = dn.logfmt_encode(x, bits=bits, mode=mode, rounding="log", nonfinite="escape")
        q.save(tmp_path / "q.npz")
        back = dn.LogFmt.load(tmp_path / "q.npz")
        same_logfmt(back, q)  # type: ignore[arg-type]
        assert repr(back) == repr(q)
        assert (back.escaped is not None) == bad
        np.testing.assert_array_equal(raw(back.dequantize()), raw(q.dequantize()))


def test_the_formats_of_the_specifications_table() -> None:
    """SNR of 512 Ki normal bfloat16 numbers: 37.0 dB and 49.2; by DeepEP's rule with zeros 26.2."""
    x = np.random.default_rng(0).standard_normal((4096, 128)).astype(ml_dtypes.bfloat16)

    def snr(q: dn.LogFmt, x: NDArray[Any]) -> float:
        wide = x.astype(np.float64)
        return float(10 * np.log10((wide**2).sum() / ((q.dequantize(np.float64) - wide) ** 2).sum()))

    assert abs(snr(dn.logfmt_encode(x), x) - 37.0) < 0.1  # the spread between samples of this size is 0.02
    assert abs(snr(dn.logfmt_encode(x, bits=10), x) - 49.2) < 0.1
    x[:, 0] = 0
    small = (x.astype(f32) / 8).astype(ml_dtypes.bfloat16).reshape(1024, 512)
    assert abs(snr(dn.logfmt_encode(small), small) - 37.0) < 0.1
    assert abs(snr(dn.logfmt_encode(small, mode="deepep"), small) - 26.2) < 0.1
