"""A linear layer's three products: the recipe spelled out with the textbook, and the report of errors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics import reference
from dsv3_numerics.training import (
    LINEAR_PRESETS,
    LinearRecipe,
    dgrad,
    fprop,
    linear_comparison,
    linear_errors,
    wgrad,
)
from operands import bits

f32 = np.float32
SHAPES = [(5, 150, 140), (130, 128, 30), (1, 1, 1), (140, 33, 129)]
RECIPES = [
    LinearRecipe(),
    LinearRecipe(accumulator="blackwell_fp8", activations="e4m3:1x128:ue8m0", rule="deepgemm"),
    LinearRecipe(
        "e4m3:1x64:f32", "e4m3:64x64:f32", "e4m3:1x64:ue8m0", accumulator="float32", promote_every=32
    ),
    LinearRecipe("e5m2:1x128:f32", "e5m2:128x128:ue8m0", "e5m2:1x128:f32", accumulator="ada_fp8"),
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
    common: dict[str, Any] = {"fmt": recipe.activations.format, "rule": recipe.rule}
    units: dict[str, Any] = {"accumulator": recipe.accumulator, "promote_every": recipe.promote_every}
    t = recipe.activations.group_k

    def tiles(v: Any, scale: str) -> reference.Quantized:
        return reference.quantize_tiles(v, tile=t, scale=scale, **common)

    def blocks(v: Any) -> reference.Quantized:
        return reference.quantize_blocks(v, block=(t, t), scale=recipe.weights.scale, **common)

    stored, narrow = tiles(x, recipe.activations.scale), ml_dtypes.bfloat16
    same(fprop(x, w, recipe=recipe), reference.matmul_nt(stored, blocks(w), dtype=narrow, **units))
    gradient = tiles(dy, recipe.gradients.scale)
    same(
        dgrad(dy, w, recipe=recipe), reference.matmul_nt(gradient, blocks(w.T.copy()), dtype=narrow, **units)
    )
    left = tiles(dy.T.copy(), recipe.gradients.scale)
    right = tiles(reference.dequantize(stored).T.copy(), recipe.activations.scale)
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
    free = linear_errors(x, w, dy, recipe=LinearRecipe("e4m3:1x128:ue8m0")).products
    full = linear_errors(x, w, dy).products
    assert free[2].casts < 1.03 * free[0].casts
    assert full[2].casts > 1.1 * full[0].casts


# --- the report's special places, and what FP8 is compared with ---


def test_after_attention_x_waits_in_e5m6() -> None:
    """Twelve bits with scales 2**k, regrouped to E4M3: rounded to E4M3 once, in wgrad's own tiles."""
    x, w, dy = layer(140, 260, 130)
    recipe = LinearRecipe.preset("after_attention")
    same(fprop(x, w, recipe=recipe), fprop(dn.quantize_tiles(x, scale="ue8m0"), w))
    cache = dn.quantize_tiles(x, fmt="e5m6", scale="ue8m0")
    same(recipe.save_activations(x).codes, cache.codes)  # type: ignore[union-attr]
    columns = dn.quantize_tiles(cache.dequantize(), axis=0, scale="ue8m0")
    for given in (x, cache):
        same(wgrad(dy, given, recipe=recipe), wgrad(dy, columns))


def test_the_down_projection_regroups_dy_and_not_x() -> None:
    x, w, dy = layer(140, 260, 130)
    recipe = LinearRecipe.preset("down_projection")
    arrived = dn.quantize_tiles(dy, scale="ue8m0")
    same(dgrad(dy, w, recipe=recipe), dgrad(arrived, w))
    want = wgrad(dn.requantize_tiles(arrived, axis=0), dn.quantize_tiles(x, axis=0))
    for given in (dy, arrived):
        same(wgrad(given, x, recipe=recipe), want)


