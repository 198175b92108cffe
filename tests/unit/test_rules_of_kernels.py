"""Scale rules of single kernels against their own lines: NVFP4's factors, FlashMLA's FP4, TileKernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as dn
from dsv3_numerics import reference
from samples import E2M1, raw, tensor

f32 = np.float32
E4M3 = ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize(
    ("rule", "scale_of"),
    [
        ("nvfp4", lambda a, g: (a / f32(6)) * g),
        ("nvfp4_vllm", lambda a, g: g * (a * (f32(1) / f32(6)))),
        ("transformer_engine_nvfp4", lambda a, g: a * (g * (f32(1) / f32(6)))),
    ],
)
def test_nvfp4_block_scales_have_three_orders_of_factors(rule: str, scale_of: Any, simd_level: str) -> None:
    """The kernels' own line, and the quotient by the inverse of what is stored."""
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((3000, 16)) * np.exp2(rng.uniform(-8, 8, (3000, 1)))).astype(f32)
    a = np.abs(x).max(axis=1)
    g = f32(448 * 6) / a.max()
    stored = scale_of(a, g).astype(E4M3)
    q = dn.quantize_tiles(x, scale="nvfp4", rule=rule)
    np.testing.assert_array_equal(raw(q.scales)[:, 0], raw(stored))
    back = stored.astype(f32) * (f32(1) / g)
    expected = reference.encode(x * (f32(1) / back)[:, None], E2M1)
    np.testing.assert_array_equal(raw(q.codes)[stored.astype(f32) > 0], raw(expected)[stored.astype(f32) > 0])


def test_orders_of_nvfp4_factors_differ() -> None:
    """At midpoints of E4M3 and a few float32 beside them; elsewhere they agree."""
    values = np.arange(8, 0x7E, dtype=np.uint8).view(E4M3).astype(f32)
    middle = (values[1:] + values[:-1]) / f32(2)
    tops = (middle * f32(6) * f32(0.3)).view(np.uint32)[:, None] + np.arange(-8, 9).astype(np.uint32)
    x = np.zeros((tops.size, 16), f32)
    x[:, 5] = tops.view(f32).ravel()
    one, two, three = (
        raw(dn.quantize_tiles(x, scale="nvfp4", rule=rule, global_scale=0.3).scales)
        for rule in ("nvfp4", "nvfp4_vllm", "transformer_engine_nvfp4")
    )
    assert (one != two).any()
    assert (one != three).any()
    assert (two != three).any()
    assert (one == two).mean() > 0.9


def test_flashmla_fp4_divides_by_a_floored_scale(simd_level: str) -> None:
    """clamp(amax / 6, 2^-9, 448) as E4M3, and a division, whose ties a product with the inverse misses."""
    rng = np.random.default_rng(8)
    x = (rng.standard_normal((4000, 16)) * np.exp2(rng.uniform(-20, 14, (4000, 1)))).astype(
        ml_dtypes.bfloat16
    )
    x[3] = 0
    x = x.astype(f32)
    stored = np.clip(np.abs(x).max(axis=1) / f32(6), f32(2.0**-9), f32(448)).astype(E4M3)
    q = dn.quantize_tiles(x, scale="nvfp4", rule="nvfp4_flashmla", global_scale=None)
    np.testing.assert_array_equal(raw(q.scales)[:, 0], raw(stored))
    quotient = x / stored.astype(f32)[:, None]
    np.testing.assert_array_equal(raw(q.codes), raw(reference.encode(quotient, E2M1)))
    inverse = dn.quantize_tiles(
        x, scale="nvfp4", rule="nvfp4_flashmla(apply_op=multiply_inverse)", global_scale=None
    )
    assert (raw(q.codes) != raw(inverse.codes)).any()


def test_tilekernels_e5m6_rounds_subnormals_by_other_bits(simd_level: str) -> None:
    """Cut to half precision, four bits dropped, and one added by the low 17 bits of the float32."""
    rng = np.random.default_rng(9)
    x = (rng.standard_normal((64, 512)) * np.exp2(rng.uniform(-34, 0, (64, 512)))).astype(f32)
    x[:, 0] = 65024  # so that the scale is 1
    x[0, 1:6] = 2.0**-14, -(2.0**-15), 2.0**-21, -(2.0**-24), 2.0**-40 * 1.75
    q = dn.quantize_tiles(x, fmt="e5m6", tile=None, rule="tilekernels_e5m6")
    assert (q.scales == 1).all()
    half = _half_toward_zero(x)
    bits = x.view(np.uint32)
    kept = half >> 4
    expected = kept + ((kept & 1) + (bits & 0x1FFFF) > 0x10000)
    np.testing.assert_array_equal(raw(q.codes), expected.astype(np.uint16))
    usual = dn.quantize_tiles(x, fmt="e5m6", tile=None, rule="tilekernels")
    differ = raw(q.codes) != raw(usual.codes)
    assert differ.any()
    assert np.abs(x[differ]).max() < 2.0**-14


def _half_toward_zero(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bits of float16 rounded toward zero: the next one toward zero where nearest went away."""
    near = x.astype(np.float16)
    too_far = np.abs(near.astype(f32)) > np.abs(x)
    return raw(near).astype(np.uint32) - too_far


def test_other_formats_round_subnormals_as_ever(simd_level: str) -> None:
    x = tensor((8, 128), seed=4)
    for options in ({}, {"rounding": "toward_zero", "fmt": "e5m6"}):
        one, other = (
            dn.quantize_tiles(x, rule=rule, **options) for rule in ("tilekernels_e5m6", "tilekernels")
        )
        np.testing.assert_array_equal(raw(one.codes), raw(other.codes))


def test_tilekernels_fp4_has_the_least_normal_as_its_floor(simd_level: str) -> None:
    x = np.zeros((3, 32), f32)
    x[1, 0], x[2, 5] = 2.0**-140, 2.0**-100
    q = dn.quantize_tiles(x, fmt=E2M1, tile=32, rule="tilekernels_fp4", scale="ue8m0")
    assert q.weight_scale_inv()[:, 0].tolist() == [2.0**-126, 2.0**-126, 2.0**-102]
