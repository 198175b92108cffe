"""The textbook's formats against ml_dtypes (all codes, 16-bit inputs, boundaries) and exact fractions."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from dsv3_numerics.reference import (
    FORMATS,
    decode,
    encode,
    pack,
    random_bytes,
    random_words,
    unpack,
    value_table,
)
from dsv3_numerics.reference.formats import code_dtype, round_to_odd
from dsv3_numerics.reference.philox import philox4x32
from samples import (
    AT_RANDOM,
    FLOAT_FORMATS,
    ML_FORMATS,
    ROUNDINGS,
    SMALL_FORMATS,
    boundaries,
    every_half,
    overflow_of,
    raw,
)

MAXIMA = {
    "float8_e4m3fn": 448,
    "float8_e5m2": 57344,
    "float8_e4m3": 240,
    "float8_e3m4": 15.5,
    "float8_e4m3fnuz": 240,
    "float8_e5m2fnuz": 57344,
    "float8_e4m3b11fnuz": 30,
    "float8_e8m0fnu": 2.0**127,
    "float6_e2m3fn": 7.5,
    "float6_e3m2fn": 28,
    "float4_e2m1fn": 6,
    "bfloat16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max),
    "float16": 65504,
    "e5m6": 65024,
    "int8": 127,
    "int4": 7,
}


@pytest.mark.parametrize("name", FORMATS)
def test_maximum(name: str) -> None:
    table = value_table(name)
    assert table[np.isfinite(table)].max() == MAXIMA[name]


@pytest.mark.parametrize("name", [*ML_FORMATS, "int8"])
def test_every_code_decodes_as_ml_dtypes(name: str) -> None:
    codes = np.arange(1 << FORMATS[name].bits).astype(f"u{code_dtype(name).itemsize}").view(code_dtype(name))
    expected = codes.astype(np.float32)
    if name in ("float16", "bfloat16"):  # there a widening cast keeps a NaN's payload
        nan = np.isnan(expected)
        expected[nan] = np.copysign(np.float32(np.nan), expected[nan])
    np.testing.assert_array_equal(raw(decode(codes)), raw(expected))


def test_e5m6_is_the_top_of_float16() -> None:
    codes = np.arange(1 << 12, dtype=np.uint16)
    np.testing.assert_array_equal(decode(codes, fmt="e5m6"), (codes << 4).view(np.float16).astype(np.float32))


@pytest.mark.parametrize("source", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ML_FORMATS)
def test_every_half_encodes_as_ml_dtypes(name: str, source: str) -> None:
    _compare(every_half(source), name)


@pytest.mark.parametrize("name", ML_FORMATS)
def test_boundaries_encode_as_ml_dtypes(name: str) -> None:
    _compare(boundaries(name), name)


def _compare(x: np.ndarray, name: str) -> None:
    # Without a NaN code ml_dtypes' answer to NaN is an accident; integers do not saturate there and wrap.
    if name == "int4":
        with np.errstate(invalid="ignore"):
            x = x[np.abs(x.astype(np.float64)) <= 7]
        expected = np.rint(x.astype(np.float32)).astype(ml_dtypes.int4)
    else:
        with np.errstate(invalid="ignore"):
            x = x if FORMATS[name].top != "none" else x[~np.isnan(x)]
            if (
                name == "float8_e8m0fnu"
            ):  # ml_dtypes 0.6 sends all between 2^-127 and 2^-126 up, not the nearer
                x = x[~((x.astype(np.float32) > 2.0**-127) & (x.astype(np.float32) < 1.5 * 2.0**-127))]
        with np.errstate(over="ignore", invalid="ignore"):
            wide = x.astype(np.float32)
            expected = wide.astype(code_dtype(name))
        if name == "float16":
            expected[np.isnan(wide)] = np.copysign(np.float16(np.nan), wide[np.isnan(wide)])
    np.testing.assert_array_equal(raw(encode(x, name, overflow=overflow_of(name))), raw(expected))


@pytest.mark.parametrize("name", FORMATS)
def test_every_code_round_trips(name: str) -> None:
    """All finite codes but the two's complement minimum come back as they were, in every rounding mode."""
    table = value_table(name)
    keep = np.isfinite(table) & ~(
        (FORMATS[name].top == "integer") & (np.arange(table.size) == table.size // 2)
    )
    codes = np.flatnonzero(keep)
    for rounding in ROUNDINGS:
        np.testing.assert_array_equal(raw(encode(table[keep], name, rounding=rounding)), codes)


@cache
def _fractions(name: str) -> list[Fraction]:
    table = value_table(name)
    table = table[np.isfinite(table) & (np.abs(table) <= MAXIMA[name])]
    return sorted({Fraction(v) for v in table})


def _exact(x: float, name: str, rounding: str) -> float:
    """The rounded number by rational arithmetic over the table of values."""
    values = _fractions(name)
    if abs(Fraction(x)) >= values[-1]:
        return math.copysign(float(values[-1]), x)
    place = bisect.bisect_left(values, Fraction(x))
    above = values[place]
    below = above if above == Fraction(x) else values[place - 1]
    if below == above:
        return float(below)
    low, high = Fraction(x) - below, above - Fraction(x)
    if rounding == "up":
        return float(above)
    if rounding == "down":
        return float(below)
    if rounding == "toward_zero":
        return float(below if x > 0 else above)
    if low != high:
        return float(below if low < high else above)
    if rounding == "nearest_away":
        return float(above if x > 0 else below)
    if rounding == "nearest_toward_zero":
        return float(below if x > 0 else above)
    # Ties to even: the neighbour that is an even multiple of the gap between the two.
    return float(below if (below / (above - below)) % 2 == 0 else above)


@pytest.mark.parametrize("rounding", [mode for mode in ROUNDINGS if mode not in AT_RANDOM])
@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2fnuz", "float8_e3m4", "float4_e2m1fn", "int4"])
def test_rounding_is_exact_in_fractions(name: str, rounding: str) -> None:
    for source in ("float32", "float64"):
        x = boundaries(name, source)
        x = x[np.isfinite(x)]
        x = np.random.default_rng(1).choice(x, 300)
        got = decode(encode(x, name, rounding=rounding)).astype(np.float64)
        np.testing.assert_array_equal(got, [_exact(float(v), name, rounding) for v in x])


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "e5m6", "float4_e2m1fn"]
)
def test_float64_is_rounded_once(name: str) -> None:
    """A whisker above a midpoint goes up, although float32 would already have made it a tie."""
    table = value_table(name)
    value = np.unique(table[np.isfinite(table) & (table > 0)])
    middle = (value[1:] + value[:-1]) / 2
    above = encode(np.nextafter(middle, np.inf), name)
    np.testing.assert_array_equal(decode(above, fmt=name, dtype=np.float64), value[1:])
    below = encode(np.nextafter(middle, 0), name)
    np.testing.assert_array_equal(decode(below, fmt=name, dtype=np.float64), value[:-1])
    assert encode(1.0625 + 2.0**-40, "float8_e4m3fn").view(np.uint8) == 57


