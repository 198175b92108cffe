"""Products as the FP8 recipe of the report makes them in training, by fake quantization.

In all three products of a linear layer both sides are rounded to E4M3: activations and gradients in tiles of
128 along the sum, weights in blocks of 128 x 128, each with the float32 scale amax / 448 (technical report,
section 3.3). Sums, and everything between the products, are float32; so are the master weights.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_LARGEST = 448.0
_TILE = 128


def _round(x: jax.Array, amax: jax.Array) -> jax.Array:
    scale = jnp.maximum(amax, 1e-12) / _LARGEST
    return (x / scale).astype(jnp.float8_e4m3fn).astype(jnp.float32) * scale


def tiles(x: jax.Array) -> jax.Array:
    """Round in tiles of 128 along the last axis; the last may be short."""
    return _grouped(x, (1, _TILE))


def blocks(w: jax.Array) -> jax.Array:
    """Round in blocks of 128 x 128 of the last two axes."""
    return _grouped(w, (_TILE, _TILE))


def _grouped(x: jax.Array, group: tuple[int, int]) -> jax.Array:
    rows, columns = x.shape[-2:]
    more = [(0, 0)] * (x.ndim - 2) + [(0, -rows % group[0]), (0, -columns % group[1])]
    padded = jnp.pad(x, more)
    high, wide = padded.shape[-2] // group[0], padded.shape[-1] // group[1]
    split = padded.reshape(*x.shape[:-2], high, group[0], wide, group[1])
    done = _round(split, jnp.abs(split).max(axis=(-3, -1), keepdims=True))
    return done.reshape(padded.shape)[..., :rows, :columns]


@jax.custom_vjp
def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    """(..., rows, in) by (..., out, in), both rounded."""
    return tiles(x) @ blocks(w).swapaxes(-1, -2)


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, w), (x, w)


def _backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    dx = tiles(g) @ blocks(w)
    across = tiles(g.swapaxes(-1, -2)), tiles(x.swapaxes(-1, -2))  # along the tokens, for the sum over them
    return dx, across[0] @ across[1].swapaxes(-1, -2)


_product.defvjp(_forward, _backward)


def fp8(x: jax.Array, w: jax.Array) -> jax.Array:
    """Multiply by a weight in the FP8 recipe; see `model.plain`."""
    if w.ndim == 3:
        return _product(x, w)
    return _product(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[0])


def _bf16(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(jnp.float32)


@jax.custom_vjp
def _bf16_product(x: jax.Array, w: jax.Array) -> jax.Array:
    return _bf16(_bf16(x) @ _bf16(w).swapaxes(-1, -2))


def _bf16_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bf16_product(x, w), (_bf16(x), _bf16(w))


def _bf16_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    g = _bf16(g)
    return _bf16(g @ w), _bf16(g.swapaxes(-1, -2) @ x)


_bf16_product.defvjp(_bf16_forward, _bf16_backward)


def bf16(x: jax.Array, w: jax.Array) -> jax.Array:
    """Multiply by a weight in bfloat16 with float32 sums; see `model.plain`."""
    if w.ndim == 3:
        return _bf16_product(x, w)
    return _bf16_product(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[0])
