"""Experiment ``training``, measured: a layer's and an expert's products, regrouping, and small gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..quant import quantize_tiles
from ..scale_rule import Scale
from ..training import (
    ExpertRecipe,
    ExpertWeights,
    LinearRecipe,
    ProductError,
    dgrad,
    expert_errors,
    linear_errors,
    wgrad,
)
from .draws import ACTIVATIONS, Data
from .experiment import Job, Row, RunConfig

Floats = NDArray[np.float32]

V3 = LinearRecipe()
EXPERT_V3 = ExpertRecipe()
E5M2 = "e5m2:1x128:f32"
MXFP8, NVFP4 = LinearRecipe.preset("mxfp8"), LinearRecipe.preset("nvfp4")
PLAIN_NVFP4 = NVFP4.replace(gradients="nvfp4", hadamard=None)
"""Weights in 16x16 blocks, everything to nearest."""


def nvfp4_by(rule: str) -> LinearRecipe:
    """Plain NVFP4 with its scales by another rule."""
    tiles = f"nvfp4:{rule}"
    return PLAIN_NVFP4.replace(activations=tiles, weights=f"e2m1:16x16:{tiles}", gradients=tiles)


class Shape(NamedTuple):
    """Sizes of a layer, and of an expert: about a quarter of DeepSeek-V3's 7168 and 2048."""

    tokens: int
    inputs: int
    outputs: int


FULL = Shape(1024, 1792, 512)
QUICK = Shape(256, 384, 160)


def _channels(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.floating]:
    """Draw normal values, in channels of lognormal size."""
    sizes: NDArray[np.float64] = np.exp(rng.standard_normal(shape[1]))
    return rng.standard_normal(shape) * sizes


DATA: tuple[Data, ...] = (
    *(data for data in ACTIVATIONS if data.name != "one zero"),
    Data("channels", "normal, in channels of lognormal size, σ = 1", _channels),
)

LAYERS: dict[str, LinearRecipe] = {
    "BF16": LinearRecipe.preset("bf16"),
    "FP8, float32 scales": V3,
    "FP8 after attention": LinearRecipe.preset("after_attention"),
    "FP8 up projection": LinearRecipe.preset("up_projection"),
    "FP8 down projection": LinearRecipe.preset("down_projection"),
    "FP8, all scales 2^k": LinearRecipe("e4m3:1x128:ue8m0", "e4m3:128x128:ue8m0", "e4m3:1x128:ue8m0"),
    "FP8, E5M2 gradients": V3.replace(gradients=E5M2),
    "FP8, Blackwell's sums": V3.replace(accumulator="blackwell_fp8"),
    "FP8, exact sums": V3.replace(accumulator="exact"),
    "FP8, stochastic gradients": V3.replace(gradients="e4m3:1x128:f32:stochastic"),
    "MXFP8": MXFP8,
    "MXFP8, stochastic gradients": MXFP8.replace(gradients="mxfp8:rceil:stochastic"),
    "NVFP4": PLAIN_NVFP4,
    "NVFP4, stochastic gradients": PLAIN_NVFP4.replace(gradients=NVFP4.gradients),
    "NVFP4, rotated": PLAIN_NVFP4.replace(hadamard=16),
    "NVFP4, four over six": nvfp4_by("nvfp4_four_over_six"),
    "NVFP4, scales searched": nvfp4_by("nvfp4(candidates=6/5.5/5/4.5/4)"),
    "NVFP4, as trained": NVFP4,
    "FP8, one scale per row": LinearRecipe("e4m3:row:f32", "e4m3:tensor:f32", "e4m3:row:f32"),
    "FP8, one scale per row, never promoted": LinearRecipe(
        "e4m3:row:f32", "e4m3:tensor:f32", "e4m3:row:f32", promote_every=None
    ),
}
"""float64, which all are held against, loses nothing."""


def _everywhere(recipe: ExpertRecipe, **changes: Any) -> ExpertRecipe:
    return recipe.replace(up=recipe.up.replace(**changes), down=recipe.down.replace(**changes))


EXPERTS: dict[str, ExpertRecipe] = {
    "BF16": ExpertRecipe.preset("bf16"),
    "FP8": EXPERT_V3,
    "FP8, float32 scales": _everywhere(EXPERT_V3, activations="e4m3:1x128:f32", gradients="e4m3:1x128:f32"),
    "FP8, SwiGLU's inputs kept in BF16": EXPERT_V3.replace(saved="none"),
    "FP8, E5M2 gradients": EXPERT_V3.replace(
        up=EXPERT_V3.up.replace(gradients=E5M2),
        down=EXPERT_V3.down.replace(gradients="e5m2:1x128:ue8m0"),
    ),
    "MXFP8": ExpertRecipe.preset("mxfp8"),
    "NVFP4, to nearest": _everywhere(ExpertRecipe.preset("nvfp4"), gradients="nvfp4", hadamard=None),
    "NVFP4, as trained": ExpertRecipe.preset("nvfp4"),
}

