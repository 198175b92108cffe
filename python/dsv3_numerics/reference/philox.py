"""Philox4x32-10, the counter-based generator behind stochastic rounding, vectorised in NumPy.

Element ``i`` gets its 32 or 8 bits from ``(seed, i)`` alone, so chunks, threads and vector widths cannot
change them.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC '11.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLY = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)


def philox4x32(counter: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Ten rounds on counters (4, n) under a key (2, 1), all 32-bit words held in uint64; result (4, n)."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        product = _MULTIPLY * np.stack([c0, c2])
        (high0, high1), (low0, low1) = product >> _HALF, product & _LOW
        c0, c1, c2, c3 = high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0
        key = (key + _WEYL) & _LOW
    return np.stack([c0, c1, c2, c3])


def random_words(n: int, seed: int) -> NDArray[np.uint64]:
    """Return the 32 random bits of elements 0..n-1.

    Parameters
    ----------
    n : int
        Number of elements.
    seed : int
        0 to 2**64 - 1; the key is (low word, high word).

    Returns
    -------
    ndarray of uint64, shape (n,)
        Word ``i % 4`` of the block whose counter is ``(i // 4, 0, 0)`` (the first entry 64 bits wide).

    Examples
    --------
    >>> [hex(word) for word in random_words(4, seed=0)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    block = np.arange(-(-n // 4), dtype=np.uint64)
    zero = np.zeros_like(block)
    key = np.array([[seed & 0xFFFFFFFF], [seed >> 32]], np.uint64)
    return philox4x32(np.stack([block & _LOW, block >> _HALF, zero, zero]), key).T.reshape(-1)[:n]


def random_bytes(n: int, seed: int) -> NDArray[np.uint64]:
    """Return the 8 random bits of elements 0..n-1: the words one after another, each from its low byte up.

    Examples
    --------
    >>> [hex(byte) for byte in random_bytes(4, seed=0)]
    ['0xd5', '0xe8', '0x27', '0x66']
    """
    words = random_words(-(-n // 4), seed)
    return (words[:, None] >> np.arange(0, 32, 8, dtype=np.uint64) & np.uint64(0xFF)).reshape(-1)[:n]
