"""LogFMT-nBit: tiles whose codes are evenly spaced in the logarithm, the paper's format for combine.

Lives here: names, policies and documentation; the arithmetic is the core's. The container is in
`logfmt_result`, dense codes in `logfmt_packing`, the definition in `reference.logfmt`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from ._arrays import Array, crossing, deliver, destination, flat, normalize_axis, positive, seed_key, source
from .logfmt_packing import code_dtype, logfmt_pack, logfmt_unpack
from .logfmt_result import BFLOAT16, LogFmt, Mode, Precision, Rounding, one_of, tile_width, tiles_shape
from .number_formats import encode

NonFinite = Literal["raise", "escape", "ignore"]

__all__ = ["LogFmt", "logfmt_decode", "logfmt_encode", "logfmt_pack", "logfmt_unpack"]

_DEEPEP_TILE = 128
_CHUNKS = (1024, 512)


def logfmt_encode(
    x: ArrayLike,
    *,
    bits: int = 8,
    tile: int | None = 128,
    axis: int = -1,
    mode: Mode = "paper",
    rounding: Rounding = "linear",
    nonfinite: NonFinite = "raise",
    seed: int | np.random.Generator | None = None,
    out: tuple[Array | None, Array | None, Array | None] | None = None,
) -> LogFmt:
    """Encode each tile's magnitudes on a logarithmic grid from its least to its largest.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        At least one axis. float64 is rounded to float32 first. Any strides; a copy is made of input in the
        other byte order, or unaligned.
    bits : int
        Width of a code with its sign, 3 to 16. (2 bits leave one value beside zero, and no step.)
    tile : int or None
        Elements that share a range; the last tile of an axis may be short. None: the whole axis.
    axis : int
        The axis that is cut into tiles.
    mode : {"paper", "deepep"}
        paper: zeros do not count for a tile's least magnitude. deepep: what DeepEP's kernel sends. `x` is
        rounded to bfloat16 first; zeros count, so that one of them stretches its tile to 32 octaves; a tile
        of one magnitude, or with one of 1 or more, cannot be encoded, and its whole chunk of 1024 elements
        (512 where the axis is no multiple of 1024) escapes. Tiles are of 128, the axis a multiple of 512.
    rounding : {"linear", "log", "stochastic"}
        Where a code gives way to the next: at the mean of their values (ties go up), as the paper asks; at
        their geometric mean; or anywhere, with a probability such that the expected value is `x` (above the
        clip; below it, between zero and the least value).
    nonfinite : {"raise", "escape", "ignore"}
        NaN and infinity in `x` raise; or their tile (mode deepep: its chunk) is kept in bfloat16; or, in mode
        deepep only, NaN becomes zero and infinity escapes, as in the kernel.
    seed : int or numpy.random.Generator, optional
        For stochastic rounding, which needs one. An integer, 0 to 2**64 - 1, gives the same bits in every
        call: element i of `x` in C order has the bits (seed, i); a generator gives new ones in each.
    out : tuple of three (ndarray or None), optional
        Where codes, amin and amax are written: exact shapes and dtypes, writeable. They may overlap the
        input.

    Returns
    -------
    LogFmt
        Its `codes`, `amin` and `amax` are those of `out`, where given.

    Raises
    ------
    TypeError, numpy.exceptions.AxisError
        As for `quantize_tiles`.
    ValueError
        No axis; `bits`, `tile` or `seed` out of range; no `seed` for stochastic rounding; an unknown word; a
        tile or an axis that mode deepep does not have; NaN or infinity in `x`. After an error the content of
        `out` is undefined.

    Notes
    -----
    A tile's range goes from its least non-zero magnitude, or ``2**-32`` of the largest if that is more, to
    the largest. Magnitudes below the range are nearest to zero or to its lower end, as if there were one
    more code below it (DeepEP's rule). All of this is decided in float64 and is the same at every SIMD level
    and with any number of threads.

    Within the range the relative error is at most ``tanh(step / 2)`` in linear rounding. Nearest-linear
    rounding is unbiased where values are spread evenly, but shrinks the sum of bell-shaped data by
    ``step**2 / 12``; only stochastic rounding has no bias. Sources: "Insights into DeepSeek-V3", ISCA '25,
    section 3.2; DeepEP's low-latency combine with use_logfmt.

    Examples
    --------
    >>> import numpy as np
    >>> q = logfmt_encode(np.float32([[1, 2, 4, 8, 1.2]]), bits=4)
    >>> q.codes
    array([[1, 3, 5, 7, 1]], dtype=uint8)
    >>> logfmt_encode(np.float32([[1, 2, 4, 8, 1.2]]), bits=4, rounding="log").codes
    array([[1, 3, 5, 7, 2]], dtype=uint8)
    """
    array, kind = source(x, "x")
    if array.ndim == 0:
        raise ValueError("x: found no axis, expected at least one")
    place = normalize_axis(axis, array.ndim)
    length = array.shape[place]
    size = max(length, 1) if tile is None else positive(tile, "tile")
    _check_words(mode, rounding, nonfinite)
    dtype, key = code_dtype(bits), seed_key(seed, rounding)
    shape = tiles_shape(array.shape, size, place)
    given = _three(out)
    codes = destination(given[0], array.shape, dtype, array, name="out[0]")
    amin = destination(given[1], shape, np.dtype(np.float32), array, name="out[1]")
    amax = destination(given[2], shape, np.dtype(np.float32), array, name="out[2]")
    if mode == "deepep":
        _check_deepep(size, length)
    moved = np.moveaxis(array, place, -1)
    direct = place == array.ndim - 1
    parts = [
        part if direct else np.empty_like(np.moveaxis(part, place, -1), order="C")
        for part in (codes, amin, amax)
    ]
    flags = np.empty(parts[1].shape, np.uint8)
    _core.logfmt_encode(
        crossing(moved, kind),
        (math.prod(moved.shape[:-1]), length, tile_width(array.shape, size, place)),
        bits=int(bits),
        rounding=rounding,
        deepep=mode == "deepep",
        skip_nan=nonfinite == "ignore",
        seed=key,
        inner=math.prod(array.shape[place + 1 :]),
        codes_out=flat(parts[0]),
        amin_out=flat(parts[1]),
        amax_out=flat(parts[2]),
        flags_out=flat(flags),
    )
    if nonfinite == "raise" and flags.any():
        _refuse(_bfloat16(array) if mode == "deepep" else array)
    escaped, kept = _escape(moved, parts, flags.astype(np.bool_), size, place, mode)
    for whole, part in zip((codes, amin, amax), parts, strict=True):
        if not direct:
            whole[...] = np.moveaxis(part, -1, place)
    codes, amin, amax = (deliver(a, o) for a, o in zip((codes, amin, amax), given, strict=True))
    return LogFmt(codes, amin, amax, int(bits), size, place, mode, rounding, escaped, kept)


def logfmt_decode(
    q: LogFmt, *, dtype: DTypeLike = np.float32, precision: Precision = "exact", out: Array | None = None
) -> Array:
    """Numbers of codes.

    Parameters
    ----------
    q : LogFmt
        What `logfmt_encode` made.
    dtype : {float32, float64, float16, bfloat16}
        float64 is the code's value as the definition computes it, float32 that value rounded to nearest;
        float16 and bfloat16 round the float32 once more.
    precision : {"exact", "quick"}
        quick: each number is one float32 product of two rounded factors, within 2 ulp of the exact float32
        (a tile's amax stays exact). The same at every SIMD level too. It changes nothing for float64.
    out : ndarray, optional
        As for `Quantized.dequantize`.

    Returns
    -------
    ndarray of `dtype`, the tensor's shape

    Raises
    ------
    TypeError
        Another `q` or `dtype`; an `out` of another dtype.
    ValueError
        Another `precision`; an `out` of another shape, or read-only.

    Notes
    -----
    ``(-1)**sign * amin * 2**((K - 1) * s)``, and a signed zero for K = 0 ("Insights into DeepSeek-V3",
    ISCA '25, section 3.2). Tiles that escaped are the bfloat16 that they were kept in.

    Examples
    --------
    >>> import numpy as np
    >>> logfmt_decode(logfmt_encode(np.float32([1, 2, -4, 8]), bits=4))
    array([ 1.,  2., -4.,  8.], dtype=float32)
    """
    if not isinstance(q, LogFmt):
        raise TypeError(f"q: found {type(q).__name__}, expected a LogFmt")
    return q.dequantize(dtype, precision=precision, out=out)


def _check_words(mode: str, rounding: str, nonfinite: str) -> None:
    one_of(mode, "mode", Mode)
    one_of(rounding, "rounding", Rounding)
    one_of(nonfinite, "nonfinite", NonFinite)
    if nonfinite == "ignore" and mode != "deepep":
        raise ValueError("nonfinite: found 'ignore', which only mode='deepep' has; expected raise or escape")


def _check_deepep(tile: int, length: int) -> None:
    if tile != _DEEPEP_TILE:
        raise ValueError(f"tile: found {tile}, expected {_DEEPEP_TILE} in mode='deepep'")
    if length % _CHUNKS[-1]:
        raise ValueError(f"x: found {length} along the axis, expected a multiple of 512 in mode='deepep'")


def _bfloat16(array: Array) -> Array:
    """As DeepEP's kernel is given it; float64 by way of float32."""
    if array.dtype.newbyteorder("=") == np.float64:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return encode(array, "bfloat16", overflow="nonfinite")


def _refuse(array: Array) -> None:
    """Name the first number that is not finite as float32."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32))
    first = tuple(int(i) for i in np.unravel_index(finite.argmin(), array.shape))
    raise ValueError(
        f"x: found {array[first]} at {first}, expected finite numbers (nonfinite='escape' keeps their tiles)"
    )


def _escape(
    moved: Array, parts: list[Array], unfit: NDArray[np.bool_], tile: int, place: int, mode: Mode
) -> tuple[NDArray[np.bool_] | None, Array | None]:
    """Which tiles escape, and their numbers; their codes and ranges become zero."""
    codes, amin, amax = parts
    if mode == "deepep":
        unfit = _whole_chunks(unfit | ~((amin > 0) & (amin < amax) & (amax < 1)), moved.shape[-1])
    if not unfit.any():
        return None, None
    length, width = moved.shape[-1], tile_width(moved.shape, tile, moved.ndim - 1)
    amin[unfit] = amax[unfit] = 0
    missing = unfit.shape[-1] * width - length
    if missing:
        codes[np.repeat(unfit, width, axis=-1)[..., :length]] = 0
        moved = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, missing)])
    else:
        codes.reshape(*unfit.shape, width)[unfit] = 0  # `parts` are contiguous: this is a view
    escaped = np.moveaxis(unfit, -1, place)
    tiles = np.moveaxis(moved.reshape(*unfit.shape, width), -2, place)
    kept = tiles.reshape(-1, width) if unfit.all() else tiles[escaped]
    if mode == "deepep":
        return escaped, _bfloat16(kept)
    if kept.dtype.itemsize == 8:  # float64 goes by way of float32, as everywhere here
        with np.errstate(over="ignore"):
            kept = kept.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return escaped, kept.astype(BFLOAT16)


def _whole_chunks(unfit: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """One tile sends the whole chunk as bfloat16: a warp of the kernel holds 1024 channels, or 512."""
    chunk = next(size for size in _CHUNKS if length % size == 0) // _DEEPEP_TILE
    chunks = unfit.reshape(*unfit.shape[:-1], unfit.shape[-1] // chunk, chunk)
    return np.repeat(chunks.any(axis=-1), chunk, axis=-1)


def _three(out: Any) -> tuple[Array | None, Array | None, Array | None]:
    if out is None:
        return None, None, None
    if not isinstance(out, tuple) or len(out) != 3:
        raise TypeError(
            f"out: found {type(out).__name__}, expected a tuple of three arrays, for codes, amin and amax"
        )
    arrays = [array for array in out if isinstance(array, np.ndarray)]
    if any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i]):
        raise ValueError("out: found two arrays in the same memory, expected arrays apart from each other")
    return out
