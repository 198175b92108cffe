"""The array edge: what comes in, what goes out, and how arrays cross to the core.

Lives here: dtype, device, byte order, stride, axis and ``out=`` rules, and their errors. The core sees
nothing but flat, contiguous, aligned, native arrays, with float16 and ml_dtypes elements as unsigned
integers (those have no buffer protocol); of an array to encode whose elements lie apart, the memory that
holds them, and where they stand in it. Not here: formats and scales (see `formats` and `quant`).
"""

from __future__ import annotations

import operator
import sys
from typing import Any, SupportsIndex, TypeAlias

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from . import _core
from ._torch import dtype_of, from_tensor, is_tensor

Array: TypeAlias = NDArray[Any]

# Dtypes that can be encoded and decoded to, by the core's names.
SOURCES = {
    np.dtype(np.float32): "float32",
    np.dtype(np.float64): "float64",
    np.dtype(np.float16): "float16",
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
}
_AS_IS = {np.dtype(t) for t in (np.float32, np.float64, np.uint8, np.uint16, np.uint32)}
_LEAST_APART = 4096  # elements that NumPy copies in about the time that it takes to describe them
_BRIEF = 160  # characters of a given value in a message
_CPU = 1
# DLPack's device numbers (DLDeviceType).
_DEVICES = {
    2: "cuda",
    3: "cuda_host",
    4: "opencl",
    7: "vulkan",
    8: "metal",
    10: "rocm",
    13: "cuda_managed",
    14: "oneapi",
}


def as_array(x: Any, name: str) -> Array:
    """`x` as a base-class array in CPU memory; no copy where NumPy needs none.

    Raises
    ------
    TypeError
        Masked arrays, whose mask would be lost, and arrays on another device.
    ValueError
        Nested sequences without a shape.
    """
    if is_masked(x):
        raise TypeError(f"{name}: found a masked array, expected one without a mask (fill it first)")
    if not isinstance(x, np.ndarray) and is_tensor(x):
        return from_tensor(x, name)
    if not isinstance(x, np.ndarray) and hasattr(x, "__dlpack_device__"):
        kind, index = (int(part) for part in x.__dlpack_device__())
        if kind != _CPU:
            device = _DEVICES.get(kind, f"DLPack device {kind}")
            raise TypeError(f"{name}: found an array on {device}:{index}, expected one in CPU memory")
        if not hasattr(x, "__array__"):
            return np.from_dlpack(x)
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: found no array ({error})") from error


def is_masked(x: Any) -> bool:
    """Tell if `x` is a masked array, without an import: a fork in the midst of one leaves its lock held."""
    masked = sys.modules.get("numpy.ma")  # where nobody has loaded it, there are none
    return masked is not None and isinstance(x, getattr(masked, "MaskedArray", ()))


def source(x: Any, name: str) -> tuple[Array, str]:
    """Return an array to encode, and the core's name of its dtype.

    Raises
    ------
    TypeError
        Any dtype but float32, float64, float16 and bfloat16, in either byte order.
    """
    array = as_array(x, name)
    kind = SOURCES.get(array.dtype.newbyteorder("="))
    if kind is None:
        raise TypeError(f"{name}: found dtype {array.dtype}, expected one of {', '.join(SOURCES.values())}")
    return array, kind


def real_dtype(dtype: Any, name: str = "dtype") -> tuple[np.dtype[Any], str]:
    """Return a dtype to decode to, and the core's name of it."""
    found = np.dtype(dtype_of(dtype))
    if found not in SOURCES:
        raise TypeError(f"{name}: found {found}, expected one of {', '.join(SOURCES.values())}")
    return found, SOURCES[found]


def flat(array: Array) -> Array:
    """Return the array as the core takes it: one axis, C order, aligned, native; a view if possible."""
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "A"]).reshape(-1)
    return native if native.dtype in _AS_IS else native.view(f"u{native.dtype.itemsize}")


