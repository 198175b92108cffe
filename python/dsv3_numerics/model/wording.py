"""What a recipe makes of an operation, in words: the `how` of a watch.

Lives here: one function for each kind of operation. Two recipes that do an operation alike say the same of
it.
"""

from __future__ import annotations

from .forms import COMBINES, DISPATCHES, WEIGHTS, Form
from .recipe import Recipe


def numbers(recipe: Recipe) -> str:
    return recipe.numbers


def _ruled(recipe: Recipe, *forms: Form) -> str:
    """The rule, where one of the forms needs it and it is not the usual one."""
    needed = any(form.ruled for form in forms) and recipe.rule != "deepseek_v3"
    return f", scales by {recipe.rule}" if needed else ""


def product(recipe: Recipe, sent: bool) -> str:
    left, right = recipe.left_of(sent=sent), WEIGHTS[recipe.weights]
    adding = "" if recipe.accumulator == "none" else f", {recipe.accumulator}"
    adding += "" if recipe.promote_every is None else f" every {recipe.promote_every}"
    came = " as sent" if sent and DISPATCHES[recipe.dispatch].coded else ""
    sides = f"{left.spelling if left.coded else recipe.numbers}{came} x {right.spelling}"
    return f"{sides}{adding}{_ruled(recipe, left, right)} -> {recipe.numbers}"


def attend(recipe: Recipe, absorbed: bool) -> str:
    if not absorbed:
        return f"naive, {recipe.numbers}"
    form = WEIGHTS[recipe.weights]
    return f"absorbed, kv_b {form.spelling} read as {recipe.numbers}{_ruled(recipe, form)}"


def gate(recipe: Recipe) -> str:
    own = recipe.numbers if recipe.gate == "numbers" else recipe.gate
    return f"{recipe.numbers} -> {own}, others {recipe.masked}"


def dispatch(recipe: Recipe) -> str:
    form = DISPATCHES[recipe.dispatch]
    return f"{form.spelling}{_ruled(recipe, form)} -> {recipe.numbers}"


def combine(recipe: Recipe) -> str:
    form = COMBINES[recipe.combine]
    sums = recipe.numbers if recipe.combine == "numbers" else "float32"
    return f"{form.spelling}{_ruled(recipe, form)}, sums {sums} -> {recipe.numbers}"
