"""LogFMT: the core against the textbook, byte for byte, at every SIMD level."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import _core, reference
from dsv3_numerics.reference.logfmt import values
from samples import SOURCES, raw, same_logfmt, tensor

f32 = np.float32
BITS = range(3, 17)
LINEAR_AND_LOG = ("linear", "log")
ROUNDINGS = (*LINEAR_AND_LOG, "stochastic")
# Shapes and how they are cut: short and long tiles, every axis, ragged edges, tiles of one element.
LAYOUTS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((3, 300), {}),
    ((5, 70), {"tile": 16}),
    ((130, 7), {"axis": 0}),
    ((2, 50, 9), {"axis": 1, "tile": 32}),
    ((77,), {"tile": 5}),
    ((3, 65), {"tile": None}),
    ((9, 5), {"tile": None, "axis": -2}),
    ((4, 9), {"tile": 1}),
    ((6, 1), {"tile": 4, "axis": 0}),
    ((4, 200), {"tile": 64}),
]


def _check(x: NDArray[Any], **options: Any) -> None:
    options = {"seed": 0, **options}
    same_logfmt(dn.logfmt_encode(x, **options), reference.logfmt_encode(x, **options))


@cache
def _layout(index: int, bits: int, rounding: str) -> reference.LogFmt:
    shape, cut = LAYOUTS[index]
    return reference.logfmt_encode(tensor(shape), bits=bits, rounding=rounding, seed=9, **cut)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
def test_layouts(bits: int, rounding: Any, simd_level: str) -> None:
    for index, (shape, cut) in enumerate(LAYOUTS):
        got = dn.logfmt_encode(tensor(shape), bits=bits, rounding=rounding, seed=9, **cut)
        same_logfmt(got, _layout(index, bits, rounding))
        expected = reference.logfmt_decode(_layout(index, bits, rounding))
        np.testing.assert_array_equal(raw(got.dequantize()), raw(expected))


@cache
def _source(index: int, source: str, rounding: str) -> reference.LogFmt:
    shape, cut = LAYOUTS[index]
    return reference.logfmt_encode(
        tensor(shape, source), rounding=rounding, seed=0, nonfinite="escape", **cut
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_sources(rounding: Any, source: str, simd_level: str) -> None:
    """float16 has infinities here, which escape."""
    for index, (shape, cut) in enumerate(LAYOUTS):
        got = dn.logfmt_encode(tensor(shape, source), rounding=rounding, seed=0, nonfinite="escape", **cut)
        same_logfmt(got, _source(index, source, rounding))


def _deepep_input(shape: tuple[int, ...], axis: int) -> NDArray[np.float32]:
    """Tiles with and without zeros, of one magnitude, of zeros, with 1, tiny, with NaN and infinity."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape).astype(f32) * f32(0.1)
    rows = np.moveaxis(x, axis, -1)
    rows[0, :3] = [0.0, -0.0, 1e-30]
    for row, (start, values_) in enumerate(
        [
            (0, [1.0]),
            (128, [0.25] * 128),
            (256, [0.0] * 128),
            (384, [2.0**-120, 0.0]),
            (64, [np.nan]),
            (0, [-np.inf]),
        ]
    ):
        rows[1 + row, start : start + len(values_)] = values_
    rows[4] *= f32(2.0**-118)
    return x


@pytest.mark.parametrize("nonfinite", ["escape", "ignore"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((9, 1024), 1), ((1536, 8), 0), ((2, 512, 8), 1), ((8, 512), -1)]
)
def test_deepep(shape: tuple[int, ...], axis: int, nonfinite: Any, simd_level: str) -> None:
    x = np.stack([_deepep_input(shape[1:], 0)] * 2) if len(shape) == 3 else _deepep_input(shape, axis)
    for bits, rounding in [(10, "linear"), (8, "log"), (5, "stochastic")]:
        options: Any = {"bits": bits, "rounding": rounding, "nonfinite": nonfinite, "axis": axis, "seed": 0}
        _check(x, mode="deepep", **options)
        got = dn.logfmt_encode(x, mode="deepep", **options)
        expected = reference.logfmt_encode(x, mode="deepep", **options)
        np.testing.assert_array_equal(got.dequantize(), reference.logfmt_decode(expected))


