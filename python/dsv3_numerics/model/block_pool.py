"""Random weights as a file holds them, a hundred times faster than drawing each number.

Lives here: `BlockPool`. A few hundred blocks of 128x128 normal numbers are drawn and quantized once, and then
dealt as often as wanted, each with its rows rotated at random. So every block of a weight is one that the
quantizer made, with the scale it made.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import ml_dtypes
import numpy as np

from .._arrays import Array
from ..quant import quantize_blocks

SIDE = 128
"""Rows and columns of a block, as in the release."""

Kind = Literal["float32", "ue8m0", "bf16"]
"""E4M3 codes with such scales, or plain BF16 numbers."""

_BLOCKS = 256  # of 16 KiB: twice that stays in cache


class BlockPool:
    """Blocks of normal numbers to make weights of.

    Parameters
    ----------
    std : float
        Standard deviation of the numbers.
    kind : {"float32", "ue8m0", "bf16"}
    seed : sequence of int

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> codes, scales = BlockPool(0.02, "float32", [0]).band(128, 300, rng)
    >>> codes.shape, codes.dtype, scales.shape
    ((128, 300), dtype('uint8'), (3,))
    >>> hex((codes[:, :128] & 0x7F).max())                           # 448, E4M3's largest
    '0x7e'
    """

    def __init__(self, std: float, kind: Kind, seed: list[int]) -> None:
        self._std, self._kind, self._seed = np.float32(std), kind, seed

    @cached_property
    def _blocks(self) -> tuple[Array, Array]:
        """Rows of all blocks, and their scales; each block twice, so that any 128 rows rotate it."""
        values, scales = self._stored(np.random.default_rng(self._seed), _BLOCKS * SIDE, SIDE)
        blocks = values.reshape(_BLOCKS, SIDE, SIDE)
        return np.concatenate([blocks, blocks], axis=1).reshape(-1, SIDE), scales

    def band(self, rows: int, cols: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """At most 128 rows of a weight and the scales of its blocks; ragged blocks are drawn afresh.

        Returns
        -------
        values : ndarray of uint8 (codes) or uint16 (BF16), shape (rows, cols)
        scales : ndarray of float32, shape (blocks,)
            Empty for BF16.
        """
        count = cols // SIDE
        if rows < SIDE or not count:
            return self._stored(rng, rows, cols)
        block_pool, known = self._blocks
        which = rng.integers(_BLOCKS, size=count)
        first = which * (2 * SIDE) + rng.integers(SIDE, size=count)
        values = block_pool.take(first + np.arange(SIDE)[:, None], axis=0).reshape(SIDE, -1)
        scales = known[which] if known.size else known
        if cols % SIDE:
            edge, last = self._stored(rng, rows, cols % SIDE)
            values, scales = np.concatenate([values, edge], axis=1), np.concatenate([scales, last])
        return values, scales

    def _stored(self, rng: np.random.Generator, rows: int, cols: int) -> tuple[Array, Array]:
        numbers = self._std * rng.standard_normal((rows, cols), np.float32)
        if self._kind == "bf16":
            return numbers.astype(ml_dtypes.bfloat16).view(np.uint16), np.empty(0, np.float32)
        q = quantize_blocks(numbers, scale=self._kind)
        return q.codes.view(np.uint8), q.weight_scale_inv().reshape(-1)