GROUPS: dict[str, LinearRecipe] = {
    "E4M3, 1x128": V3,
    "E5M2, 1x128": V3.replace(gradients=E5M2),
    "E4M3, 128x128": V3.replace(gradients="e4m3:128x128:f32"),
    "E5M2, 128x128": V3.replace(gradients="e5m2:128x128:f32"),
}
"""How Dgrad takes dy."""

FLOORS: dict[str, LinearRecipe] = {
    "E4M3, floor of 1e-4": V3,
    "E5M2, floor of 1e-4": V3.replace(gradients=E5M2),
    "E4M3, no floor": V3.replace(gradient_floor=0.0),
}

SPREADS = (0, 1, 2, 3, 4, 5, 6)
"""Octaves, the standard deviation of the sizes of tokens' gradients."""

LOST = 0.1
"""The error of a token's gradient that counts as lost."""

EXPONENTS = tuple(range(-1, -12, -1))
"""Powers of ten that gradients are as large as."""


GRADIENTS: dict[str, LinearRecipe] = {
    "E4M3, 1x128": V3,
    "MXFP8": MXFP8,
    "NVFP4": PLAIN_NVFP4,
}
"""Formats whose gradients are rounded to nearest, and at random."""

DRAWS = 32
"""Gradients of one weight that are averaged."""


def jobs(config: RunConfig) -> list[Job]:
    """Regrouping, the layer, the expert, groups of gradients, and the floor."""
    shape = QUICK if config.quick else FULL
    found = [Job(f"regrouping: {data.name}", partial(_regroup, config, shape, data)) for data in DATA]
    for data in DATA:
        load = lru_cache(maxsize=1)(partial(_layer, config, shape, data))
        found += [
            Job(f"layer, {data.name}: {name}", partial(_measure_layer, config, load, data.name, name))
            for name in LAYERS
        ]
    operands = lru_cache(maxsize=1)(partial(_expert, config, shape))
    found += [Job(f"expert: {name}", partial(_measure_expert, config, operands, name), 4) for name in EXPERTS]
    plain = lru_cache(maxsize=1)(partial(_layer, config, shape, DATA[0]))
    found += [
        Job(f"gradients of tokens, {octaves} octaves", partial(_tokens, config, plain, octaves))
        for octaves in SPREADS
    ]
    found += [Job(f"gradients of 1e{e}", partial(_floor, plain, e)) for e in EXPONENTS]
    return found + [
        Job(f"mean gradient, {name}, {how}", partial(_mean, config, name, how))
        for name in GRADIENTS
        for how in ("nearest", "stochastic")
    ]


def _bfloat16(x: NDArray[Any]) -> Floats:
    rounded: Floats = x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def _layer(config: RunConfig, shape: Shape, data: Data) -> tuple[Floats, Floats, Floats]:
    """x, w and dy: tokens' gradients differ by an octave (standard deviation), and are about 0.01."""
    rng = config.rng("training", "layer", data.name)
    x = data.draw(rng, (shape.tokens, shape.inputs))
    w = rng.standard_normal((shape.outputs, shape.inputs)) * 0.02
    dy = (
        0.01
        * rng.standard_normal((shape.tokens, shape.outputs))
        * np.exp2(rng.standard_normal((shape.tokens, 1)))
    )
    return _bfloat16(x), _bfloat16(w), _bfloat16(dy)


def _expert(config: RunConfig, shape: Shape) -> tuple[Floats, ExpertWeights, Floats]:
    """x with loud channels; weights that keep sizes; dy like that of a layer."""
    rng = config.rng("training", "expert")
    outliers = next(data for data in DATA if data.name == "outliers")
    x = outliers.draw(rng, (shape.tokens, shape.inputs))
    x = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True))
    sides = (shape.outputs, shape.inputs), (shape.outputs, shape.inputs), (shape.inputs, shape.outputs)
    w = ExpertWeights(*(_bfloat16(rng.standard_normal(s) / np.sqrt(s[1])) for s in sides))
    dy = (
        0.01
        * rng.standard_normal((shape.tokens, shape.inputs))
        * np.exp2(rng.standard_normal((shape.tokens, 1)))
    )
    return _bfloat16(x), w, _bfloat16(dy)


def _relative(found: NDArray[Any], exact: NDArray[Any]) -> float:
    wide = exact.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - wide) / np.linalg.norm(wide))


