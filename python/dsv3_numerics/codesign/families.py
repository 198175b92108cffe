"""Any published ``config.json`` as a `Shape`: a table of families, and what each names its sizes.

A family that is not in the table, or a layer that this arithmetic does not know (linear attention, state
spaces), is refused by name: a wrong count is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .attention import Compressed, Gqa, Mla
from .fields import Fields
from .layers import read_compressed, read_gqa, read_mla, read_mlp
from .shape import Layer

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


@dataclass(frozen=True)
class Family:
    """A family of models: its attention, which layers are MoE, and which small tensors it has."""

    attention: Callable[[Fields, int, int, Family], Gqa | Mla | Compressed] = read_gqa
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
    "deepseek_v2": Family(read_mla, "deepseek"),
    "deepseek_v3": Family(read_mla, "deepseek", correction=True),
    "kimi_k2": Family(read_mla, "deepseek", correction=True),
    "deepseek_v32": Family(read_mla, "deepseek", correction=True, indexed=True),
    "glm_moe_dsa": Family(read_mla, "deepseek", correction=True, indexed=True),
    "deepseek_v4": Family(read_compressed, "every", correction=True, ratios=(0, 4, 128)),
    "deepseek_v41": Family(read_compressed, "every", correction=True, ratios=(0, 1, 2)),
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
    return Layer(row.attention(f, i, layers, row), read_mlp(f, i, layers, row), mixing)
