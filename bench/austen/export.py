"""Write a trained state as a checkpoint in the release's format: FP8 weights, BF16 rest, ``config.json``.

    python export.py run/state.pickle plan.json OUT_FOLDER [--bf16]

Needs dsv3_numerics, which quantizes and writes: 128 x 128 blocks, float32 scales. The FP8 codes come from the
float32 master weights.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from train import Plan

from dsv3_numerics import quantize_blocks
from dsv3_numerics.checkpoint import save
from dsv3_numerics.checkpoint.declared import fp8_section

CONTEXT = 512  # positions that config.json promises
BLOCK = 128
FP8 = (  # the weights that a release quantizes, in attention and in every SwiGLU
    *("q_a_proj.weight", "q_b_proj.weight", "kv_a_proj_with_mqa.weight", "kv_b_proj.weight", "o_proj.weight"),
    *("gate_proj.weight", "up_proj.weight", "down_proj.weight"),
)


def released(w: dict[str, np.ndarray], biases: np.ndarray, plan: Plan) -> dict[str, np.ndarray]:
    """The weights under the release's names: experts one by one, biases, and the copies that MTP has."""
    sizes = plan.sizes
    found: dict[str, np.ndarray] = {}
    for name, value in w.items():
        if ".mlp.experts." in name:
            for i, matrix in enumerate(value):
                found[name.replace(".experts.", f".experts.{i}.")] = matrix
        else:
            found[name] = value
    for i, bias in enumerate(biases):
        layer = sizes.first_k_dense_replace + i
        found[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] = bias
    own = f"model.layers.{sizes.num_hidden_layers}."
    found[f"{own}embed_tokens.weight"] = w["model.embed_tokens.weight"]
    found[f"{own}shared_head.head.weight"] = w["lm_head.weight"]
    return found


def stored(weights: dict[str, np.ndarray], *, fp8: bool) -> dict[str, np.ndarray]:
    """Each tensor as a release's file holds it."""
    found: dict[str, np.ndarray] = {}
    for name, value in sorted(weights.items()):
        if fp8 and name.endswith(FP8):
            coded = quantize_blocks(value, block=(BLOCK, BLOCK))
            found[name], found[f"{name}_scale_inv"] = coded.codes, coded.weight_scale_inv()
        elif name.endswith("bias"):
            found[name] = value.astype(np.float32)
        else:
            found[name] = value.astype(ml_dtypes.bfloat16)
    return found


def config(plan: Plan, *, fp8: bool) -> dict[str, object]:
    """The content of ``config.json``."""
    found: dict[str, object] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **plan.sizes._asdict(),
        "num_key_value_heads": plan.sizes.num_attention_heads,
        "num_nextn_predict_layers": 1,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "norm_topk_prob": True,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
    }
    if fp8:
        found["quantization_config"] = fp8_section(BLOCK)
    return found


def main(state: Path, plan_path: Path, out: Path, *, fp8: bool = True) -> None:
    """Write the folder's weights and config."""
    plan = Plan.read(plan_path)
    _, _, _, w, biases, _ = pickle.loads(state.read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    tensors = stored(released(w, biases, plan), fp8=fp8)
    save(out / "model.safetensors", tensors, metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config(plan, fp8=fp8), indent=2) + "\n")
    print((out / "model.safetensors").stat().st_size, "bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), fp8="--bf16" not in sys.argv)
