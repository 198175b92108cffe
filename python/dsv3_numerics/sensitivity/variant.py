"""The variants of a recipe: each choice on alone, off alone, and what one needs to judge them.

A choice is a field of the recipe that differs from float64. Some choices cannot be alone: a tensor core's
accumulator needs operands in its formats. What such a choice brings along is measured without it, as its
base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..model import Recipe

PARTS = ("operators", "layers", "logits")
"""The parts of a sensitivity analysis: one operation at a time, one layer at a time, the whole forward."""

OPERATORS, LAYERS, LOGITS = PARTS


class Variant(NamedTuple):
    """A recipe to measure.

    Attributes
    ----------
    name : str
        Such as ``activations alone``.
    role : str
        ``all`` (the recipe), ``alone`` (one choice and what it cannot do without), ``base`` (what it cannot
        do without), ``without`` (the recipe without one choice), ``form`` (the recipe, attention in its other
        form), ``one_channel`` (the recipe, one channel of each embedding perturbed), ``perturbed`` (one in
        eight).
    choice : str
        Of which choice; empty for the roles that are of none.
    recipe : Recipe
    absorbed : bool
        The form of attention.
    perturbation : int
        Which perturbation of the embeddings; 0: none.
    parts : tuple of str
        What is measured of it.
    base : Recipe or None
        What a choice alone cannot do without, where it brings something along.
    """

    name: str
    role: str
    choice: str
    recipe: Recipe
    absorbed: bool
    perturbation: int = 0
    parts: tuple[str, ...] = PARTS
    base: Recipe | None = None


def variants(
    recipe: Recipe | str, only: Iterable[str] = (), *, absorbed: bool = False, perturbations: int = 6
) -> list[Variant]:
    """List the variants of a recipe to measure, the recipe itself first.

    Parameters
    ----------
    recipe : Recipe or str
    only : iterable of str
        Choices to look at; all of the recipe's by default.
    absorbed : bool
        The form of attention.
    perturbations : int
        Runs with perturbed embeddings, from which the noise floor is estimated.

    Raises
    ------
    ValueError
        The recipe has no such choice; the message lists those it has.

    Examples
    --------
    >>> from dsv3_numerics.sensitivity import variants
    >>> from dsv3_numerics.model import Recipe
    >>> [v.name for v in variants(Recipe(gate="bf16"), perturbations=1)]
    ['all', 'gate alone', 'without gate', 'absorbed', 'one channel', 'perturbed 1']
    """
    recipe = Recipe.of(recipe)
    found = [Variant("all", "all", "", recipe, absorbed)]
    for choice in chosen(recipe, only):
        alone = recipe.only(choice)
        rest = alone.without(choice)
        base = rest if rest.choices() else None
        found.append(Variant(f"{choice} alone", "alone", choice, alone, absorbed, base=base))
        if base is not None:
            found.append(Variant(f"base of {choice}", "base", choice, base, absorbed))
        found.append(Variant(f"without {choice}", "without", choice, recipe.without(choice), absorbed))
    form = "naive" if absorbed else "absorbed"
    found.append(Variant(form, "form", "", recipe, not absorbed, parts=(LAYERS, LOGITS)))
    if perturbations:
        found.append(Variant("one channel", "one_channel", "", recipe, absorbed, 1, (LOGITS,)))
    for i in range(1, perturbations + 1):
        found.append(Variant(f"perturbed {i}", "perturbed", "", recipe, absorbed, i, (LOGITS,)))
    return found


def chosen(recipe: Recipe, only: Iterable[str] = ()) -> list[str]:
    """Return the recipe's choices, or some of them, in the recipe's order."""
    there, wanted = recipe.choices(), list(dict.fromkeys(only))
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise ValueError(
            f"choice: found {', '.join(map(repr, unknown))}, expected some of {', '.join(there) or 'none'}: "
            f"what recipe {recipe.name} chooses"
        )
    return [name for name in there if not wanted or name in wanted]
