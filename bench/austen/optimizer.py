"""Muon for the matrices inside the network, Adam for the rest.

Muon takes the momentum's nearest half-orthogonal matrix, by five Newton-Schulz steps, as the direction (K.
Jordan and others, 2024). Adam (arXiv 1412.6980) moves the embedding, the head, the gates and the norms.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Weights = dict[str, jax.Array]
_ADAM = ("embed_tokens.weight", "lm_head.weight", "gate.weight", "norm.weight")


class State(NamedTuple):
    """Momenta by the weights' names, and the number of steps done."""

    first: Weights
    second: Weights
    step: jax.Array


class Rates(NamedTuple):
    """How far a step goes, at full rate."""

    muon: float = 0.02
    adam: float = 4e-3
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    decay: float = 0.1


def _by_adam(name: str) -> bool:
    return name.endswith(_ADAM)


def start(w: Weights) -> State:
    """Begin with momenta of zero."""
    first = {name: jnp.zeros_like(x) for name, x in w.items()}
    second = {name: jnp.zeros_like(x) for name, x in w.items() if _by_adam(name)}
    return State(first, second, jnp.zeros((), jnp.int32))


def update(
    w: Weights, gradients: Weights, state: State, rate: jax.Array, rates: Rates
) -> tuple[Weights, State]:
    """Go one step; `rate` is the schedule's share of the full rates."""
    step = state.step + 1
    first, second, out = {}, {}, {}
    directions: Weights = {}
    for name, g in gradients.items():
        if _by_adam(name):
            first[name] = rates.beta1 * state.first[name] + (1 - rates.beta1) * g
            second[name] = rates.beta2 * state.second[name] + (1 - rates.beta2) * g * g
            mean = first[name] / (1 - rates.beta1**step)
            root = jnp.sqrt(second[name] / (1 - rates.beta2**step))
            out[name] = w[name] - rate * rates.adam * mean / (root + 1e-10)
        else:
            first[name] = rates.momentum * state.first[name] + (1 - rates.momentum) * g
            directions[name] = rates.momentum * first[name] + (1 - rates.momentum) * g
    for name, direction in _orthogonal(directions).items():
        rows, columns = direction.shape[-2:]
        length = rate * rates.muon * max(1.0, rows / columns) ** 0.5
        out[name] = w[name] * (1 - rate * rates.muon * rates.decay) - length * direction
    return out, State(first, second, step)


def _orthogonal(matrices: Weights) -> Weights:
    """Bring all singular values near one; matrices of one shape go through together."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, x in matrices.items():
        rows, columns = sorted(x.shape[-2:])
        groups.setdefault((rows, columns), []).append(name)
    found: Weights = {}
    for (rows, columns), names in groups.items():
        flat = {}
        for name in names:
            x = matrices[name]
            flat[name] = (x if x.shape[-2] == rows else x.swapaxes(-1, -2)).reshape(-1, rows, columns)
        done = _newton_schulz(jnp.concatenate(list(flat.values())))
        at = 0
        for name, x in flat.items():
            part, shape = done[at : at + len(x)], matrices[name].shape
            at += len(x)
            found[name] = (part if shape[-2] == rows else part.swapaxes(-1, -2)).reshape(shape)
    return found


def _newton_schulz(x: jax.Array, steps: int = 5) -> jax.Array:
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-12)
    for _ in range(steps):
        square = x @ x.swapaxes(-1, -2)
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x
