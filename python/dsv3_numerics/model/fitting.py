"""Whether a recipe fits the weights that are there: found out before any work, all that is wrong at once.

Lives here: what a checkpoint may hold for each row of `forms.WEIGHTS`, and the message that says what is
possible instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._arrays import SOURCES, as_array
from ..accumulator import accumulator_info
from ..quantized import Quantized
from .forms import WEIGHTS, Form
from .recipe import Recipe

QUANTIZED = frozenset(f"{name}_proj" for name in ("q", "q_a", "q_b", "kv_b", "o", "gate", "up", "down")) | {
    "kv_a_proj_with_mqa"
}
"""The linear layers whose weights the release holds in FP8: those that a recipe's choices are about."""


def is_quantized(name: str) -> bool:
    """Whether a recipe's `weights` is about the tensor of this name."""
    parts = name.split(".")
    return len(parts) > 1 and parts[-1] == "weight" and parts[-2] in QUANTIZED


def powers_of_two(scales: Any) -> bool:
    """Whether UE8M0 could hold these scales (zero is none, but what it multiplies is zero)."""
    return bool(((np.frexp(scales)[0] == 0.5) | (scales == 0)).all())


def fits_anything(recipe: Recipe) -> bool:
    """Whether no weight has to be looked at: any can be made anew, and numbers need nothing."""
    form = WEIGHTS[recipe.weights]
    if form.spelling == "stored":
        return recipe.accumulator == "none"
    return form.remade and not form.spelling.endswith(":requantized")


def unlike(given: Any, form: Form) -> str | None:
    """Why a weight cannot be taken in a form; None where it can."""
    if not isinstance(given, Quantized):
        needs_scales = form.spelling.endswith(":requantized")
        return f"{_kind(given)} numbers, which have no scales to requantize" if needs_scales else None
    if not form.coded or form.remade:
        return None
    if given.format != form.format or given.axis is not None or given.block != form.group:
        return f"{given}, not {form.short} in blocks of {form.scales}"
    if form.scale == "ue8m0" and not powers_of_two(given.weight_scale_inv()):
        return "float32 scales that are no powers of two"
    return None


def misfit(given: Any, recipe: Recipe) -> str | None:
    """Why a weight cannot be the right operand of a recipe; None where it can."""
    form = WEIGHTS[recipe.weights]
    problem = unlike(given, form)
    if problem or recipe.accumulator == "none" or form.spelling != "stored":
        return problem
    unit, every = accumulator_info(recipe.accumulator), recipe.promote_every
    kind, columns = _kind(given), given.shape[-1]
    if kind not in unit.inputs:
        return f"{kind}, but {unit.name} adds products of {', '.join(unit.inputs)}"
    along = given.block[-1] if isinstance(given, Quantized) else columns
    if along < columns and (every is None or along % every):
        return f"a scale for {along} products, but sums are promoted every {every}"
    return None


def _kind(given: Any) -> str:
    """The format of codes, or the dtype of numbers."""
    if isinstance(given, Quantized):
        return given.format
    dtype = as_array(given, "weight").dtype.newbyteorder("=")
    return SOURCES.get(dtype, str(dtype))


def check_fit(found: Iterable[tuple[str, Any]], recipe: Recipe, listed: int = 12) -> None:
    """Hold named weights against a recipe.

    Raises
    ------
    ValueError
        Some do not fit: which, why, and which `weights` would.
    """
    wrong: dict[str, tuple[str, Any]] = {}
    for name, given in found:
        problem = misfit(given, recipe)
        if problem:
            wrong[name] = problem, given
    if not wrong:
        return
    possible = [word for word in WEIGHTS if _fits(word, recipe, wrong)]
    lines = [f"{name}: found {problem}" for name, (problem, _) in list(wrong.items())[:listed]]
    lines += [f"and {len(wrong) - listed} more"] * (len(wrong) > listed)
    instead = f"weights one of {', '.join(possible)}" if possible else "accumulator none"
    raise ValueError(
        f"recipe {recipe.name!r}, weights {recipe.weights}: {len(wrong)} problems:\n  "
        + "\n  ".join(lines)
        + f"\nexpected {instead}"
    )


def _fits(word: str, recipe: Recipe, wrong: Mapping[str, tuple[str, Any]]) -> bool:
    try:
        other = recipe.replace(weights=word)
    except ValueError:
        return False
    return not any(misfit(given, other) for _, given in wrong.values())
