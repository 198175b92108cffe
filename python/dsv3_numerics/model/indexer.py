"""The lightning indexer of DeepSeek Sparse Attention: which earlier tokens a token attends to.

Lives here: `Indexer`, as a composition of `Operations`, and `Selection`, which layers without an indexer
share. Attention over what was selected is `attention`'s. Source: DeepSeek-V3.2-Exp's report, section 2, and
its ``inference/model.py`` in the version whose rotary embedding is the trained one (half-split; GLM-5:
interleaved).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array
from ..quantized import Quantized
from .activations import Activations
from .cache import Cache
from .config import Config
from .index_codes import code_scores, spread
from .layer import Layer, Source, Trace
from .operations import Operations
from .weights import indexer_shapes

Flags = NDArray[np.bool_]

KEY_NORM_EPS = 1e-6
"""Epsilon of the layer norm of index keys, fixed in the modelling code of all families."""


class Selection:
    """Positions that the layers of one forward attend to: written by an indexer, read by layers behind it.

    Attributes
    ----------
    flags : list of ndarray of bool, shape (new, positions), or None
        One for each sequence; None where every token attends to all that it sees.
    made : bool
        True once an indexer has run.
    """

    def __init__(self) -> None:
        self.flags: list[Flags] | None = None
        self.made = False


class Indexer(Layer):
    """Scores of earlier tokens by a few narrow heads, and the ``index_topk`` best of them.

    ``sum over heads of w[t, h] * max(0, q[t, h] . k[s] / sqrt(index_head_dim))``, queries from the normalised
    query latent, one key for all heads; on codes where a recipe's ``indexer`` says so, see `index_codes`.
    Among equal scores, which the ReLU makes common, the lower position wins. Up to ``index_topk`` positions
    everything is attended to.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``wq_b.weight``, ``wk.weight``, ``k_norm.weight``, ``k_norm.bias``, ``weights_proj.weight``.
    rope : mapping
        Settings of the layer's rotary embedding.
    """

    def __init__(self, config: Config, weights: Source, rope: dict[str, Any]) -> None:
        super().__init__(config, weights, indexer_shapes(config), "Indexer")
        self._rope = {**rope, "interleaved": config.indexer_rope_interleave}

    def __call__(
        self,
        ops: Operations,
        x: Activations,
        latent: Array,
        positions: NDArray[np.int64],
        cache: Cache,
        layer: int,
        trace: Trace,
        at: str,
    ) -> list[Flags] | None:
        """Select the positions of new tokens, and put their keys into the cache.

        Parameters
        ----------
        x : Activations
            The layer's normalised input, (batch, new, hidden_size).
        latent : ndarray, shape (batch, new, q_lora_rank)
            The normalised query latent.
        positions : ndarray of int64, shape (batch * new,)
        cache, layer
            Where index keys are kept.

        Returns
        -------
        list of ndarray of bool, shape (new, positions), or None where nothing is left out
        """
        c, (batch, new) = self.config, latent.shape[:2]
        heads, channels, top = _sizes(c)
        q = ops.linear(f"{at}indexer.wq_b", ops.activations(latent), self.weights, "wq_b.weight")
        q = self._rotate(ops, f"{at}indexer.rotate_q", q.reshape(batch, new, heads, channels), positions)
        k = ops.linear(f"{at}indexer.wk", x, self.weights, "wk.weight")
        k = ops.layer_norm(f"{at}indexer.k_norm", k, self.weights, "k_norm", KEY_NORM_EPS)
        k = self._rotate(ops, f"{at}indexer.rotate_k", k.reshape(batch, new, 1, channels), positions)
        w = ops.precise_linear(f"{at}indexer.weights_proj", x, self.weights, "weights_proj.weight")
        w = w.reshape(batch, new, heads) * w.dtype.type(heads**-0.5)
        k = k.reshape(batch, new, channels)
        coded: list[Quantized] = []
        keys: list[Array] = []
        if ops.recipe.indexer.is_quantized:
            q, k = spread(q, ops.recipe), spread(k, ops.recipe)
            coded = cache.append_index_codes(layer, k)
        else:
            keys = cache.append_index_keys(layer, k, q.dtype)
        longest = int(cache.lengths.max()) + new
        wanted = any(trace.wants(f"{at}{name}") for name in TRACED)
        if longest <= top and not wanted:
            return None
        scores = [self._scores(*parts) for parts in zip(q, keys, w, strict=False)]
        scores += [code_scores(*parts, ops.recipe) for parts in zip(q, coded, w, strict=False)]
        found = [_selected(of_one, new, top) for of_one in scores]
        for name, values in zip(TRACED, zip(*found, strict=True), strict=True):
            if trace.wants(f"{at}{name}"):
                trace.put(f"{at}{name}", _stacked(values, -np.inf if name == TRACED[0] else False))
        return None if longest <= top else [flags for _, flags, _ in found]

    def _rotate(self, ops: Operations, name: str, x: Array, positions: NDArray[np.int64]) -> Array:
        """Rotate the first channels of every head."""
        rope, heads = self.config.qk_rope_head_dim, x.shape[2]
        turning = np.ascontiguousarray(x[..., :rope])
        turned = ops.rotate(name, turning, self._rope, positions, heads)
        return np.concatenate([turned.reshape(turning.shape), x[..., rope:]], axis=-1)

    def _scores(self, q: Array, k: Array, w: Array) -> Array:
        """Scores (new, positions) of numbers."""
        heads, channels, _ = _sizes(self.config)
        scores = np.empty((len(q), len(k)), q.dtype)
        a, b, factors = (np.ascontiguousarray(part).reshape(-1) for part in (q, k, w))
        shape = heads, channels, len(k) - len(q)
        _core.index_scores(a, b, factors, shape, channels**-0.5, scores.reshape(-1))
        return scores


TRACED = ("index_scores", "index_selected", "selection_gap")
"""Intermediates of an indexer: scores, positions that were kept, and the lead of the last of them."""


def _sizes(config: Config) -> tuple[int, int, int]:
    """Heads, channels of a head, positions that are kept."""
    heads, channels, top = config.index_n_heads, config.index_head_dim, config.index_topk
    assert heads is not None
    assert channels is not None
    assert top is not None
    return heads, channels, top


def _selected(scores: Array, new: int, top: int) -> tuple[Array, Flags, Array]:
    """Scores that the future is masked out of, flags of their shape, and how far each choice is decided."""
    past = scores.shape[1] - new
    future = np.arange(scores.shape[1]) > past + np.arange(new)[:, None]
    scores[future] = -np.inf
    flags, gap = np.empty(scores.shape, np.bool_), np.empty(new, scores.dtype)
    _core.select(scores.reshape(-1), past, top, flags.reshape(-1), gap)
    return scores, flags, gap


def _stacked(values: tuple[Array, ...], fill: Any) -> Array:
    """Arrays of all sequences as one; the positions of shorter ones are filled up."""
    if values[0].ndim == 1:
        return np.stack(values)
    longest = max(value.shape[1] for value in values)
    pad = ((0, longest - value.shape[1]) for value in values)
    return np.stack([np.pad(v, ((0, 0), p), constant_values=fill) for v, p in zip(values, pad, strict=True)])