def test_gradients_have_a_format_a_floor_and_groups_of_their_own() -> None:
    x, w, dy = layer(140, 260, 130)
    dy *= f32(1e-6)
    wide = LinearRecipe(gradients="e5m2:1x128:f32")
    same(dgrad(dy, w, recipe=wide), dgrad(dn.quantize_tiles(dy, fmt="float8_e5m2"), w))
    no_floor = LinearRecipe(gradient_floor=0.0)
    same(wgrad(dy, x, recipe=no_floor), wgrad(dn.quantize_tiles(dy, axis=0, floor=0.0), x))
    blocks = LinearRecipe(gradients="e4m3:128x128:f32")
    same(dgrad(dy, w, recipe=blocks), dgrad(dn.quantize_blocks(dy), w, recipe=blocks))
    same(wgrad(dy, x, recipe=blocks), wgrad(dy, x))
    costs = [linear_errors(x, w, dy, recipe=r).products[1].relative for r in (LinearRecipe(), no_floor)]
    assert costs[0] > 2 * costs[1]  # about 1e-9: below the floor by 1e5, so most codes are subnormal


def test_bfloat16_and_float64_have_no_scales() -> None:
    x, w, dy = layer(60, 100, 70)
    narrow = ml_dtypes.bfloat16
    a, b, d = (v.astype(narrow) for v in (x, w, dy))
    units: dict[str, Any] = {"accumulator": "hopper_bf16", "promote_every": None}
    half = LinearRecipe.preset("bfloat16")
    same(fprop(x, w, recipe=half), dn.matmul_nt(a, b, dtype=narrow, **units))
    same(dgrad(dy, w, recipe=half), dn.matmul_nt(d, b.T, dtype=narrow, **units))
    same(wgrad(dy, x, recipe=half), dn.matmul_nt(d.T, a.T, **units))
    wide = LinearRecipe.preset("float64")
    x, w, dy = (v.astype(np.float64) for v in (x, w, dy))
    out = np.empty((60, 70))
    assert fprop(x, w, recipe=wide, out=out) is out
    same(out, x @ w.T)
    strided = np.empty((60, 140))[:, ::2]
    assert fprop(x, w, recipe=wide, out=strided) is strided
    same(strided, x @ w.T)
    with pytest.raises(TypeError, match="out: found dtype"):
        fprop(x, w, recipe=wide, out=out.astype(f32))
    same(dgrad(dy, w, recipe=wide), dy @ w)
    same(wgrad(dy, x, c=np.ones((70, 100)), recipe=wide), 1 + dy.T @ x)


def test_recipes_side_by_side() -> None:
    """float64 loses nothing, bfloat16 a tenth of FP8; where wgrad regroups powers of two, it loses less."""
    x, w, dy = layer(256, 256, 256)
    products = linear_comparison(x, w, dy).products
    assert list(products) == list(LINEAR_PRESETS)
    lost = {name: [p.relative for p in found] for name, found in products.items()}
    assert lost["float64"] == [0, 0, 0]
    assert [p.sqnr for p in products["float64"]] == [np.inf] * 3
    for name in ("deepseek_v3", "up_projection", "after_attention", "down_projection"):
        assert all(6 < a / b < 25 for a, b in zip(lost[name], lost["bf16"], strict=True))
    assert lost["up_projection"][2] < lost["deepseek_v3"][2]
    assert lost["after_attention"][2] < lost["deepseek_v3"][2]
    assert len(str(linear_comparison(x, w, dy)).splitlines()) == 4


