"""Names of a forward's operations, and those of the modules of transformers that give the same.

Lives here: `operation_names`, all that a model can have, known before it runs; `hf_name`, the table of other
spellings. Names follow the checkpoint's tensors. Names of traces are `Model.trace_names`.
"""

from __future__ import annotations

import re

from .config import Config

_ATTENTION = (
    "rotate_q",
    "kv_a_proj_with_mqa",
    "kv_a_layernorm",
    "rotate_k",
    "cache",
    "kv_b_proj",
    "attend",
    "o_proj",
    "attention_add",
    "post_attention_layernorm",
)
_INDEXER = tuple(
    f"indexer.{name}" for name in ("wq_b", "rotate_q", "wk", "k_norm", "rotate_k", "weights_proj")
)
_SWIGLU = ("gate_proj", "up_proj", "silu", "down_proj")

_IN_ATTENTION = re.compile(r"(q_proj|q_a_proj|q_a_layernorm|q_b_proj|kv_\w+|o_proj|indexer\..+)")
_IN_MLP = re.compile(r"((shared_experts|experts\.\d+)\.)?(gate|up|down)_proj")
_TRACES = {
    "output": "",
    "attn_norm": ".input_layernorm",
    "attn_out": ".self_attn",
    "ffn_norm": ".post_attention_layernorm",
    "mlp_out": ".mlp",
    "shared": ".mlp.shared_experts",
    "router_logits": ".mlp.gate",
    "input_layernorm": ".input_layernorm",
    "post_attention_layernorm": ".post_attention_layernorm",
}
_WHOLE = {
    "embed_tokens": "model.embed_tokens",
    "norm": "model.norm",
    "final_norm": "model.norm",
    "lm_head": "lm_head",
    "logits": "lm_head",
}


def operation_names(config: Config) -> tuple[str, ...]:
    """List the operations that a forward of a model can have, in order, of every expert.

    ``kv_b_proj`` is one of its own in the naive form of attention alone, and experts run where tokens go to
    them.

    Examples
    --------
    >>> from dsv3_numerics.model import Config
    >>> operation_names(Config.preset("tiny"))[:3]
    ('embed_tokens', 'layer0.input_layernorm', 'layer0.q_a_proj')
    """
    found = ["embed_tokens"]
    for layer in range(config.num_hidden_layers):
        found += [f"layer{layer}.{name}" for name in _of_layer(config, layer)]
    found += ["norm", "lm_head"]
    if config.num_nextn_predict_layers:
        names = (
            "enorm",
            "hnorm",
            "eh_proj",
            *_of_layer(config, config.num_hidden_layers),
            "shared_head.norm",
        )
        found += [f"mtp.{name}" for name in names]
    return tuple(found)


def _of_layer(config: Config, layer: int) -> list[str]:
    query = ["q_proj"] if config.q_lora_rank is None else ["q_a_proj", "q_a_layernorm", "q_b_proj"]
    found = ["input_layernorm", *query, *(_INDEXER if config.has_indexer(layer) else ()), *_ATTENTION]
    if not config.is_moe(layer):
        return [*found, *_SWIGLU, "mlp_add"]
    found.append("gate")
    if config.n_shared_experts:
        found += [f"shared_experts.{name}" for name in _SWIGLU]
    found.append("dispatch")
    for expert in range(config.n_routed_experts):
        found += [f"experts.{expert}.{name}" for name in _SWIGLU]
    return [*found, "combine", "mlp_add"]


def hf_name(name: str) -> str | None:
    """Return the module of transformers whose output an operation or a trace is; None where there is none.

    The rule: ``layer3.`` is ``model.layers.3.``, and what follows stands in ``self_attn`` or ``mlp`` as in a
    checkpoint; a layer's ``output`` is the layer's own. Ours alone are steps inside a module (scores,
    rotation, cache, dispatch, combine, sums, SwiGLU), choices of the gate, inputs, and all of MTP, which
    transformers does not run. Theirs alone are ``rotary_emb``, ``act_fn`` (SiLU without the product) and
    ``mlp.experts`` (the sum without the shared expert).

    Examples
    --------
    >>> hf_name("layer1.q_a_proj"), hf_name("layer1.mlp_out"), hf_name("logits")
    ('model.layers.1.self_attn.q_a_proj', 'model.layers.1.mlp', 'lm_head')
    >>> hf_name("layer1.c_kv") is None
    True
    """
    if name in _WHOLE:
        return _WHOLE[name]
    match = re.fullmatch(r"layer(\d+)\.(.+)", name)
    if match is None:
        return None
    layer, rest = f"model.layers.{match[1]}", match[2]
    if rest in _TRACES:
        return layer + _TRACES[rest]
    if _IN_ATTENTION.fullmatch(rest):
        return f"{layer}.self_attn.{rest}"
    return f"{layer}.mlp.{rest}" if _IN_MLP.fullmatch(rest) else None
