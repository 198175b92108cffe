"""Families of models that share DeepSeek-V3's forward, one row each: what their ``config.json`` may say.

Lives here: `FAMILIES`, by ``model_type``; the model types that are refused, with the reason; and the fields
that cannot change a forward, each with the reason. Not here: how a file is read (see `config_fields`).

Sources: the configuration and modelling files of transformers 5 and of the releases themselves; sizes and
differences by family as the papers of DeepSeek-V2, V3 and V3.2, Kimi K2 and GLM-5 give them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Family:
    """How the configs of one ``model_type`` are read.

    Attributes
    ----------
    models : str
        Released models, for people.
    defaults : mapping
        Fields of `Config` that the family's own code sets where the file does not.
    only : mapping of str to tuple
        Fields that this forward can take in these ways only.
    aliases : mapping of str to str
        Other names of fields.
    lists_layers : bool
        True: ``mlp_layer_types`` counts, whatever ``first_k_dense_replace`` says (transformers writes both).
    sparse : bool
        Whether layers select their keys by a lightning indexer (DeepSeek Sparse Attention).
    """

    models: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    lists_layers: bool = False
    sparse: bool = False


_EVERY: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "attention_dropout": (0,),
    "hidden_act": ("silu",),
    "is_encoder_decoder": (False,),
    "moe_layer_freq": (1,),
    "mlp_bias": (False,),
    "add_cross_attention": (False,),
}

_SIGMOID: dict[str, tuple[Any, ...]] = _EVERY | {
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "tie_word_embeddings": (False,),
}

_SOFTMAX: dict[str, tuple[Any, ...]] = _EVERY | {
    "scoring_func": ("softmax",),
    "topk_method": ("greedy", "group_limited_greedy"),
    # True would be read in two ways: the release's code normalises, transformers does not.
    "norm_topk_prob": (False,),
    "tie_word_embeddings": (False,),
}

FAMILIES: dict[str, Family] = {
    "deepseek_v3": Family(
        "DeepSeek-V3, V3-0324, R1, V3.1; Moonlight; GigaChat3",
        only=_SIGMOID,
    ),
    "kimi_k2": Family(
        "Kimi-K2, K2-0905, K2-Thinking",
        only=_SIGMOID,
    ),
    "deepseek_v2": Family(
        "DeepSeek-V2, V2-Lite, V2.5, Coder-V2",
        defaults={"scoring_func": "softmax", "topk_method": "greedy", "norm_topk_prob": False},
        only=_SOFTMAX,
    ),
    "deepseek_v32": Family(
        "DeepSeek-V3.2-Exp, V3.2, V3.2-Speciale",
        defaults={"indexer_rope_interleave": False},
        only=_SIGMOID,
        lists_layers=True,
        sparse=True,
    ),
    "glm_moe_dsa": Family(
        "GLM-5, GLM-5.1, GLM-5.2",
        defaults={"indexer_rope_interleave": True, "rms_norm_eps": 1e-5, "n_group": 1, "topk_group": 1},
        only=_SIGMOID,
        lists_layers=True,
        sparse=True,
    ),
    "glm4_moe_lite": Family(
        "GLM-4.7-Flash",
        defaults={"first_k_dense_replace": 1, "rms_norm_eps": 1e-5, "n_group": 1, "topk_group": 1},
        only=_SIGMOID,
        lists_layers=True,
    ),
    "sarvam_mla": Family(
        "Sarvam-105B",
        only=_SIGMOID,
        aliases={"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"},
    ),
}
"""Fields that are read, by ``model_type``."""


class GateKind(NamedTuple):
    """A way of choosing experts."""

    best: int
    "experts of a group whose scores make the group's"
    mask_value: float | None
    "a score in groups that are not chosen; None: as recipes say"


GATES: dict[tuple[str, str], GateKind] = {
    ("sigmoid", "noaux_tc"): GateKind(2, None),
    ("softmax", "greedy"): GateKind(1, 0.0),
    ("softmax", "group_limited_greedy"): GateKind(1, 0.0),
}
"""Gates by ``scoring_func`` and ``topk_method``."""

LATENT_NORM_EPS = 1e-6
"""Epsilon of ``q_a_layernorm`` and ``kv_a_layernorm``: fixed in the modelling code of every family here
(DeepSeek's own, Moonshot's, transformers'); vLLM and SGLang take ``rms_norm_eps`` instead."""

REFUSED: dict[str, str] = {
    "axk1": "another norm behind the experts (post_mlp_layernorm)",
    "bailing_hybrid": "linear attention in most layers",
    "deepseek": "grouped-query attention, not MLA",
    "deepseek_v4": "compressed attention and hyper-connections",
    "dots1": "grouped-query attention, not MLA",
    "exaone_moe": "grouped-query attention, not MLA",
    "glm4_moe": "grouped-query attention, not MLA",
    "gpt_oss": "grouped-query attention with sinks, not MLA",
    "hy_v3": "grouped-query attention, not MLA",
    "kimi_k25": "a vision model around the text model, which is under text_config and language_model.",
    "kimi_linear": "linear attention in most layers",
    "longcat_flash": "two attentions in each layer, and experts that do nothing",
    "mimo_v2_flash": "grouped-query attention, not MLA",
    "mistral4": "a softmax gate over groups and queries scaled by position",
    "youtu": "no layer has experts, and the head shares the embedding's weights",
}
"""Why a ``model_type`` that a reader may expect here is none of these."""

_REASONS: dict[str, tuple[str, ...]] = {
    "how other programs load, run or serve the model": (
        *("_attn_implementation", "_attn_implementation_autoset", "auto_map", "chunk_size_feed_forward"),
        *("ep_size", "experts_implementation", "pretraining_tp", "use_cache"),
    ),
    "training only": (
        "aux_loss_alpha",
        "initializer_range",
        "problem_type",
        "router_aux_loss_coef",
        "seq_aux",
    ),
    "tokens of a tokenizer, not of the forward": (
        *("bos_token_id", "pad_token_id", "sep_token_id", "tokenizer_class"),
    ),
    "a name": ("_name_or_path", "architectures", "id2label", "label2id", "transformers_version"),
    "which results another library hands out": (
        *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict"),
    ),
    "the dtype in which another library loads weights; the tensors say their own": ("dtype", "torch_dtype"),
    "the dtype of another library's router; recipes have a field of their own (gate)": ("moe_router_dtype",),
    "read by the checkpoint: it says how codes and scales are held": ("quantization_config",),
}
NO_MATTER = {name: reason for reason, names in _REASONS.items() for name in names}
"""Fields that cannot change a forward, each with the reason."""
