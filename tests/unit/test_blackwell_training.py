"""Training on block-scaled units: MXFP8, and NVFP4 with rotations and random rounding, as trained."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import dsv3_numerics as d3
from dsv3_numerics.rotation import random_hadamard
from dsv3_numerics.training import (
    BLACKWELL_EXPERT_PRESETS,
    BLACKWELL_LINEAR_PRESETS,
    EXPERT_PRESETS,
    LINEAR_PRESETS,
    ExpertRecipe,
    ExpertWeights,
    LinearRecipe,
    dgrad,
    expert_backward,
    expert_errors,
    expert_forward,
    fprop,
    linear_comparison,
    linear_errors,
    wgrad,
)

f32 = np.float32
NVFP4 = LinearRecipe.preset("nvfp4")


def _draw(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return drawn.astype(ml_dtypes.bfloat16).astype(f32)


def _raw(x: Any) -> Any:
    return np.asarray(x).view(f"u{np.asarray(x).dtype.itemsize}")


def test_presets_are_found_by_name_beside_those_of_v3() -> None:
    assert list(LinearRecipe.presets()) == [*LINEAR_PRESETS, *BLACKWELL_LINEAR_PRESETS]
    assert list(ExpertRecipe.presets()) == [*EXPERT_PRESETS, *BLACKWELL_EXPERT_PRESETS]
    assert [r.is_random for r in LinearRecipe.presets().values()] == [False] * len(LINEAR_PRESETS) + [
        False,
        True,
    ]


@pytest.mark.parametrize("tokens", [64, 37])
def test_wgrad_is_rotation_rounding_and_one_product(tokens: int) -> None:
    """Both sides rotated along tokens with one choice of signs; dy rounded at random, x to nearest."""
    dy, x = _draw(tokens, 48), _draw(tokens, 80, seed=1)
    got = wgrad(dy, x, recipe="nvfp4", seed=np.random.default_rng(5))
    rng = np.random.default_rng(5)
    signs = int(rng.integers(0, 1 << 64, dtype=np.uint64))
    padded = [np.pad(v, ((0, -tokens % 16), (0, 0))) for v in (dy, x)]
    left, right = (random_hadamard(v, seed=signs, axis=0) for v in padded)
    a = d3.quantize_tiles(left, scale="nvfp4", axis=0, rounding="stochastic", seed=rng)
    b = d3.quantize_tiles(right, scale="nvfp4", axis=0)
    want = d3.matmul_nt(a.T, b.T, accumulator="blackwell_nvfp4", promote_every=None)
    np.testing.assert_array_equal(_raw(got), _raw(want))
    assert np.linalg.norm(got - dy.T @ x) < 0.25 * np.linalg.norm(dy.T @ x)


def test_both_products_with_a_weight_take_the_same_codes() -> None:
    w = _draw(96, 64)
    for name in BLACKWELL_LINEAR_PRESETS:
        recipe = LinearRecipe.preset(name)
        one, other = recipe.quantize_weights(w), recipe.weight_columns(w)
        assert isinstance(one, d3.Quantized)
        assert one.equals(other)
        assert one.block == ((16, 16) if name == "nvfp4" else (32, 32))
    x, dy = _draw(40, 64, seed=2), _draw(40, 96, seed=3)
    a, blocks = d3.quantize(x, "nvfp4"), d3.quantize(w, "e2m1:16x16:nvfp4")
    want = d3.matmul_nt(
        a, blocks, accumulator="blackwell_nvfp4", promote_every=None, dtype=ml_dtypes.bfloat16
    )
    np.testing.assert_array_equal(_raw(fprop(x, w, recipe="nvfp4", seed=1)), _raw(want))
    rng = np.random.default_rng(7)
    b = d3.quantize(dy, "nvfp4:stochastic", seed=rng)
    want = d3.matmul_nt(
        b, blocks.T, accumulator="blackwell_nvfp4", promote_every=None, dtype=ml_dtypes.bfloat16
    )
    np.testing.assert_array_equal(_raw(dgrad(dy, w, recipe="nvfp4", seed=7)), _raw(want))


@pytest.mark.parametrize(
    "recipe",
    [
        "nvfp4",
        LinearRecipe(gradients="e4m3:1x128:f32:stochastic"),
        LinearRecipe.preset("nvfp4").replace(gradients="nvfp4:stochastic8"),
    ],
)
def test_calls_with_one_generator_are_independent(recipe: Any) -> None:
    """Errors of two calls do not correlate; an integer gives the same bytes again."""
    dy, x = _draw(256, 64), _draw(256, 64, seed=1)
    rng = np.random.default_rng(0)
    calls = [wgrad(dy, x, recipe=recipe, seed=rng).astype(np.float64) for _ in range(24)]
    mean = np.mean(calls, axis=0)
    errors = [(call - mean).ravel() for call in calls[:2]]
    assert abs(np.corrcoef(errors)[0, 1]) < 0.15
    again = [wgrad(dy, x, recipe=recipe, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(_raw(again[0]), _raw(again[1]))
    assert (again[0] != wgrad(dy, x, recipe=recipe, seed=4)).any()


def test_stochastic_gradients_have_no_bias() -> None:
    """The mean of many gradients nears the product of the numbers; that of nearest stays where it is."""
    rng = np.random.default_rng(1)
    dy = (_draw(64, 32) * np.exp2(2 * rng.standard_normal((64, 32)))).astype(f32)
    x = _draw(64, 32, seed=1)
    nearest = NVFP4.replace(gradients="nvfp4", hadamard=None)
    at_random = nearest.replace(gradients="nvfp4:stochastic")
    held = nearest.activation_columns(x)
    assert isinstance(held, d3.Quantized)
    exact = dy.astype(np.float64).T @ held.dequantize(np.float64)

    def error(found: Any) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    calls = [wgrad(dy, x, recipe=at_random, seed=rng).astype(np.float64) for _ in range(64)]
    assert error(np.mean(calls, axis=0)) < 0.35 * error(calls[0])
    assert error(np.mean(calls, axis=0)) < 0.5 * error(wgrad(dy, x, recipe=nearest))


def _expert(seed: int = 0) -> tuple[Any, ExpertWeights, Any]:
    shapes = (64, 96), (64, 96), (96, 64)
    w = ExpertWeights(*(_draw(*s, seed=i) / f32(10) for i, s in enumerate(shapes)))
    return _draw(40, 96, seed=4), w, _draw(40, 96, seed=5)


@pytest.mark.parametrize("name", BLACKWELL_EXPERT_PRESETS)
def test_an_expert_on_block_scaled_units(name: str) -> None:
    x, w, dy = _expert()
    y, saved = expert_forward(x, w, recipe=name)  # forward rounds to nearest: no seed
    assert saved.x.dtype == ml_dtypes.bfloat16
    seed = {"seed": 9} if name == "nvfp4" else {}
    one, two = (expert_backward(dy, saved, w, recipe=name, **seed) for _ in range(2))
    for a, b in zip((one.x, *one.weights), (two.x, *two.weights), strict=True):
        np.testing.assert_array_equal(_raw(a), _raw(b))
    if name == "nvfp4":
        with pytest.raises(ValueError, match="seed: found None"):
            expert_backward(dy, saved, w, recipe=name)
        other = expert_backward(dy, saved, w, recipe=name, seed=10)
        assert (other.weights.gate != one.weights.gate).any()
    errors = [p.relative for p in expert_errors(x, w, dy, recipe=name, seed=0).products]
    most = 0.12 if name == "mxfp8" else 0.5
    assert all(0 < e < most for e in errors), errors
    assert y.dtype == ml_dtypes.bfloat16


def test_errors_of_a_layer_by_format() -> None:
    """MXFP8 loses about what FP8 does; NVFP4 several times that; all with one seed."""
    x, w, dy = _draw(96, 256), _draw(64, 256, seed=1), _draw(96, 64, seed=2)
    recipes = {name: name for name in ("deepseek_v3", "mxfp8", "nvfp4")}
    found = linear_comparison(x, w, dy, recipes=recipes, seed=0).products
    for v3, mx, nv in zip(*found.values(), strict=True):
        assert 0.5 < mx.relative / v3.relative < 2
        assert 2 < nv.relative / v3.relative < 8
    with pytest.raises(ValueError, match="rounds or rotates at random"):
        linear_errors(x, w, dy, recipe="nvfp4")
