"""DeepSeek-V3's forward as the report writes it: RMSNorm, YaRN, MLA, the gate, experts, blocks, MTP.

Weights come as a mapping from the checkpoint's names to arrays, settings as the mapping that
``config.json`` holds. Everything is computed in the dtype of the weights: float64 weights give a true float64
forward, with no detour through float32. Shapes: B sequences of T tokens, D channels, H heads.

Sources: DeepSeek-V3 technical report (arXiv 2412.19437), sections 2.1 and 2.2; YaRN (arXiv 2309.00071); the
released inference code for what the report leaves open (order of the rotary channels, the halves of the MTP
projection, the softmax scale under YaRN).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = Mapping[str, Array]
Config = Mapping[str, Any]


class Cache(NamedTuple):
    """Cache of a token in attention: the normalised latent, and the rotated key that all heads share."""

    latent: Array
    "(B, T, kv_lora_rank)"
    k_pe: Array
    "(B, T, qk_rope_head_dim)"
    index_keys: Array | None = None
    "(B, T, index_head_dim): of the lightning indexer, where the layer has one"


class Routing(NamedTuple):
    """Which experts a token goes to."""

    logits: Array
    "(tokens, experts): before the sigmoid"
    indices: Array
    "(tokens, top k): by descending biased score, the lower index first among equals"
    weights: Array
    "(tokens, top k): unbiased scores, normalised and scaled"
    gap: Array
    "(tokens,): the least change of a biased score, or of a group's, that could change the set of experts"


class Attention(NamedTuple):
    """Outcome of `mla`."""

    out: Array
    "(B, T, D)"
    heads: Array
    "(B, T, H * v_head_dim): before the output projection"
    cache: Cache
    "with the new tokens at its end"
    selected: Array | None = None
    "(B, T, positions): what tokens attend to, by this layer's indexer or an earlier one's; None: everything"


def linear(x: Array, w: Array) -> Array:
    """``x @ w.T``: weights are stored (out, in)."""
    return x @ w.T


def rms_norm(x: Array, w: Array, eps: float = 1e-6) -> Array:
    """Each token divided by the root of its mean square, times a weight for each channel."""
    root: Array = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return w * x / root


def silu(x: Array) -> Array:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    sums: Array = e.sum(axis=-1, keepdims=True)
    return e / sums


# --- positions ----------------------------------------------------------------------------------------------


def mscale(factor: float, m: float) -> float:
    """YaRN's correction of the temperature: ``0.1 * m * ln(factor) + 1``, or 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def rope_frequencies(config: Config) -> Array:
    """Radians per position of each pair of rotary channels, float64, (qk_rope_head_dim / 2,).

    Under YaRN the pairs that turn often within the original context keep their frequency, those that turn
    less than once are slowed by the factor, and a ramp joins the two.
    """
    dim, theta = int(config["qk_rope_head_dim"]), float(config["rope_theta"])
    plain: Array = theta ** (-np.arange(0, dim, 2) / dim)
    yarn = config.get("rope_scaling")
    if yarn is None:
        return plain

    def pair_that_turns(times: float) -> float:
        original = int(yarn["original_max_position_embeddings"])
        return dim * math.log(original / (2 * math.pi * times)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(yarn["beta_fast"])), 0)
    high: float = min(math.ceil(pair_that_turns(yarn["beta_slow"])), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
    slowed: Array = plain / yarn["factor"]
    return plain * (1 - ramp) + slowed * ramp


def rope_amplitude(config: Config) -> float:
    """Return the factor of cosine and sine: 1 for DeepSeek-V3, whose two mscales are equal."""
    yarn = config.get("rope_scaling")
    if yarn is None:
        return 1.0
    return mscale(yarn["factor"], yarn["mscale"]) / mscale(yarn["factor"], yarn["mscale_all_dim"])


def softmax_scale(config: Config) -> float:
    """Return the factor of attention logits: ``1 / sqrt(channels)``, times YaRN's mscale squared."""
    yarn = config.get("rope_scaling")
    warm = mscale(yarn["factor"], yarn["mscale_all_dim"]) if yarn else 1.0
    return float((config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5 * warm**2)


def rotate(x: Array, positions: Array, config: Config, *, interleaved: bool | None = None) -> Array:
    """Rotary embedding of (..., T, qk_rope_head_dim).

    Channels 2j and 2j + 1 are a pair, before and after; or, where `interleaved` (the config's
    ``rope_interleave``) is false, channels j and j + qk_rope_head_dim / 2.
    """
    angle = positions[..., None] * rope_frequencies(config)
    cos, sin = (rope_amplitude(config) * f(angle) for f in (np.cos, np.sin))
    if config.get("rope_interleave", True) if interleaved is None else interleaved:
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)
    else:
        even, odd = np.split(x, 2, axis=-1)
        turned = np.concatenate([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.astype(x.dtype)


# --- attention ----------------------------------------------------------------------------------------------


def layer_norm(x: Array, w: Array, b: Array, eps: float = 1e-6) -> Array:
    """Each token less its mean, over its standard deviation, times a weight, plus a bias for each channel."""
    apart = x - x.mean(axis=-1, keepdims=True)
    deviation: Array = np.sqrt(np.mean(apart * apart, axis=-1, keepdims=True) + x.dtype.type(eps))
    normed: Array = w * apart / deviation + b
    return normed


def index_scores(
    x: Array, latent: Array, w: Weights, config: Config, past: Array | None
) -> tuple[Array, Array]:
    """Scores (B, T, positions) of DeepSeek Sparse Attention's lightning indexer, and its keys, old and new.

    ``sum over heads of w[t, h] * max(0, q[t, h] . k[s] / sqrt(channels))``, of the normalised query latent
    and of one key for all heads. The first qk_rope_head_dim channels turn, in halves for DeepSeek-V3.2, in
    neighbours for GLM-5. Source: DeepSeek-V3.2-Exp's report, equation 1.
    """
    heads, channels, rope = (config[n] for n in ("index_n_heads", "index_head_dim", "qk_rope_head_dim"))
    batch, new, _ = x.shape
    held = 0 if past is None else past.shape[1]
    positions, by_pairs = np.arange(held, held + new), bool(config.get("indexer_rope_interleave"))

    def turned(y: Array) -> Array:
        first = rotate(y[..., :rope], positions, config, interleaved=by_pairs)
        return np.concatenate([first, y[..., rope:]], axis=-1)

    q = turned(linear(latent, w["wq_b.weight"]).reshape(batch, new, heads, channels).swapaxes(1, 2))
    k = turned(layer_norm(linear(x, w["wk.weight"]), w["k_norm.weight"], w["k_norm.bias"]))
    k = k if past is None else np.concatenate([past, k], axis=1)
    factors = linear(x, w["weights_proj.weight"]) * x.dtype.type(heads**-0.5)
    products = q @ k[:, None].swapaxes(-1, -2) * x.dtype.type(channels**-0.5)
    scores = (factors.swapaxes(1, 2)[..., None] * np.maximum(products, 0)).sum(axis=1)
    return np.where(np.arange(held + new) > positions[:, None], -np.inf, scores), k


def select(scores: Array, top: int) -> Array:
    """Return flags of the `top` largest scores of each row; lower positions first, minus infinity never."""
    flags = np.zeros(scores.shape, bool)
    np.put_along_axis(flags, descending(scores)[..., :top], True, axis=-1)
    selected: Array = flags & (scores > -np.inf)
    return selected


def mla(
    x: Array,
    w: Weights,
    config: Config,
    cache: Cache | None = None,
    *,
    absorbed: bool = False,
    selected: Array | None = None,
) -> Attention:
    """Multi-head latent attention of new tokens (B, T, D), which see the cached ones and each other causally.

    ``absorbed`` never expands the cache into keys and values: the up-projections are applied to the queries
    and to the result instead. Equal in exact arithmetic. A layer with a lightning indexer selects the
    positions that its tokens attend to, one without takes what was `selected` before.
    """
    heads, rank = config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, v_dim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    eps = config.get("latent_norm_eps", 1e-6)
    batch, new, _ = x.shape
    if "q_a_proj.weight" in w:
        compressed = rms_norm(linear(x, w["q_a_proj.weight"]), w["q_a_layernorm.weight"], eps)
        q = linear(compressed, w["q_b_proj.weight"])
    else:
        q = linear(x, w["q_proj.weight"])
    q = q.reshape(batch, new, heads, nope + rope).swapaxes(1, 2)
    joint = linear(x, w["kv_a_proj_with_mqa.weight"])
    past = 0 if cache is None else cache.latent.shape[1]
    positions = np.arange(past, past + new)
    latent = rms_norm(joint[..., :rank], w["kv_a_layernorm.weight"], eps)
    k_pe = rotate(joint[..., rank:], positions, config)
    if cache is not None:
        latent, k_pe = (np.concatenate(p, axis=1) for p in ((cache.latent, latent), (cache.k_pe, k_pe)))
    index_keys = None
    if "indexer.wk.weight" in w:
        before = None if cache is None else cache.index_keys
        scores, index_keys = index_scores(x, compressed, below(w, "indexer."), config, before)
        selected = select(scores, config["index_topk"])
    q_nope, q_pe = q[..., :nope], rotate(q[..., nope:], positions, config)
    up = w["kv_b_proj.weight"].reshape(heads, nope + v_dim, rank)
    up_k, up_v = up[:, :nope], up[:, nope:]
    seen = latent[:, None]  # one latent for all heads
    if absorbed:
        logits = (q_nope @ up_k) @ seen.swapaxes(-1, -2)
    else:
        logits = q_nope @ (seen @ up_k.swapaxes(-1, -2)).swapaxes(-1, -2)
    logits = logits + q_pe @ k_pe[:, None].swapaxes(-1, -2)
    hidden = np.arange(past + new) > positions[:, None]
    if selected is not None:
        hidden = hidden | ~selected[:, None]
    p = softmax(np.where(hidden, -np.inf, logits * x.dtype.type(softmax_scale(config))))
    out = (p @ seen) @ up_v.swapaxes(-1, -2) if absorbed else p @ (seen @ up_v.swapaxes(-1, -2))
    out = out.swapaxes(1, 2).reshape(batch, new, heads * v_dim)
    return Attention(linear(out, w["o_proj.weight"]), out, Cache(latent, k_pe, index_keys), selected)


# --- experts ------------------------------------------------------------------------------------------------


def swiglu(x: Array, w: Weights) -> Array:
    """``down(silu(gate(x)) * up(x))``."""
    inner = silu(linear(x, w["gate_proj.weight"])) * linear(x, w["up_proj.weight"])
    return linear(inner, w["down_proj.weight"])


def descending(x: Array) -> Array:
    """Return indices that sort the last axis from the largest; among equals the lower index comes first."""
    return np.argsort(-x, axis=-1, kind="stable")


def gate(x: Array, w: Weights, config: Config) -> Routing:
    """Choose experts for (tokens, D): the best groups, then the best in them.

    DeepSeek-V3 ranks groups by the sum of their two best biased scores; the bias only chooses (technical
    report, 2.1.2: auxiliary-loss-free load balancing), weights are scores. DeepSeek-V2 has a softmax instead
    of sigmoids, ranks groups by their best, has no bias, and counts 0 in groups that are not chosen.
    """
    groups, kept, k = config["n_group"], config["topk_group"], config["num_experts_per_tok"]
    logits = linear(x, w["gate.weight"])
    of_v3 = config.get("scoring_func", "sigmoid") == "sigmoid"
    scores = sigmoid(logits) if of_v3 else softmax(logits)
    biased = scores + w["gate.e_score_correction_bias"] if of_v3 else scores
    by_group = biased.reshape(len(x), groups, -1)
    group_scores = np.sort(by_group, axis=-1)[..., -2 if of_v3 else -1 :].sum(axis=-1)
    order = descending(group_scores)
    open_groups = np.zeros(group_scores.shape, bool)
    np.put_along_axis(open_groups, order[:, :kept], True, axis=-1)
    choice = np.where(open_groups[..., None], by_group, -np.inf if of_v3 else 0.0).reshape(biased.shape)
    ranked = descending(choice)
    indices = ranked[:, :k]
    weights = np.take_along_axis(scores, indices, axis=-1)
    if config["norm_topk_prob"]:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + x.dtype.type(1e-20))
    weights = weights * x.dtype.type(config["routed_scaling_factor"])
    gap = np.minimum(_margin(choice, ranked, k), _margin(group_scores, order, kept))
    return Routing(logits, indices, weights, gap)


def _margin(x: Array, ranked: Array, k: int) -> Array:
    """By how much the last that was taken leads the first that was not; infinite where none was left out."""
    if k >= x.shape[-1]:
        return np.full(len(x), np.inf)
    edge: Array = np.take_along_axis(x, ranked[:, k - 1 : k + 1], axis=-1)
    margin: Array = edge[:, 0] - edge[:, 1]
    return margin


def moe(x: Array, w: Weights, config: Config) -> tuple[Array, Routing, Array]:
    """Routed experts plus the shared one, for (tokens, D): the sum, the routing, and the shared part."""
    routing = gate(x, w, config)
    always = below(w, "shared_experts.")
    shared = swiglu(x, always) if always else np.zeros_like(x)
    out = shared.copy()
    for expert in np.unique(routing.indices):
        token, slot = np.nonzero(routing.indices == expert)
        part = swiglu(x[token], below(w, f"experts.{expert}."))
        out[token] += routing.weights[token, slot][:, None] * part
    return out, routing, shared


# --- the model ----------------------------------------------------------------------------------------------


def below(w: Weights, prefix: str) -> Weights:
    """Return the weights whose names begin with `prefix`, under the rest of their names."""
    return {name.removeprefix(prefix): w[name] for name in w if name.startswith(prefix)}


def block(
    x: Array,
    w: Weights,
    config: Config,
    cache: Cache | None = None,
    *,
    absorbed: bool = False,
    selected: Array | None = None,
    trace: dict[str, Array] | None = None,
    at: str = "",
) -> tuple[Array, Cache]:
    """One layer: attention and then a feed-forward network, each on the normalised input, added to it."""
    trace = {} if trace is None else trace
    eps = config["rms_norm_eps"]
    attention = mla(
        rms_norm(x, w["input_layernorm.weight"], eps),
        below(w, "self_attn."),
        config,
        cache,
        absorbed=absorbed,
        selected=selected,
    )
    x = x + attention.out
    y = rms_norm(x, w["post_attention_layernorm.weight"], eps)
    new = x.shape[1]
    trace |= {
        f"{at}attn_out": attention.out,
        f"{at}heads": attention.heads,
        f"{at}c_kv": attention.cache.latent[:, -new:],
        f"{at}k_pe": attention.cache.k_pe[:, -new:],
    }
    if attention.selected is not None and attention.selected is not selected:
        trace[f"{at}index_selected"] = attention.selected
    if "mlp.gate.weight" in w:
        out, routing, shared = moe(y.reshape(-1, y.shape[-1]), below(w, "mlp."), config)
        trace |= {
            f"{at}router_logits": routing.logits,
            f"{at}topk_idx": routing.indices,
            f"{at}topk_weight": routing.weights,
            f"{at}routing_gap": routing.gap,
            f"{at}shared": shared.reshape(y.shape),
        }
    else:
        out = swiglu(y, below(w, "mlp."))
    out = out.reshape(y.shape)
    trace[f"{at}mlp_out"] = out
    return x + out, attention.cache


class Forward(NamedTuple):
    """Outcome of `forward` and `mtp`."""

    logits: Array
    "(B, T, vocabulary)"
    hidden: Array
    "(B, T, D): after the final norm"
    caches: list[Cache]
    "one for each layer"
    trace: dict[str, Array]
    "intermediates by name"


def forward(
    ids: Array, w: Weights, config: Config, caches: list[Cache] | None = None, *, absorbed: bool = False
) -> Forward:
    """Logits for (B, T) token ids; with `caches`, the tokens continue the sequences that filled them."""
    trace: dict[str, Array] = {}
    x = w["model.embed_tokens.weight"][ids]
    states, filled = [x], []
    selected = None
    for i in range(config["num_hidden_layers"]):
        layer = below(w, f"model.layers.{i}.")
        before = caches[i] if caches else None
        x, cache = block(
            x, layer, config, before, absorbed=absorbed, selected=selected, trace=trace, at=f"layer{i}."
        )
        selected = trace.get(f"layer{i}.index_selected", selected)
        states.append(x)
        filled.append(cache)
    hidden = rms_norm(x, w["model.norm.weight"], config["rms_norm_eps"])
    trace |= {"hidden_states": np.stack(states), "final_norm": hidden}
    return Forward(linear(hidden, w["lm_head.weight"]), hidden, filled, trace)


def mtp(hidden: Array, next_ids: Array, w: Weights, config: Config, cache: Cache | None = None) -> Forward:
    """Multi-token prediction: from `Forward.hidden` at i and token i + 1, logits for token i + 2.

    The embedding is the first half of the projection's input, as the released weights need it (the report
    writes the halves the other way round).
    """
    trace: dict[str, Array] = {}
    layer, eps = below(w, f"model.layers.{config['num_hidden_layers']}."), config["rms_norm_eps"]
    embedded = w["model.embed_tokens.weight"][next_ids]
    both = [rms_norm(embedded, layer["enorm.weight"], eps), rms_norm(hidden, layer["hnorm.weight"], eps)]
    x = linear(np.concatenate(both, axis=-1), layer["eh_proj.weight"])
    x, cache = block(x, layer, config, cache, trace=trace, at="mtp.")
    out = rms_norm(x, layer["shared_head.norm.weight"], eps)
    trace |= {"mtp.hidden_prenorm": x, "mtp.hidden": out}
    return Forward(linear(out, w["lm_head.weight"]), out, [cache], trace)
