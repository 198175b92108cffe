"""Codes of LogFMT with their tiles' ranges: the result of encoding, its way back to numbers, and its file.

Lives here: the container and what it can say about itself. Not here: how codes come about (`logfmt`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _core
from ._archive import as_dtype
from ._arrays import Array, brief, deliver, destination, flat, positive, real_dtype, whole
from ._coded import CodedArray, Index, axis_after, repeated
from .logfmt_packing import Layout, code_dtype, logfmt_pack

Mode = Literal["paper", "deepep"]
Rounding = Literal["linear", "log", "stochastic"]
Precision = Literal["exact", "quick"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Bits of a tile's two magnitudes as they are sent: DeepEP's are bfloat16, as its input is.
_RANGE_BITS = {"paper": 64, "deepep": 32}


def one_of(value: Any, name: str, names: Any) -> None:
    """Refuse a word that is none of a Literal's."""
    if value not in get_args(names):
        raise ValueError(f"{name}: found {brief(value)}, expected one of {', '.join(get_args(names))}")


@dataclass(frozen=True, eq=False, repr=False)
class LogFmt(CodedArray):
    """Codes K with sign, and each tile's least and largest magnitude.

    K = 0 is zero, K = 1 the tile's `amin`, the last K its `amax`, and those between are evenly spaced in the
    logarithm: ``amin * (amax / amin) ** ((K - 1) / (2 ** (bits - 1) - 2))``.

    Attributes
    ----------
    codes : ndarray of uint8 (to 8 bits) or uint16
        Shape of the tensor. Sign in bit ``bits - 1``, K below it; bits above count for nothing.
    amin, amax : ndarray of float32
        Shape of the tensor, with ``ceil(n / tile)`` for the length n of the axis. Both are zero in a tile
        without any non-zero number, and in one that escaped.
    bits : int
        Width of a code with its sign, 3 to 16.
    tile : int
        Consecutive elements that share a range; the last tile of an axis may be short.
    axis : int
        The axis of tiles, counted from the front.
    mode : {"paper", "deepep"}
    rounding : {"linear", "log", "stochastic"}
    escaped : ndarray of bool, or None
        The tiles that are kept in bfloat16, shape of `amin`; None where there are none.
    escaped_values : ndarray of bfloat16, or None
        Their numbers, in the order of `escaped`: shape (tiles escaped, tile, or the axis if that is shorter).
        A short tile is filled up with zeros.

    Raises
    ------
    ValueError, TypeError
        Parts that do not fit together.

    Notes
    -----
    What the paper calls min, max and Step are `min`, `max` and `step` here, natural logarithms in float64.
    Stored are the magnitudes, which a logarithm would have to round: K = 1 and the last K are therefore
    exact. Source: "Insights into DeepSeek-V3", ISCA '25, section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import logfmt_encode
    >>> q = logfmt_encode(np.float32([[1, 2, -4, 8]]), bits=4)
    >>> q
    LogFmt((1, 4) of 4 bits, tiles of 128 along axis 1, paper, linear, 20 bits per element)
    >>> q.codes
    array([[ 1,  3, 13,  7]], dtype=uint8)
    >>> q.dequantize()
    array([[ 1.,  2., -4.,  8.]], dtype=float32)
    """

    codes: Array
    amin: NDArray[np.float32]
    amax: NDArray[np.float32]
    bits: int
    tile: int
    axis: int
    mode: Mode = "paper"
    rounding: Rounding = "linear"
    escaped: NDArray[np.bool_] | None = None
    escaped_values: Array | None = None

    _KIND: ClassVar[str] = "LogFmt"
    _ARRAYS: ClassVar[tuple[str, ...]] = ("codes", "amin", "amax", "escaped", "escaped_values")
    _CONTENT: ClassVar[tuple[str, ...]] = (
        "codes",
        "amin",
        "amax",
        "bits",
        "tile",
        "axis",
        "mode",
        "escaped",
        "escaped_values",
    )

    def __post_init__(self) -> None:
        one_of(self.mode, "mode", Mode)
        one_of(self.rounding, "rounding", Rounding)
        positive(self.tile, "tile")
        _array("codes", self.codes, code_dtype(self.bits))
        if not 0 <= whole(self.axis, "axis") < self.codes.ndim:
            raise ValueError(f"axis: found {self.axis}, expected 0 to {self.codes.ndim - 1}")
        shape = tiles_shape(self.shape, self.tile, self.axis)
        _array("amin", self.amin, np.dtype(np.float32), shape)
        _array("amax", self.amax, np.dtype(np.float32), shape)
        fits = (self.amin <= self.amax) & (self.amax < np.inf) & (self.amin >= 0)
        if not (fits & ((self.amin > 0) == (self.amax > 0))).all():
            raise ValueError("amin: found a tile without 0 < amin <= amax < inf, or zero for both")
        if (self.escaped is None) != (self.escaped_values is None):
            raise ValueError("escaped: found it without escaped_values, or the reverse")
        if self.escaped is not None:
            _array("escaped", self.escaped, np.dtype(np.bool_), shape)
            width = tile_width(self.shape, self.tile, self.axis)
            _array("escaped_values", self.escaped_values, BFLOAT16, (int(self.escaped.sum()), width))

    # --- As an array ----------------------------------------------------------------------------------------

    @property
    def _groups(self) -> tuple[int, ...]:
        return tuple(self.tile if axis == self.axis else 1 for axis in range(self.ndim))

    @property
    def _group_axes(self) -> tuple[int, ...]:
        return (self.axis,)

    def _picked(self, index: Index, groups: Index) -> Self:
        axis = axis_after(index, self.axis)
        parts: dict[str, Any] = {name: getattr(self, name)[groups] for name in ("amin", "amax")}
        codes = self.codes[index]
        if self.escaped is not None and self.escaped_values is not None:
            flags = self.escaped[groups]
            places = (np.cumsum(self.escaped).reshape(self.escaped.shape) - 1)[groups][flags]
            width = tile_width(codes.shape, self.tile, axis)
            some = bool(flags.any())
            parts["escaped"] = flags if some else None
            parts["escaped_values"] = self.escaped_values[places, :width] if some else None
        return replace(self, codes=codes, axis=axis, **parts)

    def expanded_scales(self) -> NDArray[np.float32]:
        """Return the `amin` of each code's tile, the factor of its power: float32, shape of the tensor."""
        return repeated(self.amin, self._groups, self.shape)

    def _facts(self) -> dict[str, str]:
        away = 0.0 if self.escaped is None else float(self.escaped.mean())
        return {
            "shape": str(self.shape),
            "codes": f"{self.bits} bits",
            "groups": f"{self.tile} along axis {self.axis}",
            "mode": f"{self.mode}, {self.rounding}",
            "tiles in bfloat16": f"{away:.3g}",
            "bits per element": f"{self.bits_per_element:.4g}",
        }

    # --- What the paper speaks of ---------------------------------------------------------------------------

    @property
    def min(self) -> NDArray[np.float64]:
        """The paper's min: the logarithm of each tile's least magnitude; -inf where there is none."""
        return _log(self.amin)

    @property
    def max(self) -> NDArray[np.float64]:
        """The paper's max: the logarithm of each tile's largest magnitude; -inf where there is none."""
        return _log(self.amax)

    @property
    def step(self) -> NDArray[np.float64]:
        """The paper's Step, in the natural logarithm; 0 in a tile of one magnitude or none."""
        span = np.subtract(self.max, self.min, out=np.zeros(self.amin.shape), where=self.amin > 0)
        return np.asarray(span / (2 ** (self.bits - 1) - 2))

    @property
    def nbytes(self) -> int:
        """Bytes in memory, where codes take whole bytes (see `pack` and `bits_per_element`)."""
        arrays = (self.codes, self.amin, self.amax, self.escaped, self.escaped_values)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def nbits(self) -> int:
        """Bits to be sent.

        Dense codes and each tile's range (two float32, in mode "deepep" two bfloat16); for the elements of an
        escaped tile 16 bits instead of both.
        """
        tiles, kept = self.amin.size, self.codes.size
        if self.escaped is not None:
            lengths = np.full(self.escaped.shape[self.axis], tile_width(self.shape, self.tile, self.axis))
            lengths[-1] -= len(lengths) * lengths[0] - self.shape[self.axis]
            tiles -= int(self.escaped.sum())
            kept -= int((np.moveaxis(self.escaped, self.axis, -1) * lengths).sum())
        return kept * self.bits + tiles * _RANGE_BITS[self.mode] + (self.codes.size - kept) * 16

    @property
    def bits_per_element(self) -> float:
        """`nbits` for each element; NaN for an empty tensor."""
        return self.nbits / self.codes.size if self.codes.size else math.nan

    def __repr__(self) -> str:
        head = f"{self.shape} of {self.bits} bits, tiles of {self.tile} along axis {self.axis}"
        away = "" if self.escaped is None else f", {self.escaped.mean():.3g} of the tiles in bfloat16"
        rest = f"{self.mode}, {self.rounding}{away}, {self.bits_per_element:.4g} bits per element"
        return f"LogFmt({head}, {rest})"

    def dequantize(
        self, dtype: DTypeLike = np.float32, *, precision: Precision = "exact", out: Array | None = None
    ) -> Array:
        """Return the numbers. See `logfmt_decode`."""
        one_of(precision, "precision", Precision)
        target, kind = real_dtype(dtype)
        inputs = [a for a in (self.codes, self.amin, self.amax, self.escaped_values) if a is not None]
        numbers = destination(out, self.shape, target, *inputs)
        last = self.axis == len(self.shape) - 1
        work = numbers if last else _core.empty(_moved(self.codes, self.axis).shape, target)
        tile = tile_width(self.shape, self.tile, self.axis)
        _core.logfmt_decode(
            flat(_moved(self.codes, self.axis)),
            bits=self.bits,
            tiles=(math.prod(work.shape[:-1]), work.shape[-1], tile),
            amin=flat(_moved(self.amin, self.axis)),
            amax=flat(_moved(self.amax, self.axis)),
            out=(flat(work), kind),
            precision=precision,
        )
        if not last:
            numbers[...] = np.moveaxis(work, -1, self.axis)
        if self.escaped is not None and self.escaped_values is not None:
            self._put_back(numbers, self.escaped, self.escaped_values)
        return deliver(numbers, out)

    def _put_back(self, numbers: Array, escaped: NDArray[np.bool_], kept: Array) -> None:
        """Write the numbers of escaped tiles over what their empty codes gave."""
        length, width = self.shape[self.axis], kept.shape[1]
        tiles = np.zeros((*escaped.shape, width), kept.dtype)
        tiles[escaped] = kept
        along = np.moveaxis(tiles, self.axis, -2)
        whole_axis = along.reshape(*along.shape[:-2], along.shape[-2] * width)[..., :length]
        places = np.repeat(np.moveaxis(escaped, self.axis, -1), width, axis=-1)[..., :length]
        with np.errstate(over="ignore"):  # to float16
            np.copyto(np.moveaxis(numbers, self.axis, -1), whole_axis.astype(numbers.dtype), where=places)

    def pack(self, layout: Layout = "plain") -> NDArray[np.uint8]:
        """Return the codes without unused bits. See `logfmt_pack`; `amin` and `amax` are not in it.

        Parameters
        ----------
        layout : {"plain", "deepep"}

        Returns
        -------
        ndarray of uint8
            Shape of `codes` but for the last axis.
        """
        return logfmt_pack(self.codes, bits=self.bits, layout=layout)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Array]]:
        names = ("bits", "tile", "axis", "mode", "rounding")
        empty = np.empty(0, np.uint8)
        arrays = {name: getattr(self, name) for name in self._ARRAYS}
        return (
            {name: getattr(self, name) for name in names},
            {name: empty if array is None else array for name, array in arrays.items()},
        )

    @classmethod
    def _made_of(cls, meta: dict[str, Any], arrays: dict[str, Array]) -> Self:
        escaped, kept = arrays.pop("escaped"), arrays.pop("escaped_values")
        if escaped.dtype != np.uint8 or escaped.max(initial=0) > 1:
            raise ValueError("escaped holds other numbers than 0 and 1")
        some = bool(escaped.any())
        return cls(
            codes=arrays["codes"],
            amin=as_dtype(arrays["amin"], np.float32),
            amax=as_dtype(arrays["amax"], np.float32),
            escaped=escaped.astype(np.bool_) if some else None,
            escaped_values=as_dtype(kept, BFLOAT16) if some else None,
            **meta,
        )


def tile_width(shape: tuple[int, ...], tile: int, axis: int) -> int:
    """Return the length of a tile that is not the last: `tile`, or the axis where that is shorter."""
    return min(tile, max(shape[axis], 1))


def tiles_shape(shape: tuple[int, ...], tile: int, axis: int) -> tuple[int, ...]:
    """Return the shape of what there is one of for each tile."""
    return (*shape[:axis], -(-shape[axis] // tile), *shape[axis + 1 :])


def _moved(array: Array, axis: int) -> Array:
    return np.moveaxis(array, axis, -1)


def _log(magnitude: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(magnitude, dtype=np.float64)


def _array(name: str, array: Any, dtype: np.dtype[Any], shape: tuple[int, ...] | None = None) -> None:
    """Refuse what is not an array of this dtype and shape."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or not array.dtype.isnative:
        found = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name}: found {found}, expected an array of {dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name}: found shape {array.shape}, expected {shape}")
