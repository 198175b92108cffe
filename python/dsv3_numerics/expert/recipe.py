"""How an expert computes: its linear layers, what SwiGLU rounds, and what waits for backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..linear.recipe import PLAIN, LinearRecipe, Operand
from ..linear.recipe import PRESETS as LINEAR
from ..number_formats import format_info
from ..quant import Scale, quantize_tiles

Float64s = NDArray[np.float64]
Elementwise = Literal["float32", "bfloat16", "float64"]

_WIDEST_CODE = 12


@dataclass(frozen=True)
class ExpertRecipe:
    """How an expert computes; by default as DeepSeek-V3 does on Hopper.

    Attributes
    ----------
    up, down : LinearRecipe
        Of gate and up, and of down. The dy of gate and up are those that SwiGLU's backward makes.
    cache : str or None
        Format in which SwiGLU's inputs wait for backward, in 1x128 tiles; None: as they are.
    cache_scale : {"float32", "ue8m0", "mx", "nvfp4"}
        Their scales. The report does not say which; open code for Hopper has float32.
    elementwise : {"float32", "bfloat16", "float64"}
        What SwiGLU and its backward round. bfloat16: every operation, as torch does, and gate's and up's
        Dgrads before they are added. float32: their results only, as one kernel does that hands them to the
        quantizer, and the sum of both Dgrads is one float32 sum. float64: nothing.

    Raises
    ------
    ValueError, TypeError
        An unknown name; a cache in a format of more than 12 bits.

    Examples
    --------
    >>> ExpertRecipe().up.activation_scale, ExpertRecipe().down.gradient_scale
    ('ue8m0', 'ue8m0')
    """

    up: LinearRecipe = LINEAR["up_projection"]
    down: LinearRecipe = LINEAR["down_projection"]
    cache: str | None = "float8_e4m3fn"
    cache_scale: Scale = "float32"
    elementwise: Elementwise = "float32"

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            if not isinstance(found := getattr(self, name), LinearRecipe):
                raise TypeError(f"{name}: found {type(found).__name__}, expected a LinearRecipe")
        if self.elementwise not in _STEPS:
            raise ValueError(f"elementwise: found {self.elementwise!r}, expected one of {', '.join(_STEPS)}")
        if self.cache is not None and format_info(self.cache).bits > _WIDEST_CODE:
            raise ValueError(
                f"cache: found {self.cache!r}, expected a format of at most {_WIDEST_CODE} bits, or None"
            )

    def kept(self, a: Array) -> Operand:
        """An input of SwiGLU as it waits for backward."""
        if self.cache is None:
            return a
        down = self.down
        return quantize_tiles(a, dtype=self.cache, tile=down.tile, scale=self.cache_scale, rule=down.rule)

    def round(self, x: Float64s, last: bool = True) -> Array:
        """What an operation's result becomes; `last`: of several that one kernel may do together."""
        if self.elementwise == "float64" or (self.elementwise == "float32" and not last):
            return x
        narrow: Array = x.astype(np.float32)
        return narrow if self.elementwise == "float32" else narrow.astype(ml_dtypes.bfloat16)

    def swiglu(self, a: Array, b: Array) -> Array:
        """``silu(a) * b``."""
        gate, up = a.astype(np.float64), b.astype(np.float64)
        return self.round(self.round(gate * sigmoid(gate), last=False).astype(np.float64) * up)

    def swiglu_gradient(self, a: Array, b: Array, dh: Array) -> tuple[Array, Array]:
        """The gradients of a and b, from that of ``silu(a) * b``."""
        gate, up, above = (x.astype(np.float64) for x in (a, b, dh))
        share = sigmoid(gate)
        silu = self.round(gate * share, last=False).astype(np.float64)
        of_silu = self.round(above * up, last=False).astype(np.float64)
        return self.round(of_silu * (share * (1 + gate * (1 - share)))), self.round(above * silu)


def sigmoid(x: Float64s) -> Float64s:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    found: Float64s = np.where(x < 0, small, 1.0) / (1 + small)
    return found


_STEPS = ("float32", "bfloat16", "float64")

DEEPSEEK_V3 = ExpertRecipe()


def _unscaled(name: Any) -> ExpertRecipe:
    """All of it in one format without scales."""
    return ExpertRecipe(LINEAR[name], LINEAR[name], cache=None, elementwise=name)


PRESETS: dict[str, ExpertRecipe] = {
    **{name: _unscaled(name) for name in reversed(PLAIN)},
    "deepseek_v3": DEEPSEEK_V3,
}
"""Recipes by name."""
