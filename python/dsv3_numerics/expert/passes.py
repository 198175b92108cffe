"""An expert's forward and backward pass, product by product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array
from ..linear.recipe import LinearRecipe, Operand, check_matrix, check_pair, matrix, turned
from ..quantized import Quantized
from .recipe import DEEPSEEK_V3, ExpertRecipe


class Weights(NamedTuple):
    """An expert's matrices, or what belongs to them: gate and up (inner, hidden), down (hidden, inner).

    Either numbers or `Quantized` blocks. V3 quantizes a weight once per step and keeps the codes for the
    passes of all micro-batches.
    """

    gate: Any
    up: Any
    down: Any


class Saved(NamedTuple):
    """What forward leaves for backward: x, and SwiGLU's two inputs; `Quantized` in FP8."""

    x: Operand
    gate: Operand
    up: Operand

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return sum(part.nbytes for part in self)


class Gradients(NamedTuple):
    """What backward gives: dx for the layer below, and the gradients of the weights."""

    x: Array
    weights: Weights


class Pair(NamedTuple):
    """Both sides of a product ``a @ b.T``, as they arrived and as they were multiplied."""

    numbers: tuple[Any, Any]
    operands: tuple[Operand, Operand]


Watch = Callable[[str, LinearRecipe, Sequence[Pair], Array], None]
"""Told of each product: its name, recipe, operands (two pairs where two products are added), and result."""


def _unwatched(name: str, recipe: LinearRecipe, pairs: Sequence[Pair], result: Array) -> None:
    pass


def cast(weights: Weights, *, recipe: ExpertRecipe = DEEPSEEK_V3) -> Weights:
    """The weights as the products take them: quantized by blocks, unless they are already.

    Raises
    ------
    ValueError, TypeError
        As for `quantize_blocks`; shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> shapes = (128, 256), (128, 256), (256, 128)
    >>> cast(Weights(*(np.ones(s, np.float32) for s in shapes))).down
    Quantized((256, 128) float8_e4m3fn, 128x128, float32 scales, 8.002 bits per element)
    """
    gate, up = (recipe.up.weights(getattr(weights, name), name) for name in ("gate", "up"))
    down = recipe.down.weights(weights.down, "down")
    if not gate.shape == up.shape == down.shape[::-1]:
        raise ValueError(
            f"weights: found gate {gate.shape}, up {up.shape} and down {down.shape}, expected "
            "(inner, hidden) for gate and up, and (hidden, inner) for down"
        )
    return Weights(gate, up, down)


def forward(
    x: ArrayLike | Quantized, weights: Weights, *, recipe: ExpertRecipe = DEEPSEEK_V3
) -> tuple[Array, Saved]:
    """An expert's output.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, hidden). Quantized: as it arrived.
    weights : Weights
        Numbers or Quantized.
    recipe : ExpertRecipe
        See `ExpertRecipe`.

    Returns
    -------
    y : ndarray of bfloat16, or float64, shape (tokens, hidden)
    saved : Saved
        For `backward`.

    Raises
    ------
    ValueError, TypeError
        As for `linear.fprop`; weights whose shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> shapes = (128, 256), (128, 256), (256, 128)
    >>> w = Weights(*(rng.standard_normal(s).astype(np.float32) / 16 for s in shapes))
    >>> y, saved = forward(rng.standard_normal((5, 256)).astype(np.float32), w)
    >>> y.shape, y.dtype.name, saved.nbytes
    ((5, 256), 'bfloat16', 2610)
    """
    return watched_forward(x, weights, recipe, _unwatched)


def backward(
    dy: ArrayLike | Quantized,
    saved: Saved,
    weights: Weights,
    *,
    c: Weights | None = None,
    recipe: ExpertRecipe = DEEPSEEK_V3,
) -> Gradients:
    """An expert's gradients.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, hidden). Quantized: as it arrived.
    saved : Saved
        What `forward` gave.
    weights : Weights
        Those that `forward` was given.
    c : Weights, optional
        The gradients so far, float32 arrays, which the new ones are added to.
    recipe : ExpertRecipe
        That of `forward`.

    Returns
    -------
    Gradients
        x is bfloat16; weights are float32. All float64 where the recipe is.

    Raises
    ------
    ValueError, TypeError
        As for `linear.wgrad`; another number of tokens than forward had.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> shapes = (128, 256), (128, 256), (256, 128)
    >>> w = Weights(*(rng.standard_normal(s).astype(np.float32) / 16 for s in shapes))
    >>> y, saved = forward(rng.standard_normal((5, 256)).astype(np.float32), w)
    >>> gradients = backward(np.ones((5, 256), np.float32), saved, w)
    >>> gradients.x.dtype.name, gradients.weights.down.shape, gradients.weights.down.dtype.name
    ('bfloat16', (256, 128), 'float32')
    """
    return watched_backward(dy, saved, weights, c, recipe, _unwatched)


