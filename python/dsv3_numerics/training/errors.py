"""Errors of each product of a linear layer against float64, in one recipe or in several side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..number_formats import decode
from ..quantized import Quantized
from .recipe import LINEAR_PRESETS, LinearRecipe, Operand, Seed, check_pair, matrix

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class ProductError:
    """How far one product is from the product of the numbers in float64.

    Attributes
    ----------
    name : str
        "fprop", "dgrad" or "wgrad"; before it, in an expert, of which layer.
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

    @property
    def sqnr(self) -> float:
        """The result over its error, in decibels: 6.02 are one bit; infinite where there is no error."""
        return -20 * math.log10(self.relative) if self.relative else math.inf


COLUMNS: dict[str, Callable[[ProductError], str]] = {
    "product": lambda p: p.name,
    "m x n x k": lambda p: "x".join(map(str, p.shape)),
    "error": lambda p: f"{p.relative:.2e}",
    "of casts": lambda p: f"{p.casts:.2e}",
    "of sums": lambda p: f"{p.sums:.2e}",
    "SQNR": lambda p: f"{p.sqnr:.1f}",
    "worst/rms": lambda p: f"{p.worst:.2e}",
    "1-2<x,y>/..": lambda p: f"{p.difference:.2e}",
}
"""How errors print."""


@dataclass(frozen=True)
class LinearErrors:
    """Outcome of `linear_errors`; prints as a table.

    Attributes
    ----------
    recipe : LinearRecipe
        The recipe that all products were computed by.
    products : tuple of ProductError
        fprop, dgrad and wgrad.
    """

    recipe: LinearRecipe
    products: tuple[ProductError, ...]

    def __str__(self) -> str:
        return "\n".join([summary(self.recipe), *table(self.products)])


def summary(recipe: LinearRecipe) -> str:
    """Return the sums and the format of a recipe in a line."""
    return f"{recipe.accumulator}, promoted every {recipe.promote_every}, {recipe.activations}"


def table(products: Sequence[ProductError]) -> list[str]:
    """Lines of a table with a row for each product."""
    return columns([list(COLUMNS), *([text(p) for text in COLUMNS.values()] for p in products)])


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with cells one below the other."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


@dataclass(frozen=True)
class Comparison:
    """The errors of the same products in several recipes; prints as a table of relative errors.

    Attributes
    ----------
    products : dict of str to tuple of ProductError
        By the recipe's name.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in [(64, 256), (96, 256), (64, 96)])
    >>> print(linear_comparison(x, w, dy))
    product  float64   bf16      deepseek_v3  after_attention  up_projection  down_projection
    fprop    0.00e+00  2.88e-03  3.63e-02     3.72e-02         3.72e-02       3.63e-02
    dgrad    0.00e+00  2.90e-03  3.64e-02     3.64e-02         3.64e-02       3.71e-02
    wgrad    0.00e+00  2.35e-03  4.49e-02     3.74e-02         3.70e-02       3.64e-02
    """

    products: dict[str, tuple[ProductError, ...]]

    def __str__(self) -> str:
        rows = [["product", *self.products]]
        for found in zip(*self.products.values(), strict=True):
            rows.append([found[0].name, *(f"{p.relative:.2e}" for p in found)])
        return "\n".join(columns(rows))


