"""A linear layer's three products: the recipe spelled out with the textbook, and the report of errors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.linear import LinearRecipe, dgrad, fprop, linear_errors, turned, wgrad
from operands import bits

f32 = np.float32
SHAPES = [(5, 150, 140), (130, 128, 30), (1, 1, 1), (140, 33, 129)]
RECIPES = [
    LinearRecipe(),
    LinearRecipe(accumulator="blackwell_fp8", activation_scale="ue8m0", rule="deepgemm"),
    LinearRecipe(accumulator="float32", gradient_scale="ue8m0", tile=64, promote_every=32),
    LinearRecipe(accumulator="ada_fp8", dtype="float8_e5m2", weight_scale="ue8m0"),
]


def same(got: Any, want: Any) -> None:
    """Equal bytes."""
    np.testing.assert_array_equal(bits(got), bits(want))


def layer(tokens: int, inner: int, outer: int) -> tuple[Any, Any, Any]:
    """x, w and dy of normal numbers, with a few large channels."""
    rng = np.random.default_rng([tokens, inner, outer])
    x, w, dy = (
        rng.standard_normal(s).astype(f32) for s in [(tokens, inner), (outer, inner), (tokens, outer)]
    )
    x[:, ::50] *= 30
    return x, w, dy * f32(1e-3)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.accumulator)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_recipe_by_the_textbook(shape: tuple[int, int, int], recipe: LinearRecipe) -> None:
    x, w, dy = layer(*shape)
    common: dict[str, Any] = {"dtype": recipe.dtype, "rule": recipe.rule}
    units: dict[str, Any] = {"accumulator": recipe.accumulator, "promote_every": recipe.promote_every}
    t = recipe.tile

    def tiles(v: Any, scale: str) -> reference.Quantized:
        return reference.quantize_tiles(v, tile=t, scale=scale, **common)

    def blocks(v: Any) -> reference.Quantized:
        return reference.quantize_blocks(v, block=(t, t), scale=recipe.weight_scale, **common)

    stored, narrow = tiles(x, recipe.activation_scale), ml_dtypes.bfloat16
    same(fprop(x, w, recipe=recipe), reference.matmul_nt(stored, blocks(w), dtype=narrow, **units))
    gradient = tiles(dy, recipe.gradient_scale)
    same(
        dgrad(dy, w, recipe=recipe), reference.matmul_nt(gradient, blocks(w.T.copy()), dtype=narrow, **units)
    )
    left = tiles(dy.T.copy(), recipe.gradient_scale)
    right = tiles(reference.dequantize(stored).T.copy(), recipe.activation_scale)
    same(wgrad(dy, x, recipe=recipe), reference.matmul_nt(left, right, **units))


def test_quantized_operands_are_taken_as_they_are() -> None:
    x, w, dy = layer(140, 260, 130)
    qx, qw, qdy = dn.quantize_tiles(x), dn.quantize_blocks(w), dn.quantize_tiles(dy)
    same(fprop(qx, qw), fprop(x, w))
    same(dgrad(qdy, qw), dgrad(dy, w))
    same(wgrad(dy, qx), wgrad(dy, x))
    same(wgrad(dn.quantize_tiles(dy, axis=0), dn.requantize_tiles(qx, axis=0)), wgrad(dy, x))
    regrouped = wgrad(qdy, qx)  # from tiles along the other axis: quantized twice
    assert (bits(regrouped) != bits(wgrad(dy, x))).any()
    same(regrouped, wgrad(dn.requantize_tiles(qdy, axis=0), x))


def test_gradients_are_added_up() -> None:
    x, _, dy = layer(256, 128, 64)
    so_far = wgrad(dy[:128], x[:128])
    both = wgrad(dy, x)
    added = wgrad(dy[128:], x[128:], c=so_far)
    same(added, both)  # 128 tokens are one tile and one promotion
    out = so_far.copy()
    assert wgrad(dy[128:], x[128:], c=out, out=out) is out
    same(out, both)


def test_out_of_forward_products() -> None:
    x, w, dy = layer(3, 128, 130)
    y = np.zeros((3, 130), ml_dtypes.bfloat16)
    assert fprop(x, w, out=y) is y
    same(y, fprop(x, w))
    dx = np.zeros((3, 128), ml_dtypes.bfloat16)
    assert dgrad(dy, w, out=dx) is dx
    with pytest.raises(TypeError, match="out: found dtype"):
        fprop(x, w, out=y.astype(f32))


def test_turned_is_the_transpose() -> None:
    x, w, _ = layer(70, 200, 140)
    for q in (dn.quantize_tiles(x), dn.quantize_blocks(w, block=(32, 128)), dn.quantize_tiles(x, axis=0)):
        np.testing.assert_array_equal(turned(q).dequantize(), q.dequantize().T)
        assert turned(turned(q)).block == q.block


def test_errors_are_those_of_float64() -> None:
    x, w, dy = layer(130, 256, 140)
    report = linear_errors(x, w, dy)
    wide_x, wide_w, wide_dy = (v.astype(np.float64) for v in (x, w, dy))
    truths = [wide_x @ wide_w.T, wide_dy @ wide_w, wide_dy.T @ wide_x]
    results = [fprop(x, w), dgrad(dy, w), wgrad(dy, x)]
    for product, truth, result in zip(report.products, truths, results, strict=True):
        error = result.astype(np.float64) - truth
        assert product.relative == pytest.approx(np.linalg.norm(error) / np.linalg.norm(truth), rel=1e-9)
        assert product.worst == pytest.approx(np.abs(error).max() / np.sqrt(np.mean(truth**2)), rel=1e-9)
        inner = 1 - 2 * np.vdot(truth, result) / (
            np.vdot(truth, truth) + np.vdot(result, result.astype(float))
        )
        assert product.difference == pytest.approx(inner, rel=1e-6)  # the direct form cancels 3 digits
        assert product.shape == (*truth.shape, {"fprop": 256, "dgrad": 140, "wgrad": 130}[product.name])


def test_what_the_recipe_costs() -> None:
    """Casts dominate by far; sums cost the unit's own error, if exact only a few roundings to float32."""
    x, w, dy = layer(256, 512, 128)
    costs = {
        unit: linear_errors(x, w, dy, recipe=LinearRecipe(accumulator=unit))
        for unit in ("hopper_fp8", "exact")
    }
    for hopper, exact in zip(costs["hopper_fp8"].products, costs["exact"].products, strict=True):
        assert (
            0.02 < hopper.casts < 0.06
        )  # E4M3 rounds each operand to 2.6 % RMS; two of them, wgrad's x twice
        assert hopper.casts == exact.casts
        assert 5e-5 < hopper.sums < 5e-4  # the specification has 1.28e-4 for intervals of 128
        assert exact.sums < 2e-7  # one rounding for each promotion
        assert hopper.difference < 1.2e-3  # about casts**2 / 2
    twice, once = costs["exact"].products[2].casts, costs["exact"].products[0].casts
    assert twice > 1.1 * once