WIDE = {"activations": "float64", "weights": "float64", "gradients": "float64", "accumulator": "float64"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": "bf16"}, "accumulator: found 'hopper_fp8' for operands of bfloat16, but it takes"),
        ({"gradients": "e5m6:1x128:f32"}, "accumulator: found 'hopper_fp8' for operands of e5m6"),
        ({"activations": "float64"}, "activations: found float64, expected it for activations, weights and"),
        (
            {**dict.fromkeys(("activations", "weights", "gradients"), "float64")},
            "accumulator: found 'hopper_fp8' for operands of float64, expected 'float64'",
        ),
        ({"accumulator": "float64"}, "accumulator: found 'float64' for operands of float8_e4m3fn"),
        ({"accumulator": "tpu"}, "accumulator: found 'tpu', expected one of"),
        ({"activations": "float9"}, "activations: .*float9"),
        ({"activations": "e4m3:128x128:f32"}, "activations: .*expected groups within a row"),
        ({"activations": "logfmt8"}, "activations: .*expected codes with scales"),
        ({"weights": "e4m3"}, "weights: .*expected bf16, float64, or codes with scales"),
        ({"weights": "mxfp8:requantized"}, "weights: .*leave 'requantized' out"),
        ({"saved_activations": "bf16:1x128:f32"}, "saved_activations: .*fmt: "),
        (
            {**WIDE, "gradient_floor": 1e-6},
            "gradient_floor: found 1e-06, but gradients in float64 have no scales",
        ),
        (
            {"activations": "bf16", "accumulator": "hopper_bf16", "saved_activations": "e5m6:1x128:f32"},
            "found 'hopper_bf16' for operands of float8_e4m3fn",
        ),
    ],
)
def test_bad_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearRecipe(**changes)


def test_the_report_prints() -> None:
    x, w, dy = layer(2, 3, 4)
    lines = str(linear_errors(x, w, dy)).splitlines()
    assert lines[0] == "hopper_fp8, promoted every 128, e4m3:1x128:f32"
    assert [line.split()[0] for line in lines[1:]] == ["product", "fprop", "dgrad", "wgrad"]
    assert "2x4x3" in lines[2]
    assert len({len(line.split()) for line in lines[2:]}) == 1


def test_nothing_is_lost_of_nothing() -> None:
    zeros = np.zeros((3, 5), f32), np.zeros((4, 5), f32), np.zeros((3, 4), f32)
    for product in linear_errors(*zeros).products:
        assert (product.relative, product.casts, product.sums, product.worst, product.difference) == (0,) * 5
    empty = np.zeros((0, 5), f32), np.zeros((4, 5), f32), np.zeros((0, 4), f32)
    assert [p.relative for p in linear_errors(*empty).products] == [0, 0, 0]


def test_names_are_recipes() -> None:
    x, w, dy = layer(40, 130, 70)
    for name in LINEAR_PRESETS:
        recipe = LinearRecipe.preset(name)
        same(fprop(x, w, recipe=name), fprop(x, w, recipe=recipe))
        same(dgrad(dy, w, recipe=name), dgrad(dy, w, recipe=recipe))
        same(wgrad(dy, x, recipe=name), wgrad(dy, x, recipe=recipe))
    with pytest.raises(ValueError, match=r"recipe: found 'deepseek-v3', expected one of .*mean deepseek_v3"):
        fprop(x, w, recipe="deepseek-v3")
    with pytest.raises(TypeError, match="recipe: found Recipe, expected a LinearRecipe"):
        fprop(x, w, recipe=dn.Recipe())  # type: ignore[arg-type]


def test_microscaling_in_training() -> None:
    """Weights in tiles are quantized along what each product sums over."""
    recipe = LinearRecipe("mxfp8", "mxfp8", "mxfp8", accumulator="blackwell_fp8", promote_every=32)
    x, w, dy = layer(70, 100, 40)
    units: dict[str, Any] = {"accumulator": "blackwell_fp8", "promote_every": 32}

    def mx(v: Any) -> Any:
        return dn.quantize(np.ascontiguousarray(v), "mxfp8")

    same(fprop(x, w, recipe=recipe), dn.matmul_nt(mx(x), mx(w), dtype=ml_dtypes.bfloat16, **units))
    same(dgrad(dy, w, recipe=recipe), dn.matmul_nt(mx(dy), mx(w.T), dtype=ml_dtypes.bfloat16, **units))
    again = mx(mx(x).dequantize().T)
    same(wgrad(dy, x, recipe=recipe), dn.matmul_nt(mx(dy.T), again, **units))
    assert [p.relative < 0.1 for p in linear_errors(x, w, dy, recipe=recipe).products] == [True] * 3
