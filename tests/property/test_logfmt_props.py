"""Properties of LogFMT that hold for any tensor, and the two laws of its rounding's bias."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from samples import raw, same_logfmt

f32 = np.float32
ROUNDINGS = ["linear", "log", "stochastic"]
NEAREST = ["linear", "log"]


@st.composite
def tensors(draw: st.DrawFn) -> NDArray[np.float32]:
    """Finite float32 of any exponent in any span of them, some equal to each other, some zero."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 60)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = draw(st.one_of(st.just(0), st.integers(0, 254)))
    high = min(low + draw(st.sampled_from([1, 2, 8, 40, 255])), 255)
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32) & draw(st.sampled_from([0x807FFFFF, 0x80000003]))
    x = (bits | rng.integers(low, high, shape, dtype=np.uint32) << 23).view(f32)
    x[rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.9]))] = 0
    x[rng.random(shape) < draw(st.sampled_from([0, 0, 0.5]))] = x[0, 0]
    return x


def recipes(roundings: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"bits": st.integers(3, 11), "tile": st.integers(1, 50), "rounding": st.sampled_from(roundings)}
    )


def _whole(ends: NDArray[Any], x: NDArray[Any], tile: int) -> NDArray[Any]:
    """Repeat what each tile has for each of its elements."""
    return np.repeat(ends, tile, axis=1)[:, : x.shape[1]]


