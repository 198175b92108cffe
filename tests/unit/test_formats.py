"""Casts and packing: the core against the textbook, byte for byte, at every SIMD level."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.reference import FORMATS
from dsv3_numerics.reference.formats import code_dtype
from samples import (
    AT_RANDOM,
    FINITE_FORMATS,
    ROUNDINGS,
    SOURCES,
    boundaries,
    every_half,
    overflow_of,
    raw,
    tensor,
)

NANS = ["code", "zero", "max"]


@cache
def _inputs(name: str, source: str) -> NDArray[Any]:
    """Boundaries, thinned out for the wide formats, among them codes of both parities."""
    points = boundaries(name, source)
    return points if FORMATS[name].bits <= 8 else np.concatenate([points[::7], points[-30:]])


@cache
def _encoded(name: str, source: str, rounding: str, overflow: str, nan: str) -> NDArray[Any]:
    x = _inputs(name, source)
    return raw(reference.encode(x, name, rounding=rounding, overflow=overflow, nan=nan, seed=0x1234567890))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", FORMATS)
def test_encode_boundaries(name: str, source: str, simd_level: str) -> None:
    for rounding in ROUNDINGS:
        for overflow in ["saturate"] if name in FINITE_FORMATS else ["saturate", "nonfinite"]:
            for nan in NANS[1:] if name in FINITE_FORMATS else NANS:
                options: Any = {"rounding": rounding, "overflow": overflow, "nan": nan}
                got = dn.encode(_inputs(name, source), name, seed=0x1234567890, **options)
                assert got.dtype == dn.format_info(name).dtype
                np.testing.assert_array_equal(raw(got), _encoded(name, source, **options), str(options))


@cache
def _encoded_halves(name: str, source: str) -> NDArray[Any]:
    nan = "zero" if name in FINITE_FORMATS else "code"
    return raw(reference.encode(every_half(source), name, overflow=overflow_of(name), nan=nan))


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", FORMATS)
def test_encode_every_half(name: str, source: str, simd_level: str) -> None:
    options: Any = {"overflow": overflow_of(name), "nan": "zero" if name in FINITE_FORMATS else "code"}
    expected = _encoded_halves(name, source)
    np.testing.assert_array_equal(raw(dn.encode(every_half(source), name, **options)), expected)
    np.testing.assert_array_equal(raw(dn.encode(_float32(every_half(source)), name, **options)), expected)


def _float32(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return x.astype(np.float32)


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("name", FORMATS)
def test_decode_every_code(name: str, dtype: str, simd_level: str) -> None:
    codes = np.arange(1 << FORMATS[name].bits).astype(f"u{code_dtype(name).itemsize}")
    got = dn.decode(codes, fmt=name, dtype=SOURCES[dtype])
    assert got.dtype == SOURCES[dtype]
    np.testing.assert_array_equal(raw(got), raw(reference.decode(codes, fmt=name, dtype=SOURCES[dtype])))
    if name != "e5m6":
        np.testing.assert_array_equal(
            raw(dn.decode(codes.view(code_dtype(name)), dtype=SOURCES[dtype])), raw(got)
        )


@pytest.mark.parametrize("dtype", SOURCES)
@pytest.mark.parametrize("name", [name for name, info in FORMATS.items() if info.bits <= 8])
def test_decode_every_code_among_its_like(name: str, dtype: str, simd_level: str) -> None:
    """Vectors of one code, and of two: those of special codes are decoded another way."""
    every = np.arange(1 << FORMATS[name].bits, dtype=np.uint8)
    numbers = raw(reference.decode(every, fmt=name, dtype=SOURCES[dtype]))
    for codes in (every.repeat(64), every.reshape(-1, 2).repeat(32, axis=0).ravel()):
        got = dn.decode(codes, fmt=name, dtype=SOURCES[dtype])
        np.testing.assert_array_equal(raw(got), numbers[codes])


@pytest.mark.parametrize("name", ["float4_e2m1fn", "float6_e3m2fn", "int4", "e5m6"])
def test_decode_ignores_bits_beyond_the_code(name: str, simd_level: str) -> None:
    width = 8 * code_dtype(name).itemsize
    codes = np.arange(1 << width).astype(f"u{width // 8}")
    np.testing.assert_array_equal(
        raw(dn.decode(codes, fmt=name)), raw(dn.decode(codes & ((1 << FORMATS[name].bits) - 1), fmt=name))
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["float8_e4m3fn", "e5m6", "int8", "float8_e8m0fnu", "float16", "bfloat16"])
def test_every_length_and_offset(name: str, source: str, simd_level: str) -> None:
    """Vector bodies, tails and misaligned starts; the bytes around the output stay as they are."""
    x = tensor((210,), source, seed=5)
    x[[3, 77, 150, 199]] = [np.inf, -0.0, 1e4, -1e-7]
    expected = raw(reference.encode(x, name))
    numbers = raw(reference.decode(expected, fmt=name, dtype=SOURCES[source]))
    codes = np.empty(212, dn.format_info(name).dtype)
    decoded = np.empty(212, SOURCES[source])
    for n in range(201):
        for offset in range(6):
            raw(codes)[:] = raw(decoded)[:] = 0x5A
            place = slice(offset, offset + n)
            dn.encode(x[place], name, out=codes[place])
            dn.decode(expected[place], fmt=name, dtype=SOURCES[source], out=decoded[place])
            assert (raw(codes)[place] == expected[place]).all(), (n, offset)
            assert (raw(decoded)[place] == numbers[place]).all(), (n, offset)
            for buffer in (raw(codes), raw(decoded)):
                assert (buffer[:offset] == 0x5A).all()
                assert (buffer[offset + n :] == 0x5A).all()


@pytest.mark.parametrize("rounding", ["nearest_even", *AT_RANDOM])
def test_threads_and_chunks_change_nothing(rounding: Any, threads: int, simd_level: str) -> None:
    """Above the sizes at which work is shared and stores bypass the cache, and not a multiple of anything."""
    x, expected = _large(rounding)
    got = dn.encode(x, "float8_e5m2", rounding=rounding, seed=99)
    np.testing.assert_array_equal(raw(got), expected)
    np.testing.assert_array_equal(dn.decode(got), reference.decode(got))


@cache
def _large(rounding: str) -> tuple[NDArray[Any], NDArray[Any]]:
    x = tensor((1_300_003,), seed=2)
    return x, raw(reference.encode(x, "float8_e5m2", rounding=rounding, seed=99))


@pytest.mark.parametrize("rounding", AT_RANDOM)
def test_random_bits_belong_to_the_place_in_c_order(rounding: Any, simd_level: str) -> None:
    x = tensor((40, 50), seed=3)
    options: Any = {"rounding": rounding, "seed": 2**64 - 1}
    whole = raw(dn.encode(x, "float8_e4m3fn", **options))
    turned = raw(dn.encode(x.T, "float8_e4m3fn", **options))
    expected = raw(reference.encode(x.T.copy(), "float8_e4m3fn", **options))
    np.testing.assert_array_equal(turned, expected)
    first = raw(dn.encode(x.reshape(-1)[:7], "float8_e4m3fn", **options))
    np.testing.assert_array_equal(whole.reshape(-1)[:7], first)
    assert (whole != raw(dn.encode(x, "float8_e4m3fn", rounding=rounding, seed=0))).any()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float16", "e5m6"])
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_eight_bits_carry(name: str, source: str, simd_level: str) -> None:
    """Go up where the byte and the fraction's whole 256ths carry; what is less than one counts as none."""
    table = reference.value_table(name)
    values = np.unique(table[np.isfinite(table) & (table >= 0)])
    low = np.concatenate([[0], np.random.default_rng(0).choice(values.size - 1, 40)])
    below, above = values[low, None, None], values[low + 1, None, None]
    whole = np.arange(256)[:, None]
    shares = (
        whole + np.array([0, 15 / 16])
    ) / 256  # 12 bits, for which float32 has room below all of these formats
    x = (below + shares * (above - below)).astype(SOURCES[source])
    codes = dn.encode(x, name, rounding="stochastic8", seed=5)
    up = reference.random_bytes(x.size, 5).reshape(x.shape) + whole.astype(np.uint64) >= 256
    got = dn.decode(codes, fmt=name, dtype=np.float64)
    np.testing.assert_array_equal(got, np.where(up, above, below))


