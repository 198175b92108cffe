"""An expert's forward and backward pass, product by product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array
from ..quantized import Quantized
from .recipe import ExpertRecipe, LinearRecipe, Operand, Seed, check_pair, operand
from .swiglu import rounded, swiglu, swiglu_gradient


class ExpertWeights(NamedTuple):
    """An expert's matrices, or what belongs to them: gate and up (inner, hidden), down (hidden, inner).

    Either numbers or `Quantized` blocks. V3 quantizes a weight once per step and keeps the codes for the
    passes of all micro-batches.
    """

    gate: Any
    up: Any
    down: Any


class SavedActivations(NamedTuple):
    """Saved activations for backward: x, and SwiGLU's two inputs; `Quantized` in FP8."""

    x: Operand
    gate: Operand
    up: Operand

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return sum(part.nbytes for part in self)


class ExpertGradients(NamedTuple):
    """Outcome of backward: dx for the layer below, and the gradients of the weights."""

    x: Array
    weights: ExpertWeights


class Pair(NamedTuple):
    """Both sides of a product ``a @ b.T``, as they arrived and as they were multiplied."""

    numbers: tuple[Any, Any]
    operands: tuple[Operand, Operand]


class ProductRecord(NamedTuple):
    """One product: its name, recipe, operands (two pairs where two products are added), and result."""

    name: str
    recipe: LinearRecipe
    pairs: Sequence[Pair]
    output: Array


Hook = Callable[[ProductRecord], None]
"""Called after each product."""


def _no_hook(record: ProductRecord) -> None:
    pass


def quantize_weights(
    weights: ExpertWeights, *, recipe: ExpertRecipe | str = "deepseek_v3", seed: Seed = None
) -> ExpertWeights:
    """Return the weights as the products take them: quantized by blocks, unless they are already.

    `seed` is for recipes whose weights are rounded at random.

    Raises
    ------
    ValueError, TypeError
        As for `quantize_blocks`; shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> shapes = (128, 256), (128, 256), (256, 128)
    >>> quantize_weights(ExpertWeights(*(np.ones(s, np.float32) for s in shapes))).down
    Quantized((256, 128) float8_e4m3fn, 128x128, float32 scales, 8.002 bits per element)
    """
    recipe = ExpertRecipe.of(recipe)
    return _quantized_weights(weights, recipe, _weights_generator(recipe, seed))


def _weights_generator(recipe: ExpertRecipe, seed: Seed) -> np.random.Generator | None:
    """Return a generator where weights need one."""
    layers = (recipe.up.weights, recipe.down.weights)
    return recipe.generator(seed) if any(w.is_random for w in layers) else None


def _quantized_weights(
    weights: ExpertWeights, recipe: ExpertRecipe, rng: np.random.Generator | None
) -> ExpertWeights:
    gate, up = (recipe.up.quantize_weights(getattr(weights, name), name, seed=rng) for name in ("gate", "up"))
    down = recipe.down.quantize_weights(weights.down, "down", seed=rng)
    if not gate.shape == up.shape == down.shape[::-1]:
        raise ValueError(
            f"weights: found gate {gate.shape}, up {up.shape} and down {down.shape}, expected "
            "(inner, hidden) for gate and up, and (hidden, inner) for down"
        )
    return ExpertWeights(gate, up, down)


def expert_forward(
    x: ArrayLike | Quantized,
    weights: ExpertWeights,
    *,
    recipe: ExpertRecipe | str = "deepseek_v3",
    seed: Seed = None,
) -> tuple[Array, SavedActivations]:
    """Return an expert's output.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, hidden). Quantized: as it arrived.
    weights : ExpertWeights
        Numbers or Quantized.
    recipe : ExpertRecipe
        See `ExpertRecipe`.
    seed : int or numpy.random.Generator, optional
        For a recipe whose forward rounds at random, see `fprop`.

    Returns
    -------
    y : ndarray of bfloat16, or float64, shape (tokens, hidden)
    saved : SavedActivations
        For `expert_backward`.

    Raises
    ------
    ValueError, TypeError
        As for `fprop`; weights whose shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> w = ExpertWeights(*np.ones((3, 128, 128), np.float32))
    >>> y, saved = expert_forward(np.ones((5, 128), np.float32), w)
    >>> y.shape, y.dtype.name, saved.nbytes
    ((5, 128), 'bfloat16', 1965)
    """
    return hooked_forward(x, weights, ExpertRecipe.of(recipe), _no_hook, seed)


def expert_backward(
    dy: ArrayLike | Quantized,
    saved: SavedActivations,
    weights: ExpertWeights,
    *,
    c: ExpertWeights | None = None,
    recipe: ExpertRecipe | str = "deepseek_v3",
    seed: Seed = None,
) -> ExpertGradients:
    """Return an expert's gradients.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, hidden). Quantized: as it arrived.
    saved : SavedActivations
        What `expert_forward` gave.
    weights : ExpertWeights
        Those that `expert_forward` was given.
    c : ExpertWeights, optional
        The gradients so far, float32 arrays, which the new ones are added to.
    recipe : ExpertRecipe
        That of `expert_forward`.
    seed : int or numpy.random.Generator, optional
        For a recipe that `is_random`, see `fprop`.

    Returns
    -------
    ExpertGradients
        x is bfloat16; weights are float32. All float64 where the recipe is.

    Raises
    ------
    ValueError, TypeError
        As for `wgrad`; another number of tokens than forward had.

    Examples
    --------
    >>> import numpy as np
    >>> w = ExpertWeights(*np.ones((3, 128, 128), np.float32))
    >>> y, saved = expert_forward(np.ones((5, 128), np.float32), w)
    >>> gradients = expert_backward(np.ones((5, 128), np.float32), saved, w)
    >>> gradients.x.dtype.name, gradients.weights.down.shape, gradients.weights.down.dtype.name
    ('bfloat16', (128, 128), 'float32')
    """
    return hooked_backward(dy, saved, weights, c, ExpertRecipe.of(recipe), _no_hook, seed)


