"""Sums over a token's experts: who goes where, and in which order outputs are added.

Lives here: both orders of `combine`, in NumPy.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from .activations import rounded
from .recipe import Recipe


def by_expert(indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[tuple[int, slice]]]:
    """Places in (tokens, top), expert by expert and each expert's tokens in order; and each expert's part."""
    order = np.argsort(indices.reshape(-1), kind="stable")
    experts = indices.reshape(-1)[order]
    borders = np.flatnonzero(np.diff(experts, prepend=-1, append=-1)).tolist()
    return order, [(int(experts[start]), slice(start, stop)) for start, stop in pairwise(borders)]


def summed_by_expert(
    parts: Array, indices: NDArray[np.int64], shares: Array, shared: Array | None, recipe: Recipe
) -> Array:
    """Experts in ascending order, product and sum each an operation; bfloat16 adds the shared expert last."""
    tokens, top = indices.shape
    first = None if recipe.bfloat16 else shared
    out = np.zeros((tokens, parts.shape[1]), recipe.dtype) if first is None else first.copy()
    order, runs = by_expert(indices)
    factors = shares.reshape(-1)[order].astype(recipe.dtype, copy=False)
    for _, run in runs:
        rows = order[run] // top
        part = rounded(factors[run, None] * parts[run], recipe)
        out[rows] = rounded(out[rows] + part, recipe)
    return rounded(out + shared, recipe) if recipe.bfloat16 and shared is not None else out


def summed_by_token(parts: Array, indices: NDArray[np.int64], shares: Array) -> Array:
    """float32 sums over each token's experts in the order of `indices`."""
    tokens, top = indices.shape
    order, _ = by_expert(indices)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    out = np.zeros((tokens, parts.shape[1]), np.float32)
    factors = shares.astype(np.float32, copy=False)
    for slot, rows in enumerate(places.reshape(tokens, top).T):
        out += factors[:, slot, None] * parts[rows].astype(np.float32, copy=False)
    return out
