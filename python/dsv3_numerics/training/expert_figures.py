"""Errors of each product of an expert against float64: by its own casts and sums, and on the whole way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array
from ..quantized import Quantized
from .errors import Comparison, Float64s, ProductError, errors_of, meaning, summary, table
from .expert import ExpertWeights, Hook, ProductRecord, hooked_backward, hooked_forward
from .recipe import EXPERT_PRESETS, ExpertRecipe, Seed, matrix


@dataclass(frozen=True)
class ExpertErrors:
    """Outcome of `expert_errors`; prints as a table.

    Attributes
    ----------
    recipe : ExpertRecipe
        The recipe that all products were computed by.
    products : tuple of ProductError
        In the order in which they are computed: gate.fprop, up.fprop, down.fprop, down.dgrad, down.wgrad,
        gate+up.dgrad (dx, the sum of two), gate.wgrad, up.wgrad. `relative`, `worst` and `difference` are
        against float64 all the way from x and dy; `casts` and `sums` are this product's own, with the
        numbers that reached it.
    """

    recipe: ExpertRecipe
    products: tuple[ProductError, ...]

    def __str__(self) -> str:
        r = self.recipe
        kept = f"SwiGLU in {r.compute}, its inputs kept as {'they are' if r.saved.is_identity else r.saved}"
        return "\n".join([f"{summary(r.up)}; {kept}", *table(self.products)])


def expert_errors(
    x: ArrayLike,
    weights: ExpertWeights,
    dy: ArrayLike,
    *,
    recipe: ExpertRecipe | str = "deepseek_v3",
    seed: Seed = None,
) -> ExpertErrors:
    """Run an expert forward and backward in the recipe, and hold each product against float64.

    Parameters
    ----------
    x, dy : array_like of float32, float64, float16 or bfloat16
        Shapes (tokens, hidden).
    weights : ExpertWeights of the same
        Shapes (inner, hidden), (inner, hidden) and (hidden, inner).
    recipe : ExpertRecipe or str
        See `ExpertRecipe`; a name is a preset's.
    seed : int or numpy.random.Generator, optional
        For a recipe that `is_random`, see `fprop`.

    Returns
    -------
    ExpertErrors

    Raises
    ------
    ValueError, TypeError
        As for `forward` and `backward`.

    Examples
    --------
    >>> import numpy as np
    >>> x, dy, *w = np.random.default_rng(0).standard_normal((5, 128, 128)) / 4
    >>> for product in expert_errors(x, ExpertWeights(*w), dy).products[3:6]:
    ...     print(product.name, product.shape, round(product.relative, 2))
    down.dgrad (128, 128, 128) 0.04
    down.wgrad (128, 128, 128) 0.08
    gate+up.dgrad (128, 128, 256) 0.07
    """
    recipe = ExpertRecipe.of(recipe)
    x, dy = matrix(x, "x"), matrix(dy, "dy")
    w = ExpertWeights(*(matrix(m, name) for name, m in zip(ExpertWeights._fields, weights, strict=True)))
    exact: dict[str, Float64s] = {}
    exact_recipe = ExpertRecipe.preset("float64")
    _run(x, w, dy, exact_recipe, lambda record: exact.update({record.name: record.output}))
    found: list[ProductError] = []

    def hold(record: ProductRecord) -> None:
        found.append(_error(record, exact[record.name]))

    _run(x, w, dy, recipe, hold, recipe.generator(seed))
    return ExpertErrors(recipe, tuple(found))


def expert_comparison(
    x: ArrayLike,
    weights: ExpertWeights,
    dy: ArrayLike,
    *,
    recipes: Mapping[str, ExpertRecipe | str] = EXPERT_PRESETS,
    seed: Seed = None,
) -> Comparison:
    """Return the errors of an expert's products in several recipes: by default float64, bfloat16 and FP8.

    Parameters
    ----------
    x, weights, dy, seed
        As for `expert_errors`.
    recipes : mapping of str to ExpertRecipe or str
        By the names to print.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError, TypeError
        As for `expert_errors`.

    Examples
    --------
    >>> import numpy as np
    >>> x, dy, *w = np.random.default_rng(0).standard_normal((5, 128, 128)) / 4
    >>> print(expert_comparison(x, ExpertWeights(*w), dy))
    product        float64   bf16      deepseek_v3
    gate.fprop     0.00e+00  2.86e-03  3.74e-02
    up.fprop       0.00e+00  2.88e-03  3.80e-02
    down.fprop     0.00e+00  5.51e-03  6.64e-02
    down.dgrad     0.00e+00  2.88e-03  3.71e-02
    down.wgrad     0.00e+00  5.31e-03  7.83e-02
    gate+up.dgrad  0.00e+00  5.73e-03  7.25e-02
    gate.wgrad     0.00e+00  5.27e-03  7.46e-02
    up.wgrad       0.00e+00  5.25e-03  7.16e-02
    """
    found = {name: expert_errors(x, weights, dy, recipe=r, seed=seed) for name, r in recipes.items()}
    return Comparison({name: errors.products for name, errors in found.items()})


def _run(x: Array, w: ExpertWeights, dy: Array, recipe: ExpertRecipe, hook: Hook, seed: Seed = None) -> None:
    _, saved = hooked_forward(x, w, recipe, hook, seed)
    hooked_backward(dy, saved, w, None, recipe, hook, seed)


def _error(record: ProductRecord, exact: Float64s) -> ProductError:
    layer, pairs, final = record.recipe, record.pairs, record.output
    sum_so_far: Array | None = None
    for pair in pairs:
        sum_so_far = layer.product(*pair.operands, layer.gradient_dtype, c=sum_so_far)
    assert sum_so_far is not None
    arrived, of_codes = (
        np.sum([_wide(a) @ _wide(b).T for a, b in sides], axis=0)
        for sides in ([p.numbers for p in pairs], [p.operands for p in pairs])
    )
    k = sum(p.operands[0].shape[1] for p in pairs)
    return errors_of(
        record.name, (*exact.shape, k), exact, arrived, of_codes, sum_so_far.astype(np.float64), final
    )


def _wide(x: Any) -> Float64s:
    return meaning(x) if isinstance(x, Quantized) else x.astype(np.float64)
