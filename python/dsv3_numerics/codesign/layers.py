"""One layer of a ``config.json``: its attention and its MLP, by the row of its family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .attention import Compressed, Gqa, Index, Mla
from .fields import Fields
from .shape import Dense, Moe

if TYPE_CHECKING:
    from .families import Family

_OF_TOKENS = ("full_attention", "attention")
_WINDOWED = (*_OF_TOKENS, "sliding_attention", "chunked_attention")
_OF_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def layer_type(f: Fields, i: int, layers: int, known: Iterable[str]) -> str | None:
    """Return the type of layer i in ``layer_types``, refused by name where its attention does not have it."""
    kinds = f.row("layer_types", layers, str)
    kind = kinds[i] if kinds else None
    if kind is not None and kind not in known:
        f.refuse(f"layer_types: found {kind!r}, cannot count layer type {kind}")
    return kind


def _span(f: Fields, i: int, layers: int) -> int | None:
    """Tokens that layer i keeps; None: all."""
    family = str(f.given("model_type"))
    kind = layer_type(f, i, layers, _WINDOWED)
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


def read_gqa(f: Fields, i: int, layers: int, row: Family) -> Gqa:
    """Read grouped-query attention."""
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


def _indexer_type(f: Fields, i: int, layers: int) -> str:
    """Tell if layer i scores itself ("full") or takes an earlier layer's choice ("shared")."""
    pattern = f.given("index_topk_pattern")
    if f.given("indexer_types") is None and isinstance(pattern, str):
        if len(pattern) < layers or set(pattern) - {"F", "S"}:
            f.refuse(f"index_topk_pattern: found {pattern!r:.60}, expected {layers} letters F or S")
            return "full"
        return "full" if pattern[i] == "F" else "shared"
    kinds = f.row("indexer_types" if pattern is None else "index_topk_pattern", layers, str)
    if kinds:
        return str(kinds[i])
    frequency = f.count("index_topk_freq", default=1)
    offset = f.count("index_skip_topk_offset", least=0, default=2)
    return "full" if max(i - offset + 1, 0) % frequency == 0 else "shared"


def read_mla(f: Fields, i: int, layers: int, row: Family) -> Mla:
    """Read multi-head latent attention, with its indexer."""
    index = None
    indexed = any(f.given(name) is not None for name in ("index_n_heads", "index_head_dim", "index_topk"))
    layer_type(f, i, layers, (*_OF_TOKENS, "indexed_attention") if indexed else _OF_TOKENS)
    if indexed:
        kind = _indexer_type(f, i, layers)
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


def _ratio(f: Fields, i: int, layers: int, later: bool) -> int:
    """Tokens a row of layer i: ``compress_ratios``, or, as transformers saves V4, its type."""
    if f.given("compress_ratios") is None and f.given("layer_types") is not None and not later:
        kind = layer_type(f, i, layers, _OF_RATIOS)
        rates = f.given("compress_rates")
        ratio = rates.get(kind) if isinstance(rates, Mapping) else None
        return ratio if type(ratio) is int else _OF_RATIOS.get(str(kind), 0)
    if f.given("compress_ratios") is None:
        f.count("compress_ratios")
    ratios = f.row("compress_ratios", layers, int)
    return ratios[i] if ratios and i < len(ratios) else 0


def read_compressed(f: Fields, i: int, layers: int, row: Family) -> Compressed:
    """Read DeepSeek-V4's attention."""
    later = row.ratios == (0, 1, 2)
    ratio = _ratio(f, i, layers, later)
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
    if kinds and row.moe == "every" and set(kinds) <= {"moe", "hash_moe"}:
        return True
    if kinds:
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


def read_mlp(f: Fields, i: int, layers: int, row: Family) -> Dense | Moe:
    """Read a dense MLP or experts."""
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
