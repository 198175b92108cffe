"""Families of models: which weights a release in FP8 has as FP8, as data.

Lives here: one row a family, found by ``model_type``. Everything else stays plain, and the configuration
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..selection import is_of_text


@dataclass(frozen=True)
class Family:
    """Models whose weights have the same names.

    Attributes
    ----------
    name : str
        How messages and reports call the models of the family.
    model_types : tuple of str
        Values of ``model_type``, there or in ``text_config``.
    modules : tuple of str
        Last parts of the names of linear layers that are FP8 in the release.
    fused : tuple of str
        The same for 3-D tensors of all experts, which have no ``.weight``.
    """

    name: str
    model_types: tuple[str, ...]
    modules: tuple[str, ...]
    fused: tuple[str, ...] = ()


_MLP = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("experts.gate_up_proj", "experts.down_proj")
_MLA = ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
_QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")

FAMILIES: tuple[Family, ...] = (
    Family(
        "DeepSeek V3",
        ("deepseek_v2", "deepseek_v3", "kimi_k2", "kimi_k25", "glm4_moe_lite", "sarvam_mla"),
        (*_MLA, *_MLP),
    ),
    Family(
        "DeepSeek V3.2",
        ("deepseek_v32", "glm_moe_dsa"),
        (*_MLA, *_MLP, "indexer.wq_b", "indexer.wk"),
    ),
    Family(
        "DeepSeek V4",
        ("deepseek_v4", "deepseek_v41"),
        ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3", "e_proj", "h_proj"),
    ),
    Family(
        "Llama, Qwen, GLM",
        (
            "llama",
            "mistral",
            "ministral3",
            "mistral3",
            "qwen2",
            "qwen2_moe",
            "qwen3",
            "qwen3_moe",
            "qwen3_next",
            "glm4",
            "glm4_moe",
            "gemma3_text",
        ),
        (*_QKVO, *_MLP),
        _FUSED,
    ),
    Family(
        "fused experts",
        ("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_vl_moe", "qwen3_vl_moe_text", "llama4", "llama4_text"),
        (*_QKVO, *_MLP, "in_proj_qkv", "in_proj_z", "out_proj"),
        _FUSED,
    ),
    Family(
        "Mixtral, MiniMax",
        ("mixtral", "minimax", "minimax_m2", "phimoe"),
        (*_QKVO, "w1", "w2", "w3"),
    ),
)
# Where the configuration names no family, or there is none: every name of the rows above.
ANY = Family(
    "any",
    (),
    tuple(dict.fromkeys(module for row in FAMILIES for module in row.modules)),
    _FUSED,
)


def family_of(config: Mapping[str, Any] | None) -> Family:
    """Find the family by a configuration; `ANY` where it names none that is known."""
    places = [config or {}, *(part for part in (config or {}).values() if isinstance(part, dict))]
    for place in places:
        kind = place.get("model_type")
        for row in FAMILIES:
            if kind in row.model_types:
                return row
    return ANY


def is_quantized_by(family: Family, name: str) -> bool:
    """Tell if a release of the family has a weight of this name in FP8.

    Examples
    --------
    >>> is_quantized_by(FAMILIES[0], "model.layers.3.self_attn.o_proj.weight")
    True
    >>> is_quantized_by(FAMILIES[0], "model.layers.3.mlp.gate.weight")
    False
    """
    if not is_of_text(name):  # releases leave other parts plain
        return False
    module = "." + name.removesuffix(".weight")
    if name.endswith(".weight"):
        return module.endswith(tuple("." + part for part in family.modules))
    return module.endswith(tuple("." + part for part in family.fused))


def in_recipe(name: str) -> bool:
    """Tell if DeepSeek-V3's release stores a weight of this name as FP8."""
    return is_quantized_by(FAMILIES[0], name)
