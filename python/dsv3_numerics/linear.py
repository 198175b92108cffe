"""A linear layer in training: its three products in DeepSeek-V3's FP8 recipe, and what they cost in accuracy.

Lives here: which operand is grouped how, for ``y = x w^T`` with x (tokens, in) and w (out, in):

======= =============== =========== ============= ======================== ========
product                 summed over left operand  right operand            result
======= =============== =========== ============= ======================== ========
fprop   ``y = x w^T``   in          x, 1x128      w, 128x128               bfloat16
dgrad   ``dx = dy w``   out         dy, 1x128     w, the same blocks       bfloat16
wgrad   ``dw = dy^T x`` tokens      dy, 128x1     x, 128x1                 float32
======= =============== =========== ============= ======================== ========

Not here: quantization (`quant`), sums (`gemm`). Sources: DeepSeek-V3 technical report, 3.3.2 and 3.5.2; the
types of the results are those of DeepGEMM's kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Array, as_array, source
from .formats import decode
from .gemm import matmul_nt
from .quant import Rule, Scale, quantize_blocks, quantize_tiles, requantize_tiles
from .quantized import Quantized

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class LinearRecipe:
    """How a linear layer computes; by default as DeepSeek-V3 does on Hopper.

    Attributes
    ----------
    dtype : str
        Format of all operands.
    tile : int
        Elements of a tile, and rows and columns of a block of weights.
    activation_scale, gradient_scale, weight_scale : {"float32", "ue8m0", "mx", "nvfp4"}
        Scales of x, dy and w. DeepSeek-V3 has powers of two ("ue8m0") for x after attention and before the
        experts, and for dy before the experts' last projection.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic makes the scales.
    accumulator : str
        See `accumulators`.
    promote_every : int or None
        See `matmul_nt`.

    Examples
    --------
    >>> LinearRecipe(accumulator="exact", activation_scale="ue8m0").tile
    128
    """

    dtype: str = "float8_e4m3fn"
    tile: int = 128
    activation_scale: Scale = "float32"
    gradient_scale: Scale = "float32"
    weight_scale: Scale = "float32"
    rule: Rule = "deepseek_v3"
    accumulator: str = "hopper_fp8"
    promote_every: int | None = 128

    def tiles(self, x: ArrayLike | Quantized, scale: Scale, axis: int, name: str) -> Quantized:
        """`x` in tiles along an axis: quantized, regrouped, or as it is."""
        if not isinstance(x, Quantized):
            x = _matrix(x, name)
            return quantize_tiles(x, dtype=self.dtype, tile=self.tile, axis=axis, scale=scale, rule=self.rule)
        _check_matrix(x.shape, name)
        if x.axis == axis and x.block == (self.tile,):
            return x
        return requantize_tiles(x, axis=axis, tile=self.tile)

    def blocks(self, w: ArrayLike | Quantized, name: str) -> Quantized:
        """`w` in blocks: quantized, or as it is."""
        if isinstance(w, Quantized):
            _check_matrix(w.shape, name)
            return w
        size = (self.tile, self.tile)
        w = _matrix(w, name)
        return quantize_blocks(w, dtype=self.dtype, block=size, scale=self.weight_scale, rule=self.rule)

    def product(self, a: Quantized, b: Quantized, dtype: Any, c: Any = None, out: Any = None) -> Array:
        """``a @ b.T``."""
        return matmul_nt(
            a, b, c=c, accumulator=self.accumulator, promote_every=self.promote_every, dtype=dtype, out=out
        )


DEEPSEEK_V3 = LinearRecipe()


def fprop(
    x: ArrayLike | Quantized,
    w: ArrayLike | Quantized,
    *,
    recipe: LinearRecipe = DEEPSEEK_V3,
    out: Array | None = None,
) -> Array:
    """The forward product ``x @ w.T``.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, in); numbers are quantized by 1x128 tiles.
    w : the same
        Shape (out, in); numbers are quantized by 128x128 blocks.
    recipe : LinearRecipe
        Formats, scales, accumulator.
    out : ndarray of bfloat16, optional
        The result is written here.

    Returns
    -------
    ndarray of bfloat16, shape (tokens, out)

    Raises
    ------
    ValueError, TypeError
        As for `quantize_tiles` and `matmul_nt`; anything but two axes; shapes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> fprop(np.full((1, 256), 1.75, np.float32), np.full((2, 256), 3.5, np.float32)).astype(float)
    array([[1568., 1568.]])
    """
    left = recipe.tiles(x, recipe.activation_scale, 1, "x")
    right = recipe.blocks(w, "w")
    _check_pair("x", left, 1, "w", right, 1)
    return recipe.product(left, right, ml_dtypes.bfloat16, out=out)


def dgrad(
    dy: ArrayLike | Quantized,
    w: ArrayLike | Quantized,
    *,
    recipe: LinearRecipe = DEEPSEEK_V3,
    out: Array | None = None,
) -> Array:
    """The gradient of the input, ``dy @ w``: the blocks of the forward product, turned.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, out); numbers are quantized by 1x128 tiles.
    w, recipe, out
        As for `fprop`.

    Returns
    -------
    ndarray of bfloat16, shape (tokens, in)

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
    left = recipe.tiles(dy, recipe.gradient_scale, 1, "dy")
    right = recipe.blocks(w, "w")
    _check_pair("dy", left, 1, "w", right, 0)
    return recipe.product(left, turned(right), ml_dtypes.bfloat16, out=out)