def crossing(array: Array, kind: str) -> tuple[Any, ...]:
    """Return an array to encode, and the core's name of its dtype, as the core takes them.

    Elements that lie apart stay where they stand, if they are many enough to be worth a description: the core
    gets all memory from the first of them to the last, and reads no other.
    """
    if array.size < _LEAST_APART:
        return flat(array), kind
    size, flags = array.itemsize, array.flags
    stays = flags.aligned and array.dtype.isnative and not flags.c_contiguous
    if not stays or any(step % size for step in array.strides):
        return flat(array), kind
    raw = array if array.dtype in _AS_IS else array.view(f"u{size}")
    steps = [step // size for step in raw.strides]
    reaches = [(length - 1) * step for length, step in zip(raw.shape, steps, strict=True)]
    start = -sum(reach for reach in reaches if reach < 0)
    lowest = raw[tuple(slice(None, None, -1 if step < 0 else 1) for step in steps)]
    span = start + sum(reach for reach in reaches if reach > 0) + 1
    memory = as_strided(lowest, (span,), (size,), writeable=False)
    return memory, kind, (start, raw.shape, steps)


def destination(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Array, name: str = "out"
) -> Array:
    """Return the array to compute into: `out` itself, or a fresh one where `out` cannot be written directly.

    An `out` that is strided, unaligned or overlaps an input is computed beside it and copied by `deliver`.

    Raises
    ------
    TypeError
        Not a plain array, or not of exactly `dtype` (byte order included).
    ValueError
        Wrong shape, or read-only.
    """
    if out is None:
        return _core.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or is_masked(out):
        raise TypeError(f"{name}: found {type(out).__name__}, expected a numpy.ndarray")
    if out.dtype != dtype or not out.dtype.isnative:
        raise TypeError(f"{name}: found dtype {out.dtype.str} ({out.dtype}), expected {dtype}")
    if out.shape != shape:
        raise ValueError(f"{name}: found shape {out.shape}, expected {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{name}: found a read-only array, expected a writeable one")
    return out if is_direct(out, *inputs) else _core.empty(shape, dtype)


def is_direct(out: Array, *inputs: Array) -> bool:
    """Return True if the core can write into `out` itself: in order, aligned, and apart from inputs."""
    flags = out.flags
    return flags.c_contiguous and flags.aligned and not any(np.may_share_memory(out, x) for x in inputs)


def deliver(result: Array, out: Array | None) -> Array:
    """`out` holding `result`, or `result` where there is no `out`."""
    if out is None or result is out:
        return result
    out[...] = result
    return out


def normalize_axis(axis: SupportsIndex, ndim: int) -> int:
    """`axis` as 0 to ndim - 1; `numpy.exceptions.AxisError` where there is none such."""
    given = whole(axis, "axis")
    if not -ndim <= given < ndim:
        raise np.exceptions.AxisError(given, ndim)
    return given % ndim


def brief(value: Any) -> str:
    """Write a value that was given, for a message: no more of it than a line holds.

    Examples
    --------
    >>> brief("x" * 1000)[-17:]
    'x... (1002 signs)'
    """
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 20]}... ({len(text)} signs)"


def whole(value: Any, name: str) -> int:
    """Return a whole number; bool and float are refused with TypeError."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: found {brief(value)}, expected an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name}: found {brief(value)} ({type(value).__name__}), expected an integer"
        ) from None


def positive(value: Any, name: str) -> int:
    """Return a whole number of at least one."""
    number = whole(value, name)
    if number < 1:
        raise ValueError(f"{name}: found {brief(number)}, expected at least 1")
    return number


RANDOM_ROUNDINGS = ("stochastic", "stochastic8")
"""Rounding modes that take random bits, and so a seed."""


def seed_key(seed: Any, rounding: Any = "stochastic") -> int:
    """Return a seed of random bits: a whole number of 64 bits, or the next one of a `numpy.random.Generator`.

    Raises
    ------
    ValueError
        Out of range, or None although `rounding` is at random.
    TypeError
        Anything else.
    """
    if seed is None:
        if rounding in RANDOM_ROUNDINGS:
            raise ValueError(
                "seed: found None, expected an integer or a numpy.random.Generator, because rounding is "
                "stochastic"
            )
        return 0
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(0, 1 << 64, dtype=np.uint64)) if rounding in RANDOM_ROUNDINGS else 0
    key = whole(seed, "seed")
    if not 0 <= key < 1 << 64:
        raise ValueError(f"seed: found {brief(key)}, expected 0 to 2**64 - 1")
    return key
