"""Descriptions of what a recipe makes of an operation, for hooks and lists.

Lives here: one function for each kind of operation. Two recipes that do an operation alike say the same of
it.
"""

from __future__ import annotations

from ..schemes import Scheme
from .fields import NONE
from .recipe import Recipe


def numbers(recipe: Recipe) -> str:
    return recipe.compute


def _ruled(recipe: Recipe, *schemes: Scheme) -> str:
    """Return the rule, where one of the schemes needs it and it is not the usual one."""
    needed = any(scheme.uses_scale_rule for scheme in schemes) and recipe.rule != "deepseek_v3"
    return f", scales by {recipe.rule}" if needed else ""


def product(recipe: Recipe, dispatched: bool) -> str:
    arrived = dispatched and recipe.dispatch.is_quantized
    held = recipe.dispatch if arrived else recipe.activations
    adding = "" if recipe.accumulator == NONE else f", {recipe.accumulator}"
    adding += "" if recipe.promote_every is None else f" every {recipe.promote_every}"
    came = " as dispatched" if arrived else ""
    sides = f"{recipe.compute if held.is_identity else held}{came} x {_weights(recipe)}"
    return f"{sides}{adding}{_ruled(recipe, held, recipe.weights)} -> {recipe.compute}"


def attend(recipe: Recipe, absorbed: bool) -> str:
    if not absorbed:
        return f"naive, {recipe.compute}"
    rule = _ruled(recipe, recipe.weights)
    return f"absorbed, kv_b {_weights(recipe)} read as {recipe.compute}{rule}"


def gate(recipe: Recipe) -> str:
    own = recipe.compute if recipe.gate == NONE else recipe.gate
    return f"{recipe.compute} -> {own}, others {recipe.group_mask_value}"


def dispatch(recipe: Recipe) -> str:
    return f"{recipe.dispatch}{_ruled(recipe, recipe.dispatch)} -> {recipe.compute}"


def combine(recipe: Recipe) -> str:
    sums = recipe.compute if recipe.combine.is_identity else "float32"
    return f"{recipe.combine}{_ruled(recipe, recipe.combine)}, sums {sums} -> {recipe.compute}"


def _weights(recipe: Recipe) -> str:
    return "stored" if recipe.weights.is_identity else str(recipe.weights)
