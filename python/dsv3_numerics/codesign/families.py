"""Any published ``config.json`` as a `Shape`: a table of families, and what each names its sizes.

A family that is not in the table, or a layer that this arithmetic does not know (linear attention, state
spaces), is refused by name: a wrong count is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .attention import Compressed, Gqa, Index, Mla
from .fields import Fields
from .shape import Dense, Layer, Moe

STATE_SPACE = {
    "linear_attn_config": "linear_attention",
    "full_attention_interval": "linear_attention",
    "linear_num_value_heads": "linear_attention",
    "hybrid_override_pattern": "mamba",
    "mamba_num_heads": "mamba",
    "mamba_d_state": "mamba",
    "ssm_state_size": "mamba",
}
"""Fields that say that some layers keep a state instead of tokens."""


def _layer_type(f: Fields, i: int, layers: int) -> str | None:
    kinds = f.row("layer_types", layers, str)
    kind = kinds[i] if kinds else None
    if kind not in (None, "full_attention", "sliding_attention", "chunked_attention", "attention"):
        f.refuse(f"layer_types: found {kind!r}, cannot count layer type {kind}")
    return kind


def _span(f: Fields, i: int, layers: int) -> int | None:
    """Tokens that layer i keeps; None: all."""
    family = str(f.given("model_type"))
    kind = _layer_type(f, i, layers)
    if kind == "chunked_attention" or (
        kind is None
        and family.startswith("llama4")
        and (i + 1) % f.count("no_rope_layer_interval", default=4)
    ):
        return f.count("attention_chunk_size") if kind else f.optional("attention_chunk_size")
    if kind == "sliding_attention" or (kind is None and family == "gpt_oss" and i % 2 == 0):
        return f.count("sliding_window")
    if kind is not None or family == "gpt_oss":
        return None
    qwen = family.startswith("qwen")
    if f.given("sliding_window") is None or not f.flag("use_sliding_window", default=not qwen):
        return None
    first = f.count("max_window_layers", least=0, default=28) if qwen else 0
    return f.count("sliding_window") if i >= first else None


def _gqa(f: Fields, i: int, layers: int, row: Family) -> Gqa:
    heads = f.count("num_attention_heads")
    if f.given("head_dim") is None and f.count("hidden_size") % heads:
        f.refuse(
            f"head_dim: absent, and hidden_size ({f.given('hidden_size')}) is no multiple of {heads} heads"
        )
    dim = f.count("head_dim", default=f.count("hidden_size") // heads or 1)
    kv = f.count("num_key_value_heads", default=heads)
    if heads % kv:
        f.refuse(f"num_key_value_heads: found {kv}, expected a divisor of num_attention_heads ({heads})")
    biased = f.flag("attention_bias", default=row.always_biased)
    return Gqa(
        heads,
        kv,
        dim,
        span=_span(f, i, layers),
        biases=row.biases if biased or row.always_biased else "",
        norms=row.norms or (row.norms_by_flag and f.flag("use_qk_norm")),
        sinks=row.sinks,
    )


def _mla(f: Fields, i: int, layers: int, row: Family) -> Mla:
    _layer_type(f, i, layers)
    index = None
    if any(f.given(name) is not None for name in ("index_n_heads", "index_head_dim", "index_topk")):
        kinds = f.row("indexer_types", layers, str)
        kind = kinds[i] if kinds else "full"
        if kind not in ("full", "shared"):
            f.refuse(f"indexer_types: found {kind!r}, expected full or shared")
        if f.given("q_lora_rank") is None:
            f.refuse("q_lora_rank: found null, expected a size: the indexer needs the latent of the query")
        index = Index(
            f.count("index_n_heads"), f.count("index_head_dim"), f.count("index_topk"), kind == "shared"
        )
    elif row.indexed:
        f.count("index_n_heads"), f.count("index_head_dim"), f.count("index_topk")
    return Mla(
        heads=f.count("num_attention_heads"),
        q_rank=f.optional("q_lora_rank"),
        rank=f.count("kv_lora_rank"),
        nope=f.count("qk_nope_head_dim"),
        rope=f.count("qk_rope_head_dim"),
        v=f.count("v_head_dim"),
        biased=f.flag("attention_bias"),
        index=index,
    )


def _compressed(f: Fields, i: int, layers: int, row: Family) -> Compressed:
    ratios = f.row("compress_ratios", layers, int)
    if f.given("compress_ratios") is None:
        f.count("compress_ratios")
    ratio = ratios[i] if ratios and i < len(ratios) else 0
    later = row.ratios == (0, 1, 2)
    if ratio not in row.ratios:
        f.refuse(f"compress_ratios: found {ratio}, expected one of {', '.join(map(str, row.ratios))}")
    sources = f.given("kv_source_layer_ids") if later else None
    if later and not (isinstance(sources, list) and all(type(s) is int for s in sources)):
        f.refuse(f"kv_source_layer_ids: found {sources!r}, expected a list of layers")
        sources = []
    keeps = sources is None or i in sources
    indexed = ratio == 4 or (later and ratio > 0 and keeps)
    return Compressed(
        heads=f.count("num_attention_heads"),
        head_dim=f.count("head_dim"),
        rope=f.count("qk_rope_head_dim", default=64),
        q_rank=f.count("q_lora_rank"),
        o_groups=f.count("o_groups"),
        o_rank=f.count("o_lora_rank"),
        window=f.count("sliding_window"),
        ratio=ratio,
        keeps=keeps,
        index=Index(
            f.count("index_n_heads"),
            f.count("index_head_dim"),
            f.count("index_topk", default=1 if later else None),
        )
        if indexed
        else None,
        known=not later,
    )


def _dense(f: Fields, i: int, layers: int, row: Family) -> Dense:
    name = "intermediate_size_mlp" if row.moe == "llama4" else "intermediate_size"
    return Dense(f.count(name), f.flag("mlp_bias"))


def _is_moe(f: Fields, i: int, layers: int, row: Family) -> bool:
    kinds = f.row("mlp_layer_types", layers, str)
    if kinds and i < len(kinds):
        if kinds[i] not in ("dense", "sparse"):
            f.refuse(f"mlp_layer_types: found {kinds[i]!r}, expected dense or sparse")
        return bool(kinds[i] == "sparse")
    if row.moe == "deepseek":
        if f.given("n_routed_experts") is None:
            f.count("n_routed_experts")
        frequency = f.count("moe_layer_freq", default=1)
        return i >= f.count("first_k_dense_replace", least=0, default=0) and i % frequency == 0
    if row.moe == "qwen":
        dense = f.given("mlp_only_layers") or []
        if not (isinstance(dense, list) and all(type(k) is int for k in dense)):
            f.refuse(f"mlp_only_layers: found {dense!r:.60}, expected a list of layers")
            dense = []
        return i not in dense and (i + 1) % f.count("decoder_sparse_step", default=1) == 0
    if row.moe == "llama4":
        listed = f.given("moe_layers")
        if isinstance(listed, list):
            return i in listed
        return (i + 1) % f.count("interleave_moe_layer_step", default=1) == 0
    return row.moe == "every"


def _mlp(f: Fields, i: int, layers: int, row: Family) -> Dense | Moe:
    if not _is_moe(f, i, layers, row):
        return _dense(f, i, layers, row)
    experts = f.count("n_routed_experts", "num_local_experts", "num_experts")
    chosen = f.count("num_experts_per_tok", "experts_per_token")
    if chosen > experts:
        f.refuse(f"num_experts_per_tok: found {chosen}, expected at most {experts}, the experts")
    own = row.moe in ("deepseek", "qwen") or row.compressed
    return Moe(
        experts,
        chosen,
        shared=1 if row.moe == "llama4" else f.count("n_shared_experts", least=0, default=0),
        width=f.count("moe_intermediate_size" if own else "intermediate_size"),
        router_bias=row.correction or row.biased_experts,
        expert_bias=row.biased_experts,
    )


@dataclass(frozen=True)
class Family:
    """A family of models: its attention, which layers are MoE, and which small tensors it has."""

    attention: Callable[[Fields, int, int, Family], Gqa | Mla | Compressed] = _gqa
    moe: str = ""  # which layers: "" none, "every", or by the fields of deepseek, qwen, llama4
    biases: str = "qkvo"  # where `attention_bias` is true
    always_biased: bool = False
    norms: bool = False
    norms_by_flag: bool = False
    sinks: bool = False
    correction: bool = False  # a bias of the gate for each expert
    biased_experts: bool = False
    indexed: bool = False
    ratios: tuple[int, ...] = ()

    @property
    def compressed(self) -> bool:
        """DeepSeek-V4's attention and hyper-connections."""
        return bool(self.ratios)


