"""Check of a recipe against the weights that are there: made before any work, all that is wrong at once.

Lives here: what a checkpoint may hold for each scheme of a recipe's `weights`, and the message that says
what is possible instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._arrays import SOURCES, as_array
from ..accumulator import accumulator_info
from ..quantized import Quantized
from ..schemes import Scaled, Scheme
from .fields import NONE
from .recipe import Recipe

QUANTIZED = frozenset(f"{name}_proj" for name in ("q", "q_a", "q_b", "kv_b", "o", "gate", "up", "down")) | {
    "kv_a_proj_with_mqa"
}
"""The linear layers whose weights the release holds in FP8: those that a recipe's choices are about."""


_RELEASED = ("float8_e4m3fn", (128, 128))
"""The format and blocks of the release: a recipe that names them means stored codes, and never others."""

_COMMON = (
    "none",
    "bf16",
    "e4m3:128x128:f32",
    "e4m3:128x128:ue8m0",
    "e4m3:128x128:ue8m0:requantized",
    "e4m3:row:f32",
    "int8:row",
    "mxfp8",
    "mxfp4",
    "nvfp4",
)  # weights that a message suggests


def is_quantized(name: str) -> bool:
    """Tell whether a recipe's `weights` is about the tensor of this name."""
    parts = name.split(".")
    return len(parts) > 1 and parts[-1] == "weight" and parts[-2] in QUANTIZED


def powers_of_two(scales: Any) -> bool:
    """Tell whether UE8M0 could hold these scales (zero is none, but what it multiplies is zero)."""
    return bool(((np.frexp(scales)[0] == 0.5) | (scales == 0)).all())


def fits_anything(recipe: Recipe) -> bool:
    """Return True where no weight has to be looked at, because any can be quantized anew."""
    scheme = recipe.weights
    if scheme.is_identity:
        return recipe.accumulator == NONE
    return not isinstance(scheme, Scaled)


def as_stored(given: Any, scheme: Scheme) -> bool:
    """Return True where a weight is in a scheme already, so that its codes are taken as they are."""
    if not (isinstance(given, Quantized) and isinstance(scheme, Scaled) and _alike(given, scheme)):
        return False
    if scheme.scale == "nvfp4" or given.scale_kind == "nvfp4":
        return scheme.scale == given.scale_kind and not scheme.requantize
    if scheme.scale == "float32":
        return not scheme.requantize
    return powers_of_two(given.weight_scale_inv())


def _alike(given: Quantized, scheme: Scaled) -> bool:
    """Return True where codes and groups are those of a scheme, whatever the scales."""
    if given.format != scheme.format or given.axis not in (None, len(given.shape) - 1):
        return False
    found = given.block if given.axis is None else (1, given.block[0])
    return all(
        length == (whole if wanted is None else wanted)
        for length, whole, wanted in zip(found, given.shape[-2:], scheme.block, strict=True)
    )


def unlike(given: Any, scheme: Scheme) -> str | None:
    """Why a weight cannot be taken in a scheme; None where it can."""
    if not isinstance(scheme, Scaled):
        return None
    if not isinstance(given, Quantized):
        return f"{_kind(given)} numbers, which have no scales to requantize" if scheme.requantize else None
    if scheme.requantize or as_stored(given, scheme):
        return None
    if _alike(given, scheme):
        return f"{given.scale_kind} scales that are no powers of two"
    if (scheme.format, scheme.block) == _RELEASED:
        return f"{given}, not {scheme.short_format} in blocks of {scheme.scales}"
    return None


def misfit(given: Any, recipe: Recipe) -> str | None:
    """Why a weight cannot be the right operand of a recipe; None where it can."""
    problem = unlike(given, recipe.weights)
    if problem or recipe.accumulator == NONE or not recipe.weights.is_identity:
        return problem
    unit, every = accumulator_info(recipe.accumulator), recipe.promote_every
    kind, columns = _kind(given), given.shape[-1]
    if kind not in unit.inputs:
        return f"{kind}, but {unit.name} adds products of {', '.join(unit.inputs)}"
    along = given.block[-1] if isinstance(given, Quantized) else columns
    if unit.scale is not None:
        scales = given.scales.dtype if isinstance(given, Quantized) else None
        if unit.takes_scales(scales, along if along < columns else None):
            return None
        blocks = " or ".join(map(str, unit.blocks))
        return f"{given!r}, but {unit.name} takes scales in {unit.scale} for each {blocks} products"
    if along < columns and (every is None or along % every):
        return f"a scale for {along} products, but sums are promoted every {every}"
    return None


def _kind(given: Any) -> str:
    """Return the format of codes, or the dtype of numbers."""
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
    common = [*_COMMON, f"{recipe.weights}:requantized"]
    possible = [word for word in dict.fromkeys(common) if _fits(word, recipe, wrong)]
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
