"""Bits per byte of the held-out novel: of the float32 master weights, and of the FP8 checkpoint's weights.

    python evaluate.py novels.json run/state.pickle plan.json CHECKPOINT [BYTES]

Both through the JAX forward in float32. Every byte counts once, and all but the first 512 stand behind at
least 256 others: windows of 512, of which the later half counts. With BYTES, only the novel's first.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from model import Sizes, Weights, forward
from text import split
from train import Plan

from dsv3_numerics import Quantized, checkpoint
from dsv3_numerics.model import CheckpointWeights

TOKENS, FRESH, BATCH = 512, 256, 16


def evaluate(w: Weights, biases: jax.Array, text: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Bits of each byte but the first."""

    @jax.jit
    def bits(ids: jax.Array) -> jax.Array:
        seen = forward(w, biases, ids, sizes, mtp=0)
        right = jnp.take_along_axis(seen.logits, ids[:, 1:, None], axis=-1)[..., 0]
        return (jax.nn.logsumexp(seen.logits, axis=-1) - right) / np.log(2)

    begins = np.arange(0, len(text) - TOKENS, FRESH)
    found: list[np.ndarray] = []
    for at in range(0, len(begins), BATCH):
        some = np.resize(begins[at : at + BATCH], BATCH)  # the last batch is filled up, and cut again
        seen = np.asarray(bits(text[some[:, None] + np.arange(TOKENS + 1)]))[: len(begins) - at]
        for i, row in enumerate(seen):
            found.append(row if at + i == 0 else row[-FRESH:])
    return np.concatenate(found)


def read(folder: Path, plan: Plan) -> tuple[Weights, jax.Array]:
    """The weights that a checkpoint means, under the names of `model`."""
    held = CheckpointWeights(checkpoint.open(folder))
    found: dict[str, list[np.ndarray]] = {}
    biases = {}
    for name in held:
        value = held[name]
        array = np.asarray(value.dequantize() if isinstance(value, Quantized) else value, np.float32)
        if name.endswith("bias"):
            biases[name] = array
        else:
            found.setdefault(re.sub(r"experts\.\d+\.", "experts.", name), []).append(array)
    first, layers = plan.sizes.first_k_dense_replace, plan.sizes.num_hidden_layers + 1
    rows = [biases[f"model.layers.{i}.mlp.gate.e_score_correction_bias"] for i in range(first, layers)]
    stacked = {
        name: jnp.asarray(np.stack(parts) if ".mlp.experts." in name else parts[0])
        for name, parts in found.items()
    }
    return stacked, jnp.asarray(np.stack(rows))


def main(novels: Path, state: Path, plan_path: Path, folder: Path, length: int | None = None) -> None:
    """Print both figures, and their interval over stretches of 4,096 bytes."""
    plan = Plan.read(plan_path)
    text = np.frombuffer(split(json.loads(novels.read_text()))[1], np.uint8)[:length]
    _, _, _, w, biases, _ = pickle.loads(state.read_bytes())
    for name, (weights, bias) in {
        "FP8 weights": read(folder, plan),
        "float32 master weights": (jax.tree.map(jnp.asarray, w), jnp.asarray(biases)),
    }.items():
        bits = evaluate(weights, bias, text, plan.sizes)
        parts = bits[: len(bits) // 4096 * 4096].reshape(-1, 4096).mean(axis=1)
        error = 1.96 * parts.std(ddof=1) / len(parts) ** 0.5
        print(f"{name}: {bits.mean():.4f} ± {error:.4f} bits a byte, {len(bits)} bytes", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]), *map(int, sys.argv[5:]))
