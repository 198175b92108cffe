"""Codes and scales that belong together: the result of quantization, its way back to numbers, and its file.

Lives here: the container and what it can say about itself. Not here: how codes and scales come about
(`quant`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from ._archive import as_dtype
from ._arrays import Array, as_array, brief, deliver, destination, flat, positive, real_dtype, whole
from ._coded import CodedArray, Index, axis_after, repeated
from .number_formats import code_array, decode, format_info

# The dtype in which each kind of scale is stored.
SCALE_DTYPES = {
    "float32": np.dtype(np.float32),
    "ue8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "mx": np.dtype(ml_dtypes.float8_e8m0fnu),
    "nvfp4": np.dtype(ml_dtypes.float8_e4m3fn),
}


def scales_shape(shape: tuple[int, ...], block: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return the scales' shape: one scale for each block, the last of which may be short."""
    lengths = list(shape)
    axes = range(len(shape) - 2, len(shape)) if axis is None else [axis]
    for place, length in zip(axes, block, strict=True):
        lengths[place] = -(-lengths[place] // length)
    return tuple(lengths)


def core_layout(
    shape: tuple[int, ...], block: tuple[int, ...], axis: int | None
) -> tuple[int, int, int, int, int]:
    """Return the shape as the core sees it: (stack, rows, columns, rows of a block, columns of a block)."""
    if axis is None:
        stack, rows, cols = math.prod(shape[:-2]), shape[-2], shape[-1]
        block_rows, block_cols = block
    else:
        stack, rows, cols = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        block_rows, block_cols = block[0], 1
        if axis == len(shape) - 1:
            stack, rows, cols, block_rows, block_cols = 1, stack, rows, 1, block_rows
    return stack, rows, cols, min(block_rows, max(rows, 1)), min(block_cols, max(cols, 1))


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Tell whether each axis of `shape` is one, or that of `to`, of which there are as many."""
    return len(shape) == len(to) and all(n in (1, m) for n, m in zip(shape, to, strict=True))


def _of_one(part: Any) -> Any:
    """Index an axis of one as `part` indexes the axis that it is broadcast to."""
    return slice(0, 1) if isinstance(part, slice) else np.zeros_like(part)


def checked_global_scale(value: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Check a scale of scales: one number, or an array that broadcasts to the scales' shape.

    Raises
    ------
    TypeError
        No number, or an array of another dtype than float32.
    ValueError
        Another shape; NaN, infinity, or a number below 0.
    """
    if isinstance(value, str | bool | np.bool_):
        raise TypeError(f"global_scale: found {brief(value)}, expected one number or an array of float32")
    array = as_array(value, "global_scale")
    if array.ndim == 0 and array.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"global_scale: found dtype {array.dtype}, expected float32")
    if array.ndim and not broadcasts(array.shape, shape):
        raise ValueError(
            f"global_scale: found shape {array.shape}, expected one number or a shape that broadcasts to "
            f"{shape}, that of the scales: ones where blocks share it"
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"global_scale: found {brief(value)}, expected finite numbers of at least 0")
    return array.astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Quantized(CodedArray):
    """Codes with one scale per tile or block: ``x[i] = float32(codes[i]) * scale of i's block``.

    Attributes
    ----------
    codes : ndarray
        Shape of the tensor, dtype of the format.
    scales : ndarray
        As stored: float32, float8_e8m0fnu ("ue8m0", "mx") or float8_e4m3fn ("nvfp4"). Shape of the
        tensor, with ``ceil(n / b)``
        for the length n of an axis in blocks of b.
    format : str
        See `formats`.
    block : tuple of int
        ``(tile,)`` on one axis, ``(rows, columns)`` on the last two.
    axis : int or None
        The axis of tiles, counted from the front; None for blocks.
    scale_kind : {"float32", "ue8m0", "mx", "nvfp4"}
    rule : str or None
        The rule that made the scales, as `Rule.parse` reads it; None where it is not known.
    global_scale : numpy.float32, ndarray of float32, or None
        The scale of all scales ("nvfp4"), or one for each row: an array that broadcasts to `scales`. None:
        there is none.

    Raises
    ------
    ValueError, TypeError
        Parts that do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_tiles
    >>> q = quantize_tiles(np.ones((2, 256), np.float32))
    >>> q
    Quantized((2, 256) float8_e4m3fn, 128 along axis 1, float32 scales, 8.25 bits per element)
    >>> q.dequantize()[0, 0]
    np.float32(1.0)
    >>> np.asarray(q).dtype, q[:, 128:].shape
    (dtype('float32'), (2, 128))
    """

    codes: Array
    scales: Array
    format: str
    block: tuple[int, ...]
    axis: int | None = None
    scale_kind: str = "float32"
    rule: str | None = None
    global_scale: np.float32 | NDArray[np.float32] | None = None

    _KIND: ClassVar[str] = "Quantized"
    _ARRAYS: ClassVar[tuple[str, ...]] = ("codes", "scales")
    _CONTENT: ClassVar[tuple[str, ...]] = (
        "codes",
        "scales",
        "format",
        "block",
        "axis",
        "scale_kind",
        "global_scale",
    )

    def __post_init__(self) -> None:
        info = format_info(self.format)
        if self.scale_kind not in SCALE_DTYPES:
            raise ValueError(
                f"scale_kind: found {brief(self.scale_kind)}, expected one of {', '.join(SCALE_DTYPES)}"
            )
        parts: list[tuple[str, Any, np.dtype[Any]]] = [
            ("codes", self.codes, info.dtype),
            ("scales", self.scales, SCALE_DTYPES[self.scale_kind]),
        ]
        for name, array, dtype in parts:
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                found = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"{name}: found {found}, expected an array of {dtype}")
        for length in self.block:
            positive(length, "block")
        if len(self.block) != (2 if self.axis is None else 1):
            raise ValueError(f"block: found {self.block}, expected two lengths, or one with an axis")
        if self.axis is None and self.codes.ndim < 2:
            raise ValueError(f"codes: found shape {self.codes.shape}, expected at least two axes")
        if self.axis is not None and not 0 <= whole(self.axis, "axis") < self.codes.ndim:
            raise ValueError(f"axis: found {self.axis}, expected 0 to {self.codes.ndim - 1}")
        expected = scales_shape(self.codes.shape, self.block, self.axis)
        if self.scales.shape != expected:
            raise ValueError(f"scales: found shape {self.scales.shape}, expected {expected}")
        if self.global_scale is not None:
            if self.scale_kind != "nvfp4":
                raise ValueError(
                    f"global_scale: found {self.global_scale} with scale_kind {self.scale_kind!r}"
                )
            held = checked_global_scale(self.global_scale, expected)
            object.__setattr__(self, "global_scale", held if held.ndim else np.float32(held))

    @classmethod
    def of_checked(cls, codes: Array, scales: Array, rest: dict[str, Any]) -> Self:
        """Return codes and scales whose parts are known to fit: no check is made again.

        `rest` are the other attributes.
        """
        made = object.__new__(cls)
        attributes = made.__dict__
        attributes["codes"], attributes["scales"] = codes, scales
        attributes.update(rest)
        return made

    # --- As an array ----------------------------------------------------------------------------------------

    @property
    def T(self) -> Self:
        """The transpose: the same codes and scales, with the axes the other way round.

        Raises
        ------
        ValueError
            Blocks of a stack of matrices, whose last two axes would come first.

        Examples
        --------
        >>> import numpy as np
        >>> from dsv3_numerics import quantize_tiles
        >>> quantize_tiles(np.ones((2, 256), np.float32)).T
        Quantized((256, 2) float8_e4m3fn, 128 along axis 0, float32 scales, 8.25 bits per element)
        """
        if self.axis is None and self.ndim > 2:
            raise ValueError(f"T: found blocks of shape {self.shape}, expected two axes")
        axis = None if self.axis is None else self.ndim - 1 - self.axis
        g = self.global_scale
        return replace(
            self,
            codes=self.codes.T,
            scales=self.scales.T,
            block=self.block[::-1],
            axis=axis,
            global_scale=g if g is None or not np.ndim(g) else np.asarray(g).T,
        )

    @property
    def _groups(self) -> tuple[int, ...]:
        sizes = [1] * self.ndim
        if self.axis is None:
            sizes[-2:] = self.block
        else:
            sizes[self.axis] = self.block[0]
        return tuple(sizes)

    def _picked(self, index: Index, groups: Index) -> Self:
        axis = None if self.axis is None else axis_after(index, self.axis)
        g = self.global_scale
        if g is not None and np.ndim(g):
            g = np.asarray(g)[
                tuple(_of_one(part) if n == 1 else part for n, part in zip(g.shape, groups, strict=True))
            ]
        return replace(self, codes=self.codes[index], scales=self.scales[groups], axis=axis, global_scale=g)

    @property
    def _group_axes(self) -> tuple[int, ...]:
        return (self.ndim - 2, self.ndim - 1) if self.axis is None else (self.axis,)

    def expanded_scales(self) -> NDArray[np.float32]:
        """Return the factor of each code: float32, shape of the tensor.

        Examples
        --------
        >>> import numpy as np
        >>> from dsv3_numerics import quantize_tiles
        >>> quantize_tiles(np.float32([[448, 1, 224]]), tile=2).expanded_scales()
        array([[1. , 1. , 0.5]], dtype=float32)
        """
        return repeated(self.weight_scale_inv(), self._groups, self.shape)

    def _facts(self) -> dict[str, str]:
        groups = "x".join(map(str, self.block)) + ("" if self.axis is None else f" along axis {self.axis}")
        rule = "" if self.rule is None else f" by {self.rule}"
        facts = {
            "shape": str(self.shape),
            "codes": self.format,
            "groups": groups,
            "scales": f"{self.scale_kind}{rule}, {' x '.join(map(str, self.scales.shape))}",
            "bits per element": f"{self.bits_per_element:.4g}",
        }
        return facts if self.global_scale is None else facts | {"global scale": str(self.global_scale)}

    # --- Sizes, ways in and out -----------------------------------------------------------------------------

    @property
    def nbytes(self) -> int:
        """Bytes in memory, where narrow codes take whole bytes (see `pack` and `bits_per_element`)."""
        return (
            self.codes.nbytes
            + self.scales.nbytes
            + (0 if self.global_scale is None else 4 * np.size(self.global_scale))
        )

    @property
    def bits_per_element(self) -> float:
        """Bits of densely packed codes and of all scales, for each element; NaN for an empty tensor."""
        if not self.codes.size:
            return math.nan
        scale_bits = 8 * (self.nbytes - self.codes.nbytes)
        return format_info(self.format).bits + scale_bits / self.codes.size

    def __repr__(self) -> str:
        size = "x".join(map(str, self.block)) + ("" if self.axis is None else f" along axis {self.axis}")
        head = f"{self.shape} {self.format}, {size}, {self.scale_kind} scales"
        return f"Quantized({head}, {self.bits_per_element:.4g} bits per element)"

    def weight_scale_inv(self) -> NDArray[np.float32]:
        """Factors of the codes: float32, shape of `scales`, as DeepSeek's ``weight_scale_inv``."""
        if self.scale_kind == "float32":
            return self.scales
        stored: NDArray[np.float32] = decode(self.scales)
        return stored if self.global_scale is None else stored * self.global_scale

    @classmethod
    def from_weight_scale_inv(
        cls, codes: ArrayLike, scale_inv: ArrayLike, block: tuple[int, int] = (128, 128), *, fmt: Any = None
    ) -> Self:
        """Return a weight as DeepSeek's checkpoints hold it.

        Parameters
        ----------
        codes : array_like of a format's dtype, or of uint8 or uint16 with `fmt`
            Shape (..., rows, columns).
        scale_inv : array_like of float32
            Shape (..., ceil(rows / block rows), ceil(columns / block columns)): what codes are multiplied by.
        block : tuple of two int
            Never derived from the shapes, which do not tell it where edges are ragged.
        fmt : str or dtype, optional
            The format. Needed for uint8 and uint16.

        Raises
        ------
        TypeError, ValueError
            As for the class.
        """
        array, info = code_array(codes, fmt)
        scales = as_array(scale_inv, "scale_inv")
        if scales.dtype.newbyteorder("=") != np.float32:
            raise TypeError(f"scale_inv: found dtype {scales.dtype}, expected float32")
        native = array.astype(array.dtype.newbyteorder("="), copy=False).view(info.dtype)
        return cls(native, scales.astype(np.float32, copy=False), info.name, tuple(block))

    def dequantize(self, dtype: DTypeLike = np.float32, *, out: Array | None = None) -> Array:
        """Return the numbers: ``float32(code) * scale``, one float32 multiplication.

        Parameters
        ----------
        dtype : {float32, float64, float16, bfloat16}
            float16 and bfloat16 round the product once more, to nearest even; float64 widens it.
        out : ndarray, optional
            Numbers are written here: the tensor's shape, `dtype`, writeable.

        Returns
        -------
        ndarray of `dtype`, the tensor's shape
            `out` itself if given.

        Raises
        ------
        TypeError, ValueError
            Another `dtype`; an `out` of another dtype or shape, or read-only.
        """
        target, kind = real_dtype(dtype)
        numbers = destination(out, self.shape, target, self.codes, self.scales)
        layout = core_layout(self.shape, self.block, self.axis)
        coded = flat(self.codes), self.format, layout, flat(self.weight_scale_inv())
        _core.dequantize(coded, (flat(numbers), kind))
        return deliver(numbers, out)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Array]]:
        facts = {
            "format": self.format,
            "block": list(map(int, self.block)),
            "axis": self.axis,
            "scale_kind": self.scale_kind,
            "rule": self.rule,
            "global_scale": None if self.global_scale is None else np.asarray(self.global_scale).tolist(),
        }
        return facts, {"codes": self.codes, "scales": self.scales}

    @classmethod
    def _made_of(cls, meta: dict[str, Any], arrays: dict[str, Array]) -> Self:
        meta["block"] = tuple(meta["block"])
        if meta["global_scale"] is not None:
            held = np.asarray(meta["global_scale"], np.float32)
            meta["global_scale"] = held if held.ndim else np.float32(held)
        codes = as_dtype(arrays["codes"], format_info(meta["format"]).dtype)
        return cls(codes, as_dtype(arrays["scales"], SCALE_DTYPES[meta["scale_kind"]]), **meta)
