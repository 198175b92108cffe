"""An expert's passes: the recipe step by step, the gradient against differences, and the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dsv3_numerics as dn
from dsv3_numerics.training import (
    EXPERT_PRESETS,
    ExpertRecipe,
    ExpertWeights,
    LinearRecipe,
    dgrad,
    expert_backward,
    expert_comparison,
    expert_errors,
    expert_forward,
)
from dsv3_numerics.training.swiglu import swiglu, swiglu_gradient
from operands import bits

f32, bf16 = np.float32, ml_dtypes.bfloat16
SHAPES = [(5, 150, 140), (130, 256, 128), (1, 1, 1), (140, 33, 200)]
FLOAT64, BFLOAT16 = ExpertRecipe.preset("float64"), ExpertRecipe.preset("bf16")


def same(got: Any, want: Any) -> None:
    """Equal bytes."""
    np.testing.assert_array_equal(bits(got), bits(want))


def draw(tokens: int, hidden: int, inner: int) -> tuple[Any, ExpertWeights, Any]:
    """x with a few large channels, weights, and dy."""
    rng = np.random.default_rng([tokens, hidden, inner])
    x, dy = (rng.standard_normal((tokens, hidden)).astype(f32) for _ in range(2))
    x[:, ::50] *= 10
    shapes = (inner, hidden), (inner, hidden), (hidden, inner)
    return x, ExpertWeights(*((rng.standard_normal(s) / np.sqrt(s[1])).astype(f32) for s in shapes)), dy


def sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


# --- FP8: the recipe by the package's own steps ---


@pytest.mark.parametrize("unit", ["hopper_fp8", "exact"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_recipe_step_by_step(shape: tuple[int, int, int], unit: str) -> None:
    """Every product is quantize, requantize and matmul_nt, bit for bit."""
    x, w, dy = draw(*shape)
    recipe = ExpertRecipe(
        *(replace(layer, accumulator=unit) for layer in (ExpertRecipe().up, ExpertRecipe().down))
    )

    def product(a: Any, b: Any, dtype: Any = bf16, c: Any = None) -> Any:
        return dn.matmul_nt(a, b, accumulator=unit, promote_every=128, dtype=dtype, c=c)

    sent = dn.quantize_tiles(x, scale="ue8m0")
    gate, up, down = (dn.quantize_blocks(m) for m in w)
    a, b = product(sent, gate), product(sent, up)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    h = (wide_a * sigmoid(wide_a) * wide_b).astype(f32)
    y, saved = expert_forward(x, w, recipe=recipe)
    same(y, product(dn.quantize_tiles(h), down))
    same(saved.x.codes, sent.codes)
    kept = dn.quantize_tiles(a), dn.quantize_tiles(b)
    same(saved.gate.codes, kept[0].codes)
    same(saved.up.scales, kept[1].scales)

    arrived = dn.quantize_tiles(dy, scale="ue8m0")
    dh = product(arrived, down.T).astype(np.float64)
    wide_a, wide_b = (q.dequantize().astype(np.float64) for q in kept)
    s = sigmoid(wide_a)
    again = (wide_a * s * wide_b).astype(f32)
    da = (dh * wide_b * (s * (1 + wide_a * (1 - s)))).astype(f32)
    db = (dh * (wide_a * s)).astype(f32)
    half = product(dn.quantize_tiles(da), gate.T, f32)
    x_columns = dn.requantize_tiles(sent, axis=0).T
    got = expert_backward(dy, saved, w, recipe=recipe)
    same(got.x, product(dn.quantize_tiles(db), up.T, c=half))
    same(got.weights.gate, product(dn.quantize_tiles(da, axis=0).T, x_columns, f32))
    same(got.weights.up, product(dn.quantize_tiles(db, axis=0).T, x_columns, f32))
    dy_columns = dn.requantize_tiles(arrived, axis=0).T
    same(got.weights.down, product(dy_columns, dn.quantize_tiles(again, axis=0).T, f32))


def test_both_dgrads_are_one_sum() -> None:
    """As of one matrix of gate and up, where the inner width is a whole number of tiles."""
    x, w, dy = draw(70, 200, 256)
    recipe = ExpertRecipe()
    _, saved = expert_forward(x, w)
    a, b = saved.gate.dequantize(), saved.up.dequantize()
    dh = dgrad(dy, w.down, recipe=recipe.down)
    both = np.concatenate(swiglu_gradient(a, b, dh, recipe.compute), axis=1)
    side_by_side = np.concatenate([w.gate, w.up])
    same(expert_backward(dy, saved, w).x, dgrad(both, side_by_side, recipe=recipe.up))


def test_what_arrives_in_codes_is_taken_as_it_is() -> None:
    x, w, dy = draw(140, 256, 130)
    sent, arrived = (dn.quantize_tiles(v, scale="ue8m0") for v in (x, dy))
    codes = ExpertWeights(*map(dn.quantize_blocks, w))
    y, saved = expert_forward(sent, codes)
    plain = expert_forward(x, w)
    same(y, plain[0])
    found, want = expert_backward(arrived, saved, codes), expert_backward(dy, plain[1], w)
    for one, other in zip((found.x, *found.weights), (want.x, *want.weights), strict=True):
        same(one, other)


def test_regrouping_what_arrives_changes_no_number() -> None:
    """Powers of two: x and dy mean the same in 128x1 tiles, but for values that become subnormal there.

    Magnitudes within 2**7 of each other, and scales at most 2**7 apart, stay above 2**-6 of 448.
    """
    rng = np.random.default_rng(0)
    x = (rng.uniform(0.25, 1, (300, 200)) * rng.choice([-1, 1], (300, 200))).astype(f32)
    x *= np.exp2(rng.integers(0, 6, (1, 200))).astype(f32)
    for scale, equal in (("ue8m0", True), ("float32", False)):
        q = dn.quantize_tiles(x, scale=scale)  # type: ignore[arg-type]
        again = dn.requantize_tiles(q, axis=0).dequantize()
        assert (again == q.dequantize()).all() == equal


def test_gradients_are_added_up() -> None:
    x, w, dy = draw(256, 128, 64)
    recipes = {"deepseek_v3": ExpertRecipe(), "float64": FLOAT64}
    for name, recipe in recipes.items():
        parts = [(slice(0, 128), expert_forward(x[:128], w, recipe=recipe)[1])]
        parts.append((slice(128, 256), expert_forward(x[128:], w, recipe=recipe)[1]))
        so_far = None
        for rows, saved in parts:
            so_far = expert_backward(dy[rows], saved, w, c=so_far, recipe=recipe).weights
        whole = expert_backward(dy, expert_forward(x, w, recipe=recipe)[1], w, recipe=recipe).weights
        assert so_far is not None
        for part, want in zip(so_far, whole, strict=True):
            if name == "deepseek_v3":  # 128 tokens are one tile and one promotion
                same(part, want)
            else:  # 256 roundings of float64
                np.testing.assert_allclose(part, want, rtol=0, atol=1e-14 * np.abs(want).max())


# --- float64 and bfloat16 ---


def test_the_float64_gradient_is_that_of_differences() -> None:
    """Central differences of the loss ``sum(dy * y)`` along random directions, at which O(h**2) is 1e-10."""
    x, w, dy = draw(6, 40, 24)
    x, w, dy = x.astype(np.float64), ExpertWeights(*(m.astype(np.float64) for m in w)), dy.astype(np.float64)
    found = expert_backward(dy, expert_forward(x, w, recipe=FLOAT64)[1], w, recipe=FLOAT64)
    rng = np.random.default_rng(1)

    def loss(step: float, place: int, direction: Any) -> float:
        parts = [x, *w]
        parts[place] = parts[place] + step * direction
        return float((dy * expert_forward(parts[0], ExpertWeights(*parts[1:]), recipe=FLOAT64)[0]).sum())

    for place, gradient in enumerate((found.x, *found.weights)):
        direction = rng.standard_normal(gradient.shape)
        slope = (loss(1e-5, place, direction) - loss(-1e-5, place, direction)) / 2e-5
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


def test_bfloat16_rounds_where_autograd_does() -> None:
    """After silu, after each product, after each Dgrad and their sum; sums themselves are float32."""
    x, w, dy = draw(33, 100, 70)

    def r(v: Any) -> Any:
        return v.astype(f32).astype(bf16).astype(np.float64)

    def product(p: Any, q: Any) -> Any:
        return dn.matmul_nt(
            p.astype(bf16), q.astype(bf16), accumulator="hopper_bf16", promote_every=None
        ).astype(np.float64)

    gate, up, down = (r(m) for m in w)
    x, dy = r(x), r(dy)
    a, b = r(product(x, gate)), r(product(x, up))
    s = sigmoid(a)
    silu = r(a * s)
    h = r(silu * b)
    y, saved = expert_forward(x, w, recipe=BFLOAT16)
    same(y, product(h, down).astype(bf16))
    dh = r(product(dy, down.T))
    da, db = r(r(dh * b) * (s * (1 + a * (1 - s)))), r(dh * silu)
    got = expert_backward(dy, saved, w, recipe=BFLOAT16)
    same(got.x, r(r(product(da, gate.T)) + r(product(db, up.T))).astype(bf16))
    same(got.weights.gate, product(da.T, x.T).astype(f32))
    same(got.weights.up, product(db.T, x.T).astype(f32))
    same(got.weights.down, product(dy.T, h.T).astype(f32))


def test_formats_do_not_mix_by_accident() -> None:
    x, w, dy = draw(20, 30, 40)
    y, saved = expert_forward(x, w, recipe=FLOAT64)
    assert {y.dtype.name, *(p.dtype.name for p in saved)} == {"float64"}
    gradients = expert_backward(dy, saved, w, recipe=FLOAT64)
    assert {gradients.x.dtype.name, *(g.dtype.name for g in gradients.weights)} == {"float64"}
    y, saved = expert_forward(x, w, recipe=BFLOAT16)
    assert {y.dtype.name, *(p.dtype.name for p in saved)} == {"bfloat16"}
    assert {g.dtype.name for g in expert_backward(dy, saved, w, recipe=BFLOAT16).weights} == {"float32"}


def test_what_is_saved_is_half_of_bfloat16() -> None:
    """One byte for two, and a scale for 128: one byte for x, four for the inputs of SwiGLU."""
    x, w, _ = draw(64, 256, 384)
    fp8, wide = (expert_forward(x, w, recipe=name)[1].nbytes for name in ("deepseek_v3", "bfloat16"))
    assert wide == 2 * 64 * (256 + 2 * 384)
    assert fp8 == 64 * (256 + 2 * 384 + 2 + 2 * 3 * 4)


@pytest.mark.parametrize("name", EXPERT_PRESETS)
@pytest.mark.parametrize("shape", [(0, 6, 8), (3, 0, 8), (3, 6, 0)])
def test_nothing_gives_nothing(shape: tuple[int, int, int], name: str) -> None:
    tokens, hidden, inner = shape
    x = np.ones((tokens, hidden), f32)
    w = ExpertWeights(*(np.ones(s, f32) for s in [(inner, hidden), (inner, hidden), (hidden, inner)]))
    y, saved = expert_forward(x, w, recipe=name)
    gradients = expert_backward(x, saved, w, recipe=name)
    assert y.shape == gradients.x.shape == x.shape
    assert [g.shape for g in gradients.weights] == [m.shape for m in w]
    assert not np.any([g.astype(f32).sum() for g in (y, gradients.x, *gradients.weights)])
    assert len(expert_errors(x, w, x, recipe=name).products) == 8


def test_large_inputs_of_swiglu_overflow_nothing() -> None:
    recipe = FLOAT64
    a, one = np.array([[-1e4, -800.0, 0.0, 800.0, 1e4]]), np.ones((1, 5))
    assert swiglu(a, one, recipe.compute).tolist() == [[0, 0, 0, 800, 1e4]]
    da, db = swiglu_gradient(a, one, one, recipe.compute)
    assert da.tolist() == [[0, 0, 0.5, 1, 1]]
    assert db.tolist() == [[0, 0, 0, 800, 1e4]]


# --- the report ---


def test_errors_are_those_of_float64() -> None:
    x, w, dy = draw(140, 256, 200)
    exact_y, kept = expert_forward(x, w, recipe=FLOAT64)
    exact = expert_backward(dy, kept, w, recipe=FLOAT64)
    for recipe in (ExpertRecipe(), BFLOAT16):
        y, saved = expert_forward(x, w, recipe=recipe)
        got = expert_backward(dy, saved, w, recipe=recipe)
        found = {p.name: p for p in expert_errors(x, w, dy, recipe=recipe).products}
        pairs = {"down.fprop": (y, exact_y), "gate+up.dgrad": (got.x, exact.x)}
        pairs |= {
            f"{n}.wgrad": (getattr(got.weights, n), getattr(exact.weights, n)) for n in ExpertWeights._fields
        }
        for name, (result, truth) in pairs.items():
            error = np.linalg.norm(result.astype(np.float64) - truth) / np.linalg.norm(truth)
            assert found[name].relative == pytest.approx(error, rel=1e-9)
            assert found[name].sqnr == pytest.approx(-20 * np.log10(error), rel=1e-9)
        assert found["gate+up.dgrad"].shape == (140, 256, 400)


def test_what_an_expert_costs() -> None:
    """float64 nothing; bfloat16 two to three of its roundings of 2**-9 to 2**-8; FP8 about 13 times that."""
    x, w, dy = draw(256, 256, 384)
    table = expert_comparison(x, w, dy).products
    assert list(table) == ["float64", "bf16", "deepseek_v3"]
    for exact, half, fp8 in zip(*table.values(), strict=True):
        assert exact.relative == exact.casts == exact.sums == 0
        assert 1.5e-3 < half.relative < 8e-3
        assert 8 < fp8.relative / half.relative < 20
        assert 5e-5 < fp8.sums < 5e-4  # Hopper's FP8 sums: 1.28e-4 for whole intervals of 128
        assert fp8.casts < 0.05
    cached = {p.name: p.relative for p in table["deepseek_v3"]}
    kept = {p.name: p.relative for p in expert_errors(x, w, dy, recipe=ExpertRecipe(saved="none")).products}
    assert kept["down.fprop"] == cached["down.fprop"]
    assert kept["down.wgrad"] < cached["down.wgrad"]
    assert kept["gate.wgrad"] < cached["gate.wgrad"]


def test_the_reports_print() -> None:
    x, w, dy = draw(2, 3, 4)
    lines = str(expert_errors(x, w, dy)).splitlines()
    assert lines[0].startswith("hopper_fp8, promoted every 128, e4m3:1x128:ue8m0; SwiGLU in float32, ")
    assert len(lines) == 10
    assert "gate+up.dgrad" in lines[7]
    assert str(expert_comparison(x, w, dy)).splitlines()[0].split() == ["product", *EXPERT_PRESETS]


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": "float16"}, "compute: found 'float16', expected one of float32, bf16"),
        ({"saved": "bf16"}, "saved: found 'bf16', expected codes with scales"),
        ({"saved": "e4m3:128x128:f32"}, "saved: .*expected groups within a row"),
        ({"saved": "float9"}, "saved: .*float9"),
        ({"up": "deepseek"}, "recipe: found 'deepseek'.*did you mean deepseek_v3"),
    ],
)
def test_bad_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertRecipe(**changes)


def test_a_recipe_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="up: found ExpertRecipe, expected a LinearRecipe"):
        ExpertRecipe(up=ExpertRecipe())
    assert ExpertRecipe(up="deepseek_v3").up == LinearRecipe()
    with pytest.raises(ValueError, match="accumulator: found 'hopper_bf16' for operands of float8_e4m3fn"):
        ExpertRecipe(up=LinearRecipe(accumulator="hopper_bf16"))


def test_bad_shapes_are_refused() -> None:
    x, w, dy = draw(4, 6, 8)
    with pytest.raises(ValueError, match=r"weights: found gate \(8, 6\), up \(8, 6\) and down \(8, 6\)"):
        expert_forward(x, w._replace(down=w.gate))
    with pytest.raises(ValueError, match="x and gate: found shapes"):
        expert_forward(x[:, :5], w)
    with pytest.raises(ValueError, match=r"x: found shape \(6,\), expected two axes"):
        expert_forward(x[0], w)
    for recipe in EXPERT_PRESETS.values():
        _, saved = expert_forward(x, w, recipe=recipe)
        with pytest.raises(ValueError, match=r"c: found shape \(8, 1\), expected \(8, 6\)"):
            expert_backward(dy, saved, w, c=ExpertWeights(w.gate[:, :1], w.up, w.down), recipe=recipe)
    _, saved = expert_forward(x, w)
    with pytest.raises(ValueError, match=r"dy and saved\.x: found shapes"):
        expert_backward(dy[:3], saved, w)
    with pytest.raises(ValueError, match="dy and down: found shapes"):
        expert_backward(dy[:, :5], saved, w)
    with pytest.raises(ValueError, match="NaN"):
        expert_forward(np.full_like(x, np.nan), w)
