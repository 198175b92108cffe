"""Linear layers as the core does them in one crossing: codes of activations, products, rounding.

Lives here: `Products`, made once for each recipe. The same step by step, as hooks see it and as other schemes
need it, is in `operations`; the weights are `weights`'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .. import _core
from ..accumulator import accumulator_info
from ..schemes import Scaled, Scheme
from .fields import NONE
from .recipe import Recipe

_LONGEST = 1 << 40  # products between promotions that the core counts
PLAIN = {bfloat16: _core.Projection(bfloat16=bfloat16) for bfloat16 in (False, True)}
"""Products of numbers, whose results are rounded to bfloat16 or not."""


@dataclass(frozen=True, eq=False)
class WeightUse:
    """How weights go into products; one object for each such use, which is found by its identity.

    Attributes
    ----------
    scheme : Scheme
        In which they are.
    accumulator : str
        What adds products of their codes; "none" multiplies numbers.
    bfloat16 : bool
        Whether numbers are rounded to bfloat16.
    """

    scheme: Scheme
    accumulator: str
    bfloat16: bool


@dataclass(frozen=True, eq=False)
class Products:
    """How a recipe multiplies.

    Attributes
    ----------
    plain : Projection
        Products of numbers.
    usual, first : Projection or None
        Those of the layers that the release quantizes, and experts' first; None where the core cannot put
        activations into their scheme on the way.
    use : WeightUse
    """

    plain: _core.Projection
    usual: _core.Projection | None
    first: _core.Projection | None
    use: WeightUse


@lru_cache(maxsize=256)
def products_of(recipe: Recipe) -> Products:
    """Return how a recipe multiplies."""
    usual, first = (_projection(recipe, dispatched=dispatched) for dispatched in (False, True))
    use = _use(recipe.scheme("weights"), recipe.accumulator, recipe.bfloat16)
    return Products(PLAIN[recipe.bfloat16], usual, first, use)


@lru_cache(maxsize=256)
def _use(scheme: Scheme, accumulator: str, bfloat16: bool) -> WeightUse:
    return WeightUse(scheme, accumulator, bfloat16)


def _projection(recipe: Recipe, *, dispatched: bool) -> _core.Projection | None:
    scheme = recipe.activation_scheme(dispatched=dispatched)
    if recipe.accumulator == NONE:
        return PLAIN[recipe.bfloat16] if scheme.is_identity else None
    rows = scheme.row_codes() if isinstance(scheme, Scaled) else None
    if rows is None:
        return None
    every, step = recipe.promote_every or 0, accumulator_info(recipe.accumulator).interval
    return _core.Projection(
        rows=rows,
        accumulator=recipe.accumulator,
        promote_every=min(every, _LONGEST // step * step),
        bfloat16=recipe.bfloat16,
    )
