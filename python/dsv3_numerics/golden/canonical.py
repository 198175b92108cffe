"""The forward in one arithmetic that every machine shares, for golden answers of layers and models.

Lives here: `Canonical`, the operations of a recipe with sums that no unit is named for, and elementary
functions, in float64 and in a fixed order, rounded once to the recipe's compute dtype. Products by a unit,
casts, scales and norms are the package's own, which are the same at every SIMD level as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array
from ..model import descriptions
from ..model.activations import Activations, as_numbers
from ..model.fields import NONE
from ..model.operations import Attended, Operations
from ..model.recipe import Recipe
from ..model.records import Hook, Routing
from ..model.weights import Weights
from .elementary import Doubles, exp, product, rope_angles, sigmoid, sin_cos, softmax_scale, total


class Canonical(Operations):
    """Operations of a recipe whose results depend on no machine.

    Parameters
    ----------
    recipe, hook
        As for `Operations`.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import Config, Model, random_weights
    >>> model = Model(Config.preset("tiny"), random_weights(Config.preset("tiny")))
    >>> near = model.forward([3, 1, 4], recipe="float32")
    >>> bool(np.abs(model.forward([3, 1, 4], recipe=Canonical("float32")) - near).max() < 1e-4)
    True
    """

    def __init__(self, recipe: Recipe | str, hook: Hook | None = None) -> None:
        super().__init__(recipe, hook)
        self._usual = self._first = None  # the core's layers in one crossing: all is done step by step

    def _product_of_numbers(self, x: Array, w: _core.Weight, as_many_rows: bool) -> Array:
        return self._plain_product(x, w)

    def plain_linear(self, name: str, x: Array, weights: Weights, key: str, kind: str = "linear") -> Array:
        """``x @ w.T`` of a layer that stays in numbers, as head and MTP's projection do."""

        def run(ops: Operations) -> Array:
            return self._plain_product(x, weights.numbers_of(key, bfloat16=ops.recipe.bfloat16))

        return self._do(name, kind, lambda: (x,), run, descriptions.numbers)

    def _plain_product(self, x: Array, w: _core.Weight) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        return rounded(product(flat, numbers(w)), self.recipe).reshape(*x.shape[:-1], w.shape[0])

    def precise_linear(self, name: str, x: Activations, weights: Weights, key: str) -> Array:
        """``x @ w.T`` of a layer that is computed in float32 where the others hand over bfloat16."""

        def run(ops: Operations) -> Array:
            recipe = ops.recipe
            inner = Recipe.preset("float32") if recipe.bfloat16 else recipe
            matrix = weights.numbers_of(key, bfloat16=recipe.bfloat16)
            return Canonical(inner)._plain_product(x.of(recipe).numbers(recipe), matrix)

        return self._do(name, "linear", x.arrays, run, descriptions.numbers)

    def silu(self, name: str, a: Array, b: Array) -> Array:
        """``silu(a) * b``; under bfloat16 rounded after each."""

        def run(ops: Operations) -> Array:
            gated = rounded(np.asarray(a, np.float64) * sigmoid(a), ops.recipe)
            return rounded(np.asarray(gated, np.float64) * b, ops.recipe)

        return self._do(name, "silu", lambda: (a, b), run, descriptions.numbers)

    def rotate(
        self, name: str, x: Array, settings: dict[str, Any], positions: NDArray[np.int64], heads: int
    ) -> Array:
        """Rotate the last channels of every head by its token's position."""

        def run(ops: Operations) -> Array:
            return rounded(rotated(x, settings, positions, heads, ops.recipe), ops.recipe)

        return self._do(name, "rotate", lambda: (x,), run, descriptions.numbers)

    def _attend(self, ops: Operations, given: Attended) -> Array:
        q, cached, settings, weights, absorbed, expanded, probs, selected = given
        recipe, up = ops.recipe, None
        if expanded is None:
            up = numbers(weights.matrix("kv_b_proj.weight", self._products.use))
        out = np.empty((*q.shape[:2], settings["heads"] * settings["v"]), recipe.dtype)
        for b, tokens in enumerate(cached):
            one = _Sequence(q[b], tokens, settings, recipe, None if selected is None else selected[b])
            if absorbed:
                assert up is not None
                out[b], shares = one.absorbed(up)
            else:
                out[b], shares = one.naive(up, None if expanded is None else expanded[b])
            if probs is not None:
                probs[b, :, :, : len(tokens)] = shares
        return out

    def _route(self, ops: Operations, x: Array, weights: Weights, settings: dict[str, Any]) -> Routing:
        recipe = ops.recipe
        inner = Recipe.preset(recipe.compute if recipe.gate == NONE else recipe.gate)
        plain = Recipe(compute=inner.compute)
        matrix = weights.numbers_of("weight", bfloat16=recipe.bfloat16 or plain.bfloat16)
        logits = Canonical(plain)._plain_product(as_numbers(x, plain), matrix)
        masked = ops.group_mask(settings)
        bias = None
        if "e_score_correction_bias" in weights:
            bias = numbers(weights.numbers_of("e_score_correction_bias")).reshape(-1)
        flat = logits.reshape(-1, settings["experts"])
        indices, found, gap = routed(flat, bias, {**settings, "masked": masked}, plain)
        shape = (*x.shape[:-1], settings["top"])
        return Routing(indices.reshape(shape), found.reshape(shape), gap.reshape(x.shape[:-1]), logits)


