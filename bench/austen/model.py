"""DeepSeek-V3's forward in JAX, small enough to train on two cores.

MLA, DeepSeekMoE with node-limited routing and a balancing bias, and one module of multi-token prediction, as
in the technical report (arXiv 2412.19437, section 2). Weights are a flat dict under the release's names,
(out, in), but that the routed experts of a layer are one stack of matrices: (experts, out, in).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Weights = dict[str, jax.Array]
Linear = Callable[[jax.Array, jax.Array], jax.Array]


class Sizes(NamedTuple):
    """The sizes of a model, under the names of ``config.json``."""

    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int = 384
    moe_intermediate_size: int = 128
    num_hidden_layers: int = 4
    first_k_dense_replace: int = 1
    num_attention_heads: int = 4
    q_lora_rank: int = 128
    kv_lora_rank: int = 128
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    n_routed_experts: int = 6
    n_shared_experts: int = 1
    n_group: int = 3
    topk_group: int = 2
    num_experts_per_tok: int = 2
    routed_scaling_factor: float = 1.5
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


def initial(sizes: Sizes, seed: int) -> Weights:
    """Draw weights: normal, by one over the root of the inputs; smaller where they add to the stream."""
    rng = np.random.default_rng(seed)
    deep = (2 * sizes.num_hidden_layers) ** -0.5
    found = {}
    for name, shape in shapes(sizes).items():
        if name.endswith("norm.weight"):
            value = np.ones(shape)
        else:
            value = rng.normal(size=shape) * shape[-1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value *= deep
            elif name.endswith("embed_tokens.weight"):
                value *= shape[-1] ** 0.5 * 0.5
        found[name] = jnp.asarray(value, jnp.float32)
    return found


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every weight's shape, by its name."""
    d = sizes.hidden_size
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocab_size, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (sizes.vocab_size, d),
    }
    for layer in range(sizes.num_hidden_layers + 1):
        at = f"model.layers.{layer}."
        found |= {at + name: shape for name, shape in _block_shapes(sizes, layer).items()}
    found |= {at + f"{name}.weight": (d,) for name in ("enorm", "hnorm", "shared_head.norm")}
    found[at + "eh_proj.weight"] = (d, 2 * d)
    return found


def _block_shapes(s: Sizes, layer: int) -> dict[str, tuple[int, ...]]:
    d, heads = s.hidden_size, s.num_attention_heads

    def swiglu(at: str, inner: int, *stack: int) -> dict[str, tuple[int, ...]]:
        up = (*stack, inner, d)
        return {
            f"{at}gate_proj.weight": up,
            f"{at}up_proj.weight": up,
            f"{at}down_proj.weight": (*stack, d, inner),
        }

    attention = {
        "q_a_proj": (s.q_lora_rank, d),
        "q_a_layernorm": (s.q_lora_rank,),
        "q_b_proj": (heads * (s.qk_nope_head_dim + s.qk_rope_head_dim), s.q_lora_rank),
        "kv_a_proj_with_mqa": (s.kv_lora_rank + s.qk_rope_head_dim, d),
        "kv_a_layernorm": (s.kv_lora_rank,),
        "kv_b_proj": (heads * (s.qk_nope_head_dim + s.v_head_dim), s.kv_lora_rank),
        "o_proj": (d, heads * s.v_head_dim),
    }
    found: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (d,),
        "post_attention_layernorm.weight": (d,),
    }
    found |= {f"self_attn.{name}.weight": shape for name, shape in attention.items()}
    if layer < s.first_k_dense_replace:
        return found | swiglu("mlp.", s.intermediate_size)
    found["mlp.gate.weight"] = (s.n_routed_experts, d)
    found |= swiglu("mlp.shared_experts.", s.moe_intermediate_size * s.n_shared_experts)
    return found | swiglu("mlp.experts.", s.moe_intermediate_size, s.n_routed_experts)


def initial_biases(sizes: Sizes) -> jax.Array:
    """The gates' balancing biases, (layers with experts, experts): zero."""
    layers = sizes.num_hidden_layers + 1 - sizes.first_k_dense_replace
    return jnp.zeros((layers, sizes.n_routed_experts))


def plain(x: jax.Array, w: jax.Array) -> jax.Array:
    """Multiply by a weight: (..., in) and (out, in), or stacks of both."""
    if w.ndim == 3:
        return jnp.einsum("eni,eoi->eno", x, w)
    return x @ w.T


class Forward(NamedTuple):
    """Outcome of `forward`."""

    logits: jax.Array
    "(batch, tokens, vocabulary): of the next token"
    after: jax.Array | None
    "of the token after the next, for the first sequences only"
    loads: jax.Array
    "(layers with experts, experts): tokens that chose each"


