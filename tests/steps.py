"""Single operations of recipes on fixed numbers, and what the textbook makes of the same.

Shared by the test that compares digests and by the script that wrote them. Inputs are numbers of the golden
forward, rounded to bfloat16, as many as an operation takes: no operation sees what another one made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dsv3_numerics import Recipe, checkpoint, reference
from dsv3_numerics.model import Model
from dsv3_numerics.model.cache_formats import CacheFormat
from dsv3_numerics.model.fitting import is_quantized
from dsv3_numerics.model.operations import Operations
from dsv3_numerics.schemes import LogTiles

FOLDER = Path(__file__).parent / "golden" / "tiny_v3_fp8"
ROWS = 24
V3 = Recipe.preset("deepseek_v3")
REQUANTIZED = {"weights": "e4m3:128x128:ue8m0:requantized"}
RECIPES = {
    "bf16": Recipe.preset("bf16"),
    "deepseek_v3": V3,
    "deepseek_v31": Recipe.preset("deepseek_v31").replace(**REQUANTIZED),
    "blackwell": Recipe.preset("blackwell").replace(**REQUANTIZED),
}
# The names of older digests, and the schemes that they are of.
CACHES = {"bfloat16": "bf16", "fp8": "flashmla", "logfmt8": "logfmt8", "logfmt10": "logfmt10"}
COMBINES = {
    "numbers": "none",
    "bf16": "bf16",
    "e5m6:1x128:ue8m0": "e5m6:1x128:ue8m0",
    "logfmt8": "logfmt8",
    "logfmt10": "logfmt10",
}


class Step(NamedTuple):
    """An operation's output, and the textbook's: equal to the bit where `exact`, else to `nearly`."""

    run: Callable[[], Any]
    textbook: Callable[[], Any]
    exact: bool = True


def bfloat16(x: Any) -> Any:
    """Rounded by ml_dtypes, as float32."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def nearly(found: Any, expected: Any) -> bool:
    """Equal but for the last place, and that seldom: float32 sums may fall on the other side of a tie."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    # A bfloat16 place, or float32's error of the terms where they cancel.
    near = np.abs(found - expected) <= 2.0**-7 * np.abs(expected) + 2.0**-20 * np.abs(expected).max()
    return bool(near.all() and (found == expected).mean() > 0.99)


class Steps:
    """All steps, by name."""

    def __init__(self) -> None:
        self.model = Model.from_checkpoint(FOLDER)
        self.opened = checkpoint.open(FOLDER)
        with np.load(FOLDER / "golden.npz") as golden:
            self.numbers = bfloat16(golden["wf32.final_norm"]).reshape(-1)

    def x(self, channels: int, rows: int = ROWS, start: int = 0) -> Any:
        """Numbers of the golden forward."""
        return np.resize(np.roll(self.numbers, -start), (rows, channels))

    def __iter__(self) -> Iterator[tuple[str, Step]]:
        for name, recipe in RECIPES.items():
            for tensor, shape in self.model.weights._shapes.items():
                if is_quantized(tensor):
                    yield f"{name}/{tensor}", self.linear(recipe, tensor, shape[1])
                elif tensor.endswith("norm.weight"):
                    yield f"{name}/{tensor}", self.norm(recipe, tensor, shape[0])
            yield f"{name}/silu", self.silu(recipe)
            yield f"{name}/dispatch", self.dispatch(recipe)
            for word, scheme in COMBINES.items():
                yield f"{name}/combine {word}", self.combine(recipe.replace(combine=scheme))
        for word, scheme in CACHES.items():
            yield f"cache {word}", self.cache(scheme)

    # --- Linear layers ------------------------------------------------------------------------------------

    def linear(self, recipe: Recipe, tensor: str, channels: int) -> Step:
        ops, x = Operations(recipe), self.x(channels)
        sent = ".experts." in tensor and not tensor.endswith("down_proj.weight")
        left = ops.dispatch("", x) if sent else ops.activations(x)
        scheme = recipe.activation_scheme(dispatched=sent)

        def run() -> Any:
            return ops.linear("", left, self.model.weights, tensor, dispatched=sent)

        def textbook() -> Any:
            w = as_reference(self.opened.quantized(tensor))
            numbers = reference.dequantize(w)
            if not scheme.is_quantized:
                return bfloat16(x.astype(np.float64) @ bfloat16(numbers).astype(np.float64).T)
            if recipe.weights.is_quantized and recipe.weights.requantize:
                w = reference.quantize_blocks(numbers, fmt="float8_e4m3fn", block=(128, 128), scale="ue8m0")
            every = recipe.promote_every
            out = reference.matmul_nt(
                codes(scheme, x, recipe.rule), w, accumulator=recipe.accumulator, promote_every=every
            )
            return bfloat16(out)

        return Step(run, textbook, exact=scheme.is_quantized)

    # --- Others -------------------------------------------------------------------------------------------

    def norm(self, recipe: Recipe, tensor: str, channels: int) -> Step:
        x, eps = self.x(channels), self.model.config.rms_norm_eps

        def textbook() -> Any:
            wide = x.astype(np.float64)
            w = bfloat16(self.opened.dequantized(tensor))
            return bfloat16(w * wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + eps))

        return Step(
            lambda: Operations(recipe).norm("", x, self.model.weights, tensor, eps), textbook, exact=False
        )

    def silu(self, recipe: Recipe) -> Step:
        a, b = self.x(80), self.x(80, start=99)
        wide = a.astype(np.float64)
        return Step(
            lambda: Operations(recipe).silu("", a, b),
            lambda: bfloat16(bfloat16(wide / (1 + np.exp(-wide))) * b),
            exact=False,
        )

    def dispatch(self, recipe: Recipe) -> Step:
        x, scheme = self.x(216), recipe.dispatch

        def textbook() -> Any:
            return bfloat16(reference.dequantize(codes(scheme, x, recipe.rule))) if scheme.is_quantized else x

        return Step(lambda: Operations(recipe).dispatch("", x).numbers(recipe), textbook)

    def combine(self, recipe: Recipe) -> Step:
        tokens, top, experts = ROWS // 3, 3, 8
        parts, shared = self.x(216), self.x(216, tokens, start=7)
        indices = (np.arange(tokens)[:, None] * 5 + np.arange(top) * 3) % experts
        weights = np.abs(self.x(top, tokens, start=3)).astype(np.float32)

        def textbook() -> Any:
            received, order = (
                back(recipe.combine, parts),
                np.argsort(indices.reshape(-1), kind="stable"),
            )
            place = np.argsort(order).reshape(tokens, top)
            out = np.zeros((tokens, 216), np.float32)
            for token in range(tokens):
                if recipe.combine.is_identity:  # torch: experts in ascending order, rounded at each step
                    for slot in np.argsort(indices[token]):
                        part = bfloat16(weights[token, slot] * received[place[token, slot]])
                        out[token] = bfloat16(out[token] + part)
                else:  # DeepEP: the order of the choice, one float32 sum
                    for slot in range(top):
                        out[token] += weights[token, slot] * received[place[token, slot]]
            return bfloat16(bfloat16(out) + shared)

        return Step(lambda: Operations(recipe).combine("", parts, indices, weights, shared), textbook)

    def cache(self, word: str) -> Step:
        config = self.model.config
        rank, rope = config.kv_lora_rank, config.qk_rope_head_dim
        x = self.x(rank + rope)
        kept = CacheFormat.of(word, rank, rope)

        def textbook() -> Any:
            key = x[:, rank:].astype(ml_dtypes.bfloat16)
            if word == "bf16":
                return x.astype(ml_dtypes.bfloat16)
            parts: list[Any]
            if word == "flashmla":
                q = reference.quantize_tiles(
                    x[:, :rank], fmt="float8_e4m3fn", tile=128, scale="ue8m0", rule="vllm", floor=448e-4
                )
                parts = [q.codes, q.scales.astype(np.float32), key]
            else:
                log = reference.logfmt_encode(x[:, :rank], bits=kept.scheme.width)
                packed = reference.logfmt_pack(log.codes, bits=log.bits)
                parts = [packed, log.amin, log.amax, key]
            return np.concatenate([np.ascontiguousarray(p).view(np.uint8) for p in parts], axis=1)

        return Step(lambda: kept.write(x), textbook)


def as_reference(q: Any) -> reference.Quantized:
    """The textbook's container with the same codes and scales."""
    return reference.Quantized(
        q.codes, q.scales, q.format, q.block, q.axis, q.scale_kind, q.rule, q.global_scale
    )


def codes(scheme: Any, x: Any, rule: str = "deepseek_v3") -> reference.Quantized:
    """Tiles by the textbook."""
    options: dict[str, Any] = {"rule": scheme.rule or (rule if scheme.uses_scale_rule else None)}
    if scheme.scale == "nvfp4":
        options["global_scale"] = scheme.global_scale
    return reference.quantize_tiles(x, fmt=scheme.format, tile=scheme.group_k, scale=scheme.scale, **options)


def back(scheme: Any, x: Any) -> Any:
    """Return what the textbook leaves of numbers that have been in a scheme."""
    if isinstance(scheme, LogTiles):
        return reference.logfmt_decode(reference.logfmt_encode(x, bits=scheme.width))
    return reference.dequantize(codes(scheme, x)) if scheme.is_quantized else x
