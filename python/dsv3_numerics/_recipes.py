"""Recipes of every kind: presets by name, and one field changed at a time.

Lives here: `PresetFamily`, which `model.Recipe`, `training.LinearRecipe` and `training.ExpertRecipe` are of,
and the refusal of a word that is in no table.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from ._arrays import brief

BF16 = "bf16"
_COMPARED = 80  # characters of a word that are compared with those of a table


def one_of(found: Any, name: str, possible: Iterable[str]) -> None:
    """Refuse a word that is not in a table: the message lists what is."""
    words = list(possible)
    if isinstance(found, str) and found in words:
        return
    close = difflib.get_close_matches(str(found)[:_COMPARED], words, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name}: found {brief(found)}, expected one of {', '.join(words)}{hint}")


def dtype_word(value: Any) -> Any:
    """Return the one name of a compute dtype, or of a preset: bfloat16 is "bf16"."""
    return BF16 if isinstance(value, str) and value == "bfloat16" else value


class PresetFamily:
    """A frozen dataclass with presets."""

    @classmethod
    def presets(cls) -> Mapping[str, Self]:
        """Every preset by its name."""
        raise NotImplementedError

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return the preset of a name.

        Raises
        ------
        ValueError
            There is none of this name; those there are.
        """
        name, presets = dtype_word(name), cls.presets()
        one_of(name, "recipe", presets)
        return presets[name]

    @classmethod
    def of(cls, recipe: Self | str, name: str = "recipe") -> Self:
        """Return a recipe as it is, or the preset of a name: every ``recipe=`` takes both.

        Raises
        ------
        TypeError, ValueError
            Neither; `name` is the argument's.
        """
        if isinstance(recipe, cls):
            return recipe
        if not isinstance(recipe, str):
            found = type(recipe).__name__
            raise TypeError(f"{name}: found {found}, expected a {cls.__name__} or a preset's name")
        return cls.preset(recipe)

    def replace(self, **fields: Any) -> Self:
        """Return the recipe with other fields.

        Raises
        ------
        ValueError, TypeError
            As for the class; a field that there is not.
        """
        known = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        for name in fields:
            one_of(name, "field", known)
        return dataclasses.replace(self, **fields)  # type: ignore[type-var]
