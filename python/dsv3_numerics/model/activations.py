"""The left operand of linear layers: numbers, and the codes made of them once for all layers that take them.

Lives here: `Activations`. Right operands are `weights`'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array
from ..number_formats import decode, encode
from ..quantized import Quantized
from ..schemes import Scheme, quantize
from .recipe import Recipe

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Activations:
    """Rows that are multiplied: numbers of a recipe, or codes that arrived in their place.

    Parameters
    ----------
    numbers : ndarray of float32 or float64, shape (..., channels), optional
    kind : str
        Their compute dtype.
    """

    def __init__(self, numbers: Array | None, kind: str) -> None:
        self._numbers, self.kind = numbers, kind
        self._arrived: Quantized | None = None
        self._made: dict[Scheme, Any] = {}
        self._read: dict[Scheme | None, Array] = {}
        self.shape: tuple[int, ...] = () if numbers is None else numbers.shape

    @classmethod
    def arrived(cls, codes: Quantized, scheme: Scheme, kind: str) -> Activations:
        """Rows (rows, channels) that came as codes."""
        left = cls(None, kind)
        left._arrived, left.shape = codes, codes.shape
        left._made[scheme] = codes
        return left

    @property
    def plain(self) -> Array | None:
        """The numbers, where no codes came in their place."""
        return self._numbers

    def arrays(self) -> tuple[Array, ...]:
        """Operand as it came in: numbers, or codes and scales."""
        if self._arrived is not None:
            return self._arrived.codes, self._arrived.scales
        return (self._plain(),)

    def of(self, recipe: Recipe) -> Activations:
        """Return the same rows for another recipe: its own codes, and its own numbers where they differ."""
        if recipe.compute == self.kind:
            return self
        if self._arrived is None:
            return Activations(as_numbers(self._plain(), recipe), recipe.compute)
        left = Activations(None, recipe.compute)
        left._arrived, left.shape, left._made = self._arrived, self.shape, self._made
        return left

    def codes(self, scheme: Scheme) -> Any:
        """Rows in a scheme, (rows, channels); made when they are first asked for."""
        if scheme not in self._made:
            numbers = self._plain()
            self._made[scheme] = quantize(numbers.reshape(-1, numbers.shape[-1]), scheme)
        return self._made[scheme]

    def numbers(self, recipe: Recipe, scheme: Scheme | None = None) -> Array:
        """Return the numbers, or what is left of them after they have been in a scheme."""
        held = scheme is not None and not scheme.is_identity
        if self._numbers is not None and not held:
            return self._numbers
        key = scheme if held else None
        if key not in self._read:
            if key is not None:
                numbers = key.decode(self.codes(key), recipe.dtype)
            else:
                assert self._arrived is not None
                numbers = self._arrived.dequantize(recipe.dtype)
            self._read[key] = as_numbers(numbers, recipe).reshape(self.shape)
        return self._read[key]

    def rows(self, index: NDArray[np.int64], scheme: Scheme, recipe: Recipe) -> Activations:
        """Return some of the rows, with their share of the codes that all of them have in a scheme."""
        if scheme.is_identity and self._arrived is None:
            return Activations(self._plain()[index], self.kind)
        q = None if scheme.is_identity else self.codes(scheme)
        picked = some_of(q, index) if isinstance(q, Quantized) else None
        if self._arrived is not None and picked is not None:
            return Activations.arrived(picked, scheme, self.kind)
        part = Activations(self._plain()[index], self.kind)
        if picked is not None:
            part._made[scheme] = picked
            return part
        part._read[scheme] = self.numbers(recipe, scheme)[index]
        if isinstance(q, np.ndarray):
            part._made[scheme] = q[index]
        return part

    def _plain(self) -> Array:
        """Numbers as they came in, or what codes mean in float32."""
        if self._numbers is not None:
            return self._numbers
        assert self._arrived is not None
        return self._arrived.dequantize()


def some_of(q: Quantized, index: NDArray[np.int64]) -> Quantized:
    """Rows of codes whose groups lie within a row, or hold all rows."""
    if q.axis is not None or q.block[0] == 1:
        picked: Quantized = q[index]
        return picked
    return replace(q, codes=q.codes[index], scales=q.scales[: len(index)])


def to_bfloat16(x: Array) -> Array:
    """Return a new array of the same dtype, rounded to bfloat16."""
    if x.dtype == np.float32:
        out = np.array(x, order="C")
        _core.round_bfloat16(out.reshape(-1))
        return out
    with np.errstate(over="ignore"):
        return decode(encode(x, "bfloat16", overflow="nonfinite"), dtype=x.dtype)


def as_numbers(x: Array, recipe: Recipe) -> Array:
    """Return an array in a recipe's compute dtype, rounded once; no copy of what is that already."""
    if recipe.bfloat16 and x.dtype != _BFLOAT16:
        x = to_bfloat16(x)
    array: Array = x.astype(recipe.dtype, copy=False)
    return array
