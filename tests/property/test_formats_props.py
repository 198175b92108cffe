"""Properties of casts of any number, in every format, rounding mode and SIMD level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.reference import FORMATS
from samples import AT_RANDOM, FINITE_FORMATS, ROUNDINGS, overflow_of, raw

SIGNED = [name for name in FORMATS if name != "float8_e8m0fnu"]
MONOTONE = [mode for mode in ROUNDINGS if mode not in AT_RANDOM]


def _anything(width: int) -> st.SearchStrategy[NDArray[Any]]:
    """Bit patterns of any length, which hypothesis' floats would not spread over the exponents."""
    bits = arrays(np.dtype(f"u{width // 8}"), st.integers(0, 150), elements=st.integers(0, (1 << width) - 1))
    return bits.map(lambda array: array.view(f"f{width // 8}"))


def _finite(x: NDArray[Any]) -> NDArray[Any]:
    return x[np.isfinite(x)]


def _wide(x: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # NaNs that signal
        return x.astype(np.float64)


formats_of = st.sampled_from(list(FORMATS))
signed_of = st.sampled_from(SIGNED)
roundings: Any = st.sampled_from(ROUNDINGS)
monotone: Any = st.sampled_from(MONOTONE)
numbers = st.one_of(_anything(32), _anything(64), _anything(16))


@pytest.mark.usefixtures("simd_level")
class TestCasts:
    """One class, so that each SIMD level is set once for all examples."""

    @given(numbers, formats_of, roundings, st.integers(0, 2**64 - 1))
    def test_is_the_textbook(self, x: NDArray[Any], name: str, rounding: Any, seed: int) -> None:
        options: Any = {"rounding": rounding, "seed": seed, "overflow": overflow_of(name)}
        options["nan"] = "max" if name in FINITE_FORMATS else "code"
        expected = reference.encode(x, name, **options)
        np.testing.assert_array_equal(raw(dn.encode(x, name, **options)), raw(expected))

    @given(formats_of, roundings, st.data())
    def test_round_trip(self, name: str, rounding: Any, data: st.DataObject) -> None:
        """Every value of the format is its own rounding, in every mode."""
        table = reference.value_table(name)
        info = dn.format_info(name)
        values = np.unique(table[np.isfinite(table) & (table >= info.min)])
        x = data.draw(arrays(np.float64, st.integers(0, 80), elements=st.sampled_from(values.tolist())))
        codes = dn.encode(x, name, rounding=rounding, seed=3)
        np.testing.assert_array_equal(dn.decode(codes, fmt=name, dtype=np.float64), x)

    @given(numbers, signed_of, monotone)
    def test_monotone(self, x: NDArray[Any], name: str, rounding: Any) -> None:
        x = np.sort(_finite(x))
        rounded = dn.decode(dn.encode(x, name, rounding=rounding), fmt=name, dtype=np.float64)
        assert (np.diff(rounded) >= 0).all()

    @given(numbers, signed_of, roundings)
    def test_idempotent(self, x: NDArray[Any], name: str, rounding: Any) -> None:
        once = dn.encode(_finite(x), name, rounding=rounding, seed=1)
        twice = dn.encode(dn.decode(once, fmt=name), name, rounding=rounding, seed=2)
        np.testing.assert_array_equal(raw(twice), raw(once))

    @given(numbers, signed_of, roundings)
    def test_sign_symmetry(self, x: NDArray[Any], name: str, rounding: Any) -> None:
        """Negation goes through; up and down change places."""
        x = _finite(x)
        mirrored: Any = {"up": "down", "down": "up"}.get(rounding, rounding)
        one = dn.decode(dn.encode(x, name, rounding=rounding, seed=3), fmt=name)
        other = dn.decode(dn.encode(-x, name, rounding=mirrored, seed=3), fmt=name)
        np.testing.assert_array_equal(one, -other)

    @given(numbers, signed_of)
    def test_directions_enclose(self, x: NDArray[Any], name: str) -> None:
        """Down <= x <= up inside the range, and the nearest is one of the two."""
        x = _finite(x)
        x = x[np.abs(_wide(x)) <= dn.format_info(name).max]
        modes: Any = ("down", "up", "nearest_even", "nearest_away", "toward_zero", *AT_RANDOM)
        low, high, *others = (
            dn.decode(dn.encode(x, name, rounding=mode, seed=3), fmt=name, dtype=np.float64) for mode in modes
        )
        assert (low <= x).all()
        assert (x <= high).all()
        for other in others:
            assert ((other == low) | (other == high)).all()

    @given(
        _anything(32),
        st.sampled_from(["float8_e4m3fn", "float8_e5m2", "float16", "e5m6"]),
        st.integers(-8, 8),
    )
    def test_powers_of_two_go_through(self, x: NDArray[Any], name: str, k: int) -> None:
        """Scaling by 2^k commutes with rounding while nothing is subnormal or overflows on either side."""
        x, info = _finite(x), dn.format_info(name)
        scaled = np.ldexp(x.astype(np.float64), k)
        keep = (np.minimum(np.abs(x), np.abs(scaled)) >= info.tiny) & (
            np.maximum(np.abs(x), np.abs(scaled)) <= info.max
        )
        one = dn.decode(dn.encode(x[keep], name), fmt=name, dtype=np.float64)
        np.testing.assert_array_equal(
            dn.decode(dn.encode(scaled[keep], name), fmt=name, dtype=np.float64), np.ldexp(one, k)
        )

    @given(_anything(64), signed_of)
    def test_float64_error_is_at_most_half_a_step(self, x: NDArray[Any], name: str) -> None:
        info = dn.format_info(name)
        x = x[np.abs(x) <= info.max]
        step = np.maximum(np.ldexp(info.eps, np.frexp(x)[1] - 1), info.smallest_subnormal)
        step = np.ones_like(x) if info.is_integer else step
        error = np.abs(dn.decode(dn.encode(x, name), fmt=name, dtype=np.float64) - x)
        assert (error <= step / 2).all()

    @given(st.sampled_from(["float4_e2m1fn", "float6_e2m3fn", "int4", "e5m6"]), st.data())
    def test_packing_round_trips(self, name: str, data: st.DataObject) -> None:
        info = dn.format_info(name)
        shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 40)))
        width = np.uint16 if info.bits > 8 else np.uint8
        codes = data.draw(arrays(width, shape, elements=st.integers(0, info.n_codes - 1)))
        packed = dn.pack(codes, fmt=name)
        np.testing.assert_array_equal(packed, reference.pack(codes, fmt=name))
        np.testing.assert_array_equal(raw(dn.unpack(packed, fmt=name, size=shape[1])), codes)