@pytest.mark.parametrize("name", FLOAT_FORMATS)
def test_round_to_odd_loses_nothing(name: str) -> None:
    x = boundaries(name, "float64")
    x = x if FORMATS[name].top != "none" else x[~np.isnan(x)]
    for rounding in ROUNDINGS[:5]:
        once = encode(x, name, rounding=rounding)
        np.testing.assert_array_equal(raw(encode(round_to_odd(x), name, rounding=rounding)), raw(once))


def test_overflow_follows_the_rounding_direction() -> None:
    """IEEE 754-2019, 7.4, on E5M2 (Inf is 0x7c, the largest number 0x7b)."""
    x = np.float32([1e6, -1e6])
    got = {
        mode: encode(x, "float8_e5m2", rounding=mode, overflow="nonfinite").view(np.uint8).tolist()
        for mode in ROUNDINGS
    }
    inf = [0x7C, 0xFC]
    assert got == {
        "nearest_even": inf,
        "nearest_away": inf,
        "nearest_toward_zero": inf,
        "stochastic": inf,
        "stochastic8": inf,
        "toward_zero": [0x7B, 0xFB],
        "up": [0x7C, 0xFB],
        "down": [0x7B, 0xFC],
    }
    assert (
        encode(np.float32(np.inf), "float8_e5m2", rounding="toward_zero", overflow="nonfinite").view(np.uint8)
        == 0x7C
    )
    assert encode(np.float32(np.inf), "float8_e5m2").view(np.uint8) == 0x7B


NAN_CODES: dict[str, dict[str, list[int]]] = {
    "float8_e4m3fn": {"code": [0x7F, 0xFF], "zero": [0x00, 0x80], "max": [0x7E, 0xFE]},
    "float8_e5m2fnuz": {"code": [0x80, 0x80], "zero": [0x00, 0x00]},
    "float8_e8m0fnu": {"code": [0xFF, 0xFF], "zero": [0x00, 0x00], "max": [0xFE, 0xFE]},
    "float4_e2m1fn": {"zero": [0x0, 0x8], "max": [0x7, 0xF]},
    "int8": {"zero": [0x00, 0x00], "max": [0x7F, 0x81]},
}
"""Codes of NaN and of -NaN under each policy that a format has."""


@pytest.mark.parametrize(("name", "nan"), [(name, nan) for name in NAN_CODES for nan in NAN_CODES[name]])
def test_nan_policies(name: str, nan: str) -> None:
    codes = encode(np.float32([np.nan, -np.nan]), name, nan=nan).view(np.uint8)
    assert codes.tolist() == NAN_CODES[name][nan]


