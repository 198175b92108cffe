"""Synthetic activations: rows of values with the statistics that make formats differ.

All are rounded to bfloat16, as activations are, and then scaled by the power of two that puts the largest
magnitude just below 1. To formats with scales a power of two is nothing (the floor of the scales, 1e-4, is
not reached), but DeepEP's kernel encodes only what is below 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.floating]]


class Data(NamedTuple):
    """A kind of data: its name, what it is in a few words, and how rows of it are drawn."""

    name: str
    about: str
    draw: Draw


def _normal(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    return rng.standard_normal(shape, dtype=np.float32)


def _laplace(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    return rng.laplace(size=shape)


def _lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    """Magnitudes exp(2 z), z normal: the natural logarithm has a standard deviation of 2."""
    return np.exp(2 * rng.standard_normal(shape, dtype=np.float32)) * _signs(rng, shape)


def _outliers(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    """Draw normal values, with one channel in 64, the same ones in all rows, 10 to 100 times as large."""
    x = rng.standard_normal(shape, dtype=np.float32)
    loud = rng.permutation(shape[1])[: max(shape[1] // 64, 1)]
    x[:, loud] *= rng.uniform(10, 100, loud.size).astype(np.float32)
    return x


def _one_zero(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.floating]:
    """Draw normal values, with one exact zero at a random place of each 128 of a row."""
    x = rng.standard_normal(shape, dtype=np.float32)
    tiles = x.reshape(-1, 128)
    tiles[np.arange(len(tiles)), rng.integers(0, 128, len(tiles))] = 0
    return x


def _signs(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return rng.choice(np.array([-1, 1], np.float32), shape)


ACTIVATIONS: tuple[Data, ...] = (
    Data("normal", "normal", _normal),
    Data("laplace", "Laplace", _laplace),
    Data("lognormal", "signed lognormal, σ = 2", _lognormal),
    Data("outliers", "normal, one channel in 64 is 10 to 100 times as large", _outliers),
    Data("one zero", "normal, one exact zero in each tile of 128", _one_zero),
)


def activations(data: Data, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Rows of bfloat16 values, as float32, all below 1 in magnitude.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.experiments.draws import ACTIVATIONS, activations
    >>> x = activations(ACTIVATIONS[0], np.random.default_rng(0), (4, 256))
    >>> 0.5 <= abs(x).max() < 1
    np.True_
    """
    return below_one(data.draw(rng, shape))


def below_one(x: npt.NDArray[np.floating]) -> Floats:
    """Return the values in bfloat16 precision, times the power of two that puts the largest just below 1."""
    rounded: Floats = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    largest = float(np.abs(rounded).max(initial=0))
    return np.ldexp(rounded, -math.frexp(largest)[1])


def log_uniform(rng: np.random.Generator, octaves: float, shape: tuple[int, int]) -> Floats:
    """Magnitudes uniform in their logarithm over some octaves below 1, with random signs.

    Both ends are in each row. Not rounded to bfloat16: the ends are where they should be.
    """
    depth = rng.random(shape) * octaves
    depth[:, 0], depth[:, -1] = 0, octaves
    values: Floats = (np.exp2(-depth) * _signs(rng, shape)).astype(np.float32)
    return values
