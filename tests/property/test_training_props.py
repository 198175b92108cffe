"""A layer and an expert in training, on drawn shapes and recipes: what holds whatever the numbers are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv3_numerics.expert import PRESETS, ExpertRecipe, Weights, backward, forward
from dsv3_numerics.linear import LinearRecipe, linear_errors
from operands import bits

f32 = np.float32
LENGTHS = st.integers(1, 150)
SHORT = st.integers(1, 80)
SCALES = st.sampled_from(["float32", "ue8m0"])
LAYERS = st.builds(
    LinearRecipe,
    tile=st.sampled_from([32, 64, 128]),
    activation_scale=SCALES,
    gradient_scale=SCALES,
    weight_scale=SCALES,
    rule=st.sampled_from(["deepseek_v3", "deepgemm", "deepep", "vllm"]),
    accumulator=st.sampled_from(["hopper_fp8", "blackwell_fp8", "float32"]),
    promote_every=st.just(32),
    stored_dtype=st.sampled_from([None, "e5m6"]),
    activation_recomputed=st.booleans(),
    gradient_dtype=st.sampled_from([None, "float8_e5m2"]),
    gradient_floor=st.sampled_from([None, 0.0]),
    gradient_arrives=st.booleans(),
    gradient_blocks=st.booleans(),
)
EXPERTS = st.one_of(
    st.builds(
        ExpertRecipe,
        up=LAYERS,
        down=LAYERS,
        cache=st.sampled_from([None, "float8_e4m3fn", "e5m6"]),
        cache_scale=SCALES,
        elementwise=st.sampled_from(["float32", "bfloat16", "float64"]),
    ),
    st.sampled_from([PRESETS["float64"], PRESETS["bfloat16"]]),
)


def drawn(seed: int, tokens: int, hidden: int, inner: int) -> tuple[Any, Weights, Any]:
    rng = np.random.default_rng(seed)
    shapes = (inner, hidden), (inner, hidden), (hidden, inner)
    w = Weights(*((rng.standard_normal(s) / np.sqrt(s[1])).astype(f32) for s in shapes))
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
        up=replace(recipe.up, gradient_blocks=False),
        down=replace(recipe.down, gradient_blocks=False),
    )
    if recipe.up.dtype == "float64":
        return  # BLAS adds up in another order for other shapes
    x, w, dy = drawn(seed, tokens, hidden, inner)
    half = tokens // 2
    y, saved = forward(x, w, recipe=recipe)
    part, kept = forward(x[:half], w, recipe=recipe)
    same(part, y[:half])
    same(
        backward(dy[:half], kept, w, recipe=recipe).x,
        backward(dy, saved, w, recipe=recipe).x[:half],
    )


@settings(max_examples=40, deadline=None)
@given(EXPERTS, st.integers(0, 99), LENGTHS, LENGTHS, LENGTHS, st.integers(-30, 10))
def test_gradients_scale_with_dy(
    recipe: ExpertRecipe, seed: int, tokens: int, hidden: int, inner: int, k: int
) -> None:
    """By a power of two exactly, where no floor is: the loss may be scaled."""
    recipe = replace(recipe, up=_without_floor(recipe.up), down=_without_floor(recipe.down))
    x, w, dy = drawn(seed, tokens, hidden, inner)
    _, saved = forward(x, w, recipe=recipe)
    plain = backward(dy, saved, w, recipe=recipe)
    scaled = backward(dy * f32(2.0**k), saved, w, recipe=recipe)
    for one, other in zip((plain.x, *plain.weights), (scaled.x, *scaled.weights), strict=True):
        np.testing.assert_array_equal(one.astype(np.float64) * 2.0**k, other.astype(np.float64))


def _without_floor(layer: LinearRecipe) -> LinearRecipe:
    return layer if layer.dtype in ("float64", "bfloat16") else replace(layer, gradient_floor=0.0)
