"""Feed-forward networks, each usable alone: one SwiGLU, and many with a share of the tokens each.

Lives here: `MLP`, `Gate` and `MoE`, as compositions of `Operations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .._arrays import Array
from .activations import Activations
from .config import Config
from .families import GATES
from .layer import NO_TRACE, Choice, Layer, Source, Trace
from .operations import Operations
from .records import Hook, Routing
from .weights import Weights, gate_shapes, mlp_shapes, moe_shapes

_AHEAD = 2  # experts that the disk is asked for before they are computed: 90 MB of DeepSeek-V3's


class Gate(Layer):
    """Which experts a token goes to (technical report, section 2.1.2).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array
        ``weight`` (experts, hidden_size) and ``e_score_correction_bias`` (experts,).
    group_mask_value : float
        What biased scores count as in groups that were not chosen: minus infinity, or 0 as in the first
        release, which matters where chosen biased scores are negative. A recipe has its own
        `group_mask_value`.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import Config, Gate, random_weights
    >>> config = Config.preset("tiny")
    >>> routing = Gate(config, random_weights(config, "model.layers.1.mlp.gate."))(np.ones((1, 128)))
    >>> routing.indices.shape, round(float(routing.weights.sum()), 6)
    ((1, 5), 2.5)
    """

    def __init__(self, config: Config, weights: Source, *, group_mask_value: float = -np.inf) -> None:
        super().__init__(config, weights, gate_shapes(config), "Gate")
        kind = GATES[config.scoring_func, config.topk_method]
        self._settings = {
            "scoring": config.scoring_func,
            "best": kind.best,
            "experts": config.n_routed_experts,
            "groups": config.n_group,
            "kept": config.topk_group,
            "top": config.num_experts_per_tok,
            "normalised": config.norm_topk_prob,
            "factor": config.routed_scaling_factor,
            "masked": float(group_mask_value) if kind.mask_value is None else kind.mask_value,
            "own_mask": kind.mask_value is not None,
        }

    def __call__(
        self, x: ArrayLike, *, recipe: Choice = None, hook: Hook | None = None, at: str = ""
    ) -> Routing:
        """Route tokens: `x` of shape (..., hidden_size), float32 or float64.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; NaN among the scores.
        """
        ops, array = self._enter(x, recipe, hook)
        return ops.gate(f"{at}gate", array, self.weights, self._settings)


class FeedForward(Layer, ABC):
    """Layer of a network that takes each token for itself."""

    def __call__(
        self,
        x: ArrayLike,
        *,
        recipe: Choice = None,
        hook: Hook | None = None,
        trace: Trace = NO_TRACE,
        at: str = "",
    ) -> Array:
        """Apply it to (..., hidden_size), float32 or float64; for recipe and hook see `MLA`."""
        return self._apply(*self._enter(x, recipe, hook), trace, at)

    @abstractmethod
    def _apply(self, ops: Operations, x: Array, trace: Trace, at: str) -> Array:
        """Apply it to what has come in."""


class MLP(FeedForward):
    """One SwiGLU: ``down(silu(gate(x)) * up(x))``.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``gate_proj.weight``, ``up_proj.weight``, ``down_proj.weight``.
    inner : int, optional
        Inner width; that of a dense layer by default.
    """

    def __init__(self, config: Config, weights: Source, *, inner: int | None = None) -> None:
        super().__init__(config, weights, mlp_shapes(config, inner or config.intermediate_size), "MLP")

    def _apply(self, ops: Operations, x: Array, trace: Trace, at: str) -> Array:
        self.weights.prefetch(self.weights, ops.recipe)
        return swiglu(ops, ops.activations(x), self.weights, "", at)


def swiglu(
    ops: Operations, x: Activations, weights: Weights, under: str, at: str, *, dispatched: bool = False
) -> Array:
    """``down(silu(gate(x)) * up(x))`` with the matrices under a prefix."""
    found = ops.swiglu(x, weights, under, dispatched=dispatched)
    if found is not None:
        return found
    a, b = (
        ops.linear(f"{at}{under}{name}", x, weights, f"{under}{name}.weight", dispatched=dispatched)
        for name in ("gate_proj", "up_proj")
    )
    inner = ops.activations(ops.silu(f"{at}{under}silu", a, b))
    return ops.linear(f"{at}{under}down_proj", inner, weights, f"{under}down_proj.weight")


class MoE(FeedForward):
    """DeepSeekMoE: routed experts, weighted by the gate, plus the shared one (technical report, 2.1.2).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``gate.*``, ``experts.0.gate_proj.weight`` and so on, ``shared_experts.*``. Only experts that tokens
        go to are looked at.
    """

    def __init__(self, config: Config, weights: Source, *, group_mask_value: float = -np.inf) -> None:
        super().__init__(config, weights, moe_shapes(config), "MoE")
        self.gate = Gate(config, self.weights.under("gate."), group_mask_value=group_mask_value)

    def _apply(self, ops: Operations, x: Array, trace: Trace, at: str) -> Array:
        routing = self.gate(x, recipe=ops, at=at)
        tokens = x.reshape(-1, self.config.hidden_size)
        shared = None
        if self.config.n_shared_experts:
            self.weights.prefetch(matrices("shared_experts."), ops.recipe)
            shared = swiglu(ops, ops.activations(tokens), self.weights, "shared_experts.", at)
            trace.put(f"{at}shared", shared.reshape(x.shape))
        top = self.config.num_experts_per_tok
        indices, shares = routing.indices.reshape(-1, top), routing.weights.reshape(-1, top)
        arriving = ops.codes_on_arrival
        dispatched = ops.activations(tokens) if arriving else ops.dispatch(f"{at}dispatch", tokens)
        scheme = ops.recipe.activation_scheme(dispatched=True)
        order, runs = by_expert(indices)
        parts = _core.empty((len(order), tokens.shape[1]), tokens.dtype)
        for expert, run in self._prefetched(runs, ops):
            index = order[run] // top
            share = ops.activations(tokens[index]) if arriving else dispatched.rows(index, scheme, ops.recipe)
            parts[run] = swiglu(ops, share, self.weights, f"experts.{expert}.", at, dispatched=True)
        for name, value in zip(
            ("topk_idx", "topk_weight", "routing_gap", "router_logits"), routing, strict=True
        ):
            trace.put(f"{at}{name}", value)
        return ops.combine(f"{at}combine", parts, indices, shares, shared).reshape(x.shape)

    def _prefetched(self, runs: Sequence[tuple[int, slice]], ops: Operations) -> Iterator[tuple[int, slice]]:
        """Return the same runs; the disk is at work on the next experts while one is computed."""
        if not self.weights.prefetches:
            yield from runs
            return
        for i in range(-_AHEAD, len(runs)):
            for expert, _ in runs[i + _AHEAD : i + _AHEAD + 1]:
                self.weights.prefetch(matrices(f"experts.{expert}."), ops.recipe)
            if i >= 0:
                yield runs[i]


def matrices(under: str) -> list[str]:
    """Return the tensors of a SwiGLU under a prefix."""
    return [f"{under}{name}_proj.weight" for name in ("gate", "up", "down")]


def by_expert(indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[tuple[int, slice]]]:
    """Places in (tokens, top), expert by expert and each expert's tokens in order; and each expert's part."""
    order = np.argsort(indices, axis=None, kind="stable")
    runs, start = [], 0
    for expert, count in enumerate(np.bincount(indices.reshape(-1)).tolist()):
        if count:
            runs.append((expert, slice(start, start + count)))
            start += count
    return order, runs
