"""The three products of a linear layer in training: `fprop`, `dgrad`, `wgrad`."""

from __future__ import annotations

from numpy.typing import ArrayLike

from .._arrays import Array
from ..quantized import Quantized
from .recipe import LinearRecipe, Seed, check_pair, operand


def fprop(
    x: ArrayLike | Quantized,
    w: ArrayLike | Quantized,
    *,
    recipe: LinearRecipe | str = "deepseek_v3",
    seed: Seed = None,
    out: Array | None = None,
) -> Array:
    """Multiply forward: ``x @ w.T``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, in); numbers are quantized by 1x128 tiles.
    w : the same
        Shape (out, in); numbers are quantized by 128x128 blocks.
    recipe : LinearRecipe or str
        Formats, scales, accumulator; a name is a preset's.
    seed : int or numpy.random.Generator, optional
        For a recipe that `is_random`, which needs one. Every operand has bits of its own; calls with one
        generator are independent, those with one integer are alike.
    out : ndarray of bfloat16, optional
        The result is written here; float64 if the recipe's operands are.

    Returns
    -------
    ndarray of bfloat16, or float64, shape (tokens, out)

    Raises
    ------
    ValueError, TypeError
        As for `quantize_tiles` and `matmul_nt`; anything but two axes; shapes that do not fit; no `seed`
        for a recipe that needs one.

    Examples
    --------
    >>> import numpy as np
    >>> fprop(np.full((1, 256), 1.75, np.float32), np.full((2, 256), 3.5, np.float32)).astype(float)
    array([[1568., 1568.]])
    """
    recipe = LinearRecipe.of(recipe)
    rng = recipe.generator(seed)
    left, right = recipe.quantize_activations(x, seed=rng), recipe.quantize_weights(w, seed=rng)
    check_pair("x", left, 1, "w", right, 1)
    return recipe.product(left, right, recipe.output_dtype, out=out)


def dgrad(
    dy: ArrayLike | Quantized,
    w: ArrayLike | Quantized,
    *,
    recipe: LinearRecipe | str = "deepseek_v3",
    seed: Seed = None,
    out: Array | None = None,
) -> Array:
    """Compute the gradient of the input, ``dy @ w``: the blocks of the forward product, transposed.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, out); numbers are quantized by 1x128 tiles.
    w, recipe, seed, out
        As for `fprop`.

    Returns
    -------
    ndarray of bfloat16, or float64, shape (tokens, in)

    Raises
    ------
    ValueError, TypeError
        As for `fprop`.

    Examples
    --------
    >>> import numpy as np
    >>> dgrad(np.ones((1, 2), np.float32), np.ones((2, 3), np.float32)).astype(float)
    array([[2., 2., 2.]])
    """
    recipe = LinearRecipe.of(recipe)
    rng = recipe.generator(seed)
    left, right = recipe.quantize_gradients(dy, seed=rng), recipe.weight_columns(w, seed=rng)
    check_pair("dy", left, 1, "w", right, 0)
    return recipe.product(left, right.T, recipe.output_dtype, out=out)


def wgrad(
    dy: ArrayLike | Quantized,
    x: ArrayLike | Quantized,
    *,
    c: ArrayLike | None = None,
    recipe: LinearRecipe | str = "deepseek_v3",
    seed: Seed = None,
    out: Array | None = None,
) -> Array:
    """Compute the gradient of the weights, ``dy.T @ x``, in float32.

    Both sides are summed over tokens and need tiles of 128 tokens in one channel. x was stored by the forward
    product in 1x128 tiles and is regrouped from those (numbers are quantized twice, as in the recipe); dy is
    quantized from its numbers, or regrouped if it is given in other tiles or `gradients_arrive` in them. A
    recipe with `hadamard` rotates both before they are quantized.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, out).
    x : the same
        Shape (tokens, in).
    c : array_like of float32, optional
        The gradient so far, shape (out, in), which the new one is added to.
    recipe, seed, out
        As for `fprop`, with float32 results.

    Returns
    -------
    ndarray of float32, or float64, shape (out, in)

    Raises
    ------
    ValueError, TypeError
        As for `fprop`.

    Examples
    --------
    >>> import numpy as np
    >>> wgrad(np.full((5, 1), 1.75, np.float32), np.full((5, 2), 3.5, np.float32))
    array([[30.625, 30.625]], dtype=float32)
    """
    recipe = LinearRecipe.of(recipe)
    dy, x = operand(dy, "dy"), operand(x, "x")
    check_pair("dy", dy, 0, "x", x, 0)
    rng = recipe.generator(seed)
    signs = recipe.rotation(rng)
    left = recipe.gradient_columns(dy, seed=rng, rotation=signs)
    right = recipe.activation_columns(x, seed=rng, rotation=signs)
    return recipe.product(left.T, right.T, recipe.gradient_dtype, c=c, out=out)
