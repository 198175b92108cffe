"""Common ground of all layers: their tensors, how arrays and recipes come in, the collector of intermediates.

Lives here: `Layer` and `Trace`. The layers are in `attention`, `experts` and `layers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array
from .activations import as_numbers
from .cache import Cache
from .config import Config
from .operations import Operations
from .recipe import Recipe
from .records import Hook
from .weights import Given, Weights, gathered

Source: TypeAlias = Mapping[str, Given] | Weights
Choice: TypeAlias = Recipe | str | Operations | None
"""A recipe, a preset's name, the operations of the layer around this one, or None for the reference."""


class Trace:
    """Collects intermediates by name: those that are wanted, or all but the attention probabilities."""

    def __init__(self, wanted: frozenset[str] | None = None) -> None:
        self.wanted = wanted
        self.found: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        """Tell whether to keep what has this name."""
        return not name.endswith("probs") if self.wanted is None else name in self.wanted

    def put(self, name: str, value: Array) -> None:
        """Keep it, if it is wanted."""
        if self.wants(name):
            self.found[name] = value


class _Silent(Trace):
    def __init__(self) -> None:
        super().__init__(frozenset())

    def wants(self, name: str) -> bool:
        return False

    def put(self, name: str, value: Array) -> None:
        pass


NO_TRACE = _Silent()


class Layer:
    """A config and the tensors that go with it."""

    def __init__(
        self, config: Config, weights: Source, shapes: Mapping[str, tuple[int, ...]], what: str
    ) -> None:
        self.config = config
        self.weights = weights if isinstance(weights, Weights) else gathered(weights, shapes, what)

    def _enter(
        self, x: ArrayLike, recipe: Choice, hook: Hook | None, name: str = "x"
    ) -> tuple[Operations, Array]:
        """Return the operations of a recipe that fits the weights, and an input in its numbers."""
        if isinstance(recipe, Operations) and isinstance(x, np.ndarray):  # of the layer around this one
            return recipe, x
        array = floats(x, self.config.hidden_size, name)
        ops = Operations.of(recipe, array.dtype, hook)
        if ops.named:
            self.weights.check_fit(ops.recipe)
            array = as_numbers(array, ops.recipe)
        return ops, array


def floats(x: ArrayLike, channels: int, name: str = "x") -> Array:
    """`x` as a C-contiguous float32 or float64 array whose last axis has so many channels."""
    array = as_array(x, name)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: found dtype {array.dtype}, expected float32 or float64")
    if array.ndim == 0 or array.shape[-1] != channels:
        raise ValueError(f"{name}: found shape {array.shape}, expected (..., {channels})")
    return np.ascontiguousarray(array)


def check_cache(cache: Cache | None, ops: Operations) -> None:
    """Raise ValueError where a recipe keeps its cache in another format than the one that is given."""
    if cache is None or not ops.named:
        return
    index = ops.recipe.index_scheme
    pairs = [("cache", "", cache.format, ops.recipe.cache_scheme)]
    if index is not None and cache.index_keys is not None:
        pairs.append(("indexer", " for index keys", cache.index_format, index))
    for field, what, found, expected in pairs:
        if found.scheme != expected and found.name != str(expected):
            raise ValueError(
                f"cache: found {found.name}{what}, but recipe {ops.recipe.name!r} keeps {expected}; expected "
                f"one made by new_cache(recipe=...), or a recipe with {field}={found.name!r}"
            )
