"""Every bfloat16 and float16 input to every format, and every code of every format back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import INTEGERS, NO_NAN, SMALL, WIDE, code_dtype, expected, overflows

import dsv3_numerics as d3
from dsv3_numerics import reference

Array = NDArray[Any]

ALL_16_BITS = np.arange(1 << 16, dtype=np.uint16)


def same_bits(a: Array, b: Array) -> bool:
    """Equal as bytes, which compares NaNs too."""
    return a.dtype.itemsize == b.dtype.itemsize and np.array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize("source", WIDE)
@pytest.mark.parametrize("fmt", SMALL)
def test_every_16_bit_input_to_small_formats(source: str, fmt: str, simd_level: str) -> None:
    """A 16-bit number is a float32 number, so the float32 oracle decides."""
    x = ALL_16_BITS.view(source)
    wide = x.astype(np.float32)
    for overflow in overflows(fmt):
        got = d3.encode(x, fmt, overflow=overflow, nan="zero" if fmt in NO_NAN else "code")
        assert got.dtype == code_dtype(fmt)
        assert same_bits(got.view(np.uint8), expected(wide, fmt, overflow)), overflow


@pytest.mark.parametrize("source", WIDE)
@pytest.mark.parametrize("fmt", WIDE)
def test_every_16_bit_input_to_16_bit_formats(source: str, fmt: str, simd_level: str) -> None:
    """Numbers between the two 16-bit formats; a NaN only has to be a NaN, as payloads are not kept."""
    x = ALL_16_BITS.view(source)
    wide = x.astype(np.float32)
    top = np.float32(ml_dtypes.finfo(fmt).max)
    for overflow, inputs in (("nonfinite", wide), ("saturate", np.clip(wide, -top, top))):
        with np.errstate(all="ignore"):  # NumPy warns of NaN and of overflow
            want = inputs.astype(fmt)
        got = d3.encode(x, fmt, overflow=overflow)
        nan = np.isnan(wide)
        assert same_bits(got[~nan], want[~nan]), overflow
        assert np.isnan(got[nan].astype(np.float32)).all()


@pytest.mark.parametrize("source", WIDE)
@pytest.mark.parametrize("overflow", ["saturate", "nonfinite"])
def test_every_16_bit_input_to_e5m6(source: str, overflow: str, simd_level: str) -> None:
    """ml_dtypes has no 12-bit format: the textbook decides."""
    x = ALL_16_BITS.view(source)
    got = d3.encode(x, "e5m6", overflow=overflow)
    assert same_bits(got, reference.encode(x, "e5m6", overflow=overflow))


@pytest.mark.parametrize("fmt", [*(f for f in SMALL if f not in INTEGERS), *WIDE])
def test_every_code_decodes_as_ml_dtypes_does(fmt: str, simd_level: str) -> None:
    """All codes to float32, NaN bits included."""
    info = d3.format_info(fmt)
    kind = np.uint8 if info.bits <= 8 else np.uint16
    codes = np.arange(1 << info.bits, dtype=kind)
    want = codes.view(fmt).astype(np.float32)
    got = d3.decode(codes, fmt=fmt)
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert same_bits(got[~nan], want[~nan])
    if fmt in SMALL:  # the 16-bit formats carry payloads, which a decoder may keep or quieten
        assert same_bits(got, want)


@pytest.mark.parametrize(("fmt", "top"), [("int8", 127), ("int4", 7)])
def test_every_integer_code_decodes(fmt: str, top: int, simd_level: str) -> None:
    """Integers are themselves."""
    values = np.arange(-top, top + 1, dtype=np.int8)
    got = d3.decode(values.astype(code_dtype(fmt)))
    assert np.array_equal(got, values.astype(np.float32))


def test_every_e5m6_code_decodes_as_the_textbook_does(simd_level: str) -> None:
    """All 4096 codes of the 12-bit format."""
    codes = np.arange(1 << 12, dtype=np.uint16)
    assert same_bits(d3.decode(codes, fmt="e5m6"), reference.decode(codes, fmt="e5m6"))