def wgrad(
    dy: ArrayLike | Quantized,
    x: ArrayLike | Quantized,
    *,
    c: ArrayLike | None = None,
    recipe: LinearRecipe = DEEPSEEK_V3,
    out: Array | None = None,
) -> Array:
    """The gradient of the weights, ``dy.T @ x``, in float32.

    Both sides are summed over tokens and need tiles of 128 tokens in one channel. x was stored by the forward
    product in 1x128 tiles and is regrouped from those (numbers are quantized twice, as in the recipe); dy is
    quantized from its numbers, or regrouped if it is given in other tiles.

    Parameters
    ----------
    dy : array_like of float32, float64, float16 or bfloat16, or Quantized
        Shape (tokens, out).
    x : the same
        Shape (tokens, in).
    c : array_like of float32, optional
        The gradient so far, shape (out, in), which the new one is added to.
    recipe, out
        As for `fprop`, with float32 results.

    Returns
    -------
    ndarray of float32, shape (out, in)

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
    left, right = _by_tokens(dy, x, recipe)
    _check_pair("dy", left, 0, "x", right, 0)
    return recipe.product(turned(left), turned(right), np.float32, c=c, out=out)


def _by_tokens(dy: Any, x: Any, recipe: LinearRecipe) -> tuple[Quantized, Quantized]:
    stored = recipe.tiles(x, recipe.activation_scale, 1, "x") if not isinstance(x, Quantized) else x
    scale = recipe.gradient_scale
    return recipe.tiles(dy, scale, 0, "dy"), recipe.tiles(stored, recipe.activation_scale, 0, "x")


def turned(q: Quantized) -> Quantized:
    """The transpose of a quantized matrix: the same codes and scales, seen from the side.

    Examples
    --------
    >>> import numpy as np
    >>> turned(quantize_tiles(np.ones((2, 256), np.float32)))
    Quantized((256, 2) float8_e4m3fn, 128 along axis 0, float32 scales, 8.25 bits per element)
    """
    axis = None if q.axis is None else 1 - q.axis
    return Quantized(
        q.codes.T, q.scales.T, q.format, q.block[::-1], axis, q.scale_kind, q.rule, q.global_scale
    )


def _matrix(x: Any, name: str) -> Array:
    array, _ = source(as_array(x, name), name)
    _check_matrix(array.shape, name)
    return array


def _check_matrix(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name}: found shape {shape}, expected two axes")


def _check_pair(a: str, left: Quantized, i: int, b: str, right: Quantized, j: int) -> None:
    if left.shape[i] != right.shape[j]:
        raise ValueError(
            f"{a} and {b}: found shapes {left.shape} and {right.shape}, expected axis {i} of {a} as long as "
            f"axis {j} of {b}, because the sum runs over them"
        )


@dataclass(frozen=True)
class ProductError:
    """How far one product is from the product of the numbers in float64.

    Attributes
    ----------
    name : str
        "fprop", "dgrad" or "wgrad".
    shape : tuple of three int
        m, n and k of the product.
    relative : float
        Relative Frobenius error, of everything: casts, sums and the rounding of the result.
    casts, sums : float
        The same of the casts alone (exact products of what the codes mean), and of the sums alone (the
        float32 result against the exact product of what the codes mean).
    worst : float
        Largest error over the root mean square of the exact result.
    difference : float
        ``1 - 2<x, y> / (<x, x> + <y, y>)``, the figure of DeepGEMM's tests, whose bar is 1e-3.
    """

    name: str
    shape: tuple[int, int, int]
    relative: float
    casts: float
    sums: float
    worst: float
    difference: float


@dataclass(frozen=True)
class LinearErrors:
    """What `linear_errors` found; prints as a table.

    Attributes
    ----------
    recipe : LinearRecipe
    products : tuple of ProductError
        fprop, dgrad and wgrad.
    """

    recipe: LinearRecipe
    products: tuple[ProductError, ...]

    def __str__(self) -> str:
        head = ("product", "m x n x k", "error", "of casts", "of sums", "worst/rms", "1-2<x,y>/..")
        rows = [
            (p.name, "x".join(map(str, p.shape)), *(f"{v:.2e}" for v in _figures(p))) for p in self.products
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        r = self.recipe
        return "\n".join([f"{r.accumulator}, promoted every {r.promote_every}, {r.dtype}", *lines])


def _figures(p: ProductError) -> tuple[float, ...]:
    return p.relative, p.casts, p.sums, p.worst, p.difference


def linear_errors(
    x: ArrayLike, w: ArrayLike, dy: ArrayLike, *, recipe: LinearRecipe = DEEPSEEK_V3
) -> LinearErrors:
    """Run a linear layer forward and backward in the recipe, and hold each product against float64.

    Parameters
    ----------
    x, w, dy : array_like of float32, float64, float16 or bfloat16
        Shapes (tokens, in), (out, in) and (tokens, out).
    recipe : LinearRecipe
        See `LinearRecipe`.

    Returns
    -------
    LinearErrors

    Raises
    ------
    ValueError, TypeError
        As for `fprop`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in [(64, 256), (96, 256), (64, 96)])
    >>> errors = linear_errors(x, w, dy)
    >>> [p.name for p in errors.products if 0.02 < p.relative < 0.06]
    ['fprop', 'dgrad', 'wgrad']
    """
    x, w, dy = _matrix(x, "x"), _matrix(w, "w"), _matrix(dy, "dy")
    x_tiles = recipe.tiles(x, recipe.activation_scale, 1, "x")
    dy_tiles, blocks = recipe.tiles(dy, recipe.gradient_scale, 1, "dy"), recipe.blocks(w, "w")
    _check_pair("x", x_tiles, 1, "w", blocks, 1)
    _check_pair("dy", dy_tiles, 1, "w", blocks, 0)
    _check_pair("dy", dy_tiles, 0, "x", x_tiles, 0)
    dy_columns, x_columns = _by_tokens(dy, x_tiles, recipe)
    wide_x, wide_w, wide_dy = (a.astype(np.float64) for a in (x, w, dy))
    narrow = ml_dtypes.bfloat16
    return LinearErrors(
        recipe,
        (
            _product_error("fprop", x_tiles, blocks, wide_x @ wide_w.T, narrow, recipe),
            _product_error("dgrad", dy_tiles, turned(blocks), wide_dy @ wide_w, narrow, recipe),
            _product_error(
                "wgrad", turned(dy_columns), turned(x_columns), wide_dy.T @ wide_x, np.float32, recipe
            ),
        ),
    )


def _product_error(
    name: str, a: Quantized, b: Quantized, exact: Float64s, dtype: Any, recipe: LinearRecipe
) -> ProductError:
    result = recipe.product(a, b, np.float32)
    of_codes = _meaning(a) @ _meaning(b).T
    final = result.astype(dtype).astype(np.float64)
    error = final - exact
    square = float(np.vdot(exact, exact))
    total = square + float(np.vdot(final, final))
    return ProductError(
        name=name,
        shape=(*result.shape, a.shape[-1]),
        relative=_relative(error, exact),
        casts=_relative(of_codes - exact, exact),
        sums=_relative(result - of_codes, of_codes),
        worst=float(np.abs(error).max(initial=0)) / math.sqrt(square / error.size) if square else 0.0,
        difference=float(np.vdot(error, error)) / total if total else 0.0,
    )


def _relative(error: Float64s, exact: Float64s) -> float:
    """Frobenius norms; 0 where there is nothing."""
    whole = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / whole if whole else 0.0


def _meaning(q: Quantized) -> Float64s:
    """Codes times scales in float64, which holds the product exactly."""
    scales = q.weight_scale_inv().astype(np.float64)
    block = q.block if q.axis is None else (q.block[0], 1) if q.axis == 0 else (1, q.block[0])
    for axis, length in enumerate(block):
        scales = np.repeat(scales, length, axis=axis).take(np.arange(q.shape[axis]), axis=axis)
    values: Float64s = decode(q.codes, fmt=q.format, dtype=np.float64)
    return values * scales
