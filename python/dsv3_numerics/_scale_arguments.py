"""Arguments of a quantizer besides numbers: magnitudes, scales, and NVFP4's scale of scales.

Lives here: checks of these arrays, and how the scale of scales comes about. The quantizers are in `quant`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._arrays import as_array, brief, flat
from .number_formats import FormatInfo, decode, encode
from .quantized import SCALE_DTYPES, broadcasts, checked_global_scale
from .scale_rule import Rule

GlobalScale = Literal["tensor", "row"]
_KEPT_SCALES = {"ue8m0": "powers of two from 2**-127 to 2**127", "nvfp4": "float8_e4m3fn numbers"}


def one_of(name: str, found: Any, expected: Iterable[str]) -> None:
    """Refuse a word that is not one of some."""
    if not isinstance(found, str) or found not in expected:
        raise ValueError(f"{name}: found {brief(found)}, expected one of {', '.join(expected)}")


def magnitude(value: Any, name: str) -> float:
    """Return a finite float32 of at least 0."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value):
        raise TypeError(f"{name}: found {brief(value)}, expected a number")
    with np.errstate(over="ignore"):
        try:
            number = float(np.float32(value))
        except OverflowError:  # an integer beyond float64
            number = math.inf
        except (TypeError, ValueError):
            raise TypeError(f"{name}: found {brief(value)}, expected a number") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: found {brief(value)}, expected a finite number of at least 0")
    return number


def checked_amax(amax: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = as_array(amax, "amax")
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"amax: found dtype {array.dtype}, expected float32")
    if array.shape != shape:
        raise ValueError(f"amax: found shape {array.shape}, expected {shape}, that of the scales")
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("amax: found NaN, infinity or a negative number, expected finite magnitudes")
    return flat(array)


def checked_scales(scales: ArrayLike, shape: tuple[int, ...], scale: str, rule: Rule) -> NDArray[np.float32]:
    """Scales of the caller's, as numbers, one for each block."""
    if scale == "float32" and rule.apply_op == "multiply_ratio":
        raise ValueError(
            f"rule: found '{rule}', which multiplies by max / amax, with scales=, which do not tell amax; "
            "expected a rule that divides by the scale (deepseek_v3) or multiplies by its inverse (deepgemm, "
            "vllm_static)"
        )
    array = as_array(scales, "scales")
    native, stored = array.dtype.newbyteorder("="), SCALE_DTYPES[scale]
    if array.ndim == 0 and native == np.float64:
        array = array.astype(np.float32)
    elif native not in (np.dtype(np.float32), stored):
        expected = "float32" if stored == np.float32 else f"{stored} or float32"
        raise TypeError(f"scales: found dtype {array.dtype}, expected {expected} with scale={scale!r}")
    if array.shape not in ((), shape):
        turned = " (transposed)" if array.shape == shape[::-1] else ""
        raise ValueError(
            f"scales: found shape {array.shape}{turned}, expected one number or {shape}, a scale for each "
            "block"
        )
    numbers: NDArray[np.float32] = array if array.dtype.kind == "f" else decode(array)
    numbers = np.asarray(numbers, np.float32)
    if not np.isfinite(numbers).all():
        code = (
            ""
            if native != stored or stored.itemsize > 1
            else ", such as byte 255,"
            if scale != "nvfp4"
            else ""
        )
        raise ValueError(f"scales: found NaN or infinity{code} expected finite numbers")
    if (numbers < 0).any() or (scale != "nvfp4" and not numbers.all()):
        raise ValueError(
            f"scales: found {float(numbers.min())}, expected numbers above 0"
            + (" or 0" if scale == "nvfp4" else "")
        )
    if stored != np.float32:
        kept = decode(encode(numbers, stored))
        if not np.array_equal(kept, numbers):
            odd = float(numbers[kept != numbers][0]) if numbers.ndim else float(numbers)
            what = _KEPT_SCALES["nvfp4" if scale == "nvfp4" else "ue8m0"]
            raise ValueError(f"scales: found {odd:g}, expected {what} with scale={scale!r}")
    return flat(np.ascontiguousarray(np.broadcast_to(numbers, shape)))


