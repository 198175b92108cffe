"""How a linear layer computes: formats, scales and sums of its operands, and the recipes that have a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array, deliver, destination, source
from ..accumulator import accumulator_info
from ..gemm import matmul_nt
from ..number_formats import encode, format_info
from ..quant import Rule, Scale, quantize_blocks, quantize_tiles, requantize_tiles
from ..quantized import Quantized

Operand = Quantized | Array
"""One side of a product: codes with scales, or numbers without."""

PLAIN: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float64": np.dtype(np.float64)}
"""Operands that need no scales."""


@dataclass(frozen=True)
class LinearRecipe:
    """How a linear layer computes; by default as DeepSeek-V3 does on Hopper.

    Attributes
    ----------
    dtype : str
        Format of all operands. "bfloat16" and "float64" have no scales.
    tile : int
        Elements of a tile, and rows and columns of a block of weights.
    activation_scale, gradient_scale, weight_scale : {"float32", "ue8m0", "mx", "nvfp4"}
        Scales of x, dy and w. DeepSeek-V3 has powers of two ("ue8m0") for x after attention and before the
        experts, and for dy before the experts' last projection.
    rule : {"deepseek_v3", "deepgemm", "deepep", "vllm"}
        Whose arithmetic makes the scales.
    accumulator : str
        See `accumulators`; "float64" for operands of float64.
    promote_every : int or None
        See `matmul_nt`.
    stored_dtype : str, optional
        Format in which x waits for wgrad, in the same tiles and with the same kind of scale; `dtype` if None.
        "e5m6" after attention.
    activation_recomputed : bool
        wgrad's x is not stored but made again (V3 does so with SwiGLU's output), so that its numbers are
        quantized along tokens at once; otherwise it is regrouped from the stored tiles.
    gradient_dtype : str, optional
        Format of dy; `dtype` if None.
    gradient_floor : float, optional
        Least amax of a tile of dy; the rule's if None.
    gradient_arrives : bool
        dy arrives in 1x128 tiles, as it does from another GPU, so that wgrad regroups it; otherwise wgrad
        quantizes the numbers once more, along tokens.
    gradient_blocks : bool
        dgrad takes dy in 128x128 blocks: what the report tried and gave up (appendix B.2).

    Raises
    ------
    ValueError, TypeError
        An unknown format or accumulator; an accumulator that does not take the formats; options of scales for
        operands that have none.

    Examples
    --------
    >>> LinearRecipe(accumulator="exact", activation_scale="ue8m0").tile
    128
    """

    dtype: str = "float8_e4m3fn"
    tile: int = 128
    activation_scale: Scale = "float32"
    gradient_scale: Scale = "float32"
    weight_scale: Scale = "float32"
    rule: Rule = "deepseek_v3"
    accumulator: str = "hopper_fp8"
    promote_every: int | None = 128
    stored_dtype: str | None = None
    activation_recomputed: bool = False
    gradient_dtype: str | None = None
    gradient_floor: float | None = None
    gradient_arrives: bool = False
    gradient_blocks: bool = False

    def __post_init__(self) -> None:
        formats = [self.dtype] if self.gradient_dtype is None else [self.dtype, self.gradient_dtype]
        if (self.dtype == "float64") != (self.accumulator == "float64"):
            raise ValueError(
                f"accumulator: found {self.accumulator!r} for operands of {self.dtype}, expected 'float64' "
                "for float64 and one of accumulators() otherwise"
            )
        if self.dtype != "float64":
            takes = accumulator_info(self.accumulator).inputs
            for found in formats:
                if format_info(found).name not in takes:
                    raise ValueError(
                        f"accumulator: found {self.accumulator!r} for operands of {found}, but it takes "
                        f"{', '.join(takes)}"
                    )
        given = {
            name: value
            for name in (
                "stored_dtype",
                "activation_recomputed",
                "gradient_dtype",
                "gradient_floor",
                "gradient_arrives",
                "gradient_blocks",
            )
            if (value := getattr(self, name))
        }
        if self.dtype in PLAIN and given:
            name, value = next(iter(given.items()))
            raise ValueError(f"{name}: found {value!r}, but operands of {self.dtype} have no scales")

    @property
    def narrow(self) -> np.dtype[Any]:
        """Of the results of fprop and dgrad."""
        return PLAIN["float64" if self.dtype == "float64" else "bfloat16"]

    @property
    def wide(self) -> np.dtype[Any]:
        """Of the result of wgrad."""
        found: np.dtype[Any] = np.dtype(np.float64 if self.dtype == "float64" else np.float32)
        return found

    def activations(self, x: ArrayLike | Quantized, name: str = "x") -> Operand:
        """x for fprop: 1x128 tiles."""
        return self._tiles(x, name, 1, self.dtype, self.activation_scale)

    def stored(self, x: ArrayLike | Quantized, name: str = "x") -> Operand:
        """x as it waits for wgrad."""
        return self._tiles(x, name, 1, self.stored_dtype or self.dtype, self.activation_scale)

    def activation_columns(self, x: ArrayLike | Quantized, name: str = "x") -> Operand:
        """x for wgrad: 128x1 tiles, regrouped from those stored unless it is made again."""
        if not isinstance(x, Quantized) and not self.activation_recomputed:
            x = self.stored(x, name)
        return self._tiles(x, name, 0, self.dtype, self.activation_scale)

    def gradients(self, dy: ArrayLike | Quantized, name: str = "dy") -> Operand:
        """dy for dgrad: 1x128 tiles, or blocks."""
        kind, scale = self.gradient_dtype or self.dtype, self.gradient_scale
        if self.gradient_blocks:
            return self._blocks(dy, name, kind, scale, self.gradient_floor)
        return self._tiles(dy, name, 1, kind, scale, self.gradient_floor)

    def gradient_columns(self, dy: ArrayLike | Quantized, name: str = "dy") -> Operand:
        """dy for wgrad: 128x1 tiles, from the numbers or, if those did not arrive, from 1x128 tiles."""
        kind, scale, floor = self.gradient_dtype or self.dtype, self.gradient_scale, self.gradient_floor
        if self.gradient_arrives:
            dy = self._tiles(dy, name, 1, kind, scale, floor)
        return self._tiles(dy, name, 0, kind, scale, floor)

    def weights(self, w: ArrayLike | Quantized, name: str = "w") -> Operand:
        """w for fprop and dgrad: blocks."""
        return self._blocks(w, name, self.dtype, self.weight_scale)

    def product(self, a: Operand, b: Operand, dtype: Any, c: Any = None, out: Any = None) -> Array:
        """``a @ b.T``, added to `c`."""
        if self.dtype != "float64":
            every, unit = self.promote_every, self.accumulator
            return matmul_nt(a, b, c=c, accumulator=unit, promote_every=every, dtype=dtype, out=out)
        assert not isinstance(a, Quantized)
        assert not isinstance(b, Quantized)
        result = np.asarray(a @ b.T)
        if c is not None:
            start, _ = source(as_array(c, "c"), "c")
            if start.shape != result.shape:
                raise ValueError(f"c: found shape {start.shape}, expected {result.shape}, that of the result")
            result = start + result
        destination(out, result.shape, PLAIN["float64"])  # for its checks
        return deliver(result, out)

    def _plain(self, x: ArrayLike | Quantized, name: str) -> Array:
        if isinstance(x, Quantized):
            check_matrix(x.shape, name)
            return x.dequantize(PLAIN[self.dtype])
        array = matrix(x, name)
        if self.dtype == "float64":
            return array.astype(np.float64)
        return encode(array, self.dtype, overflow="nonfinite")

    def _tiles(
        self,
        x: ArrayLike | Quantized,
        name: str,
        axis: int,
        dtype: str,
        scale: Scale,
        floor: float | None = None,
    ) -> Operand:
        if self.dtype in PLAIN:
            return self._plain(x, name)
        if isinstance(x, Quantized):
            check_matrix(x.shape, name)
            if x.axis == axis and x.block == (self.tile,):
                return x
            if x.format == dtype:
                return requantize_tiles(x, axis=axis, tile=self.tile, floor=floor)
            x = x.dequantize()
        x = matrix(x, name)
        return quantize_tiles(
            x, dtype=dtype, tile=self.tile, axis=axis, scale=scale, rule=self.rule, floor=floor
        )

    def _blocks(
        self, w: ArrayLike | Quantized, name: str, dtype: str, scale: Scale, floor: float | None = None
    ) -> Operand:
        if self.dtype in PLAIN:
            return self._plain(w, name)
        if isinstance(w, Quantized):
            check_matrix(w.shape, name)
            return w
        size = (self.tile, self.tile)
        w = matrix(w, name)
        return quantize_blocks(w, dtype=dtype, block=size, scale=scale, rule=self.rule, floor=floor)


@overload
def turned(q: Quantized) -> Quantized: ...
@overload
def turned(q: Array) -> Array: ...
def turned(q: Operand) -> Operand:
    """The transpose of an operand: the same codes and scales, seen from the side.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> turned(quantize_tiles(np.ones((2, 256), np.float32)))
    Quantized((256, 2) float8_e4m3fn, 128 along axis 0, float32 scales, 8.25 bits per element)
    """
    if not isinstance(q, Quantized):
        return q.T
    axis = None if q.axis is None else 1 - q.axis
    return Quantized(
        q.codes.T, q.scales.T, q.format, q.block[::-1], axis, q.scale_kind, q.rule, q.global_scale
    )


def matrix(x: Any, name: str) -> Array:
    """Numbers with two axes."""
    array, _ = source(as_array(x, name), name)
    check_matrix(array.shape, name)
    return array


def check_matrix(shape: tuple[int, ...], name: str) -> None:
    """Two axes."""
    if len(shape) != 2:
        raise ValueError(f"{name}: found shape {shape}, expected two axes")


def check_pair(a: str, left: Any, i: int, b: str, right: Any, j: int) -> None:
    """Axis i of one as long as axis j of the other."""
    if left.shape[i] != right.shape[j]:
        raise ValueError(
            f"{a} and {b}: found shapes {left.shape} and {right.shape}, expected axis {i} of {a} as long as "
            f"axis {j} of {b}, because the sum runs over them"
        )


DEEPSEEK_V3 = LinearRecipe()

PRESETS: dict[str, LinearRecipe] = {
    "float64": LinearRecipe(dtype="float64", accumulator="float64", promote_every=None),
    "bfloat16": LinearRecipe(dtype="bfloat16", accumulator="hopper_bf16", promote_every=None),
    "deepseek_v3": DEEPSEEK_V3,
    "after_attention": LinearRecipe(activation_scale="ue8m0", stored_dtype="e5m6"),
    "up_projection": LinearRecipe(activation_scale="ue8m0"),
    "down_projection": LinearRecipe(
        gradient_scale="ue8m0", gradient_arrives=True, activation_recomputed=True
    ),
}
"""Recipes by name: what FP8 is compared with, V3's for any layer, and the three places that the report treats
specially (3.3.3 and 3.5.2): the layer after attention, whose x waits for wgrad in E5M6; the experts' gate
and up projections, whose x arrives in FP8; and their down projection, whose dy does, and whose x is made
again. Scales that wgrad regroups are powers of two there, so that nothing is rounded a second time.

Assumed, because the report does not say it: fprop after attention takes E4M3 with the same kind of scales,
and E5M6 becomes E4M3 when it is regrouped, since no tensor core takes E5M6."""
