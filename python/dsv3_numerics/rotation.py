"""Rotations that spread outliers before quantization: the random Hadamard transform.

Lives here: the transform and its inverse, in plain NumPy. What quantizes afterwards is in `quant`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import normalize_axis, positive, source


def hadamard(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply the last axis by the Hadamard matrix of its size over the root of that size.

    Butterflies in float32, in the natural (Sylvester) order, then one product with the factor: what
    DeepSeek-V3.2 does to index queries and keys before it rounds them.

    Parameters
    ----------
    x : ndarray of float32, shape (..., size)
        The size a power of two.

    Returns
    -------
    ndarray of float32, of that shape

    Raises
    ------
    ValueError
        Another size.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.rotation import hadamard
    >>> hadamard(np.float32([[2, 0, 0, 0]])).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """
    size = x.shape[-1]
    if size < 1 or size & (size - 1):
        raise ValueError(f"x: found {size} channels, expected a power of two")
    y, distance = x, 1
    while distance < size:
        pairs = y.reshape(*x.shape[:-1], -1, 2, distance)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([first + second, first - second], axis=-2).reshape(x.shape)
        distance *= 2
    return y * np.float32(1 / np.sqrt(size))


def random_hadamard(
    x: ArrayLike,
    *,
    seed: int | np.random.Generator,
    width: int = 16,
    axis: int = -1,
    inverse: bool = False,
) -> NDArray[np.float32]:
    """Rotate groups of an axis by a Hadamard matrix with random signs.

    Both operands of a product over that axis, rotated with one seed, have the product that they had; NVFP4
    training rotates the operands of Wgrad so (width 16).

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        The axis has a multiple of `width` elements.
    seed : int or numpy.random.Generator
        Of the signs, `width` of them, which all groups share.
    width : int
        Elements of a group: a power of two.
    axis : int
        The axis that is rotated.
    inverse : bool
        True: undo what the same seed did.

    Returns
    -------
    ndarray of float32, shape of `x`

    Raises
    ------
    TypeError, ValueError
        Other input; a `width` that is no power of two, or does not divide the axis.

    Notes
    -----
    ``y = H (d * x) / sqrt(width)``, with signs d and the Sylvester matrix H. In float32: butterflies of
    neighbours first (distance 1, 2, 4, ...), then one multiplication.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.rotation import random_hadamard
    >>> spike = np.float32([[16] + [0] * 15])
    >>> np.abs(random_hadamard(spike, seed=0)).tolist() == [[4.0] * 16]
    True
    >>> bool((random_hadamard(random_hadamard(spike, seed=0), seed=0, inverse=True) == spike).all())
    True
    """
    array, _ = source(x, "x")
    if array.ndim == 0:
        raise ValueError("x: found no axis, expected at least one")
    place, size = normalize_axis(axis, array.ndim), positive(width, "width")
    if size & (size - 1):
        raise ValueError(f"width: found {size}, expected a power of two")
    if array.shape[place] % size:
        raise ValueError(
            f"x: found {array.shape[place]} elements along axis {axis}, expected a multiple of {size}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.moveaxis(array.astype(np.float32), place, -1)
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), size)
    groups = moved.reshape(*moved.shape[:-1], -1, size)
    y: Any = hadamard(groups if inverse else groups * signs)
    y = y * signs if inverse else y
    out: NDArray[np.float32] = np.ascontiguousarray(np.moveaxis(y.reshape(moved.shape), -1, place))
    return out
