"""Inputs of golden vectors: kinds of numbers, each with what it is there to catch.

Lives here: the table of kinds, and `drawing`, which makes inputs of a kind. Numbers come from Philox and
exact arithmetic, so that they are the same everywhere. Real numbers are `sources`'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, decode
from ..reference.philox import random_words

Floats = NDArray[np.float32]
f32 = np.float32


class Case(NamedTuple):
    """Kind of input: what it catches, and its maker ``(rows, columns, group, format, seed)``."""

    catches: str
    make: Callable[[int, int, int, FormatInfo, int], Floats]
    finite: bool = True


def normal(count: int, seed: int) -> Floats:
    """Return sums of twelve uniform numbers less six: mean 0, variance 1, exact in float32."""
    words = random_words(6 * count, seed).reshape(count, 6)
    halves = (words & np.uint64(0xFFFF)) + (words >> np.uint64(16))
    found: Floats = ((halves.sum(axis=1).astype(np.float64) - 6 * 65535) / 65536).astype(f32)
    return found


def bell(name: str, shape: tuple[int, ...], seed: int) -> Floats:
    """Return sums of four random bytes, mean 0 and variance 1, which depend on a tensor's name and a seed."""
    count = int(np.prod(shape, dtype=np.int64))
    key = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    sums = random_words(count, key).astype("<u4").view(np.uint8).reshape(count, 4).astype(np.int64)
    found: Floats = ((sums.sum(axis=1) - 510) * (1.7320508075688772 / 256)).astype(f32).reshape(shape)
    return found


def random_ids(shape: tuple[int, ...], vocabulary: int, seed: int) -> NDArray[np.int64]:
    """Return random token ids.

    Examples
    --------
    >>> random_ids((1, 3), 100, 0).tolist()
    [[41, 53, 48]]
    """
    words = random_words(int(np.prod(shape)), seed) % np.uint64(vocabulary)
    return words.astype(np.int64).reshape(shape)