def test_powers_of_two_make_regrouping_free() -> None:
    """With 2**k scales, x is not rounded a second time, so wgrad's casts cost what fprop's do.

    Normal numbers without outliers: nothing becomes subnormal in its new tile but the smallest.
    """
    rng = np.random.default_rng(1)
    x, w, dy = (rng.standard_normal(s).astype(f32) for s in [(256, 256), (256, 256), (256, 256)])
    free = linear_errors(x, w, dy, recipe=LinearRecipe(activation_scale="ue8m0")).products
    full = linear_errors(x, w, dy).products
    assert free[2].casts < 1.03 * free[0].casts
    assert full[2].casts > 1.1 * full[0].casts


def test_the_report_prints() -> None:
    x, w, dy = layer(2, 3, 4)
    lines = str(linear_errors(x, w, dy)).splitlines()
    assert lines[0] == "hopper_fp8, promoted every 128, float8_e4m3fn"
    assert [line.split()[0] for line in lines[1:]] == ["product", "fprop", "dgrad", "wgrad"]
    assert "2x4x3" in lines[2]
    assert len({len(line.split()) for line in lines[2:]}) == 1


def test_nothing_is_lost_of_nothing() -> None:
    zeros = np.zeros((3, 5), f32), np.zeros((4, 5), f32), np.zeros((3, 4), f32)
    for product in linear_errors(*zeros).products:
        assert (product.relative, product.casts, product.sums, product.worst, product.difference) == (0,) * 5
    empty = np.zeros((0, 5), f32), np.zeros((4, 5), f32), np.zeros((0, 4), f32)
    assert [p.relative for p in linear_errors(*empty).products] == [0, 0, 0]