# The least and the largest magnitude of tiles.
RANGES = {
    "wide": (2.0**-33, 1.3),
    "clipped": (2.0**-40, 1.3),
    "normal": (0.0031, 3.7),
    "powers": (2.0**-7, 2.0**7),
    "octave": (1.1, 2.1),
    "narrow": (1.0, 1.02),
    "narrower": (1.0, 1.0001),
    "neighbours": (1.0, 1.0 + 2.0**-23),
    "two apart": (1.5, 1.5 + 2.0**-22),
    "below one": (1 - 2.0**-24, 1.0),
    "subnormal": (2.0**-149, 2.0**-140),
    "least": (2.0**-149, 2.0**-148),
    "into subnormal": (2.0**-135, 1.7 * 2.0**-110),
    "clip is subnormal": (2.0**-149, 1.7 * 2.0**-112),
    "clip is nothing": (2.0**-149, 1.7 * 2.0**-120),
    "huge": (2.0**97, 3.4028235e38),
    "top": (3.4028233e38, 3.4028235e38),
}


@cache
def _beside_thresholds(name: str, bits: int, rounding: str) -> NDArray[np.float32]:
    """Tiles of 128 with that range; their other numbers are thresholds with two neighbours on each side."""
    lo, hi = (f32(end) for end in RANGES[name])
    v = values(np.asarray(max(lo, hi * f32(2.0**-32))), np.asarray(hi), bits)
    a, b = v[:-1], v[1:]
    m = (a + b) / 2 if rounding == "linear" else np.sqrt(a * b) if rounding == "log" else b
    rng = np.random.default_rng(bits)
    m = m if len(m) < 300 else np.r_[m[:8], m[-8:], rng.choice(m, 240)]
    x = m.astype(f32)
    around = [x]
    for end in (f32(0), np.finfo(f32).max):
        y = x
        for _ in range(2):
            y = np.nextafter(y, end)
            around.append(y)
    z = np.clip(np.concatenate(around), lo, hi)
    z = np.resize(z[rng.permutation(z.size)], (-(-z.size // 126), 126))
    ends = np.broadcast_to(f32([lo, hi]), (len(z), 2))
    signs = rng.choice(f32([-1, 1]), (len(z), 128))
    tiles: NDArray[np.float32] = np.concatenate([ends, z], axis=1) * signs
    return tiles


@cache
def _expected_beside(name: str, bits: int, rounding: str) -> reference.LogFmt:
    return reference.logfmt_encode(
        _beside_thresholds(name, bits, rounding), bits=bits, rounding=rounding, seed=0
    )


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", RANGES)
def test_beside_thresholds(name: str, bits: int, simd_level: str) -> None:
    for rounding in ROUNDINGS:
        expected = _expected_beside(name, bits, rounding)
        got = dn.logfmt_encode(_beside_thresholds(name, bits, rounding), bits=bits, rounding=rounding, seed=0)  # type: ignore[arg-type]
        same_logfmt(got, expected)
        for precision in ("exact", "quick"):
            np.testing.assert_array_equal(
                raw(got.dequantize(precision=precision)),  # type: ignore[arg-type]
                raw(reference.logfmt_decode(expected, precision=precision)),
            )


def _odd_tiles() -> NDArray[np.float32]:
    """One tile a row: zeros, one magnitude, one number among zeros, all subnormal, the ends of float32."""
    x = np.zeros((14, 40), f32)
    x[1] = -0.0
    x[2] = 3.3
    x[3, 17] = -1e-30
    x[4, ::2] = 7
    x[5] = 2.0**-149
    x[6] = np.arange(40) * f32(2.0**-149)
    x[7, :2] = [2.0**-149, 3.4028235e38]
    x[8] = 3.4028235e38
    x[9] = 2.0 ** np.arange(-20, 20)
    x[10] = 2.0 ** -np.arange(0, 40)
    x[11] = 1 + np.arange(40) * f32(2.0**-23)
    x[12] = np.linspace(1, 2, 40)
    x[13] = np.where(np.arange(40) % 2, f32(1), np.nextafter(f32(1), f32(2)))
    return x


@pytest.mark.parametrize("bits", BITS)
def test_odd_tiles(bits: int, simd_level: str) -> None:
    for rounding in ROUNDINGS:
        for tile in (40, 13):
            _check(_odd_tiles(), bits=bits, rounding=rounding, tile=tile)


@cache
def _tail(n: int, tile: int, bits: int) -> reference.LogFmt:
    return reference.logfmt_encode(tensor((3, 200), seed=8)[1][200 - n :], tile=tile, bits=bits)


@pytest.mark.parametrize(("tile", "bits"), [(1, 8), (7, 8), (16, 10), (64, 8), (128, 9)])
def test_every_length(tile: int, bits: int, simd_level: str) -> None:
    """Every length and every misaligned start: the last n elements of an array."""
    x = tensor((3, 200), seed=8)[1]
    for n in range(201 if tile > 16 else 70):
        got = dn.logfmt_encode(x[200 - n :], tile=tile, bits=bits)
        same_logfmt(got, _tail(n, tile, bits))
        np.testing.assert_array_equal(
            raw(got.dequantize()), raw(reference.logfmt_decode(_tail(n, tile, bits)))
        )


def _bfloat16(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(ml_dtypes.bfloat16).astype(f32)


# Data of other shapes than one tile at a time: a quarter of a million numbers each.
MANY: dict[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "normal": lambda r: r.standard_normal((2048, 128)),
    "bfloat16": lambda r: _bfloat16(r.standard_normal((2048, 128))),
    "lognormal": lambda r: r.lognormal(0, 4, (2048, 128)),
    "uniform": lambda r: r.uniform(0, 1, (2048, 128)),
    "scaled": lambda r: r.standard_normal((2048, 128)) * np.exp2(r.integers(-126, 120, (2048, 1))),
    "zeros": lambda r: r.standard_normal((2048, 128)) * (r.random((2048, 128)) < 0.7),
    "narrow": lambda r: r.uniform(0.99, 1.01, (2048, 128)),
    "nearly constant": lambda r: 1 + r.integers(0, 40, (2048, 128)) * 2.0**-23,
    "few values": lambda r: np.exp2(r.integers(-8, 8, (2048, 128)) / 2),
    "outliers": lambda r: r.standard_normal((2048, 128)) * np.where(r.random((2048, 128)) < 0.01, 1e5, 1),
}


@cache
def _many(name: str, bits: int, rounding: Any) -> tuple[NDArray[Any], dn.LogFmt, NDArray[Any]]:
    """Numbers, and what the scalar level makes of them; the first rows are held to the textbook."""
    x = MANY[name](np.random.default_rng(12)).astype(f32)
    before = _core.simd_level()
    _core.set_simd_level("scalar")
    q = dn.logfmt_encode(x, bits=bits, rounding=rounding, seed=0)
    y = q.dequantize()
    _core.set_simd_level(before)
    first = reference.logfmt_encode(x[:64], bits=bits, rounding=rounding, seed=0)
    np.testing.assert_array_equal(raw(y[:64]), raw(reference.logfmt_decode(first)))
    return x, q, y


@pytest.mark.parametrize("bits", [8, 10, 13])
@pytest.mark.parametrize("name", MANY)
def test_many_numbers(name: str, bits: int, simd_level: str) -> None:
    for rounding in LINEAR_AND_LOG if bits < 13 else ("linear",):
        x, expected, y = _many(name, bits, rounding)
        for source in (x, x.astype(np.float64)):
            got = dn.logfmt_encode(source, bits=bits, rounding=rounding, seed=0)  # type: ignore[arg-type]
            same_logfmt(got, expected)
        np.testing.assert_array_equal(raw(got.dequantize()), raw(y))


@pytest.mark.parametrize("mode", ["paper", "deepep"])
def test_threads_change_nothing(mode: Any, threads: int) -> None:
    """Enough elements for several threads; every rounding, into bytes and into 16 bits, and back."""
    x = np.random.default_rng(3).standard_normal((400, 1536)).astype(f32) * f32(0.1)
    for bits, rounding in product((8, 10), ROUNDINGS):
        got = dn.logfmt_encode(x, bits=bits, mode=mode, rounding=rounding, seed=0)  # type: ignore[arg-type]
        one = _alone(bits, mode, rounding)
        for field in ("codes", "amin", "amax"):
            np.testing.assert_array_equal(raw(getattr(got, field)), raw(getattr(one, field)))
        np.testing.assert_array_equal(raw(got.dequantize()), raw(_alone_back(bits, mode, rounding)))


@cache
def _alone(bits: int, mode: Any, rounding: Any) -> dn.LogFmt:
    before = dn.get_num_threads()
    dn.set_num_threads(1)
    x = np.random.default_rng(3).standard_normal((400, 1536)).astype(f32) * f32(0.1)
    q = dn.logfmt_encode(x, bits=bits, mode=mode, rounding=rounding, seed=0)
    dn.set_num_threads(before)
    same_logfmt(
        dn.logfmt_encode(x[:4], bits=bits, mode=mode, rounding=rounding, seed=0),
        reference.logfmt_encode(x[:4], bits=bits, mode=mode, rounding=rounding, seed=0),
    )
    return q


@cache
def _alone_back(bits: int, mode: Any, rounding: Any) -> NDArray[Any]:
    return _alone(bits, mode, rounding).dequantize()


def _every_code(bits: int) -> dn.LogFmt:
    """Every code of a width in tiles of all ranges (of 200 where codes are many), ragged."""
    rng = np.random.default_rng(bits)
    codes = np.arange(1 << bits) if bits < 11 else rng.integers(0, 1 << bits, 400)
    codes = np.append(codes, [0, 1, (1 << (bits - 1)) - 1, 1 << (bits - 1)])
    lo, hi = np.array(list(RANGES.values()), f32).T
    amin, amax = np.maximum(lo, hi * f32(2.0**-32)), hi
    amin, amax = np.append(amin, f32(0)), np.append(amax, f32(0))
    tiled = np.broadcast_to(codes, (len(amin), len(codes))).astype(np.uint8 if bits <= 8 else np.uint16)
    tile = 200
    count = -(-len(codes) // tile)
    wide = [np.repeat(end[:, None], count, axis=1) for end in (amin, amax)]
    return dn.LogFmt(np.ascontiguousarray(tiled), *wide, bits, tile, 1)


@cache
def _every_value(bits: int, dtype: str, precision: str) -> NDArray[Any]:
    q: Any = _every_code(bits)
    return reference.logfmt_decode(q, dtype=SOURCES[dtype], precision=precision)


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("bits", BITS)
def test_decoding(bits: int, dtype: str, simd_level: str) -> None:
    q = _every_code(bits)
    for precision in ("exact", "quick"):
        expected = _every_value(bits, dtype, precision)
        got = dn.logfmt_decode(q, dtype=SOURCES[dtype], precision=precision)  # type: ignore[arg-type]
        np.testing.assert_array_equal(raw(got), raw(expected))
        assert got.dtype == SOURCES[dtype]


@pytest.mark.parametrize("bits", [3, 5, 7, 9, 12, 15])
def test_bits_above_a_code_count_for_nothing(bits: int, simd_level: str) -> None:
    q = _every_code(bits)
    full = np.array(8 * q.codes.itemsize * [1]) @ (1 << np.arange(8 * q.codes.itemsize))
    dirty = dn.LogFmt(
        q.codes | q.codes.dtype.type(full & ~((1 << bits) - 1)), q.amin, q.amax, bits, q.tile, 1
    )
    np.testing.assert_array_equal(raw(dirty.dequantize()), raw(q.dequantize()))
    for layout in ("plain", "deepep"):
        np.testing.assert_array_equal(dirty.pack(layout), q.pack(layout))  # type: ignore[arg-type]


def test_decoding_any_range(simd_level: str) -> None:
    """Ranges that no encoder makes, up to all of float32."""
    ends = f32([[2.0**-149, 3.4028235e38], [1e-30, 1e30], [2.0**-149, 1.0]])
    for bits in (3, 8, 9, 10):
        codes = np.tile(np.arange(2**bits), (3, 1)).astype(np.uint8 if bits <= 8 else np.uint16)
        q: Any = dn.LogFmt(codes, ends[:, :1].copy(), ends[:, 1:].copy(), bits, codes.shape[1], 1)
        for precision in ("exact", "quick"):
            np.testing.assert_array_equal(
                raw(q.dequantize(precision=precision)), raw(reference.logfmt_decode(q, precision=precision))
            )


@pytest.mark.parametrize("layout", ["plain", "deepep"])
@pytest.mark.parametrize("bits", BITS)
def test_packing(bits: int, layout: Any, simd_level: str) -> None:
    dtype = np.uint8 if bits <= 8 else np.uint16
    rng = np.random.default_rng(bits)
    for size in [*range(70), 127, 128, 129, 1000, 4096]:
        codes = rng.integers(0, 1 << bits, (3, size)).astype(dtype)
        packed = dn.logfmt_pack(codes, bits=bits, layout=layout)
        np.testing.assert_array_equal(packed, reference.logfmt_pack(codes, bits=bits, layout=layout))
        back = dn.logfmt_unpack(packed, bits=bits, size=size, layout=layout)
        np.testing.assert_array_equal(back, codes)
        assert back.dtype == codes.dtype


def test_packing_takes_strided_codes_of_any_axes() -> None:
    codes = np.random.default_rng(0).integers(0, 1 << 10, (6, 5, 64)).astype(np.uint16)
    turned = codes.T[::2]
    np.testing.assert_array_equal(
        dn.logfmt_pack(turned, bits=10), reference.logfmt_pack(np.ascontiguousarray(turned), bits=10)
    )
    assert dn.logfmt_pack(codes[0, 0], bits=10).shape == (80,)


def test_deepep_packs_to_what_the_kernel_sends() -> None:
    q = dn.logfmt_encode(np.random.default_rng(0).uniform(0.1, 0.9, (2, 7168)), bits=10, mode="deepep")
    assert q.pack("deepep").shape == (2, 8960)
    assert q.nbits == 2 * 8 * 9184
    assert q.bits_per_element == 10.25
