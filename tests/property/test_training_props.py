"""A layer and an expert in training, on drawn shapes and recipes: what holds whatever the numbers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3_numerics.training import (
    ExpertRecipe,
    ExpertWeights,
    LinearRecipe,
    expert_backward,
    expert_forward,
    linear_errors,
)
from operands import bits

f32 = np.float32
LENGTHS = st.integers(1, 150)
SHORT = st.integers(1, 80)
SCALES = st.sampled_from(["f32", "ue8m0"])


@st.composite
def layers(draw: st.DrawFn) -> LinearRecipe:
    """Any layer on codes: tiles of one width, each operand with its own scales, gradients in their format."""
    tile, wide = draw(st.sampled_from([32, 64, 128])), draw(st.sampled_from(["e4m3", "e5m2"]))
    x, dy, w, saved = (draw(SCALES) for _ in range(4))
    group = draw(st.sampled_from([f"1x{tile}", f"{tile}x{tile}"]))
    return LinearRecipe(
        activations=f"e4m3:1x{tile}:{x}",
        weights=f"e4m3:{tile}x{tile}:{w}",
        gradients=f"{wide}:{group}:{dy}",
        saved_activations=draw(st.sampled_from([None, f"e5m6:1x{tile}:{saved}"])),
        recompute_activations=draw(st.booleans()),
        gradients_arrive=draw(st.booleans()),
        gradient_floor=draw(st.sampled_from([None, 0.0])),
        rule=draw(st.sampled_from(["deepseek_v3", "deepgemm", "deepep", "vllm"])),
        accumulator=draw(st.sampled_from(["hopper_fp8", "blackwell_fp8", "float32"])),
        promote_every=32,
    )


LAYERS = layers()
EXPERTS = st.one_of(
    st.builds(
        ExpertRecipe,
        up=LAYERS,
        down=LAYERS,
        saved=st.sampled_from(["none", "e4m3:1x128:f32", "e4m3:1x64:ue8m0", "e5m6:1x128:f32"]),
        compute=st.sampled_from(["float32", "bf16", "float64"]),
    ),
    st.sampled_from(["float64", "bf16"]).map(ExpertRecipe.preset),
)


def drawn(seed: int, tokens: int, hidden: int, inner: int) -> tuple[Any, ExpertWeights, Any]:
    rng = np.random.default_rng(seed)
    shapes = (inner, hidden), (inner, hidden), (hidden, inner)
    w = ExpertWeights(*((rng.standard_normal(s) / np.sqrt(s[1])).astype(f32) for s in shapes))
    x, dy = (rng.standard_normal((tokens, hidden)).astype(f32) for _ in range(2))
    return x, w, dy


def same(got: Any, want: Any) -> None:
    """Equal bytes."""
    np.testing.assert_array_equal(bits(got), bits(want))


@settings(max_examples=40, deadline=None)
@given(LAYERS, SHORT, SHORT, SHORT)
def test_a_layer_in_any_recipe(recipe: LinearRecipe, tokens: int, inner: int, outer: int) -> None:
    """Errors are those of two or three casts of at most 2**-3 each, relative to what is summed."""
    rng = np.random.default_rng([tokens, inner, outer])
    x, w, dy = (
        rng.standard_normal(s).astype(f32) for s in [(tokens, inner), (outer, inner), (tokens, outer)]
    )
    sizes = [np.abs(a) @ np.abs(b) for a, b in ((x, w.T), (dy, w), (dy.T, x))]
    for product, size in zip(linear_errors(x, w, dy, recipe=recipe).products, sizes, strict=True):
        # largest: E5M2's 2**-3, E4M3's 2**-4 twice where it is regrouped, bfloat16's 2**-9; their product
        assert product.worst * _rms(product, x, w, dy) <= 0.3 * size.max() + 1e-6
        assert product.sums < 3e-3


def _rms(product: Any, x: Any, w: Any, dy: Any) -> float:
    exact = {"fprop": x @ w.T, "dgrad": dy @ w, "wgrad": dy.T @ x}[product.name]
    return float(np.sqrt(np.mean(exact.astype(np.float64) ** 2)))


@settings(max_examples=40, deadline=None)
@given(EXPERTS, st.integers(0, 99), st.integers(2, 80), LENGTHS, LENGTHS)
def test_a_token_is_alone_but_in_wgrad(
    recipe: ExpertRecipe, seed: int, tokens: int, hidden: int, inner: int
) -> None:
    """y and dx of a token are the same bits whatever the others are, where dy is in tiles of one token."""
    recipe = replace(
        recipe,
        up=_by_token(recipe.up),
        down=_by_token(recipe.down),
    )
    if recipe.up.accumulator == "float64":
        return  # BLAS adds up in another order for other shapes
    x, w, dy = drawn(seed, tokens, hidden, inner)
    half = tokens // 2
    y, saved = expert_forward(x, w, recipe=recipe)
    part, kept = expert_forward(x[:half], w, recipe=recipe)
    same(part, y[:half])
    same(
        expert_backward(dy[:half], kept, w, recipe=recipe).x,
        expert_backward(dy, saved, w, recipe=recipe).x[:half],
    )


@settings(max_examples=40, deadline=None)
@given(EXPERTS, st.integers(0, 99), LENGTHS, LENGTHS, LENGTHS, st.integers(-30, 10))
def test_gradients_scale_with_dy(
    recipe: ExpertRecipe, seed: int, tokens: int, hidden: int, inner: int, k: int
) -> None:
    """By a power of two exactly, where no floor is: the loss may be scaled."""
    recipe = replace(recipe, up=_without_floor(recipe.up), down=_without_floor(recipe.down))
    x, w, dy = drawn(seed, tokens, hidden, inner)
    _, saved = expert_forward(x, w, recipe=recipe)
    plain = expert_backward(dy, saved, w, recipe=recipe)
    scaled = expert_backward(dy * f32(2.0**k), saved, w, recipe=recipe)
    for one, other in zip((plain.x, *plain.weights), (scaled.x, *scaled.weights), strict=True):
        np.testing.assert_array_equal(one.astype(np.float64) * 2.0**k, other.astype(np.float64))


def _without_floor(layer: LinearRecipe) -> LinearRecipe:
    return layer.replace(gradient_floor=0.0) if layer.gradients.is_quantized else layer


def _by_token(layer: LinearRecipe) -> LinearRecipe:
    scheme = layer.gradients
    by_row = replace(scheme, block=(1, scheme.group_k)) if scheme.is_quantized else scheme
    return layer.replace(gradients=by_row)