def forward(
    w: Weights,
    biases: jax.Array,
    ids: jax.Array,
    sizes: Sizes,
    *,
    mtp: int,
    capacity: float | None = None,
    linear: Linear = plain,
) -> Forward:
    """Predict from (batch, tokens + 1) ids; the last column is seen by multi-token prediction alone.

    So many sequences as `mtp`, from the first, go through multi-token prediction. `capacity` are the places
    of an expert, as a multiple of its even share of the tokens; a token that finds none goes by. Without it
    all tokens go through all experts: slower in training, and never a token lost. `linear` is how activations
    meet the weights that a release keeps in FP8.
    """
    block = partial(_block, sizes=sizes, capacity=capacity, linear=linear)
    x = w["model.embed_tokens.weight"][ids[:, :-1]]
    loads = []
    for layer in range(sizes.num_hidden_layers):
        place = layer - sizes.first_k_dense_replace
        x, load = block(_under(w, f"model.layers.{layer}."), biases[place] if place >= 0 else None, x)
        loads += [] if load is None else [load]
    hidden = _norm(x, w["model.norm.weight"], sizes)
    logits = hidden @ w["lm_head.weight"].T
    if not mtp:
        return Forward(logits, None, jnp.stack([*loads, jnp.zeros_like(loads[0])]))
    own = _under(w, f"model.layers.{sizes.num_hidden_layers}.")
    embedded = w["model.embed_tokens.weight"][ids[:mtp, 1:]]
    both = _norm(embedded, own["enorm.weight"], sizes), _norm(hidden[:mtp], own["hnorm.weight"], sizes)
    x, load = block(own, biases[-1], jnp.concatenate(both, axis=-1) @ own["eh_proj.weight"].T)
    after = _norm(x, own["shared_head.norm.weight"], sizes) @ w["lm_head.weight"].T
    return Forward(logits, after, jnp.stack([*loads, load]))


def _under(w: Weights, prefix: str) -> Weights:
    return {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}


def _norm(x: jax.Array, weight: jax.Array, s: Sizes) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + s.rms_norm_eps) * weight


def _block(
    w: Weights, bias: jax.Array | None, x: jax.Array, *, sizes: Sizes, capacity: float | None, linear: Linear
) -> tuple[jax.Array, jax.Array | None]:
    h = _norm(x, w["input_layernorm.weight"], sizes)
    x = x + _attention(_under(w, "self_attn."), h, sizes, linear)
    h = _norm(x, w["post_attention_layernorm.weight"], sizes)
    if bias is None:
        return x + _swiglu(_under(w, "mlp."), h, linear), None
    flat = h.reshape(-1, h.shape[-1])
    routed, load = _experts(_under(w, "mlp."), bias, flat, sizes, capacity, linear)
    y = routed + _swiglu(_under(w, "mlp.shared_experts."), flat, linear)
    return x + y.reshape(x.shape), load


def _swiglu(w: Weights, x: jax.Array, linear: Linear) -> jax.Array:
    inner = jax.nn.silu(linear(x, w["gate_proj.weight"])) * linear(x, w["up_proj.weight"])
    return linear(inner, w["down_proj.weight"])


# --- Attention ------------------------------------------------------------------------------------------


def _rotate(x: jax.Array, theta: float) -> jax.Array:
    """Rotate pairs side by side, by angles that grow with the position: (..., tokens, channels)."""
    tokens, channels = x.shape[-2:]
    angle = np.arange(tokens)[:, None] / theta ** (np.arange(0, channels, 2) / channels)
    cos, sin = jnp.asarray(np.cos(angle), x.dtype), jnp.asarray(np.sin(angle), x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack((a * cos - b * sin, a * sin + b * cos), axis=-1).reshape(x.shape)


def _attention(w: Weights, x: jax.Array, s: Sizes, linear: Linear) -> jax.Array:
    batch, tokens, _ = x.shape
    nope, heads = s.qk_nope_head_dim, s.num_attention_heads

    def by_head(y: jax.Array) -> jax.Array:
        return y.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)

    latent = _norm(linear(x, w["q_a_proj.weight"]), w["q_a_layernorm.weight"], s)
    q = by_head(linear(latent, w["q_b_proj.weight"]))
    q = jnp.concatenate((q[..., :nope], _rotate(q[..., nope:], s.rope_theta)), axis=-1)
    down = linear(x, w["kv_a_proj_with_mqa.weight"])
    latent = _norm(down[..., : s.kv_lora_rank], w["kv_a_layernorm.weight"], s)
    kv = by_head(linear(latent, w["kv_b_proj.weight"]))
    shared = _rotate(down[:, None, :, s.kv_lora_rank :], s.rope_theta)
    shared = jnp.broadcast_to(shared, (batch, heads, *shared.shape[2:]))
    k, v = jnp.concatenate((kv[..., :nope], shared), axis=-1), kv[..., nope:]
    out = _causal(q * q.shape[-1] ** -0.5, k, v)
    return linear(out.transpose(0, 2, 1, 3).reshape(batch, tokens, -1), w["o_proj.weight"])