def _normal(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    spread = np.ldexp(f32(1), (random_words(rows * columns, seed + 1) % np.uint64(7)).astype(np.intc) - 3)
    return (normal(rows * columns, seed) * spread).reshape(rows, columns)


def _steps(info: FormatInfo) -> NDArray[np.float64]:
    """Positive finite numbers of a format, in order."""
    codes = np.arange(info.n_codes, dtype=f"u{info.dtype.itemsize}")
    numbers = decode(codes, fmt=info.name, dtype=np.float64)
    good = numbers[np.isfinite(numbers) & (numbers >= 0) & (numbers <= 3e38)]
    return np.unique(np.abs(good))


def _drawn(values: NDArray[np.float64], rows: int, columns: int, seed: int) -> Floats:
    words = random_words(rows * columns, seed)
    sign = np.where(words & np.uint64(1), -1.0, 1.0)
    picked: NDArray[np.float64] = values[((words >> np.uint64(1)) % np.uint64(len(values))).astype(np.intp)]
    return (sign * picked).astype(f32).reshape(rows, columns)


def _places(rows: int, columns: int, group: int, seed: int) -> NDArray[np.bool_]:
    """Flag one place in each group, wherever the seed says: two operands seldom have them opposite."""
    flags = np.zeros((rows, columns), bool)
    starts = np.arange(0, columns, group)
    lengths = np.minimum(group, columns - starts).astype(np.uint64)
    words = random_words(rows * len(starts), seed + 2).reshape(rows, len(starts))
    np.put_along_axis(flags, starts + (words % lengths).astype(np.intp), True, axis=1)
    return flags


def _ties(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    steps = _steps(info)
    x = _drawn((steps[1:] + steps[:-1]) / 2, rows, columns, seed)
    x[_places(rows, columns, group, seed)] = f32(info.max)
    return x


def _near_ties(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x, first = _ties(rows, columns, group, info, seed), _places(rows, columns, group, seed)
    for tile, start in enumerate(range(0, columns, group)):
        if tile % 2:  # scales that are no powers of two, so that x / s and x * (1 / s) part
            factor = 1 + (2 * tile + 1) / 37
            x[:, start : start + group] = (x[:, start : start + group] * np.float64(factor)).astype(f32)
    toward = np.where(
        random_words(x.size, seed + 1).reshape(x.shape) & np.uint64(1), f32(np.inf), f32(-np.inf)
    )
    return np.where(first, x, np.nextafter(x, toward))


def _powers(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    tiles = -(-columns // group)
    for index in range(rows * tiles):
        row, tile = divmod(index, tiles)
        amax = np.ldexp(f32(info.max), index % 9 - 4)
        part = x[row, tile * group : (tile + 1) * group]
        part *= amax / f32(8)
        part[0] = (amax, np.nextafter(amax, f32(np.inf)), np.nextafter(amax, f32(0)))[index % 3]
    return x


def _cancelling(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns) * f32(64)
    half = columns // 2
    x[:, half : 2 * half] = -x[:, :half]
    x[:, -1:] = f32(0.015625)
    return x


def _subnormals(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = _drawn(np.arange(1, 33) * info.smallest_subnormal / 4, rows, columns, seed)
    x[_places(rows, columns, group, seed)] = f32(info.max)
    return x


def _outlier(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    for tile, start in enumerate(
        range(0, columns, group)
    ):  # at either edge of a group, unlike its neighbours'
        place = start if tile % 2 == 0 else min(start + group, columns) - 1
        x[:, place] = f32(10000 >> tile % 5)
    return x


def _zeros(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    for start in range(0, columns, 2 * group):
        x[:, start : start + group] = 0
    x[1::2] *= f32(-1)  # zeros of both signs
    return x


def _tiny(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    return np.ldexp(x, -12 * (np.arange(rows, dtype=np.intc) % 11)[:, None]).astype(f32)


def _specials(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = normal(rows * columns, seed).reshape(rows, columns)
    for row, value in enumerate((np.nan, np.inf, -np.inf, -np.nan)):
        x[row::8, row::group] = f32(value)
    return x


def _hidden(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    return normal(rows * columns, seed).reshape(rows, columns)


def _outlier_channels(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = _hidden(rows, columns, group, info, seed)
    x[:, 3 :: max(columns // 2, 1)] *= f32(128)
    return x


def _zero_tokens(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    x = _hidden(rows, columns, group, info, seed)
    x[1::3] = 0
    return x


def _repeated(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    return np.repeat(_hidden(1, columns, group, info, seed), rows, axis=0)


def _loud(rows: int, columns: int, group: int, info: FormatInfo, seed: int) -> Floats:
    return _hidden(rows, columns, group, info, seed) * f32(64)


CASES: dict[str, Case] = {
    "normal": Case("nothing in particular: numbers of several magnitudes", _normal),
    "ties": Case("tie rules: quotients in the middle between two codes, under a scale of 1", _ties),
    "near_ties": Case("double rounding, quotients by reciprocals: one ulp beside the middle", _near_ties),
    "powers": Case("powers of two as scales: amax at max * 2**j and its two neighbours", _powers),
    "cancellation": Case("order and width of sums: halves that cancel, and a small rest", _cancelling),
    "subnormals": Case("flushing to zero: quotients among the subnormals", _subnormals),
    "outlier": Case("amax found in the wrong group: one large number in each", _outlier),
    "zeros": Case("zero groups of both signs: division by zero, floors, signs", _zeros),
    "tiny": Case("floors of amax: rows down to 2**-120", _tiny),
    "specials": Case("NaN and infinities: who passes them on", _specials, finite=False),
    "hidden": Case("nothing in particular: tokens of one magnitude", _hidden),
    "outlier_channels": Case("scales shared too widely: two channels 128 times as loud", _outlier_channels),
    "zero_tokens": Case("padding: tokens of zeros, whose norms and scales divide by nothing", _zero_tokens),
    "repeated": Case("positions: the same token everywhere, told apart by its place alone", _repeated),
    "loud": Case("softmax that overflows or saturates: tokens 64 times as loud", _loud),
    "gate_ties": Case(
        "order among equals: pairs of experts with equal weights, the lower index first", _hidden
    ),
    "gate_bias": Case("weights made of biased scores: a bias that decides the choice alone", _hidden),
    "gate_negative": Case("mask of groups: biased scores below zero, 0 against minus infinity", _hidden),
    "gate_saturated": Case("sigmoids that round to 1: ties that a wider program does not have", _loud),
    "real": Case("distributions that random numbers do not have", _hidden),
}
"""Kinds by name; `real` numbers come from a source."""

Draw = Callable[..., Array]
"""Makes an input: ``(rows, columns, group, format, more=0, at_most=False)``; `more` tells inputs apart."""


class Given(NamedTuple):
    """Inputs of one case: its kind, its seed, that of the whole set (for models), and the maker of inputs."""

    case: str
    seed: int
    set_seed: int
    draw: Draw


def drawing(case: str, seed: int, reals: Sequence[Array] = ()) -> Draw:
    """Return the maker of an operation's inputs for one kind.

    Parameters
    ----------
    case : str
        One of `CASES`.
    seed : int
    reals : sequence of ndarray of float32
        Matrices for ``real``: the first for the first input, the second for the others; without a second
        those are random.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import format_info
    >>> drawing("real", 0, [np.eye(4, dtype=np.float32)])(2, 3, 1, format_info("bfloat16")).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """

    def draw(
        rows: int, columns: int, group: int, info: FormatInfo, more: int = 0, *, at_most: bool = False
    ) -> Array:
        place = 0 if more == 0 else 1
        if case != "real" or place >= len(reals):
            kind = "hidden" if case == "real" else case
            return CASES[kind].make(rows, columns, group, info, seed + more)
        found = reals[place]
        if not at_most and (found.shape[0] < rows or found.shape[1] < columns):
            raise ValueError(
                f"tensor: found shape {found.shape}, expected at least {(rows, columns)}; set smaller sizes"
            )
        return np.ascontiguousarray(found[:rows, :columns])

    return draw