def watched_forward(x: Any, weights: Weights, recipe: ExpertRecipe, watch: Watch) -> tuple[Array, Saved]:
    """`forward`, telling of each product."""
    up, down = recipe.up, recipe.down
    x = _checked(x, "x")
    w = cast(weights, recipe=recipe)
    check_pair("x", x, 1, "gate", w.gate, 1)
    sent = up.activations(x)

    def product(name: str, numbers: Any, side: Operand, which: str, layer: LinearRecipe) -> Array:
        matrices = getattr(weights, which), getattr(w, which)
        result = layer.product(side, matrices[1], layer.narrow)
        watch(name, layer, [Pair((numbers, matrices[0]), (side, matrices[1]))], result)
        return result

    a = product("gate.fprop", x, sent, "gate", up)
    b = product("up.fprop", x, sent, "up", up)
    h = recipe.swiglu(a, b)
    y = product("down.fprop", h, down.activations(h), "down", down)
    # gate's and up's x waits as it was multiplied, in the format that their recipe stores it in.
    kept = sent if up.stored_dtype is None else up.stored(x)
    return y, Saved(kept, recipe.kept(a), recipe.kept(b))


def watched_backward(
    dy: Any, saved: Saved, weights: Weights, c: Weights | None, recipe: ExpertRecipe, watch: Watch
) -> Gradients:
    """`backward`, telling of each product."""
    up, down = recipe.up, recipe.down
    dy = _checked(dy, "dy")
    w = cast(weights, recipe=recipe)
    check_pair("dy", dy, 1, "down", w.down, 0)
    check_pair("dy", dy, 0, "saved.x", saved.x, 0)
    so_far = Weights(None, None, None) if c is None else c

    def gradient(which: str, left: Any, right: Any, layer: LinearRecipe) -> Array:
        columns = layer.gradient_columns(left), layer.activation_columns(right)
        turns = turned(columns[0]), turned(columns[1])
        result = layer.product(*turns, layer.wide, c=getattr(so_far, which))
        watch(f"{which}.wgrad", layer, [Pair((_turned(left), _turned(right)), turns)], result)
        return result

    a, b = _numbers(saved.gate), _numbers(saved.up)
    h = recipe.swiglu(a, b)
    sent, blocks = down.gradients(dy), turned(w.down)
    dh = down.product(sent, blocks, down.narrow)
    watch("down.dgrad", down, [Pair((dy, _turned(weights.down)), (sent, blocks))], dh)
    of_down = gradient("down", dy, h, down)

    da, db = recipe.swiglu_gradient(a, b, dh)
    pairs = [
        Pair((d, _turned(numbers)), (up.gradients(d), turned(codes)))
        for d, numbers, codes in ((da, weights.gate, w.gate), (db, weights.up, w.up))
    ]
    dx = both(pairs, recipe, up.narrow)
    watch("gate+up.dgrad", up, pairs, dx)
    return Gradients(dx, Weights(gradient("gate", da, saved.x, up), gradient("up", db, saved.x, up), of_down))


def both(pairs: Sequence[Pair], recipe: ExpertRecipe, dtype: Any) -> Array:
    """The sum of gate's and up's Dgrads: one sum that runs over both, or of the two as they are rounded."""
    up = recipe.up
    (one, two) = (pair.operands for pair in pairs)
    if recipe.elementwise != "bfloat16":
        return up.product(*two, dtype, c=up.product(*one, up.wide))
    first, second = (up.product(*pair, up.narrow).astype(np.float64) for pair in (one, two))
    return recipe.round(first + second).astype(dtype)


def _checked(x: Any, name: str) -> Any:
    """A matrix of numbers or codes."""
    if not isinstance(x, Quantized):
        return matrix(x, name)
    check_matrix(x.shape, name)
    return x


def _numbers(x: Operand) -> Array:
    return x.dequantize() if isinstance(x, Quantized) else x


def _turned(x: Any) -> Any:
    """The transpose of numbers or codes."""
    return turned(x) if isinstance(x, Quantized) else np.asarray(x).T