def linear_errors(
    x: ArrayLike,
    w: ArrayLike,
    dy: ArrayLike,
    *,
    recipe: LinearRecipe | str = "deepseek_v3",
    seed: Seed = None,
) -> LinearErrors:
    """Run a linear layer forward and backward in the recipe, and hold each product against float64.

    Parameters
    ----------
    x, w, dy : array_like of float32, float64, float16 or bfloat16
        Shapes (tokens, in), (out, in) and (tokens, out).
    recipe : LinearRecipe or str
        See `LinearRecipe`; a name is a preset's.
    seed : int or numpy.random.Generator, optional
        For a recipe that `is_random`, see `fprop`.

    Returns
    -------
    LinearErrors

    Raises
    ------
    ValueError, TypeError
        As for `fprop`, `dgrad` and `wgrad`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in [(64, 256), (96, 256), (64, 96)])
    >>> errors = linear_errors(x, w, dy)
    >>> [p.name for p in errors.products if 0.02 < p.relative < 0.06]
    ['fprop', 'dgrad', 'wgrad']
    """
    recipe = LinearRecipe.of(recipe)
    x, w, dy = matrix(x, "x"), matrix(w, "w"), matrix(dy, "dy")
    check_pair("x", x, 1, "w", w, 1)
    check_pair("dy", dy, 1, "w", w, 0)
    check_pair("dy", dy, 0, "x", x, 0)
    rng = recipe.generator(seed)
    blocks, columns = recipe.quantize_weights(w, seed=rng), recipe.weight_columns(w, seed=rng)
    signs = recipe.rotation(rng)
    dy_columns = recipe.gradient_columns(dy, seed=rng, rotation=signs)
    x_columns = recipe.activation_columns(x, seed=rng, rotation=signs)
    wide_x, wide_w, wide_dy = (a.astype(np.float64) for a in (x, w, dy))
    narrow, wide = recipe.output_dtype, recipe.gradient_dtype
    found = (
        ("fprop", recipe.quantize_activations(x, seed=rng), blocks, wide_x @ wide_w.T, narrow),
        ("dgrad", recipe.quantize_gradients(dy, seed=rng), columns.T, wide_dy @ wide_w, narrow),
        ("wgrad", dy_columns.T, x_columns.T, wide_dy.T @ wide_x, wide),
    )
    return LinearErrors(recipe, tuple(_product_error(*product, recipe) for product in found))


def linear_comparison(
    x: ArrayLike,
    w: ArrayLike,
    dy: ArrayLike,
    *,
    recipes: Mapping[str, LinearRecipe | str] = LINEAR_PRESETS,
    seed: Seed = None,
) -> Comparison:
    """Return the errors of one layer's products in several recipes: by default all presets.

    Parameters
    ----------
    x, w, dy, seed
        As for `linear_errors`.
    recipes : mapping of str to LinearRecipe or str
        By the names to print.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError
        As for `linear_errors`.

    Examples
    --------
    See `Comparison`.
    """
    found = {name: linear_errors(x, w, dy, recipe=r, seed=seed) for name, r in recipes.items()}
    return Comparison({name: errors.products for name, errors in found.items()})


def _product_error(
    name: str, a: Operand, b: Operand, exact: Float64s, dtype: Any, recipe: LinearRecipe
) -> ProductError:
    result = recipe.product(a, b, recipe.gradient_dtype).astype(np.float64)
    of_codes = meaning(a) @ meaning(b).T
    shape = (*exact.shape, a.shape[-1])
    return errors_of(name, shape, exact, exact, of_codes, result, result.astype(dtype))


def errors_of(
    name: str,
    shape: tuple[int, int, int],
    exact: Float64s,
    arrived: Float64s,
    of_codes: Float64s,
    result: Float64s,
    final: Any,
) -> ProductError:
    """Errors of a product: `final` against `exact`, casts against what arrived, sums against the codes."""
    final = final.astype(np.float64)
    error = final - exact
    square = float(np.vdot(exact, exact))
    total = square + float(np.vdot(final, final))
    return ProductError(
        name=name,
        shape=shape,
        relative=relative(error, exact),
        casts=relative(of_codes - arrived, arrived),
        sums=relative(result - of_codes, of_codes),
        worst=float(np.abs(error).max(initial=0)) / math.sqrt(square / error.size) if square else 0.0,
        difference=float(np.vdot(error, error)) / total if total else 0.0,
    )


def relative(error: Float64s, exact: Float64s) -> float:
    """Frobenius norms; 0 where there is nothing."""
    whole = float(np.linalg.norm(exact))
    return float(np.linalg.norm(error)) / whole if whole else 0.0


def meaning(q: Operand) -> Float64s:
    """Codes times scales in float64, which holds the product exactly."""
    if not isinstance(q, Quantized):
        return q.astype(np.float64)
    values: Float64s = decode(q.codes, fmt=q.format, dtype=np.float64)
    return values * q.expanded_scales()