def _causal(q: jax.Array, k: jax.Array, v: jax.Array, rows: int = 128) -> jax.Array:
    """Attend to what came before, some rows at a time, which spares most of what the mask would hide."""
    done = []
    for start in range(0, q.shape[2], rows):
        stop = min(start + rows, q.shape[2])
        scores = q[:, :, start:stop] @ k[:, :, :stop].swapaxes(-1, -2)
        seen = np.arange(start, stop)[:, None] >= np.arange(stop)
        done.append(jax.nn.softmax(jnp.where(seen, scores, -1e30), axis=-1) @ v[:, :, :stop])
    return jnp.concatenate(done, axis=2)


# --- Experts --------------------------------------------------------------------------------------------


def _route(w: jax.Array, bias: jax.Array, x: jax.Array, s: Sizes) -> tuple[jax.Array, jax.Array]:
    """Choose experts: those of the best groups with the best biased scores, weighed by scores alone."""
    scores = jax.nn.sigmoid(x @ w.T)
    biased = jax.lax.stop_gradient(scores) + bias
    groups = biased.reshape(len(x), s.n_group, -1)
    best = jax.lax.top_k(groups, min(2, groups.shape[-1]))[0].sum(axis=-1)
    least = jax.lax.top_k(best, s.topk_group)[0][:, -1:]
    open_to = jnp.where((best >= least)[..., None], groups, -jnp.inf).reshape(biased.shape)
    chosen = jax.lax.top_k(open_to, s.num_experts_per_tok)[1]
    share = sum(
        jax.nn.one_hot(chosen[:, i], s.n_routed_experts) * scores for i in range(s.num_experts_per_tok)
    )
    share = share / (share.sum(axis=-1, keepdims=True) + 1e-20) * s.routed_scaling_factor
    return chosen, share


def _experts(
    w: Weights, bias: jax.Array, x: jax.Array, s: Sizes, capacity: float | None, linear: Linear
) -> tuple[jax.Array, jax.Array]:
    chosen, share = _route(w["gate.weight"], bias, x, s)
    own = _under(w, "experts.")
    experts, k = s.n_routed_experts, s.num_experts_per_tok
    one_hot = jax.nn.one_hot(chosen.reshape(-1), experts, dtype=jnp.int32)
    load = one_hot.sum(axis=0)
    if capacity is None:
        y = _swiglu(own, jnp.broadcast_to(x, (experts, *x.shape)), linear)
        return jnp.einsum("eno,ne->no", y, share), load
    places = -(-int(len(x) * k / experts * capacity) // 16) * 16
    rank = ((jnp.cumsum(one_hot, axis=0) - 1) * one_hot).sum(axis=-1)
    slot = jnp.where(rank < places, chosen.reshape(-1) * places + rank, experts * places)
    tokens = jnp.full(experts * places + 1, len(x)).at[slot].set(jnp.arange(len(x) * k) // k)[:-1]
    slot = slot.reshape(-1, k)
    y = _swiglu(own, _dispatch(x, tokens, slot).reshape(experts, places, -1), linear)
    rows = jnp.arange(experts * places) // places
    weight = jnp.append(share, jnp.zeros((1, experts)), axis=0)[tokens, rows]
    return _combine(y.reshape(experts * places, -1) * weight[:, None], tokens, slot), load


def _take(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of x; zero for the row behind the last."""
    return jnp.append(x, jnp.zeros((1, x.shape[1]), x.dtype), axis=0)[rows]


def _sum(y: jax.Array, slot: jax.Array) -> jax.Array:
    return sum(_take(y, slot[:, i]) for i in range(slot.shape[1]))


@jax.custom_vjp
def _dispatch(x: jax.Array, tokens: jax.Array, slot: jax.Array) -> jax.Array:
    """Copy tokens to their places; the gradient gathers too, where scattering would take longer."""
    return _take(x, tokens)


@jax.custom_vjp
def _combine(y: jax.Array, tokens: jax.Array, slot: jax.Array) -> jax.Array:
    """Add up what stands at a token's places."""
    return _sum(y, slot)


def _dispatch_forward(x: jax.Array, tokens: jax.Array, slot: jax.Array) -> tuple[jax.Array, Any]:
    return _take(x, tokens), (tokens, slot)


def _combine_forward(y: jax.Array, tokens: jax.Array, slot: jax.Array) -> tuple[jax.Array, Any]:
    return _sum(y, slot), (tokens, slot)


_dispatch.defvjp(_dispatch_forward, lambda kept, g: (_sum(g, kept[1]), None, None))
_combine.defvjp(_combine_forward, lambda kept, g: (_take(g, kept[0]), None, None))