def hooked_forward(
    x: Any, weights: ExpertWeights, recipe: ExpertRecipe, hook: Hook, seed: Seed = None
) -> tuple[Array, SavedActivations]:
    """`expert_forward`, telling of each product."""
    up, down = recipe.up, recipe.down
    rng = recipe.generator(seed) if _forward_is_random(recipe) else None
    x = operand(x, "x")
    w = _quantized_weights(weights, recipe, rng)
    check_pair("x", x, 1, "gate", w.gate, 1)
    sent = up.quantize_activations(x, seed=rng)

    def product(name: str, numbers: Any, side: Operand, which: str, layer: LinearRecipe) -> Array:
        matrices = getattr(weights, which), getattr(w, which)
        result = layer.product(side, matrices[1], layer.output_dtype)
        hook(ProductRecord(name, layer, [Pair((numbers, matrices[0]), (side, matrices[1]))], result))
        return result

    a = product("gate.fprop", x, sent, "gate", up)
    b = product("up.fprop", x, sent, "up", up)
    h = swiglu(a, b, recipe.compute)
    y = product("down.fprop", h, down.quantize_activations(h, seed=rng), "down", down)
    # gate's and up's x waits as it was multiplied, in the format that their recipe stores it in.
    kept = sent if up.saved_activations is None else up.save_activations(x, seed=rng)
    return y, SavedActivations(kept, recipe.save(a, seed=rng), recipe.save(b, seed=rng))


def _forward_is_random(recipe: ExpertRecipe) -> bool:
    """Tell whether forward rounds at random; the rest of a recipe's randomness is backward's."""
    layers = (recipe.up, recipe.down)
    schemes = [s for r in layers for s in (r.activations, r.weights, r.saved_activations)]
    return any(s is not None and s.is_random for s in (*schemes, recipe.saved))


def hooked_backward(
    dy: Any,
    saved: SavedActivations,
    weights: ExpertWeights,
    c: ExpertWeights | None,
    recipe: ExpertRecipe,
    hook: Hook,
    seed: Seed = None,
) -> ExpertGradients:
    """`expert_backward`, telling of each product."""
    up, down = recipe.up, recipe.down
    rng = recipe.generator(seed)
    dy = operand(dy, "dy")
    w = _quantized_weights(weights, recipe, rng)
    check_pair("dy", dy, 1, "down", w.down, 0)
    check_pair("dy", dy, 0, "saved.x", saved.x, 0)
    so_far = ExpertWeights(None, None, None) if c is None else c

    def gradient(which: str, left: Any, right: Any, layer: LinearRecipe) -> Array:
        signs = layer.rotation(rng)
        columns = (
            layer.gradient_columns(left, seed=rng, rotation=signs),
            layer.activation_columns(right, seed=rng, rotation=signs),
        )
        sides = columns[0].T, columns[1].T
        result = layer.product(*sides, layer.gradient_dtype, c=getattr(so_far, which))
        pairs = [Pair((_transposed(left), _transposed(right)), sides)]
        hook(ProductRecord(f"{which}.wgrad", layer, pairs, result))
        return result

    a, b = _numbers(saved.gate), _numbers(saved.up)
    h = swiglu(a, b, recipe.compute)
    sent, blocks = down.quantize_gradients(dy, seed=rng), down.weight_columns(w.down, seed=rng).T
    dh = down.product(sent, blocks, down.output_dtype)
    hook(ProductRecord("down.dgrad", down, [Pair((dy, _transposed(weights.down)), (sent, blocks))], dh))
    of_down = gradient("down", dy, h, down)

    da, db = swiglu_gradient(a, b, dh, recipe.compute)
    pairs = [
        Pair(
            (d, _transposed(numbers)),
            (up.quantize_gradients(d, seed=rng), up.weight_columns(codes, seed=rng).T),
        )
        for d, numbers, codes in ((da, weights.gate, w.gate), (db, weights.up, w.up))
    ]
    dx = both(pairs, recipe, up.output_dtype)
    hook(ProductRecord("gate+up.dgrad", up, pairs, dx))
    return ExpertGradients(
        dx, ExpertWeights(gradient("gate", da, saved.x, up), gradient("up", db, saved.x, up), of_down)
    )


def both(pairs: Sequence[Pair], recipe: ExpertRecipe, dtype: Any) -> Array:
    """Return the sum of gate's and up's Dgrads: one that runs over both, or of the two, rounded."""
    up: LinearRecipe = recipe.up
    (one, two) = (pair.operands for pair in pairs)
    if recipe.compute != "bf16":
        return up.product(*two, dtype, c=up.product(*one, up.gradient_dtype))
    first, second = (up.product(*pair, up.output_dtype).astype(np.float64) for pair in (one, two))
    total: Array = rounded(first + second, recipe.compute).astype(dtype)
    return total


def _numbers(x: Operand) -> Array:
    return x.dequantize() if isinstance(x, Quantized) else x


def _transposed(x: Any) -> Any:
    """Return the transpose of numbers or codes."""
    found: Any = x.T if isinstance(x, Quantized) else np.asarray(x).T
    return found
