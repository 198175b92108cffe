"""The layers, each usable alone: an array goes in, an array comes out.

Lives here: `MLA`, `Gate`, `MLP`, `MoE`, `Block` and `MTP`. Each is built from a config and its own tensors,
named as a checkpoint names them within the layer. The arithmetic is the core's, in the dtype of the input.
Intermediates go into a `Trace`, under the names that `model.trace` documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .._arrays import Array, as_array, flat
from ..formats import encode
from .cache import Cache
from .config import Config
from .weights import (
    Given,
    Weights,
    attention_shapes,
    block_shapes,
    gate_shapes,
    gathered,
    mlp_shapes,
    moe_shapes,
    mtp_shapes,
)

Source: TypeAlias = Mapping[str, Given] | Weights


class Trace:
    """Collects intermediates by name: those that are wanted, or all but the attention probabilities."""

    def __init__(self, wanted: frozenset[str] | None = None) -> None:
        self.wanted = wanted
        self.found: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        """Whether to keep what has this name."""
        return not name.endswith("probs") if self.wanted is None else name in self.wanted

    def put(self, name: str, value: Array) -> None:
        """Keep it, if it is wanted."""
        if self.wants(name):
            self.found[name] = value


class _Silent(Trace):
    def __init__(self) -> None:
        super().__init__(frozenset())


NO_TRACE = _Silent()


class Routing(NamedTuple):
    """Where tokens go.

    Attributes
    ----------
    indices : ndarray of int64, shape (..., num_experts_per_tok)
        Experts by descending biased score; among equals the lower index comes first.
    weights : ndarray, shape (..., num_experts_per_tok)
        Unbiased scores of those experts, normalised and scaled.
    gap : ndarray, shape (...)
        How far the choice is from flipping: the least difference between what was taken and what was not,
        among the biased scores of experts and among those of groups. A token whose experts differ in another
        program though its gap is large points to a bug; a gap near the rounding error of that program is a
        tie.
    logits : ndarray, shape (..., n_routed_experts)
        Before the sigmoid.
    """

    indices: NDArray[np.int64]
    weights: Array
    gap: Array
    logits: Array


def floats(x: ArrayLike, channels: int, name: str = "x") -> Array:
    """`x` as a C-contiguous float32 or float64 array whose last axis has so many channels."""
    array = as_array(x, name)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: found dtype {array.dtype}, expected float32 or float64")
    if array.ndim == 0 or array.shape[-1] != channels:
        raise ValueError(f"{name}: found shape {array.shape}, expected (..., {channels})")
    return np.ascontiguousarray(array)


def linear(x: Array, w: _core.Weight) -> Array:
    """``x @ w.T`` over the last axis."""
    rows, _ = w.shape
    out = np.empty((*x.shape[:-1], rows), x.dtype)
    _core.linear(flat(x), x.dtype.name, x.size // x.shape[-1] if x.size else 0, w, out.reshape(-1))
    return out


def rms_norm(x: Array, w: _core.Weight, eps: float) -> Array:
    """RMSNorm over the last axis."""
    out = np.empty_like(x)
    _core.rms_norm(flat(x), x.dtype.name, w, eps, out.reshape(-1))
    return out


class MLA:
    """Multi-head latent attention (technical report, section 2.1.1).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``q_a_proj.weight`` and so on; `dsv3_numerics.model.attention_shapes` lists them.
    interleaved : bool
        The rotary channels' order in the weights: pairs side by side, as released, or in two halves.

    Raises
    ------
    ValueError
        Tensors are missing or of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import MLA, Config, random_weights
    >>> config = Config.preset("tiny")
    >>> attention = MLA(config, random_weights(config, "model.layers.0.self_attn."))
    >>> x = np.random.default_rng(0).normal(size=(2, 5, config.hidden_size))
    >>> naive, absorbed = attention(x), attention(x, absorbed=True)
    >>> bool(np.abs(naive - absorbed).max() < 1e-12)
    True
    """

    def __init__(self, config: Config, weights: Source, *, interleaved: bool = True) -> None:
        self.config = config
        self.weights = _weights(weights, attention_shapes(config), "MLA")
        yarn = config.rope_scaling
        self._settings: dict[str, Any] = {
            "heads": config.num_attention_heads,
            "rank": config.kv_lora_rank,
            "nope": config.qk_nope_head_dim,
            "v": config.v_head_dim,
            "rope": {
                "dim": config.qk_rope_head_dim,
                "theta": config.rope_theta,
                "interleaved": interleaved,
                "yarn": yarn
                and (
                    yarn.factor,
                    yarn.beta_fast,
                    yarn.beta_slow,
                    yarn.mscale,
                    yarn.mscale_all_dim,
                    float(yarn.original_max_position_embeddings),
                ),
            },
        }

    def __call__(
        self,
        x: ArrayLike,
        cache: Cache | None = None,
        *,
        layer: int = 0,
        absorbed: bool | None = None,
        trace: Trace = NO_TRACE,
        at: str = "",
    ) -> Array:
        """Attention of new tokens to the cached ones and, causally, to each other.

        Parameters
        ----------
        x : ndarray of float32 or float64, shape (batch, tokens, hidden_size) or (tokens, hidden_size)
            Normalised.
        cache : Cache, optional
            Latents of the new tokens are written behind those it holds; its `lengths` are left for the caller
            to advance (`Block` and `Model` do), as all layers share them.
        layer : int
            Which layer of the cache is this one's.
        absorbed : bool, optional
            False expands the latents into keys and values, True applies the up-projections to queries and
            results instead. By default whichever takes fewer operations. Equal but for rounding.

        Returns
        -------
        ndarray, shape and dtype of `x`

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; no room in the cache.
        """
        config = self.config
        array = floats(x, config.hidden_size)
        if array.ndim not in (2, 3):
            raise ValueError(f"x: found shape {array.shape}, expected (batch, tokens, {config.hidden_size})")
        batch, new = (1, *array.shape[:-1])[-2:]
        if cache is None:
            cache = Cache(config, max(batch, 1), max(new, 1), dtype=array.dtype, layers=1)
            layer = 0
        if array.size == 0:
            return np.empty_like(array)
        cache.room(new, batch)
        past = cache.lengths.tolist()
        positions = max(past) + new
        heads, dtype = config.num_attention_heads, array.dtype.name
        rank, width = config.kv_lora_rank, config.cache_width
        places = [n + t for n in past for t in range(new)]
        q = self._queries(array).reshape(batch, new, -1)
        _core.rotate(
            flat(q),
            dtype,
            self._settings["rope"],
            places,
            heads,
            config.qk_nope_head_dim + config.qk_rope_head_dim,
        )
        joint = linear(array, self.weights["kv_a_proj_with_mqa.weight"])
        latent = np.ascontiguousarray(joint[..., :rank])
        joint[..., :rank] = rms_norm(latent, self.weights["kv_a_layernorm.weight"], config.rms_norm_eps)
        _core.rotate(flat(joint), dtype, self._settings["rope"], places, 1, width)
        held = cache.data[layer]
        for b, (n, fresh) in enumerate(zip(past, joint.reshape(batch, new, width), strict=True)):
            kept = fresh if held.itemsize > 2 else encode(fresh, held.dtype, overflow="nonfinite")
            held[b, n : n + new] = kept
        out = np.empty((batch, new, heads * config.v_head_dim), array.dtype)
        probs = None
        if trace.wants(f"{at}probs"):
            probs = np.zeros((batch, new, heads, positions), array.dtype)
        for b, n in enumerate(past):
            shares = None if probs is None else np.empty((new, heads, n + new), array.dtype)
            _core.attend(
                flat(q[b]),
                held[b, : n + new].astype(array.dtype, copy=False).reshape(-1),
                dtype,
                self._settings,
                n,
                self._cheaper(new, positions) if absorbed is None else bool(absorbed),
                self.weights["kv_b_proj.weight"],
                None,
                False,
                out[b].reshape(-1),
                None if shares is None else shares.reshape(-1),
            )
            if probs is not None and shares is not None:
                probs[b, :, :, : n + new] = shares
        if trace is not NO_TRACE:
            fresh = np.stack([held[b, n : n + new] for b, n in enumerate(past)])
            trace.put(f"{at}heads", out)
            trace.put(f"{at}c_kv", fresh[..., :rank])
            trace.put(f"{at}k_pe", fresh[..., rank:])
            if probs is not None:
                trace.put(f"{at}probs", probs.swapaxes(1, 2))
        return linear(out.reshape(*array.shape[:-1], -1), self.weights["o_proj.weight"])

    def _queries(self, x: Array) -> Array:
        """Queries of all heads, not yet rotated."""
        if "q_proj.weight" in self.weights:
            return linear(x, self.weights["q_proj.weight"])
        narrow = linear(x, self.weights["q_a_proj.weight"])
        normed = rms_norm(narrow, self.weights["q_a_layernorm.weight"], self.config.rms_norm_eps)
        return linear(normed, self.weights["q_b_proj.weight"])

    def _cheaper(self, new: int, positions: int) -> bool:
        """Whether the absorbed form takes fewer multiplications."""
        c = self.config
        up, rope = c.qk_nope_head_dim + c.v_head_dim, c.qk_rope_head_dim
        naive = positions * c.kv_lora_rank * up + new * positions * (up + rope)
        return new * c.kv_lora_rank * up + new * positions * (2 * c.kv_lora_rank + rope) < naive


class Gate:
    """Which experts a token goes to (technical report, section 2.1.2).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array
        ``weight`` (experts, hidden_size) and ``e_score_correction_bias`` (experts,).
    masked : float
        What biased scores count as in groups that were not chosen: minus infinity, or 0 as in the first
        release, which matters where chosen biased scores are negative.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import Config, Gate, random_weights
    >>> config = Config.preset("tiny")
    >>> routing = Gate(config, random_weights(config, "model.layers.1.mlp.gate."))(np.ones((1, 128)))
    >>> routing.indices.shape, round(float(routing.weights.sum()), 6)
    ((1, 5), 2.5)
    """

    def __init__(self, config: Config, weights: Source, *, masked: float = -np.inf) -> None:
        self.config = config
        self.weights = _weights(weights, gate_shapes(config), "Gate")
        self._settings = {
            "experts": config.n_routed_experts,
            "groups": config.n_group,
            "kept": config.topk_group,
            "top": config.num_experts_per_tok,
            "normalised": config.norm_topk_prob,
            "factor": config.routed_scaling_factor,
            "masked": float(masked),
            "bfloat16": False,
        }

    def __call__(self, x: ArrayLike) -> Routing:
        """Route tokens: `x` of shape (..., hidden_size), float32 or float64.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; NaN among the scores.
        """
        array = floats(x, self.config.hidden_size)
        logits = linear(array, self.weights["weight"])
        shape = (*array.shape[:-1], self.config.num_experts_per_tok)
        indices = np.empty(shape, np.int64)
        weights, gap = np.empty(shape, array.dtype), np.empty(array.shape[:-1], array.dtype)
        _core.gate(
            flat(logits),
            array.dtype.name,
            self.weights["e_score_correction_bias"],
            self._settings,
            indices.reshape(-1),
            weights.reshape(-1),
            gap.reshape(-1),
        )
        return Routing(indices, weights, gap, logits)


class MLP:
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
        self.config = config
        self.weights = _weights(weights, mlp_shapes(config, inner or config.intermediate_size), "MLP")

    def __call__(self, x: ArrayLike, *, trace: Trace = NO_TRACE, at: str = "") -> Array:
        """Apply it to (..., hidden_size), float32 or float64."""
        return swiglu(floats(x, self.config.hidden_size), self.weights)


def swiglu(x: Array, weights: Weights, under: str = "") -> Array:
    """``down(silu(gate(x)) * up(x))`` with the matrices under a prefix."""
    a = linear(x, weights[f"{under}gate_proj.weight"])
    b = linear(x, weights[f"{under}up_proj.weight"])
    inner = np.empty_like(a)
    _core.silu_product(flat(a), flat(b), x.dtype.name, False, inner.reshape(-1))
    return linear(inner, weights[f"{under}down_proj.weight"])


class MoE:
    """DeepSeekMoE: routed experts, weighted by the gate, plus the shared one (technical report, 2.1.2).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``gate.*``, ``experts.0.gate_proj.weight`` and so on, ``shared_experts.*``. Only experts that tokens
        go to are looked at.
    """

    def __init__(self, config: Config, weights: Source, *, masked: float = -np.inf) -> None:
        self.config = config
        self.weights = _weights(weights, moe_shapes(config), "MoE")
        self.gate = Gate(config, self.weights.under("gate."), masked=masked)

    def __call__(self, x: ArrayLike, *, trace: Trace = NO_TRACE, at: str = "") -> Array:
        """Apply it to (..., hidden_size), float32 or float64."""
        array = floats(x, self.config.hidden_size)
        routing = self.gate(array)
        tokens = array.reshape(-1, self.config.hidden_size)
        if self.config.n_shared_experts:
            out = swiglu(tokens, self.weights, "shared_experts.")
            if trace.wants(f"{at}shared"):
                trace.put(f"{at}shared", out.reshape(array.shape).copy())
        else:
            out = np.zeros_like(tokens)
        top = self.config.num_experts_per_tok
        indices, weights = routing.indices.reshape(-1, top), routing.weights.reshape(-1, top)
        for expert in np.unique(indices):
            rows, slots = np.nonzero(indices == expert)
            part = swiglu(tokens[rows], self.weights, f"experts.{expert}.")
            out[rows] += weights[rows, slots][:, None] * part
        for name, value in zip(
            ("topk_idx", "topk_weight", "routing_gap", "router_logits"), routing, strict=True
        ):
            trace.put(f"{at}{name}", value)
        return out.reshape(array.shape)


class Block:
    """A layer: attention and a feed-forward network, each on its normalised input and added to it.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``input_layernorm.weight``, ``self_attn.*``, ``post_attention_layernorm.weight``, ``mlp.*``.
    layer : int
        Its index: the first layers are dense, and each has its own part of a cache.
    """

    def __init__(
        self,
        config: Config,
        weights: Source,
        *,
        layer: int,
        interleaved: bool = True,
        masked: float = -np.inf,
    ) -> None:
        self.config, self.layer = config, layer
        self.weights = _weights(weights, block_shapes(config, layer), f"layer {layer}")
        self.attention = MLA(config, self.weights.under("self_attn."), interleaved=interleaved)
        mlp = self.weights.under("mlp.")
        self.ffn: MoE | MLP = MoE(config, mlp, masked=masked) if config.is_moe(layer) else MLP(config, mlp)

    def __call__(
        self,
        x: ArrayLike,
        cache: Cache | None = None,
        *,
        cache_layer: int | None = None,
        absorbed: bool | None = None,
        trace: Trace = NO_TRACE,
        at: str = "",
    ) -> Array:
        """Apply it to (batch, tokens, hidden_size) or (tokens, hidden_size); see `MLA` for the arguments."""
        array, eps = floats(x, self.config.hidden_size), self.config.rms_norm_eps
        if array.size == 0:
            return array.copy()
        trace.put(f"{at}input", array)
        y = rms_norm(array, self.weights["input_layernorm.weight"], eps)
        trace.put(f"{at}attn_norm", y)
        place = self.layer if cache_layer is None else cache_layer
        out = self.attention(y, cache, layer=place, absorbed=absorbed, trace=trace, at=at)
        trace.put(f"{at}attn_out", out)
        array = array + out
        y = rms_norm(array, self.weights["post_attention_layernorm.weight"], eps)
        trace.put(f"{at}ffn_norm", y)
        out = self.ffn(y, trace=trace, at=at)
        trace.put(f"{at}mlp_out", out)
        out = array + out
        trace.put(f"{at}output", out)
        return out


class MTP:
    """Multi-token prediction: what follows the next token (technical report, section 2.2).

    The halves of the projection's input stand as the released weights need them: the embedding first.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``enorm.weight``, ``hnorm.weight``, ``eh_proj.weight``, ``shared_head.norm.weight``, and those of a
        `Block`.
    """

    def __init__(self, config: Config, weights: Source, *, depth: int = 0, interleaved: bool = True) -> None:
        self.config = config
        layer = config.num_hidden_layers + depth
        self.weights = _weights(weights, block_shapes(config, layer) | mtp_shapes(config), f"layer {layer}")
        self.block = Block(config, self.weights, layer=layer, interleaved=interleaved)

    def __call__(
        self,
        hidden: ArrayLike,
        embedded: ArrayLike,
        cache: Cache | None = None,
        *,
        trace: Trace = NO_TRACE,
    ) -> Array:
        """The hidden state from which the model's head predicts token i + 2.

        Parameters
        ----------
        hidden : ndarray, shape (batch, tokens, hidden_size)
            The model's hidden states at i, after its final norm.
        embedded : ndarray, shape of `hidden`
            Embeddings of the tokens at i + 1.
        cache : Cache of one layer, optional
            MTP's own.

        Returns
        -------
        ndarray, shape of `hidden`
            After ``shared_head.norm``.
        """
        eps = self.config.rms_norm_eps
        h, e = (
            floats(hidden, self.config.hidden_size, "hidden"),
            floats(embedded, self.config.hidden_size, "embedded"),
        )
        if h.shape != e.shape or h.dtype != e.dtype:
            raise ValueError(f"embedded: found {e.dtype} {e.shape}, expected {h.dtype} {h.shape}, as hidden")
        both = [
            rms_norm(e, self.weights["enorm.weight"], eps),
            rms_norm(h, self.weights["hnorm.weight"], eps),
        ]
        x = linear(np.concatenate(both, axis=-1), self.weights["eh_proj.weight"])
        x = self.block(x, cache, cache_layer=0, trace=trace, at="mtp.")
        trace.put("mtp.hidden_prenorm", x)
        out = rms_norm(x, self.weights["shared_head.norm.weight"], eps)
        trace.put("mtp.hidden", out)
        return out


def _weights(given: Source, shapes: Mapping[str, tuple[int, ...]], what: str) -> Weights:
    return given if isinstance(given, Weights) else gathered(given, shapes, what)


__all__ = ["MLA", "MLP", "MTP", "Block", "Gate", "MoE", "Routing", "Trace"]