FAMILIES: dict[str, Family] = {
    "deepseek_v2": Family(_mla, "deepseek"),
    "deepseek_v3": Family(_mla, "deepseek", correction=True),
    "kimi_k2": Family(_mla, "deepseek", correction=True),
    "deepseek_v32": Family(_mla, "deepseek", correction=True, indexed=True),
    "glm_moe_dsa": Family(_mla, "deepseek", correction=True, indexed=True),
    "deepseek_v4": Family(_compressed, "every", correction=True, ratios=(0, 4, 128)),
    "deepseek_v41": Family(_compressed, "every", correction=True, ratios=(0, 1, 2)),
    "llama": Family(),
    "llama4_text": Family(moe="llama4"),
    "mistral": Family(biases=""),
    "mixtral": Family(moe="every", biases=""),
    "qwen2": Family(biases="qkv", always_biased=True),
    "qwen3": Family(norms=True),
    "qwen3_moe": Family(moe="qwen", norms=True),
    "glm4_moe": Family(moe="deepseek", biases="qkv", norms_by_flag=True, correction=True),
    "gpt_oss": Family(moe="every", always_biased=True, sinks=True, biased_experts=True),
}
"""Families by ``model_type``."""

SAME = {"llama4": "llama4_text", "qwen2_vl_text": "qwen2", "kimi_k25": "kimi_k2"}


def layer_of(f: Fields, i: int, layers: int, row: Family, mixing: int = 0) -> Layer:
    """Layer i of `layers`, as its family's row reads it."""
    return Layer(row.attention(f, i, layers, row), _mlp(f, i, layers, row), mixing)