def _regroup(config: RunConfig, shape: Shape, data: Data) -> Iterator[Row]:
    x = _bfloat16(data.draw(config.rng("training", "regroup", data.name), (2 * shape.tokens, shape.inputs)))
    kinds: tuple[tuple[str, Scale], ...] = (
        ("float8_e4m3fn", "float32"), ("float8_e4m3fn", "ue8m0"), ("e5m6", "float32"), ("e5m6", "ue8m0")
    )  # fmt: skip
    for stored, scale in kinds:
        words = {name: f"{name}:1x128:{'f32' if scale == 'float32' else scale}" for name in ("e4m3", "e5m6")}
        saved = words["e5m6" if stored == "e5m6" else "e4m3"]
        recipe = LinearRecipe(words["e4m3"], saved_activations=saved)
        first = recipe.save_activations(x)
        assert not isinstance(first, np.ndarray)
        again = recipe.activation_columns(first)
        assert not isinstance(again, np.ndarray)
        before, after = first.dequantize(), again.dequantize()
        fresh = quantize_tiles(x, axis=0, scale=scale).dequantize()
        yield {
            "part": "regroup",
            "data": data.name,
            "stored": stored,
            "scale": scale,
            "changed": float(np.mean(before != after)),
            "once": _relative(before, x),
            "twice": _relative(after, x),
            "fresh": _relative(fresh, x),
        }


def _columns(found: Iterable[ProductError]) -> Iterator[Row]:
    for p in found:
        yield {
            "product": p.name,
            "error": p.relative,
            "casts": p.casts,
            "sums": p.sums,
            "worst": p.worst,
            "difference": p.difference,
        }


Operands = Callable[[], tuple[Floats, Any, Floats]]


def _measure_layer(config: RunConfig, load: Operands, data: str, name: str) -> Iterator[Row]:
    x, w, dy = load()
    rng = config.rng("training", "rounding", data, name)
    for row in _columns(linear_errors(x, w, dy, recipe=LAYERS[name], seed=rng).products):
        about: Row = {"part": "layer", "data": data, "recipe": name}
        yield about | row


def _measure_expert(config: RunConfig, load: Operands, name: str) -> Iterator[Row]:
    rng = config.rng("training", "rounding", "expert", name)
    for row in _columns(expert_errors(*load(), recipe=EXPERTS[name], seed=rng).products):
        about: Row = {"part": "expert", "recipe": name}
        yield about | row


def _tokens(config: RunConfig, load: Operands, octaves: int) -> Iterator[Row]:
    _, w, dy = load()
    rng = config.rng("training", "tokens")
    dy = _bfloat16(
        np.sign(dy)
        * 0.01
        * np.abs(rng.standard_normal(dy.shape))
        * np.exp2(octaves * rng.standard_normal((len(dy), 1)))
    )
    exact = dy.astype(np.float64) @ w.astype(np.float64)
    for name, recipe in GROUPS.items():
        error = dgrad(dy, w, recipe=recipe).astype(np.float64) - exact
        by_token = np.linalg.norm(error, axis=1) / np.linalg.norm(exact, axis=1)
        yield {
            "part": "tokens",
            "octaves": octaves,
            "dy": name,
            "median": float(np.median(by_token)),
            "lost": float(np.mean(by_token > LOST)),
            "error": _relative(exact + error, exact),
        }


def _mean(config: RunConfig, name: str, how: str) -> Iterator[Row]:
    """Average the gradient of a weight over steps with one dy: errors that come back at every step stay."""
    rng = config.rng("training", "mean", name)
    tokens, inputs, outputs = 64, 128, 64
    x = _bfloat16(rng.standard_normal((tokens, inputs)))
    dy = _bfloat16(
        rng.standard_normal((tokens, outputs)) * np.exp2(2 * rng.standard_normal((tokens, outputs)))
    )
    recipe = GRADIENTS[name]
    if how == "stochastic":
        recipe = recipe.replace(gradients=recipe.gradients.with_rounding(how))
    exact = dy.astype(np.float64).T @ recipe_numbers(recipe, x)
    bits, total = config.rng("training", "mean", name, "bits"), np.zeros(exact.shape)
    for n in range(1, DRAWS + 1):
        total += wgrad(dy, x, recipe=recipe, seed=bits)
        if n & (n - 1) == 0:
            yield {
                "part": "mean",
                "format": name,
                "rounding": how,
                "draws": n,
                "error": _relative(total / n, exact),
            }


def recipe_numbers(recipe: LinearRecipe, x: Floats) -> NDArray[np.float64]:
    """Return what is left of x in its own format, so that only dy's rounding is measured."""
    held = recipe.activation_columns(x)
    assert not isinstance(held, np.ndarray)
    return held.dequantize(np.float64)


def _floor(load: Operands, exponent: int) -> Iterator[Row]:
    x, w, dy = load()
    small = _bfloat16(dy / np.sqrt(np.mean(dy * dy)) * 10.0**exponent)
    for name, recipe in FLOORS.items():
        _, of_x, of_w = linear_errors(x, w, small, recipe=recipe).products
        yield {
            "part": "floor",
            "size": 10.0**exponent,
            "dy": name,
            "dgrad": of_x.relative,
            "wgrad": of_w.relative,
        }