@pytest.mark.usefixtures("simd_level")
class TestLogFmt:
    """One class, so that each SIMD level is set once for all examples."""

    @settings(max_examples=200)
    @given(tensors(), recipes(ROUNDINGS), st.integers(0, 1), st.integers(0, 2**64 - 1))
    def test_codes_are_the_textbooks(
        self, x: NDArray[Any], recipe: dict[str, Any], axis: int, seed: int
    ) -> None:
        got = dn.logfmt_encode(x, axis=axis, seed=seed, **recipe)
        expected = reference.logfmt_encode(x, axis=axis, seed=seed, **recipe)
        same_logfmt(got, expected)
        for precision in ("exact", "quick"):
            np.testing.assert_array_equal(
                raw(dn.logfmt_decode(got, precision=precision)),  # type: ignore[arg-type]
                raw(reference.logfmt_decode(expected, precision=precision)),
            )

    @given(tensors(), recipes(ROUNDINGS))
    def test_zero_and_both_ends_are_exact(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        q = dn.logfmt_encode(x, seed=0, **recipe)
        y, magnitude = q.dequantize(), np.abs(x)
        ends = (magnitude == _whole(q.amin, x, q.tile)) | (magnitude == _whole(q.amax, x, q.tile))
        np.testing.assert_array_equal(y[ends], x[ends])
        np.testing.assert_array_equal(raw(y)[x == 0], raw(x)[x == 0])
        assert (np.signbit(y) == np.signbit(x)).all()

    @given(tensors(), recipes(ROUNDINGS))
    def test_sign_symmetry(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        one, other = dn.logfmt_encode(x, seed=0, **recipe), dn.logfmt_encode(-x, seed=0, **recipe)
        np.testing.assert_array_equal(one.codes ^ other.codes, 1 << (recipe["bits"] - 1))
        np.testing.assert_array_equal(raw(one.amin), raw(other.amin))

    @given(tensors(), recipes(NEAREST))
    def test_monotone_in_a_tile(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        y = dn.logfmt_encode(np.sort(x, axis=1), **{**recipe, "tile": None}).dequantize()
        assert (np.diff(y, axis=1) >= 0).all()

    @given(tensors(), recipes(NEAREST))
    def test_values_stay_as_they_are(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        """Numbers that have been codes once are so again with the same values.

        Where nothing was clipped, or else the range is another one, and where steps are wider than float32's
        rounding of the values between them.
        """
        q = dn.logfmt_encode(x, seed=0, **recipe)
        y = q.dequantize()
        magnitude = np.where(x == 0, f32(np.inf), np.abs(x))
        least = np.minimum.reduceat(magnitude, np.arange(0, x.shape[1], q.tile), axis=1)
        sound = (least == q.amin) & (q.step > 2.0**-20) & (q.amin > 2.0**-100)
        again = dn.logfmt_encode(y, seed=0, **recipe)
        np.testing.assert_array_equal(again.amin[sound], q.amin[sound])
        kept = _whole(sound, x, q.tile)
        np.testing.assert_array_equal(raw(again.dequantize())[kept], raw(y)[kept])

    @given(tensors(), recipes(ROUNDINGS))
    def test_error_is_within_its_law(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        """Within the range at most tanh(s / 2) of x in linear rounding, e^(s/2) - 1 in log, e^s - 1 anyhow.

        Beside that, one rounding to float32 and one of its subnormal steps.
        """
        q = dn.logfmt_encode(x, seed=0, **recipe)
        magnitude, s = np.abs(x).astype(np.float64), _whole(q.step, x, q.tile)
        law = {"linear": np.tanh(s / 2), "log": np.expm1(s / 2), "stochastic": np.expm1(s)}[
            recipe["rounding"]
        ]
        error = np.abs(q.dequantize(np.float64) - x)
        inside = magnitude >= _whole(q.amin, x, q.tile)
        assert (error <= magnitude * (law + 1e-12))[inside].all()  # 1e-12: float64's own error in s
        below = ~inside & (recipe["rounding"] != "stochastic")
        assert (error <= _whole(q.amin, x, q.tile))[below].all()
        narrow = np.abs(q.dequantize().astype(np.float64) - x)
        assert (narrow <= magnitude * (law + 2.0**-24 + 1e-12) + 2.0**-150)[inside].all()

    @given(tensors(), st.integers(3, 16), st.sampled_from(["plain", "deepep"]))
    def test_packing_loses_nothing(self, x: NDArray[Any], bits: int, layout: Any) -> None:
        q = dn.logfmt_encode(x, bits=bits)
        back = dn.logfmt_unpack(q.pack(layout), bits=bits, size=x.shape[1], layout=layout)
        np.testing.assert_array_equal(back, q.codes)

    @given(st.integers(-60, 60), st.integers(0, 2**32), recipes(ROUNDINGS))
    def test_power_of_two_invariance(self, k: int, seed: int, recipe: dict[str, Any]) -> None:
        """Scaling by 2^k scales the ranges and leaves the codes, away from float32's ends."""
        x = np.random.default_rng(seed).standard_normal((5, 48)).astype(f32)
        one, other = dn.logfmt_encode(x, seed=0, **recipe), dn.logfmt_encode(np.ldexp(x, k), seed=0, **recipe)
        np.testing.assert_array_equal(one.codes, other.codes)
        np.testing.assert_array_equal(np.ldexp(one.amin, k), other.amin)


def _relative_bias(x: NDArray[np.float32], q: dn.LogFmt) -> float:
    magnitude = np.abs(x.astype(np.float64))
    return float((np.abs(q.dequantize(np.float64)) - magnitude).sum() / magnitude.sum())


@pytest.mark.parametrize(
    ("bits", "rounding", "law"), [(4, "linear", 0), (4, "log", 1 / 8), (6, "log", 1 / 8)]
)
def test_bias_on_flat_data(bits: int, rounding: Any, law: float) -> None:
    """Numbers evenly spread from 1 to 2, both codes: linear rounding has no bias, log has s^2 / 8.

    To the next power of s and the spacing of the numbers.
    """
    x = np.linspace(1, 2, 1 << 16, dtype=f32)
    q = dn.logfmt_encode(x, bits=bits, rounding=rounding, tile=None)
    s = float(q.step[0])
    assert abs(_relative_bias(x, q) - law * s**2) < s**4 / 8 + 2.0**-15


@pytest.mark.parametrize(("rounding", "law"), [("linear", -1 / 12), ("log", 1 / 24)])
@pytest.mark.parametrize("shape", ["half-normal", "exponential", "lognormal"])
def test_bias_on_smooth_data(shape: str, rounding: Any, law: float) -> None:
    """Any smooth density that vanishes at its ends: linear -s^2 / 12, log +s^2 / 24.

    3 % of it are left for the higher powers of s and for the low end, where densities do not quite vanish.
    """
    p = (np.arange(1 << 18) + 0.5) / (1 << 18)
    if shape == "exponential":
        x = -np.log1p(-p)
    else:
        z = np.array([NormalDist().inv_cdf(quantile) for quantile in p.tolist()])
        x = np.exp(z) if shape == "lognormal" else np.abs(z)
    x = np.append(x[x > 2.0**-8], [2.0**-9, 2.0**6]).astype(f32)
    q = dn.logfmt_encode(x, bits=8, rounding=rounding, tile=None)
    s = float(q.step[0])
    assert abs(_relative_bias(x, q) - law * s**2) < 0.03 * abs(law) * s**2


@pytest.mark.parametrize("data", ["normal", "flat", "lognormal"])
def test_stochastic_rounding_has_no_bias(data: str) -> None:
    """The mean error over 2^20 numbers, in standard errors of its own."""
    rng = np.random.default_rng(7)
    x = {
        "normal": lambda: rng.standard_normal(1 << 20),
        "flat": lambda: rng.uniform(1, 2, 1 << 20),
        "lognormal": lambda: rng.lognormal(0, 2, 1 << 20),
    }[data]().astype(f32)
    q = dn.logfmt_encode(x, bits=6, rounding="stochastic", seed=1)
    error = np.abs(q.dequantize(np.float64)) - np.abs(x.astype(np.float64))
    assert abs(error.mean()) < 4.5 * error.std() / np.sqrt(x.size)


def test_stochastic_rounding_draws_again_with_another_seed() -> None:
    x = np.random.default_rng(7).standard_normal(1 << 12).astype(f32)
    codes = [dn.logfmt_encode(x, rounding="stochastic", seed=seed).codes for seed in (0, 0, 1, 2**64 - 1)]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert (codes[0] != codes[2]).mean() > 0.2
    assert (codes[2] != codes[3]).mean() > 0.2


def test_stochastic_rounding_needs_a_seed() -> None:
    x = np.random.default_rng(7).standard_normal(1 << 12).astype(f32)
    for options in ({}, {"mode": "deepep"}):
        with pytest.raises(ValueError, match=r"^seed: found None, expected an integer"):
            dn.logfmt_encode(x, rounding="stochastic", **options)  # type: ignore[arg-type]
    generator = np.random.default_rng(3)
    first, second = (dn.logfmt_encode(x, rounding="stochastic", seed=generator).codes for _ in range(2))
    assert (first != second).mean() > 0.2
