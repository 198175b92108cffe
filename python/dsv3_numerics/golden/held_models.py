"""Models of golden vectors: random ones of a few sizes, the demo model, and any checkpoint.

Lives here: `held_model`, the weights of random models, and the files in which a random one is handed over.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from .._arrays import Array
from ..checkpoint.declared import fp8_section
from ..model.config import Config
from ..model.fitting import is_quantized
from ..model.model import Model
from ..model.projections import products_of
from ..model.random import deviation
from ..model.recipe import Recipe
from ..model.weights import Weights, expected_shapes
from ..quantized import Quantized
from .inputs import bell
from .sources import DEMO, folder_of, model_of

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_TINY = Config.preset("tiny")
_LARGEST = 64 << 20  # numbers in weights that are written beside the answers


_HEADS = Config.preset("deepseek_v3").replace(
    vocab_size=256,
    hidden_size=256,
    intermediate_size=256,
    moe_intermediate_size=128,
    num_hidden_layers=2,
    first_k_dense_replace=1,
    num_attention_heads=2,
    q_lora_rank=128,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_group=4,
    topk_group=2,
    num_nextn_predict_layers=0,
)

CONFIGS: dict[str, Config] = {
    "tiny": _TINY,
    "tiny_dsa": _TINY.replace(
        model_type="deepseek_v32",
        num_nextn_predict_layers=0,
        index_n_heads=4,
        index_head_dim=16,
        index_topk=6,
    ),
    "heads": _HEADS,
    "heads_dsa": _HEADS.replace(model_type="deepseek_v32", index_n_heads=4, index_head_dim=128, index_topk=8),
}
"""Random models: all parts in few numbers, and two heads of DeepSeek-V3's own sizes; each also sparse."""


class RandomWeights(Mapping[str, Array]):
    """Weights of a config that keep the size of activations, each drawn when it is first asked for.

    Matrices and norms are bfloat16, biases float32, as in the release. A tensor depends on its name and the
    seed alone.

    Parameters
    ----------
    config : Config
    seed : int

    Examples
    --------
    >>> RandomWeights(CONFIGS["tiny"], 0)["model.norm.weight"].shape
    (128,)
    """

    def __init__(self, config: Config, seed: int) -> None:
        self._shapes, self._seed = expected_shapes(config), seed
        self._drawn: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._drawn:
            shape = self._shapes[name]
            values = bell(name, shape, self._seed)
            if name.endswith("norm.weight"):
                values = np.float32(1) + np.float32(0.125) * values
            else:
                values = np.float32(deviation(name, shape)) * values
            self._drawn[name] = values if name.endswith("bias") else values.astype(_BFLOAT16)
        return self._drawn[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@lru_cache(maxsize=2)
def held_model(name: str, seed: int) -> Model:
    """Return a random model by name or of a config's JSON, the demo model, or that of a checkpoint's folder.

    Raises
    ------
    OSError, ValueError
        There is none such, or it cannot be read.
    """
    if is_random(name):
        config = CONFIGS[name] if name in CONFIGS else Config.from_json(json.loads(name))
        return Model(config, RandomWeights(config, seed))
    try:
        return model_of(name)
    except FileNotFoundError:
        known = ", ".join((*CONFIGS, DEMO))
        raise FileNotFoundError(
            f"model: found {name!r}, expected {known}, a folder, or a config.json"
        ) from None


def is_random(name: str) -> bool:
    """Tell whether a model is drawn here, so that others do not have it."""
    return name in CONFIGS or name.startswith("{")


def writes_weights(name: str, weights: Weights) -> bool:
    """Tell whether weights are written beside the answers: those that others lack, and small ones."""
    if is_random(name):
        return True
    count: int = sum(math.prod(weights.given(key).shape) for key in weights)
    return count <= _LARGEST


def model_files(model: Model, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the ``config.json`` and the tensors of a random model as a checkpoint that engines load.

    FP8 with ``weight_scale_inv``, as released, where the recipe has its weights so; otherwise bfloat16.
    """
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        **model.config.to_dict(),
        "num_key_value_heads": model.config.num_attention_heads,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    del config["latent_norm_eps"]  # a constant of all modelling code
    if model.config.is_sparse:
        config["architectures"] = ["DeepseekV32ForCausalLM"]
    released = str(recipe.weights).split(":")[:2] == ["e4m3", "128x128"]
    tensors: dict[str, Array] = {}
    for key in model.weights:
        if not (released and is_quantized(key)):
            tensors[key] = model.weights.given(key)
            continue
        held = model.weights.operand(key, products_of(recipe).use)
        assert isinstance(held, Quantized)
        tensors[key] = held.codes
        tensors[f"{key}_scale_inv"] = held.weight_scale_inv()
    if released:
        config["quantization_config"] = fp8_section(128)
        if getattr(recipe.weights, "scale", "") == "ue8m0":
            config["quantization_config"]["scale_fmt"] = "ue8m0"
    return config, tensors


def to_config(content: dict[str, Any]) -> bytes:
    """Write a ``config.json``."""
    return (json.dumps(content, indent=2) + "\n").encode()


def fingerprint(name: str) -> dict[str, Any]:
    """Say which files a checkpoint's answers are of, by their headers and sizes.

    Examples
    --------
    >>> sorted(fingerprint("demo"))
    ['config.json', 'model.safetensors']
    """
    found: dict[str, Any] = {}
    folder = folder_of(name)
    for path in sorted(folder.iterdir()):
        if path.name == "config.json" or path.suffix == ".safetensors":
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else None
                file.seek(0)
                head = file.read(None if length is None else 8 + length)
            found[path.name] = {
                "bytes": path.stat().st_size,
                "header_sha256" if length is not None else "sha256": hashlib.sha256(head).hexdigest(),
            }
    return found