@dataclass
class WholeArray:
    """An array as the core takes it, and its blocks' largest magnitudes: given, or as they were found."""

    data: tuple[Any, ...]
    layout: tuple[int, int, int, int, int]
    shape: tuple[int, ...]
    given: NDArray[np.float32] | None
    axis: int
    found: NDArray[np.float32] | None = None

    def tops(self, each: str) -> NDArray[np.float32]:
        """Return the largest magnitude of the tensor, or of each row, without blocks that are not finite."""
        amax = self.given
        if amax is None:
            self.found = amax = np.empty(math.prod(self.shape), np.float32)
            top = _core.amax(self.data, self.layout, amax)
            if each == "tensor" and math.isfinite(top):
                return np.asarray(top, np.float32)
        axis = self.axis if each == "row" else None
        amax = amax.reshape(self.shape)
        tops = np.asarray(amax.max(axis=axis, keepdims=each == "row", initial=0))
        if np.isfinite(tops).all():
            return tops
        amax = np.where(np.isfinite(amax), amax, np.float32(0))
        return np.asarray(amax.max(axis=axis, keepdims=each == "row", initial=0))


ONE = np.ones(1, np.float32)


def global_scales(
    scale: str, given: Any, top: Any, whole: WholeArray, info: FormatInfo, rule: Rule
) -> tuple[NDArray[np.float32], NDArray[np.float32], Any]:
    """NVFP4's scale of scales: to encode and to decode, as the core takes them, and as it is held."""
    word = given if isinstance(given, str) else None
    if scale != "nvfp4":
        if top is not None:
            raise ValueError(f"tensor_amax: found {brief(top)}, but only scale='nvfp4' has a use for it")
        if word != "tensor":
            raise ValueError(f"global_scale: found {brief(given)}, but only scale='nvfp4' has a use for it")
        return ONE, ONE, None
    if word is not None:
        one_of("global_scale", word, get_args(GlobalScale))
    elif top is not None:
        raise ValueError("tensor_amax: found one beside a global_scale, expected one of the two")
    if given is None:
        return ONE, ONE, None
    if word is None:
        decode_by = checked_global_scale(given, whole.shape)
        if not decode_by.all():
            raise ValueError("global_scale: found 0, expected numbers above 0")
        with np.errstate(over="ignore"):
            encode_by = np.minimum(np.float32(1) / decode_by, np.finfo(np.float32).max)
        return _spread(encode_by, whole.shape), _spread(decode_by, whole.shape), _held(decode_by)
    amax = whole.tops(word) if top is None else _checked_tops(top, whole.shape)
    encode_by, decode_by = nvfp4_global(amax, rule, info)
    return _spread(encode_by, whole.shape), _spread(decode_by, whole.shape), _held(decode_by)


def nvfp4_global(
    amax: NDArray[np.float32], rule: Rule, info: FormatInfo
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """NVFP4's scale of scales where `amax` is the largest magnitude, to encode, and its inverse."""
    top = np.float32(rule.block_max) * np.float32(rule.max or info.max)
    with np.errstate(divide="ignore", over="ignore"):
        encode_by = np.minimum(top / amax, np.finfo(np.float32).max)
    encode_by = np.asarray(np.where((amax == 0) | (encode_by == 0), np.float32(1), encode_by), np.float32)
    return encode_by, np.asarray(np.float32(1) / encode_by, np.float32)


def _checked_tops(top: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not np.ndim(top):
        return np.asarray(magnitude(top, "tensor_amax"), np.float32)
    array = as_array(top, "tensor_amax")
    if array.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"tensor_amax: found dtype {array.dtype}, expected float32")
    if not broadcasts(array.shape, shape):
        raise ValueError(
            f"tensor_amax: found shape {array.shape}, expected one number or a shape that broadcasts to "
            f"{shape}, that of the scales"
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError("tensor_amax: found NaN, infinity or a negative number, expected finite magnitudes")
    return array.astype(np.float32)


def _spread(values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = np.asarray(values, np.float32)
    return array.reshape(1) if array.ndim == 0 else flat(np.ascontiguousarray(np.broadcast_to(array, shape)))


def _held(values: Any) -> Any:
    array = np.asarray(values, np.float32)
    return np.float32(array) if array.ndim == 0 else np.ascontiguousarray(array)
