"""The settings of a model: the published ``config.json``, every field of it used or refused.

Lives here: `Config` and its presets. A field is used, or can only be taken one way, or cannot change a
forward: the lists are in `families`, the reading in `config_fields` and `rope_config`. Anything else is
refused by name, since an unknown field may mean another forward. Not here: weights (see `weights`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from .._arrays import brief
from .._regular import parse_object, read_small
from .config_fields import INDEXER, OPTIONAL_COUNTS, read_fields
from .families import FAMILIES, GATES, LATENT_NORM_EPS, REFUSED
from .rope_config import Yarn, is_number

_LARGEST = 16 << 20  # bytes of a config.json; published ones have a few thousand
_MOST_TENSORS = 1 << 20  # of a model; the largest releases have 10^5


@dataclass(frozen=True)
class Config:
    """The sizes and settings of a model of DeepSeek-V3's family, under the names of its ``config.json``.

    Attributes
    ----------
    latent_norm_eps : float
        Epsilon of ``q_a_layernorm`` and ``kv_a_layernorm``, which no file has: 1e-6 in the modelling code of
        all families, whatever ``rms_norm_eps`` says. vLLM and SGLang take ``rms_norm_eps``: to follow them,
        ``config.replace(latent_norm_eps=config.rms_norm_eps)``.
    rope_interleave : bool
        Whether the rotary channels of a pair stand side by side in the weights, or in two halves.
    eos_token_id : int, tuple of int, or None
        Each of them ends a generation.
    index_n_heads, index_head_dim, index_topk : int or None
        The lightning indexer of DeepSeek Sparse Attention; None: every key is attended to.
    indexer_types : tuple of str, or None
        For each layer, ``full`` (an indexer of its own) or ``shared`` (the last one's selection); None: all
        full.

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
    eos_token_id: int | tuple[int, ...] | None = None
    model_type: str = "deepseek_v3"
    scoring_func: str = "sigmoid"
    topk_method: str = "noaux_tc"
    rope_interleave: bool = True
    latent_norm_eps: float = LATENT_NORM_EPS
    index_n_heads: int | None = None
    index_head_dim: int | None = None
    index_topk: int | None = None
    indexer_rope_interleave: bool = False
    indexer_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: found {brief(value)}, expected an integer of at least 1")
        for name in ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name}: found {brief(value)}, expected an integer of at least 0")
        for name in OPTIONAL_COUNTS:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}: found {brief(value)}, expected a positive integer or null")
        for name in ("norm_topk_prob", "rope_interleave", "indexer_rope_interleave"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: found {brief(getattr(self, name))}, expected true or false")
        if self.model_type not in FAMILIES:
            raise ValueError(
                f"model_type: found {brief(self.model_type)}, expected one of {', '.join(FAMILIES)}"
            )
        if (self.scoring_func, self.topk_method) not in GATES:
            raise ValueError(
                f"scoring_func: found {brief(self.scoring_func)} with topk_method "
                f"{brief(self.topk_method)}, expected "
                + " or ".join(f"{scoring!r} with {method!r}" for scoring, method in GATES)
            )
        self._check_extent()
        self._check_indexer()
        self._check_eos()
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
        for name in ("rms_norm_eps", "rope_theta", "routed_scaling_factor", "latent_norm_eps"):
            value = getattr(self, name)
            if not (is_number(value) and value > 0):
                raise ValueError(f"{name}: found {brief(value)}, expected a positive number")

    def _check_extent(self) -> None:
        """Refuse numbers of layers and experts over which no program should loop."""
        layers, experts = self.num_hidden_layers + self.num_nextn_predict_layers, self.n_routed_experts
        dense = min(self.first_k_dense_replace, self.num_hidden_layers)
        tensors = layers + 3 * experts * (layers - dense)  # at least so many: a norm, and three an expert
        if tensors > _MOST_TENSORS or experts > _MOST_TENSORS:
            raise ValueError(
                f"num_hidden_layers, num_nextn_predict_layers, n_routed_experts: found "
                f"{self.num_hidden_layers}, {self.num_nextn_predict_layers} and {experts}, expected a model "
                f"of at most {_MOST_TENSORS} tensors"
            )

    def _check_eos(self) -> None:
        ends = self.eos_token_id
        for end in ends if isinstance(ends, tuple) else () if ends is None else (ends,):
            if type(end) is not int or end < 0:
                raise ValueError(
                    f"eos_token_id: found {brief(ends)}, expected a token's number, several, or null"
                )

    def _check_indexer(self) -> None:
        sizes = {name: getattr(self, name) for name in INDEXER}
        if not FAMILIES[self.model_type].sparse:
            given = [name for name, value in sizes.items() if value is not None]
            if self.indexer_rope_interleave:
                given.append("indexer_rope_interleave")
            if given or self.indexer_types is not None:
                names = ", ".join(given) or "indexer_types"
                raise ValueError(f"{names}: found with model_type {self.model_type!r}, which has no indexer")
            return
        missing = [name for name, value in sizes.items() if value is None]
        if missing or self.q_lora_rank is None:
            names = ", ".join(missing) or "q_lora_rank"
            raise ValueError(
                f"{names}: missing, expected with model_type {self.model_type!r} for its indexers"
            )
        if self.qk_rope_head_dim > self.index_head_dim:  # type: ignore[operator]  # not None: checked above
            raise ValueError(
                f"index_head_dim: found {self.index_head_dim}, expected at least qk_rope_head_dim "
                f"({self.qk_rope_head_dim}), its rotary channels"
            )
        types = self.indexer_types
        if types is None:
            return
        wrong = sorted({repr(kind) for kind in types} - {"'full'", "'shared'"})
        if wrong or len(types) != self.num_hidden_layers:
            found = ", ".join(wrong) or f"{len(types)} entries"
            raise ValueError(
                f"indexer_types: found {found}, expected 'full' or 'shared' for each of "
                f"{self.num_hidden_layers} layers"
            )
        if types[0] != "full":
            raise ValueError(
                "indexer_types: found 'shared' first, expected 'full': there is no selection to share yet"
            )

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
        kind = found.get("model_type", "deepseek_v3")
        if not isinstance(kind, str) or kind not in FAMILIES:
            reason = REFUSED.get(kind) if isinstance(kind, str) else None
            raise ValueError(
                f"config: model_type: found {brief(kind)}"
                + (f" ({reason})" if reason else "")
                + f", expected one of {', '.join(FAMILIES)}"
            )
        values, problems = read_fields(found, FAMILIES[kind], _FIELDS, _REQUIRED)
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
            raise ValueError(f"preset: found {brief(name)}, expected one of {', '.join(PRESETS)}")
        return cls(**PRESETS[name])

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as ``config.json`` has them; `from_json` reads it back."""
        found = asdict(self)
        if self.rope_scaling is not None:
            found["rope_scaling"] = {"type": "yarn", **asdict(self.rope_scaling)}
        for name in ("eos_token_id", "indexer_types"):
            if isinstance(found[name], tuple):
                found[name] = list(found[name])
        if not self.is_sparse:
            absent = {*INDEXER, "indexer_types", "indexer_rope_interleave"}
        else:
            absent = {"indexer_types"} if self.indexer_types is None else set()
        return {name: value for name, value in found.items() if name not in absent}

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
        warm = 1.0 if yarn is None else yarn.magnitude(yarn.mscale_all_dim)
        return float((self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * warm**2)

    @property
    def is_sparse(self) -> bool:
        """Tell whether layers select their keys by a lightning indexer."""
        return self.index_topk is not None

    @property
    def has_gate_bias(self) -> bool:
        """Tell whether gates choose by biased scores (``e_score_correction_bias``)."""
        return self.topk_method == "noaux_tc"

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a generation."""
        ends = self.eos_token_id
        return ends if isinstance(ends, tuple) else () if ends is None else (ends,)

    def has_indexer(self, layer: int) -> bool:
        """Tell whether a layer has an indexer of its own; those of multi-token prediction have."""
        if not self.is_sparse:
            return False
        types = self.indexer_types
        return types is None or layer >= len(types) or types[layer] == "full"

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


def _read(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    return parse_object(read_small(file, _LARGEST), str(file))
