"""Odd arguments of quantizers, products and caches: each is refused by name, with what is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as d3
from dsv3_numerics import Rule
from dsv3_numerics.grouped import matmul_contiguous_nt, matmul_k_grouped_nt, matmul_masked_nt
from dsv3_numerics.layouts import from_128x4, from_packed_ue8m0, to_packed_ue8m0
from dsv3_numerics.training import LinearRecipe, wgrad

f32 = np.float32
X = np.arange(1, 257, dtype=f32).reshape(2, 128)
E8M0, E4M3 = ml_dtypes.float8_e8m0fnu, ml_dtypes.float8_e4m3fn
NV = d3.quantize_tiles(X, scale="nvfp4")
MX = d3.quantize_tiles(X, scale="mx")
FP8 = d3.quantize_tiles(X)


def bytes_of(value: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return np.full(shape, value, np.uint8).view(dtype)


def tiles(**options: Any) -> Callable[[], Any]:
    return lambda: d3.quantize_tiles(X, **options)


def with_scales(q: d3.Quantized, scales: Any) -> d3.Quantized:
    return d3.Quantized(q.codes, scales, q.format, q.block, q.axis, q.scale_kind, None, q.global_scale)


CASES: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    # --- scales of a wrong shape or layout, or that cannot be ---
    (
        "too few scales",
        tiles(scales=np.ones((2, 2), f32)),
        ValueError,
        r"scales: found shape \(2, 2\).*\(2, 1\)",
    ),
    ("transposed", tiles(scales=np.ones((1, 2), f32)), ValueError, r"\(1, 2\) \(transposed\)"),
    ("a vector", tiles(scales=np.ones(2, f32)), ValueError, "expected one number or"),
    ("float16 scales", tiles(scales=np.ones((2, 1), np.float16)), TypeError, "found dtype float16"),
    ("integers", tiles(scales=np.ones((2, 1), np.int32)), TypeError, "found dtype int32"),
    ("zero", tiles(scales=0.0), ValueError, "found 0.0, expected numbers above 0"),
    ("negative", tiles(scales=-1.0), ValueError, "found -1.0, expected numbers above 0"),
    ("infinite", tiles(scales=np.inf), ValueError, "found NaN or infinity"),
    ("NaN", tiles(scales=np.full((2, 1), np.nan, f32)), ValueError, "found NaN or infinity"),
    ("a word", tiles(scales="max"), TypeError, "found dtype"),
    ("no power", tiles(scale="ue8m0", scales=0.3), ValueError, "expected powers of two"),
    ("byte 255", tiles(scale="mx", scales=bytes_of(255, (2, 4), E8M0)), ValueError, "byte 255"),
    (
        "other dtype",
        tiles(scale="mx", scales=bytes_of(64, (2, 4), E4M3)),
        TypeError,
        "float8_e8m0fnu or float32",
    ),
    ("negative UE4M3", tiles(scale="nvfp4", scales=bytes_of(0x90, (2, 8), E4M3)), ValueError, "or 0"),
    ("UE4M3 NaN", tiles(scale="nvfp4", scales=bytes_of(0x7F, (2, 8), E4M3)), ValueError, "found NaN"),
    ("not E4M3", tiles(scale="nvfp4", scales=0.3), ValueError, "expected float8_e4m3fn numbers"),
    ("scales and amax", tiles(scales=1.0, amax=np.ones((2, 1), f32)), ValueError, "one of the two"),
    ("a ratio rule", tiles(scales=1.0, rule="deepep"), ValueError, "deepseek_v3"),
    ("a masked array", tiles(scales=np.ma.array([[1.0], [1.0]])), TypeError, "masked array"),
    # --- amax, floors, scales of scales ---
    ("amax of float64", tiles(amax=np.ones((2, 1))), TypeError, "found dtype float64, expected float32"),
    ("amax negative", tiles(amax=np.full((2, 1), -1, f32)), ValueError, "finite magnitudes"),
    ("amax as a number", tiles(amax=f32(1)), ValueError, r"found shape \(\), expected \(2, 1\)"),
    ("floor negative", tiles(floor=-1), ValueError, "floor: found -1"),
    ("floor a bool", tiles(floor=True), TypeError, "floor: found True"),
    ("floor of mx", tiles(scale="mx", floor=1.0), ValueError, "has none"),
    ("global for fp8", tiles(global_scale=1.0), ValueError, "only scale='nvfp4'"),
    ("global zero", tiles(scale="nvfp4", global_scale=0.0), ValueError, "found 0, expected numbers above 0"),
    ("global NaN", tiles(scale="nvfp4", global_scale=np.nan), ValueError, "finite numbers"),
    ("global vector", tiles(scale="nvfp4", global_scale=np.ones(2, f32)), ValueError, "broadcasts to"),
    ("global word", tiles(scale="nvfp4", global_scale="rows"), ValueError, "tensor, row"),
    ("both tops", tiles(scale="nvfp4", global_scale=1.0, tensor_amax=2.0), ValueError, "one of the two"),
    # --- formats, tiles, axes, words ---
    ("another format", tiles(scale="nvfp4", fmt="e4m3"), ValueError, "float4_e2m1fn"),
    ("bfloat16 codes", tiles(fmt="bf16"), ValueError, "takes no scale"),
    ("tile of 0", tiles(tile=0), ValueError, "tile: found 0"),
    ("tile of True", tiles(tile=True), TypeError, "tile: found True"),
    ("tile of 1.0", tiles(tile=1.0), TypeError, "tile: found 1.0"),
    ("axis out of range", tiles(axis=5), np.exceptions.AxisError, "axis 5"),
    ("axis of False", tiles(axis=False), TypeError, "axis: found False"),
    ("unknown scale", tiles(scale="fp8"), ValueError, "float32, ue8m0, mx, nvfp4"),
    ("stochastic, no seed", tiles(rounding="stochastic"), ValueError, "seed: found None"),
    ("seed of -1", tiles(rounding="stochastic", seed=-1), ValueError, "seed: found -1"),
    ("seed of 1.5", tiles(rounding="stochastic", seed=1.5), TypeError, "seed: found 1.5"),
    ("unknown rounding", tiles(rounding="nearest"), ValueError, "nearest_even"),
    # --- rules that cannot be ---
    ("unknown rule", tiles(rule="deepseek"), ValueError, "deepseek_v3"),
    ("rule of powers", tiles(rule="floor"), ValueError, 'scale="mx"'),
    ("no powers", tiles(rule="torchao", scale="ue8m0"), ValueError, "pow2_op"),
    ("max too large", tiles(rule=Rule(max=500)), ValueError, "max: found 500"),
    ("max of powers", tiles(rule="floor(max=100)", scale="mx"), ValueError, "pow2_op"),
    (
        "ratio under nvfp4",
        tiles(rule="nvfp4(apply_op=multiply_ratio)", scale="nvfp4"),
        ValueError,
        "apply_op",
    ),
    ("block_max", tiles(rule="nvfp4(block_max=500)", scale="nvfp4"), ValueError, "block_max: found 500"),
    ("no candidates", lambda: Rule(candidates=()), TypeError, "candidates: found"),
    (
        "nine candidates",
        tiles(rule=Rule.parse("nvfp4").replace(candidates=tuple(range(1, 10))), scale="nvfp4"),
        ValueError,
        "at most 8",
    ),
    ("negative candidate", tiles(rule="nvfp4(candidates=6/-4)", scale="nvfp4"), ValueError, "candidates"),
    ("unknown subnormals", lambda: Rule(subnormals="flush"), ValueError, "nearest, float32_tail"),
    ("least exponent", lambda: Rule(least_exponent=-128), ValueError, "-127 or -126"),
    ("unknown column", lambda: Rule.parse("deepep(amax=1)"), ValueError, "column=value"),
    # --- units asked for what they do not take ---
    (
        "fp8 scales",
        lambda: d3.matmul_nt(FP8, FP8, accumulator="blackwell_mxf8", promote_every=None),
        ValueError,
        'of kind "mx" or "ue8m0"',
    ),
    (
        "mx into nvfp4",
        lambda: d3.matmul_nt(MX, MX, accumulator="blackwell_nvfp4", promote_every=None),
        ValueError,
        'of kind "nvfp4"',
    ),
    (
        "no scales",
        lambda: d3.matmul_nt(MX.codes, MX, accumulator="blackwell_mxf8", promote_every=None),
        ValueError,
        "found codes without scales",
    ),
    (
        "nvfp4 into fp8",
        lambda: d3.matmul_nt(NV, NV, accumulator="hopper_fp8", promote_every=None),
        TypeError,
        "accumulator 'hopper_fp8' takes",
    ),
    (
        "byte 255 in a product",
        lambda: d3.matmul_nt(with_scales(MX, bytes_of(255, (2, 4), E8M0)), MX, accumulator="blackwell_mxf8"),
        ValueError,
        "found byte 255, NaN",
    ),
    (
        "negative UE4M3 in a product",
        lambda: d3.matmul_nt(
            with_scales(NV, bytes_of(0x81, (2, 8), E4M3)), NV, accumulator="blackwell_nvfp4", promote_every=64
        ),
        ValueError,
        "found byte 0x81, a negative scale",
    ),
    (
        "promotion inside a step",
        lambda: d3.matmul_nt(NV, NV, accumulator="blackwell_nvfp4", promote_every=32),
        ValueError,
        "promote_every: found 32",
    ),
    (
        "scales that change",
        lambda: d3.matmul_nt(d3.quantize_tiles(X, tile=64), FP8, promote_every=None),
        ValueError,
        "expected promotion",
    ),
    (
        "NaN scales",
        lambda: d3.matmul_nt(with_scales(FP8, np.full((2, 1), np.nan, f32)), FP8),
        ValueError,
        "found NaN among the scales",
    ),
    (
        "tiles along the wrong axis",
        lambda: d3.matmul_nt(d3.quantize_tiles(X, axis=0), FP8),
        ValueError,
        "found tiles along axis 0",
    ),
    (
        "steps without scales",
        lambda: d3.mma_step(NV.codes[:, :64], NV.codes[:, :64], accumulator="blackwell_nvfp4"),
        ValueError,
        "a_scales: found None",
    ),
    (
        "steps with scales",
        lambda: d3.mma_step(
            FP8.codes[:, :32], FP8.codes[:, :32], accumulator="hopper_fp8", a_scales=np.ones((2, 1), np.uint8)
        ),
        ValueError,
        "expected none",
    ),
    ("an unknown unit", lambda: d3.matmul_nt(FP8, FP8, accumulator="cdna4_fp8"), ValueError, "cdna3_fp8"),
    # --- grouped products ---
    (
        "expert 2 of 2",
        lambda: matmul_contiguous_nt(FP8.codes, np.stack([FP8.codes] * 2), [0, 2]),
        ValueError,
        "m_indices: found 2 at 1",
    ),
    (
        "expert -2",
        lambda: matmul_contiguous_nt(FP8.codes, np.stack([FP8.codes] * 2), [0, -2]),
        ValueError,
        "m_indices: found -2",
    ),
    (
        "masked beyond",
        lambda: matmul_masked_nt(np.stack([FP8.codes] * 2), np.stack([FP8.codes] * 2), [1, 3]),
        ValueError,
        "masked_m: found 3",
    ),
    (
        "parts of k",
        lambda: matmul_k_grouped_nt(FP8.codes, FP8.codes, [64, 32]),
        ValueError,
        "found parts of 96",
    ),
    ("a part inside a scale", lambda: matmul_k_grouped_nt(FP8, FP8, [64, 64]), ValueError, "inside a scale"),
    # --- containers, layouts, schemes, training ---
    (
        "codes of another dtype",
        lambda: d3.Quantized(X, FP8.scales, "float8_e4m3fn", (128,), 1),
        TypeError,
        "codes: found float32",
    ),
    (
        "scales of another shape",
        lambda: with_scales(FP8, np.ones((2, 2), f32)),
        ValueError,
        r"expected \(2, 1\)",
    ),
    ("swizzle of float32", lambda: from_128x4(np.ones((128, 4), f32), 100, 4), TypeError, "float32"),
    ("unpack of float32", lambda: from_packed_ue8m0(np.ones((4, 1), f32), 4, 4), TypeError, "float32"),
    ("pack of no powers", lambda: to_packed_ue8m0(np.full((4, 4), 3, f32)), ValueError, "powers of two"),
    ("static of 0", lambda: d3.quantize(X, "e4m3:tensor:f32=0"), ValueError, "static scale '0'"),
    ("static, no power", lambda: d3.quantize(X, "mxfp8=3"), ValueError, "expected powers of two"),
    ("training without a seed", lambda: wgrad(X, X, recipe="nvfp4"), ValueError, "seed: found None"),
    ("rotation of 12", lambda: LinearRecipe(hadamard=12), ValueError, "hadamard: found 12, expected a power"),
    (
        "rotation of numbers",
        lambda: LinearRecipe.preset("bf16").replace(hadamard=16),
        ValueError,
        "have no scales",
    ),
    (
        "floor of nvfp4 gradients",
        lambda: LinearRecipe.preset("nvfp4").replace(gradient_floor=0.0),
        ValueError,
        "gradient_floor",
    ),
    (
        "fp8 on a scaled unit",
        lambda: LinearRecipe(accumulator="blackwell_mxf8"),
        ValueError,
        "takes scales in",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_odd_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    for _ in range(2):  # nothing of a refused call is kept
        with pytest.raises(error, match=message):
            call()


def test_what_is_kept_of_a_call_tells_arguments_apart() -> None:
    """1, 1.0 and True are equal, and other byte orders and strides are other arrays."""
    ones = np.ones((3, 4), f32)
    assert d3.quantize_tiles(ones, tile=1, axis=1).scales.shape == (3, 4)
    for odd in (True, 1.0):
        with pytest.raises(TypeError):
            d3.quantize_tiles(ones, tile=odd, axis=1)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            d3.quantize_tiles(ones, tile=1, axis=odd)  # type: ignore[arg-type]
    assert d3.quantize_blocks(ones, block=(1, 2)).scales.shape == (3, 2)
    with pytest.raises(TypeError):
        d3.quantize_blocks(ones, block=(True, 2))
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(f32)
    want = d3.quantize_tiles(x, tile=3)
    others = (np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, axis=1)[:, ::2], x.astype(np.float64))
    for other in others:
        assert d3.quantize_tiles(other, tile=3).equals(want)
        np.testing.assert_array_equal(
            d3.encode(other, "e4m3").view(np.uint8), d3.encode(x, "e4m3").view(np.uint8)
        )
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(f32).reshape(4, 6)
    assert d3.quantize_tiles(unaligned, tile=3).equals(want)
    with pytest.raises(ValueError, match="NaN"):
        d3.quantize_tiles(np.full((4, 6), np.nan, f32), tile=3)


def test_results_are_new_arrays_each_time() -> None:
    x = np.ones((2, 128), f32)
    first, second = d3.quantize_tiles(x), d3.quantize_tiles(x)
    assert not np.shares_memory(first.codes, second.codes)
    assert first.codes.flags.owndata
    assert first.scales.flags.owndata
    first.scales[:] = 7
    assert (d3.quantize_tiles(x).scales == second.scales).all()
    assert vars(d3.quantize_tiles(x)).keys() == vars(second).keys()
    one, other = d3.encode(x, "e4m3"), d3.encode(x, "e4m3")
    assert one.flags.owndata
    assert not np.shares_memory(one, other)
    a, b = d3.matmul_nt(first, second), d3.matmul_nt(first, second)
    assert a.flags.owndata
    assert not np.shares_memory(a, b)
