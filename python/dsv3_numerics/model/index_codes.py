"""Scores of a lightning indexer on codes, as DeepSeek-V3.2 is served.

Lives here: the rotation before quantization, and the sum over heads, into whose weights the queries' scales
go. Source: DeepSeek-V3.2-Exp, ``inference/model.py`` (`Indexer`) and ``kernel.py`` (`fp8_index`), in the
version whose rotary embedding is half-split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..gemm import matmul_nt
from ..quantized import Quantized
from ..rotation import hadamard
from ..schemes import quantize
from .activations import as_numbers
from .fields import NONE
from .recipe import Recipe


def spread(x: Array, recipe: Recipe) -> Array:
    """Return queries or keys (..., channels) as they are quantized: rotated in float32, rounded once.

    Raises
    ------
    ValueError
        The channels are no power of two, as the rotation needs.
    """
    if recipe.index_rotation == NONE:
        return x
    channels = x.shape[-1]
    if channels & (channels - 1):
        raise ValueError(
            f"index_head_dim: found {channels}, which no Hadamard matrix of a power of two has; "
            "expected a power of two, or a recipe with index_rotation='none'"
        )
    return as_numbers(hadamard(x.astype(np.float32)), recipe)


def code_scores(q: Array, keys: Quantized, w: Array, recipe: Recipe) -> NDArray[np.float32]:
    """Scores (new, positions) of queries against keys that are codes, before any mask.

    Parameters
    ----------
    q : ndarray, shape (new, heads, channels)
        Already `spread`.
    keys : Quantized, shape (positions, channels)
    w : ndarray, shape (new, heads)
        Weights of the heads, by one over the root of their number.
    recipe : Recipe
        Its indexer's scheme, and its accumulator: sums of one head begin at zero and are not promoted, unless
        a head has several scales.

    Returns
    -------
    ndarray of float32, shape (new, positions)
        ``s_k * sum over heads, ascending, of max(0, sum of codes) * (w * s_q / sqrt(channels))``.
    """
    new, heads, channels = q.shape
    assert recipe.index_scheme is not None
    held = quantize(np.ascontiguousarray(q).reshape(-1, channels), recipe.index_scheme)
    of_q, of_k = np.ones((new * heads, 1), np.float32), np.ones((keys.shape[0], 1), np.float32)
    unit = "float32" if recipe.accumulator == NONE else recipe.accumulator
    if unit == recipe.accumulator and held.scales.shape[1] == 1:
        sums = matmul_nt(held.codes, keys.codes, accumulator=unit, dtype=np.float32)
        of_q, of_k = held.scales.astype(np.float32), keys.scales.astype(np.float32)
    else:
        group = recipe.index_scheme.group_k
        every = group if group is not None and group < channels else None
        sums = matmul_nt(held, keys, accumulator=unit, promote_every=every, dtype=np.float32)
    factors = w.astype(np.float32) * of_q.reshape(new, heads) * np.float32(channels**-0.5)
    by_head = np.maximum(sums.reshape(new, heads, -1), np.float32(0))
    total = np.zeros((new, by_head.shape[-1]), np.float32)
    for head in range(heads):
        total += by_head[:, head] * factors[:, head, None]
    return total * of_k.reshape(1, -1)