def numbers(weight: _core.Weight) -> Doubles:
    """Return the numbers that a weight means, exact in float64."""
    out = np.empty(weight.shape, np.float64)
    weight.numbers(out.reshape(-1))
    return out


def rounded(x: Array, recipe: Recipe) -> Array:
    """Round float64 results to a recipe's compute dtype; to bfloat16 by way of float32, as sums are."""
    with np.errstate(over="ignore"):
        return as_numbers(np.ascontiguousarray(x).astype(recipe.dtype), recipe)


def rotated(
    x: Array, settings: dict[str, Any], positions: NDArray[np.int64], heads: int, recipe: Recipe
) -> Doubles:
    """Rotate the last channels of every head: cosines in the recipe's dtype, the rest in float64."""
    dim = settings["dim"]
    angles, amplitude = rope_angles(settings, positions)
    sine, cosine = (
        (part * amplitude).astype(recipe.dtype).astype(np.float64)[:, None] for part in sin_cos(angles)
    )
    out = np.array(x, np.float64)
    turning = out.reshape(len(positions), heads, -1)[..., -dim:]
    pairs = (slice(0, None, 2), slice(1, None, 2))
    if not settings["interleaved"]:
        pairs = (slice(0, dim // 2), slice(dim // 2, None))
    a, b = (turning[..., part].copy() for part in pairs)
    turning[..., pairs[0]] = a * cosine - b * sine
    turning[..., pairs[1]] = a * sine + b * cosine
    return out


class _Sequence:
    """Attention of one sequence's new queries to all its latents."""

    def __init__(
        self,
        q: Array,
        tokens: Array,
        settings: dict[str, Any],
        recipe: Recipe,
        selected: NDArray[np.bool_] | None,
    ) -> None:
        self.recipe, self.tokens = recipe, np.asarray(tokens, np.float64)
        self.heads, self.rank = settings["heads"], settings["rank"]
        self.nope, self.v = settings["nope"], settings["v"]
        self.q = np.asarray(q, np.float64).reshape(len(q), self.heads, -1)
        rope = settings["rope"]
        scale = softmax_scale(self.nope + rope["dim"], rope)
        self.scale = np.float64(recipe.dtype.type(scale))
        new, positions = len(q), len(tokens)
        last = positions - new + np.arange(new)
        self.hidden = np.arange(positions) > last[:, None]
        if selected is not None:
            self.hidden = self.hidden | ~selected

    def naive(self, up: Doubles | None, expanded: Array | None) -> tuple[Array, Array]:
        """Attend to keys and values of each head."""
        latent, key = self.tokens[:, : self.rank], self.tokens[:, self.rank :]
        if expanded is None:
            assert up is not None
            expanded = rounded(product(latent, up), self.recipe)
        made = np.asarray(expanded, np.float64).reshape(len(latent), self.heads, -1)
        out = np.empty((len(self.q), self.heads, self.v), self.recipe.dtype)
        shares = np.empty((len(self.q), self.heads, len(latent)), self.recipe.dtype)
        for h in range(self.heads):
            keys, values = made[:, h, : self.nope], made[:, h, self.nope :]
            scores = product(self.q[:, h], np.concatenate([keys, key], axis=1))
            shares[:, h] = self._softmax(scores)
            out[:, h] = rounded(product(shares[:, h], values.T), self.recipe)
        return out.reshape(len(out), -1), shares

    def absorbed(self, up: Doubles) -> tuple[Array, Array]:
        """Attend to the latents themselves, as keys and values of all heads."""
        latent, key = self.tokens[:, : self.rank], self.tokens[:, self.rank :]
        matrices = up.reshape(self.heads, self.nope + self.v, self.rank)
        out = np.empty((len(self.q), self.heads, self.v), self.recipe.dtype)
        shares = np.empty((len(self.q), self.heads, len(latent)), self.recipe.dtype)
        for h, matrix in enumerate(matrices):
            q = rounded(product(self.q[:, h, : self.nope], matrix[: self.nope].T), self.recipe)
            parts = [product(q, latent), product(self.q[:, h, self.nope :], key)]
            if self.recipe.bfloat16:  # each part is a result of its own
                parts = [np.asarray(rounded(part, self.recipe), np.float64) for part in parts]
            shares[:, h] = self._softmax(parts[0] + parts[1])
            sums = rounded(product(shares[:, h], latent.T), self.recipe)
            out[:, h] = rounded(product(sums, matrix[self.nope :]), self.recipe)
        return out.reshape(len(out), -1), shares

    def _softmax(self, scores: Doubles) -> Array:
        held = rounded(scores, self.recipe)
        held = rounded(np.asarray(held, np.float64) * self.scale, self.recipe)
        wide = np.where(self.hidden, -np.inf, np.asarray(held, np.float64))
        e = exp(wide - wide.max(axis=-1, keepdims=True))
        return rounded(e / total(e)[:, None], self.recipe)


def routed(
    logits: Array, bias: Doubles | None, settings: dict[str, Any], recipe: Recipe
) -> tuple[NDArray[np.int64], Array, Array]:
    """Choose experts: indices and weights (tokens, top), and the gap of each token.

    Parameters
    ----------
    logits : ndarray, shape (tokens, experts)
    bias : ndarray of float64, shape (experts,), or None
        Takes part in the choice alone.
    settings : mapping
        Of a `Gate`.
    recipe : Recipe
        Whose compute dtype scores and weights are rounded to; biased scores are added in it.
    """
    dtype, (tokens, experts) = recipe.dtype.type, logits.shape
    if settings["scoring"] == "sigmoid":
        scores = rounded(sigmoid(logits), recipe)
    else:
        wide = np.asarray(logits, np.float64)
        e = exp(wide - wide.max(axis=-1, keepdims=True))
        scores = rounded(e / total(e)[:, None], recipe)
    biased = scores if bias is None else scores + bias.astype(recipe.dtype)
    by_group = biased.reshape(tokens, settings["groups"], -1)
    best = -np.sort(-by_group, axis=-1)
    group_scores = best[..., 0]
    if settings["best"] == 2 and best.shape[-1] > 1:
        group_scores = best[..., 0] + best[..., 1]
    order = _descending(group_scores)
    closed = np.ones(group_scores.shape, bool)
    np.put_along_axis(closed, order[:, : settings["kept"]], False, axis=-1)
    choice = np.where(closed[..., None], dtype(settings["masked"]), by_group).reshape(tokens, experts)
    ranked = _descending(choice)
    indices = ranked[:, : settings["top"]]
    weights = np.take_along_axis(scores, indices, axis=-1)
    if settings["normalised"]:
        sums = rounded(total(weights), recipe)
        weights = rounded(weights / (sums + dtype(1e-20))[:, None], recipe)
    weights = rounded(weights * dtype(settings["factor"]), recipe)
    gap = np.minimum(_lead(choice, ranked, settings["top"]), _lead(group_scores, order, settings["kept"]))
    return indices.astype(np.int64), weights, gap.astype(recipe.dtype)


def _descending(x: Array) -> NDArray[np.intp]:
    """Return indices from the largest down; among equals the lower index first."""
    return np.argsort(-x, axis=-1, kind="stable")


def _lead(x: Array, ranked: NDArray[np.intp], taken: int) -> Array:
    """By how much the last that was taken leads the first that was not; infinite where none was left out."""
    if taken >= x.shape[-1]:
        return np.full(len(x), np.inf, x.dtype)
    edge = np.take_along_axis(x, ranked[:, taken - 1 : taken + 1], axis=-1)
    lead: Array = edge[:, 0] - edge[:, 1]
    return lead
