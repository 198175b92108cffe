"""Random weights in the shapes of a config: for examples, tests and benches."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from .._arrays import Array
from .config import Config
from .weights import expected_shapes


def random_weights(
    config: Config, prefix: str = "", *, seed: int = 0, dtype: DTypeLike = np.float32
) -> dict[str, Array]:
    """Return normally distributed weights that keep the size of activations, norms near one.

    Parameters
    ----------
    config : Config
    prefix : str
        Only tensors whose names begin so, under the rest of their names.
    seed : int
        The same seed gives a tensor the same values whatever else is asked for.
    dtype : dtype

    Examples
    --------
    >>> from dsv3_numerics.model import Config, random_weights
    >>> sorted(random_weights(Config.preset("tiny"), "model.layers.0.mlp."))
    ['down_proj.weight', 'gate_proj.weight', 'up_proj.weight']
    """
    return {
        name.removeprefix(prefix): draw(name, shape, seed).astype(dtype)
        for name, shape in expected_shapes(config).items()
        if name.startswith(prefix)
    }


def draw(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Return the values of one tensor, float32."""
    rng = np.random.default_rng([seed, *name.encode()])
    values = rng.standard_normal(shape, np.float32)
    if name.endswith("norm.weight"):
        return 1 + 0.1 * values
    return np.float32(deviation(name, shape)) * values


def deviation(name: str, shape: tuple[int, ...]) -> float:
    """Return the standard deviation of a tensor's values: what keeps the size of activations."""
    if name.endswith("bias"):
        return 0.01
    return 1.0 if name.endswith("embed_tokens.weight") else float(shape[-1] ** -0.5)
