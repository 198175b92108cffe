"""Formats that a recipe names, as the parts take them."""

from __future__ import annotations

from collections.abc import Sequence


def formats_of(name: str, wanted: Sequence[str]) -> dict[str, str]:
    """Return formats of a recipe: dispatch, combine, cache, and the format that its linears run in.

    Parameters
    ----------
    name : str
        A preset, or a JSON file.
    wanted : sequence of str
        Of dispatch, combine, cache, linears.

    Raises
    ------
    ValueError
        No such recipe; linears in a format that no machine has a peak for.

    Examples
    --------
    >>> from dsv3_numerics.codesign.recipes import formats_of
    >>> formats_of("deepseek_v3", ["dispatch", "linears"])
    {'dispatch': 'e4m3:1x128:f32', 'linears': 'fp8'}
    """
    from ..model import Recipe
    from ..model.fields import codes_of
    from ..number_formats import format_info

    recipe = Recipe.read(name)
    found = {}
    for field in wanted:
        if field == "linears":
            codes = codes_of(recipe.weights, recipe.compute)
            bits = 16 if codes is None else format_info(codes).bits
            word = {16: "bf16", 8: "fp8", 4: "fp4"}.get(bits)
            if word is None or (codes or "").startswith("int"):
                raise ValueError(f"recipe: its linears run in {codes}, for which machines have no peak here")
            found[field] = word
        else:
            scheme = str(getattr(recipe, field))
            found[field] = "bf16" if scheme == "none" else scheme
    return found
