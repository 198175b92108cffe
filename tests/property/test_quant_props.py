"""Properties of quantization of any tensor, under every scale kind, rule and SIMD level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from samples import E2M1, RULES, SCALES, raw

NAMES = ["float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float4_e2m1fn", "e5m6", "int8"]
POWERS: Any = ["ue8m0", "mx"]


@st.composite
def tensors(draw: st.DrawFn, dimensions: int = 2) -> NDArray[np.float32]:
    """Finite float32 of any exponent, in which rows differ in magnitude."""
    shape = draw(st.tuples(*[st.integers(1, 40)] * dimensions))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
    low = draw(st.integers(0, 250))
    exponent = rng.integers(low, min(low + draw(st.integers(1, 60)), 255), shape, dtype=np.uint32)
    x = ((bits & 0x807FFFFF) | exponent << 23).view(np.float32)
    x[rng.random(shape) < draw(st.sampled_from([0, 0.1, 0.9]))] = 0
    return x


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    scale = draw(st.sampled_from(SCALES))
    own_rule = scale in ("mx", "nvfp4")
    rule = None if own_rule else draw(st.sampled_from(RULES))
    floor = None if own_rule else draw(st.sampled_from([None, 0, 1e-6]))
    name = draw(st.sampled_from([name for name in NAMES if not (own_rule and name == "int8")]))
    name = E2M1 if scale == "nvfp4" else name
    return {"fmt": name, "scale": scale, "rule": rule, "floor": floor}


@pytest.mark.usefixtures("simd_level")
class TestQuantizers:
    """One class, so that each SIMD level is set once for all examples."""

    @given(tensors(), recipes(), st.integers(1, 50), st.integers(0, 1))
    def test_tiles_are_the_textbooks(
        self, x: NDArray[Any], recipe: dict[str, Any], tile: int, axis: int
    ) -> None:
        got = dn.quantize_tiles(x, tile=tile, axis=axis, **recipe)
        expected = reference.quantize_tiles(x, tile=tile, axis=axis, **recipe)
        np.testing.assert_array_equal(raw(got.scales), raw(expected.scales))
        np.testing.assert_array_equal(raw(got.codes), raw(expected.codes))
        np.testing.assert_array_equal(raw(got.dequantize()), raw(expected.dequantize()))

    @given(tensors(3), recipes(), st.tuples(st.integers(1, 50), st.integers(1, 50)))
    def test_blocks_are_the_textbooks(
        self, x: NDArray[Any], recipe: dict[str, Any], block: tuple[int, int]
    ) -> None:
        got = dn.quantize_blocks(x, block=block, **recipe)
        expected = reference.quantize_blocks(x, block=block, **recipe)
        np.testing.assert_array_equal(raw(got.scales), raw(expected.scales))
        np.testing.assert_array_equal(raw(got.codes), raw(expected.codes))
        np.testing.assert_array_equal(raw(got.dequantize()), raw(expected.dequantize()))

    @given(tensors(), recipes(), st.integers(1, 50))
    def test_sign_symmetry(self, x: NDArray[Any], recipe: dict[str, Any], tile: int) -> None:
        one, other = dn.quantize_tiles(x, tile=tile, **recipe), dn.quantize_tiles(-x, tile=tile, **recipe)
        np.testing.assert_array_equal(raw(one.scales), raw(other.scales))
        np.testing.assert_array_equal(one.dequantize(), -other.dequantize())

    @given(tensors(), recipes())
    def test_monotone_in_a_tile(self, x: NDArray[Any], recipe: dict[str, Any]) -> None:
        y = dn.quantize_tiles(np.sort(x, axis=1), tile=None, **recipe).dequantize()
        assert (np.diff(y, axis=1) >= 0).all()

    @given(tensors(), recipes(), st.integers(1, 8), st.integers(1, 8))
    def test_blocks_are_tiles_of_the_reshaped_array(
        self, x: NDArray[Any], recipe: dict[str, Any], rows: int, cols: int
    ) -> None:
        """A block on its own, flattened, is one tile."""
        if recipe["scale"] == "nvfp4":
            return  # its global scale ties the blocks together
        q = dn.quantize_blocks(x, block=(rows, cols), **recipe)
        corner = x[:rows, :cols]
        alone = dn.quantize_tiles(np.ascontiguousarray(corner).reshape(-1), tile=None, **recipe)
        np.testing.assert_array_equal(raw(q.codes[:rows, :cols]), raw(alone.codes.reshape(corner.shape)))
        assert raw(q.scales)[0, 0] == raw(alone.scales)[0]

    @given(st.integers(-60, 60), st.integers(0, 2**32), st.sampled_from(SCALES), st.sampled_from(RULES))
    def test_power_of_two_invariance(self, k: int, seed: int, scale: Any, rule: Any) -> None:
        """Scaling by 2^k scales the scales and leaves the codes, away from floors and float32's ends."""
        rule = rule if scale in ("float32", "ue8m0") else None
        x = np.random.default_rng(seed).standard_normal((5, 48)).astype(np.float32)
        floor = 0 if scale in ("float32", "ue8m0") else None
        one = dn.quantize_tiles(x, tile=16, scale=scale, rule=rule, floor=floor)
        other = dn.quantize_tiles(np.ldexp(x, k), tile=16, scale=scale, rule=rule, floor=floor)
        if (scale, rule) == ("ue8m0", "vllm"):
            return  # the float log2 is not invariant: its precision depends on the exponent
        np.testing.assert_array_equal(raw(one.codes), raw(other.codes))
        np.testing.assert_array_equal(np.ldexp(one.weight_scale_inv(), k), other.weight_scale_inv())

    @given(tensors(), st.sampled_from(NAMES[:-1]), st.sampled_from(POWERS), st.integers(1, 50))
    def test_idempotent_with_powers_of_two(self, x: NDArray[Any], name: str, scale: Any, tile: int) -> None:
        """Quantizing twice changes nothing: codes are exact multiples of their scale."""
        y = dn.quantize_tiles(x, fmt=name, scale=scale, tile=tile).dequantize()
        if not np.isfinite(y).all():
            return  # rounding up beyond float32
        again = dn.quantize_tiles(y, fmt=name, scale=scale, tile=tile).dequantize()
        np.testing.assert_array_equal(again, y)

    @given(st.integers(0, 2**32), st.integers(1, 64), st.integers(1, 64), st.sampled_from(RULES))
    def test_regrouping_changes_nothing_without_subnormals(
        self, seed: int, a: int, b: int, rule: Any
    ) -> None:
        """1xN to Nx1 with UE8M0 scales, on numbers within the normal range of each other's tiles."""
        rng = np.random.default_rng(seed)
        x = (np.exp2(rng.uniform(-6, 6, (64, 64))) * rng.choice([-1, 1], (64, 64))).astype(np.float32)
        q = dn.quantize_tiles(x, tile=a, scale="ue8m0", rule=rule)
        again = dn.requantize_tiles(q, axis=0, tile=b)
        np.testing.assert_array_equal(again.dequantize(), q.dequantize())

    @given(tensors(), st.integers(1, 50))
    def test_error_is_at_most_half_a_step(self, x: NDArray[Any], tile: int) -> None:
        """E4M3: |y - x| <= 2^-4 |x| or half the subnormal step, give or take two float32 roundings."""
        q = dn.quantize_tiles(x, tile=tile)
        scale = np.repeat(q.weight_scale_inv(), tile, axis=1)[:, : x.shape[1]].astype(np.float64)
        error = np.abs(q.dequantize(np.float64) - x.astype(np.float64))
        bound = np.maximum(np.abs(x.astype(np.float64)) * 2.0**-4, scale * 2.0**-10)
        assert (error <= bound * (1 + 2.0**-20)).all()
