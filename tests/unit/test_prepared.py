"""Prepared weights: the bytes of products without, whatever the unit, the layout of scales and the level."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3

f32 = np.float32
RNG = np.random.default_rng(0)
X, W = (RNG.standard_normal(shape).astype(f32) for shape in ((5, 200), (70, 200)))
UNITS = [unit.name for unit in d3.accumulators() if unit.scale is None and unit.inputs != ("tf32",)]
SCALED = {"blackwell_mxf8": "mx", "blackwell_mxf4": "mx", "blackwell_nvfp4": "nvfp4"}


def same(a: Any, w: Any, unit: str, **options: Any) -> None:
    weights = d3.prepare(w, accumulator=unit)
    for rows in (1, 5):
        part = a[:rows] if isinstance(a, np.ndarray) else d3.quantize_tiles(X[:rows], **a)
        got, want = (d3.matmul_nt(part, b, accumulator=unit, **options) for b in (weights, w))
        assert got.tobytes() == want.tobytes(), (unit, rows, options)


@pytest.mark.parametrize("unit", UNITS)
def test_codes_alone(unit: str, simd_level: str) -> None:
    inputs = d3.accumulator_info(unit).inputs
    for fmt in {inputs[0], inputs[-1]}:
        a, w = d3.encode(X, fmt), d3.encode(W, fmt)
        for every in (None, 128):
            same(a, w, unit, promote_every=every)


@pytest.mark.parametrize("unit", ["hopper_fp8", "ada_fp8_f16", "blackwell_fp8", "hopper_mma_fp8", "float32"])
def test_scales(unit: str, simd_level: str) -> None:
    for w in (d3.quantize_blocks(W), d3.quantize_tiles(W), d3.quantize_blocks(W, block=(1, None))):
        same({}, w, unit, dtype=ml_dtypes.bfloat16)


@pytest.mark.parametrize("unit", SCALED)
def test_scales_inside_the_unit(unit: str, simd_level: str) -> None:
    fmt = "float8_e4m3fn" if unit == "blackwell_mxf8" else "float4_e2m1fn"
    options: dict[str, Any] = {"scale": SCALED[unit], "fmt": fmt}
    same(options, d3.quantize_tiles(W, **options), unit)


def test_later_changes_do_not_reach_it() -> None:
    a, w = d3.quantize_tiles(X), d3.quantize_blocks(W)
    want, weights = d3.matmul_nt(a, w), d3.prepare(w)
    w.codes[...] = 0
    w.scales[...] = 0
    np.testing.assert_array_equal(d3.matmul_nt(a, weights), want)
    assert weights.shape == (70, 200)
    assert weights.format == "float8_e4m3fn"
    assert d3.prepare(d3.encode(W, "bfloat16"), accumulator="hopper_bf16").nbytes == 0


def test_refusals() -> None:
    a, w = d3.quantize_tiles(X), d3.quantize_blocks(W)
    weights = d3.prepare(w, accumulator="hopper_fp8")
    with pytest.raises(
        ValueError, match=r"^b: found weights prepared for accumulator 'hopper_fp8', expected 'ada_fp8'"
    ):
        d3.matmul_nt(a, weights, accumulator="ada_fp8")
    with pytest.raises(TypeError, match=r"^a: found prepared weights"):
        d3.matmul_nt(weights, w)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^a and b: found"):
        d3.matmul_grouped_nt(a, weights, [0, 5])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^w: found prepared weights"):
        d3.prepare(weights)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^w: found w .*but accumulator 'hopper_bf16' takes bfloat16"):
        d3.prepare(w, accumulator="hopper_bf16")
    with pytest.raises(ValueError, match=r"^w: found shape .*expected .n, k."):
        d3.prepare(np.stack([w.codes] * 2))
    with pytest.raises(ValueError, match=r"^w: found float32 scales"):
        d3.prepare(w, accumulator="blackwell_mxf8")
    with pytest.raises(ValueError, match="accumulator"):
        d3.prepare(w, accumulator="hopper")


def test_calls_that_were_checked_see_what_changed_since() -> None:
    a, w = d3.quantize_tiles(X), d3.quantize_blocks(W)
    weights = d3.prepare(w)
    first = [d3.matmul_nt(a, b) for b in (w, weights)]
    again = [d3.matmul_nt(a, b) for b in (w, weights)]
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match=r"^b: found weights prepared for accumulator"):
        d3.matmul_nt(a, weights, accumulator="ada_fp8")
    a.codes[...] = 0
    np.testing.assert_array_equal([d3.matmul_nt(a, b) for b in (w, weights)], np.zeros((2, 5, 70)))
    a.scales[0, 0] = np.nan
    for b in (w, weights):
        with pytest.raises(ValueError, match=r"^a: found NaN among the scales"):
            d3.matmul_nt(a, b)


def test_calls_that_were_checked_do_not_take_one_object_for_another() -> None:
    for rows in range(1, 60):  # each dies, and the next one may take its place
        w = d3.quantize_blocks(W[:rows])
        for _ in range(2):
            a = d3.quantize_tiles(X)
            got, want = d3.matmul_nt(a, w), d3.matmul_nt(a, w, out=np.zeros((5, rows), f32))
            np.testing.assert_array_equal(got, want)