def test_nan_without_a_code_is_refused() -> None:
    for name, nan in [("int8", "code"), ("float4_e2m1fn", "code"), ("float8_e5m2", "raise")]:
        with pytest.raises(ValueError, match="NaN"):
            encode(np.float32([np.nan]), name, nan=nan)


def test_scale_format_has_no_zero_and_no_sign() -> None:
    x = np.float32([0.0, -0.0, -1.0, 2.0**-140, 1.5, 1.4999, -np.inf])
    assert encode(x, "float8_e8m0fnu").view(np.uint8).tolist() == [0, 0, 255, 0, 128, 127, 255]
    nonfinite = encode(x, "float8_e8m0fnu", overflow="nonfinite").view(np.uint8).tolist()
    assert nonfinite == [255, 255, 255, 0, 128, 127, 255]


def test_philox_known_answers() -> None:
    """The known-answer file of the Random123 distribution, philox4x32 with 10 rounds."""
    ones = 0xFFFFFFFF
    for counter, key, expected in [
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ones] * 4, [ones] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]:
        words = philox4x32(np.array(counter, np.uint64)[:, None], np.array(key, np.uint64)[:, None])
        assert " ".join(f"{int(word):08x}" for word in words[:, 0]) == expected


def test_random_words_depend_on_the_index_alone() -> None:
    np.testing.assert_array_equal(random_words(1001, seed=2**40 + 7)[:10], random_words(10, seed=2**40 + 7))
    assert not np.array_equal(random_words(8, seed=1), random_words(8, seed=2))


def test_stochastic_rounding_is_fair() -> None:
    """A quarter of the way between 1 and 1.125, one in four goes up: six sigma around the binomial mean."""
    n = 1 << 16
    up = (
        encode(np.full(n, 1 + 0.125 / 4, np.float32), "float8_e4m3fn", rounding="stochastic", seed=3).astype(
            float
        )
        > 1
    ).sum()
    assert abs(up - n / 4) < 6 * math.sqrt(n * 3 / 16)


def test_eight_bits_are_the_bytes_of_the_words() -> None:
    words = random_words(250, seed=2**40 + 7).astype("<u4")
    np.testing.assert_array_equal(random_bytes(1000, seed=2**40 + 7), words.view(np.uint8))
    np.testing.assert_array_equal(random_bytes(13, seed=2**40 + 7), words.view(np.uint8)[:13])


def test_eight_bits_round_down_by_half_a_256th() -> None:
    """The law of the bias: the mean of numbers spread evenly is 2**-9 of a step too small."""
    n = 1 << 20
    x = 1 + 0.125 * (np.arange(n) + 0.5) / n
    got = encode(x, "float8_e4m3fn", rounding="stochastic8", seed=3).astype(np.float64)
    bias = ((got - x) / 0.125).mean()
    # Six standard errors of a number that is 0 or 1 by the fraction: its variance is 1/6 on average.
    assert abs(bias + 2.0**-9) < 6 * math.sqrt(1 / 6 / n)


@pytest.mark.parametrize("name", [n for n in FORMATS if FORMATS[n].bits in (4, 6, 12)])
def test_pack_round_trips(name: str) -> None:
    rng = np.random.default_rng(0)
    for n in range(20):
        codes = rng.integers(0, 1 << FORMATS[name].bits, (3, n)).astype(f"u{code_dtype(name).itemsize}")
        packed = pack(codes, fmt=name)
        group, size = {4: (2, 1), 6: (4, 3), 12: (8, 3)}[FORMATS[name].bits]
        assert packed.shape == (3, -(-n // group) * size)
        np.testing.assert_array_equal(raw(unpack(packed, fmt=name, size=n)), codes)


def test_pack_layouts() -> None:
    assert pack(np.uint8([0x1, 0x2, 0xF]), fmt="int4").tolist() == [0x21, 0x0F]
    six = [0b000001, 0b100010, 0b111100, 0b010101]
    word = sum(code << 6 * i for i, code in enumerate(six))
    assert pack(np.uint8(six), fmt="float6_e2m3fn").tolist() == list(word.to_bytes(3, "little"))
    twelve = [0xABC, 0x123, 0x456, 0x789, 0xDEF, 0x000, 0xFFF, 0x5A5]
    words = pack(np.uint16(twelve), fmt="e5m6").tolist()
    assert [f"{w:08x}" for w in words] == ["abc12345", "6789def0", "00fff5a5"]


def test_only_the_low_bits_of_a_code_count() -> None:
    assert decode(np.uint8([0xF2, 0x02]), fmt="float4_e2m1fn").tolist() == [1.0, 1.0]


def test_small_formats_fit_a_byte() -> None:
    assert all(code_dtype(name).itemsize == 1 for name in SMALL_FORMATS)