def test_float64_is_rounded_once(simd_level: str) -> None:
    x = np.full(100, 1.0625 + 2.0**-40)
    assert (raw(dn.encode(x, "float8_e4m3fn")) == 57).all()


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].bits in (4, 6, 12)])
def test_pack_and_unpack(name: str, simd_level: str) -> None:
    rng = np.random.default_rng(1)
    bits = FORMATS[name].bits
    for n in [*range(70), 1000, 4099]:
        codes = rng.integers(0, 1 << bits, (3, n)).astype(f"u{code_dtype(name).itemsize}")
        packed = dn.pack(codes, fmt=name)
        expected = reference.pack(codes, fmt=name)
        assert packed.dtype == expected.dtype
        np.testing.assert_array_equal(packed, expected)
        back = dn.unpack(packed, fmt=name, size=n)
        assert back.dtype == dn.format_info(name).dtype
        np.testing.assert_array_equal(raw(back), codes)
    np.testing.assert_array_equal(raw(dn.unpack(packed, fmt=name))[..., :n], codes)


def test_pack_takes_typed_codes_of_any_shape() -> None:
    codes = dn.encode(tensor((2, 3, 8)), "float4_e2m1fn")
    np.testing.assert_array_equal(dn.pack(codes), reference.pack(codes))
    np.testing.assert_array_equal(dn.pack(codes.T), reference.pack(codes.T))
    assert dn.pack(codes[:0]).shape == (0, 3, 4)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("e5m6", "int8", "int4")])
def test_format_info_is_finfo(name: str) -> None:
    info, expected = dn.format_info(name), ml_dtypes.finfo(code_dtype(name))
    for key in ("max", "min", "tiny", "smallest_subnormal", "eps"):
        assert getattr(info, key) == float(getattr(expected, key)), key
    assert info.bits == expected.bits
    assert info.dtype == code_dtype(name)


def test_format_info_of_the_others() -> None:
    e5m6, int8, int4 = map(dn.format_info, ["e5m6", "int8", "int4"])
    assert (e5m6.max, e5m6.tiny, e5m6.smallest_subnormal, e5m6.bits) == (65024, 2.0**-14, 2.0**-20, 12)
    assert e5m6.dtype == np.uint16
    assert (int8.max, int8.min, int4.max, int4.min) == (127, -127, 7, -7)
    assert int8.is_integer
    assert not int8.has_nan


@pytest.mark.parametrize("name", FORMATS)
def test_format_info_is_the_table_of_values(name: str) -> None:
    info, table = dn.format_info(name), reference.value_table(name)
    assert info.n_codes == table.size
    assert info.has_nan == np.isnan(table).any()
    assert info.has_inf == np.isinf(table).any()
    assert info.has_signed_zero == (np.signbit(table) & (table == 0)).any()
    row = FORMATS[name]
    assert (info.exponent_bits, info.mantissa_bits, info.bias) == (row.exp, row.man, row.bias)
    assert dn.format_info(info.dtype if name != "e5m6" else name) == info
    assert info.name in str(info)


def test_formats_are_the_textbooks() -> None:
    assert [info.name for info in dn.formats()] == list(FORMATS)
