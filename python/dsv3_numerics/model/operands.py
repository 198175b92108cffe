"""The left operand of linear layers: numbers, and the codes made of them once for all layers that take them.

Lives here: `Left`. Right operands are `weights`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array
from ..quantized import Quantized
from .forms import Form, to_bfloat16
from .recipe import Recipe


class Left:
    """Rows that are multiplied: numbers of a recipe, or codes that arrived in their place.

    Parameters
    ----------
    numbers : ndarray of float32 or float64, shape (..., channels), optional
    kind : str
        What they are: a recipe's `numbers`.
    """

    def __init__(self, numbers: Array | None, kind: str) -> None:
        self._numbers, self.kind = numbers, kind
        self._arrived: Quantized | None = None
        self._made: dict[tuple[str, str], Quantized] = {}
        self._read: dict[tuple[str, str], Array] = {}
        self.shape: tuple[int, ...] = () if numbers is None else numbers.shape

    @classmethod
    def arrived(cls, codes: Quantized, form: Form, rule: str, kind: str) -> Left:
        """Rows (rows, channels) that came as codes."""
        left = cls(None, kind)
        left._arrived, left.shape = codes, codes.shape
        left._made[form.spelling, rule] = codes
        return left

    def arrays(self) -> tuple[Array, ...]:
        """What came in: numbers, or codes and scales."""
        if self._arrived is not None:
            return self._arrived.codes, self._arrived.scales
        return (self._plain(),)

    def of(self, recipe: Recipe) -> Left:
        """The same rows for another recipe: its own codes, and its own numbers where they differ."""
        if recipe.numbers == self.kind:
            return self
        if self._arrived is None:
            return Left(as_numbers(self._plain(), recipe), recipe.numbers)
        left = Left(None, recipe.numbers)
        left._arrived, left.shape, left._made = self._arrived, self.shape, self._made
        return left

    def codes(self, form: Form, rule: str) -> Quantized:
        """Rows in codes, (rows, channels); made when they are first asked for."""
        key = form.spelling, rule
        if key not in self._made:
            numbers = self._plain()
            self._made[key] = form.codes(numbers.reshape(-1, numbers.shape[-1]), rule)
        return self._made[key]

    def numbers(self, recipe: Recipe, form: Form | None = None) -> Array:
        """The numbers, or what is left of them after they have been in codes of a form."""
        coded = form is not None and form.coded
        if self._numbers is not None and not coded:
            return self._numbers
        key = (form.spelling, recipe.rule) if form is not None and coded else ("", "")
        if key not in self._read:
            codes = self.codes(form, recipe.rule) if form is not None and coded else self._arrived
            assert codes is not None
            self._read[key] = as_numbers(codes.dequantize(recipe.dtype), recipe).reshape(self.shape)
        return self._read[key]

    def rows(self, index: NDArray[np.int64], form: Form | None, rule: str) -> Left:
        """Some of the rows, with their share of the codes that all of them have in a form."""
        if form is None or not form.coded:
            return Left(self._plain()[index], self.kind)
        q = self.codes(form, rule)
        picked = replace(q, codes=q.codes[index], scales=q.scales[index])
        if self._arrived is not None:
            return Left.arrived(picked, form, rule, self.kind)
        part = Left(self._plain()[index], self.kind)
        part._made[form.spelling, rule] = picked
        return part

    def _plain(self) -> Array:
        """Numbers as they came in, or what codes mean in float32."""
        if self._numbers is not None:
            return self._numbers
        assert self._arrived is not None
        return self._arrived.dequantize()


def as_numbers(x: Array, recipe: Recipe) -> Array:
    """An array in a recipe's numbers, rounded once; no copy of what is that already."""
    if recipe.bfloat16:
        x = to_bfloat16(x)
    array: Array = x.astype(recipe.dtype, copy=False)
    return array


def rounded(x: Any, recipe: Recipe) -> Array:
    """A new result, C-contiguous and in the recipe's dtype, rounded in place where numbers are bfloat16."""
    if recipe.bfloat16:
        _core.round_bfloat16(x.reshape(-1))
    array: Array = x
    return array
