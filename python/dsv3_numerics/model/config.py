"""The settings of a model: the published ``config.json``, every field of it used or refused.

Lives here: `Config`, its presets, and the three lists of fields: those that the forward uses, those that it
can only take one way, and those that cannot change it. Anything else is refused by name, since an unknown
field may mean another forward. Not here: weights (see `weights`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

_LARGEST = 16 << 20  # bytes of a config.json; published ones have a few thousand


@dataclass(frozen=True)
class Yarn:
    """``rope_scaling`` of type ``yarn``: how positions beyond the original context are reached.

    Source: YaRN (arXiv 2309.00071), as DeepSeek-V3's config sets it (technical report, section 4.3).
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class Config:
    """The sizes and settings of a DeepSeek-V3 model, under the names of its ``config.json``.

    Raises
    ------
    ValueError
        Numbers that contradict each other, or are not positive.

    Examples
    --------
    >>> from dsv3_numerics.model import Config
    >>> config = Config.preset("deepseek_v3")
    >>> config.kv_lora_rank + config.qk_rope_head_dim      # what is cached for a token, in each layer
    576
    >>> round(config.softmax_scale, 10)
    0.1352337789
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    n_shared_experts: int = 1
    first_k_dense_replace: int = 0
    q_lora_rank: int | None = None
    num_nextn_predict_layers: int = 0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Yarn | None = None
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True
    max_position_embeddings: int = 163840
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: found {value!r}, expected an integer of at least 1")
        for name in ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name}: found {value!r}, expected an integer of at least 0")
        if self.q_lora_rank is not None and (type(self.q_lora_rank) is not int or self.q_lora_rank < 1):
            raise ValueError(f"q_lora_rank: found {self.q_lora_rank!r}, expected a positive integer or null")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim: found {self.qk_rope_head_dim}, expected an even number")
        if self.n_routed_experts % self.n_group:
            raise ValueError(
                f"n_group: found {self.n_group}, expected a divisor of n_routed_experts "
                f"({self.n_routed_experts})"
            )
        if self.topk_group > self.n_group:
            raise ValueError(
                f"topk_group: found {self.topk_group}, expected at most n_group ({self.n_group})"
            )
        reachable = self.topk_group * (self.n_routed_experts // self.n_group)
        if self.num_experts_per_tok > reachable:
            raise ValueError(
                f"num_experts_per_tok: found {self.num_experts_per_tok}, expected at most {reachable}, the "
                f"experts of topk_group ({self.topk_group}) groups"
            )
        for name in ("rms_norm_eps", "rope_theta", "routed_scaling_factor"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: found {value!r}, expected a positive number")

    @classmethod
    def from_json(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """Read a published ``config.json``: a file, the folder that holds it, or its content.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            Not such a file; a field is missing, unknown, or set in a way that this forward does not have. All
            of them are listed at once.
        """
        found = dict(source) if isinstance(source, Mapping) else _read(Path(source))
        problems = [f"{name}: missing" for name in _REQUIRED if name not in found]
        for name, value in found.items():
            if name in _ONE_WAY:
                possible = _ONE_WAY[name]
                if value not in possible:
                    problems.append(f"{name}: found {value!r}, expected {' or '.join(map(repr, possible))}")
            elif name not in _FIELDS and name not in _NO_MATTER:
                problems.append(f"{name}: found {value!r}; this field is not known, so its meaning is not")
        heads, keys = found.get("num_attention_heads"), found.get("num_key_value_heads")
        if keys is not None and keys != heads:
            problems.append(f"num_key_value_heads: found {keys}, expected {heads}, as num_attention_heads")
        values = {name: found[name] for name in _FIELDS if name in found}
        try:
            values["rope_scaling"] = _yarn(values.get("rope_scaling"))
        except ValueError as error:
            problems.append(str(error))
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = values["eos_token_id"][0] if values["eos_token_id"] else None
        if problems:
            raise ValueError("config: " + "; ".join(problems))
        return cls(**values)

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return a model by name: ``deepseek_v3`` (671 billion parameters) or ``tiny`` (to try things out).

        Raises
        ------
        ValueError
            No such preset; the message lists them.
        """
        if name not in PRESETS:
            raise ValueError(f"preset: found {name!r}, expected one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as ``config.json`` has them; `from_json` reads it back."""
        found = asdict(self)
        if self.rope_scaling is not None:
            found["rope_scaling"] = {"type": "yarn", **asdict(self.rope_scaling)}
        return found

    def replace(self, **changes: Any) -> Self:
        """Return the same settings but for some."""
        return replace(self, **changes)

    @property
    def cache_width(self) -> int:
        """Numbers that are cached for a token in each layer: the latent and the shared rotary key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def softmax_scale(self) -> float:
        """Return the factor of attention logits."""
        yarn = self.rope_scaling
        warm = 1.0
        if yarn is not None and yarn.factor > 1:
            warm = 0.1 * yarn.mscale_all_dim * math.log(yarn.factor) + 1.0
        return float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * warm**2)

    def is_moe(self, layer: int) -> bool:
        """Tell whether a layer has experts; those of multi-token prediction, beyond the last, always have."""
        return layer >= self.first_k_dense_replace or layer >= self.num_hidden_layers


_FIELDS = {f.name for f in fields(Config)}
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "max_position_embeddings",
)
_REQUIRED = (*_COUNTS[:-1], "n_shared_experts", "routed_scaling_factor", "norm_topk_prob")

# Fields that this forward can take one way only.
_ONE_WAY: dict[str, tuple[Any, ...]] = {
    "model_type": ("deepseek_v3",),
    "attention_bias": (False,),
    "attention_dropout": (0, 0.0),
    "hidden_act": ("silu",),
    "moe_layer_freq": (1,),
    "scoring_func": ("sigmoid",),
    "tie_word_embeddings": (False,),
    "topk_method": ("noaux_tc",),
    "rope_interleave": (True,),
}

# Fields that cannot change a forward: names, training, how other programs load and run the model.
_NO_MATTER = {
    "architectures",
    "auto_map",
    "aux_loss_alpha",
    "bos_token_id",
    "dtype",
    "ep_size",
    "head_dim",
    "initializer_range",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "qk_head_dim",
    "quantization_config",
    "rope_parameters",
    "seq_aux",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "_name_or_path",
}

PRESETS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1,
        "routed_scaling_factor": 2.5,
        "rope_scaling": Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
        "eos_token_id": 1,
    },
    "tiny": {
        "vocab_size": 192,
        "hidden_size": 128,
        "intermediate_size": 208,
        "moe_intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "kv_lora_rank": 56,
        "q_lora_rank": 80,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 8,
        "v_head_dim": 28,
        "n_routed_experts": 24,
        "num_experts_per_tok": 5,
        "n_group": 6,
        "topk_group": 3,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
        "routed_scaling_factor": 2.5,
        "rope_scaling": Yarn(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
        "eos_token_id": 1,
    },
}
"""The released model, and one that runs in milliseconds."""


def _yarn(found: Any) -> Yarn | None:
    if found is None or isinstance(found, Yarn):
        return found
    if not isinstance(found, Mapping):
        raise ValueError(f"rope_scaling: found {found!r}, expected an object or null")
    kind = found.get("type", found.get("rope_type"))
    if kind != "yarn":
        raise ValueError(f"rope_scaling: found type {kind!r}, expected 'yarn' (or null)")
    known = {f.name for f in fields(Yarn)}
    odd = [name for name in found if name not in known and name not in ("type", "rope_type", "rope_theta")]
    missing = [name for name in ("factor", "original_max_position_embeddings") if name not in found]
    if odd or missing:
        raise ValueError(f"rope_scaling: found {sorted(found)}, expected type and {sorted(known)}")
    values = {name: found[name] for name in known if name in found}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"rope_scaling.{name}: found {value!r}, expected a number")
    return Yarn(**values)


def _read(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, expected at most {_LARGEST}")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: found {type(found).__name__}, expected an object")
    return found
