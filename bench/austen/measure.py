"""Measure ``tiny-austen`` through dsv3_numerics: bits per byte by recipe, speculative decoding, expert load.

    python measure.py [results.json]

The model of random weights that stands beside has the same sizes.

Every figure is on the held-out text that comes with the package. Recipes are compared window by window: an
interval is the 95 % bootstrap interval of the mean difference over windows.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsv3_numerics import Recipe, Scheme
from dsv3_numerics.model import Model, OpRecord, demo_checkpoint, demo_text, random_weights, traffic

TEXT = 12288  # bytes of held-out text
TOKENS, FRESH = 512, 256  # of a window, and those at its end that count: behind at least 256 others
BATCH = 8
PROMPTS, WRITTEN = 10, 80  # of speculative decoding, and the bytes written behind each
SHORT = 4096  # bytes for the model of random weights, and for exact sums
Numbers = NDArray[Any]


def recipes() -> dict[str, Recipe]:
    """Recipes of the table, by name."""
    bf16, fp8 = Recipe.preset("bf16"), Recipe.preset("deepseek_v3")
    requantized = "e4m3:128x128:ue8m0:requantized"
    caches = "flashmla", "e4m3:1x64:ue8m0", "mxfp8", "logfmt10", "logfmt8", "mxfp4"
    combines = "logfmt10", "logfmt8", "e5m6:1x128:ue8m0", "e4m3:1x128:f32", "mxfp4"
    found = {
        "float32": Recipe.preset("float32"),
        "bf16": bf16,
        "deepseek_v3": fp8,
        "deepseek_v3, float32 sums": fp8.replace(accumulator="float32"),
        "UE8M0 scales": Recipe.preset("deepseek_v31").replace(weights=requantized),
        "MXFP8": bf16.replace(activations="mxfp8", weights="mxfp8"),
        "MXFP4": bf16.replace(activations="mxfp4", weights="mxfp4"),
        "NVFP4": bf16.replace(activations="nvfp4", weights="nvfp4"),
        "MXFP4, weights only": bf16.replace(weights="mxfp4"),
        "NVFP4, weights only": bf16.replace(weights="nvfp4"),
    }
    found |= {f"bf16, cache {cache}": bf16.replace(cache=cache) for cache in caches}
    return found | {f"bf16, combine {combine}": bf16.replace(combine=combine) for combine in combines}


def windows(ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Windows with one more id to predict, and how many ids at their end count; every byte counts once."""
    yield ids[: TOKENS + 1], TOKENS
    for start in range(FRESH, len(ids) - TOKENS, FRESH):
        yield ids[start : start + TOKENS + 1], FRESH


class Seen(NamedTuple):
    """Answers of a model to a text under a recipe."""

    bits: Numbers
    "per byte, for each window of `FRESH` bytes"
    log_probs: Numbers
    "(windows, `FRESH`, vocabulary), natural"


def look(model: Model, text: str, recipe: Recipe | None = None) -> Seen:
    """Run over a text by windows."""
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    bits: list[Numbers] = []
    kept: list[Numbers] = []
    parts = list(windows(ids))
    for at in range(0, len(parts), BATCH):
        rows = np.stack([part for part, _ in parts[at : at + BATCH]])
        logits = model.forward(rows[:, :-1], recipe=recipe).astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        logits -= top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
        right = -np.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0] / np.log(2)
        for row, own, (_, count) in zip(right, logits, parts[at : at + BATCH], strict=True):
            bits += list(row[-count:].reshape(-1, FRESH))
            kept += list(own[-count:].reshape(-1, FRESH, own.shape[-1]))
    return Seen(np.array([part.mean() for part in bits]), np.array(kept))


def divergence(exact: Seen, other: Seen) -> float:
    """Median over bytes of the KL divergence from float64's distribution, nats."""
    share = np.exp(exact.log_probs) * (exact.log_probs - other.log_probs)
    return float(np.median(share.sum(axis=-1)))


def interval(differences: Numbers, draws: int = 10_000) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(0, len(differences), (draws, len(differences)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def by_recipe(model: Model, text: str, random: Model) -> dict[str, dict[str, Any]]:
    """Bits per byte under each recipe, how far they are from float64's, and the divergence, of both models.

    `random` has the same sizes and weights that nobody trained.
    """
    short = text[:SHORT]
    exact, chance = look(model, text), look(random, short)
    found: dict[str, dict[str, Any]] = {
        "float64": {
            "bits": exact.bits.mean(),
            "percent": 0.0,
            "interval": (0.0, 0.0),
            "kl": 0.0,
            "random": 0.0,
        }
    }
    for name, recipe in recipes().items():
        own = look(model, text, recipe)
        more = 100 * (own.bits - exact.bits) / exact.bits.mean()
        loose = recipe.replace(weights=str(recipe.weights).replace(":requantized", ""))
        row = {"bits": own.bits.mean(), "percent": more.mean(), "interval": interval(more)}
        row |= {"kl": divergence(exact, own), "random": divergence(chance, look(random, short, loose))}
        found[name], (low, high) = row, row["interval"]
        figures = (
            f"{row['percent']:+.3f} %  [{low:+.3f}, {high:+.3f}]  KL {row['kl']:.2e}, {row['random']:.2e}"
        )
        print(f"{name:32} {row['bits']:.5f}  {figures}", flush=True)
    return found


def sums(model: Model, text: str) -> dict[str, Any]:
    """The cost of Hopper's sums in the recipe: bits per byte and divergence beside exact sums."""
    fp8 = Recipe.preset("deepseek_v3")
    exact, own = look(model, text, fp8.replace(accumulator="exact")), look(model, text, fp8)
    more = 100 * (own.bits - exact.bits) / exact.bits.mean()
    found = {"percent": more.mean(), "interval": interval(more), "kl": divergence(exact, own)}
    print("Hopper's sums beside exact ones:", found, flush=True)
    return found


def tiles(model: Model, text: str) -> dict[str, Any]:
    """Outputs of experts in tiles of 128: zeros, spans in powers of two, and errors of formats."""
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    parts: list[Numbers] = []

    def hook(record: OpRecord) -> None:
        if record.operation.kind == "combine":
            parts.append(np.asarray(record.inputs[0], np.float32))

    model.forward(ids[None, :TOKENS], recipe=Recipe.preset("bf16"), hook=hook)
    sent = np.concatenate(parts)
    groups = np.abs(sent.reshape(-1, 128))
    least = np.where(groups > 0, groups, np.inf).min(axis=-1)
    spans = np.log2(groups.max(axis=-1) / least)
    found: dict[str, Any] = {
        "tiles": len(groups),
        "zeros": float((groups == 0).mean()),
        "span": {str(q): float(np.quantile(spans, q / 100)) for q in (5, 50, 95, 100)},
        "beyond LogFMT's 32": float((spans > 32).mean()),
        "error": {},
    }
    for word in ("logfmt10", "logfmt8", "e5m6:1x128:ue8m0", "e4m3:1x128:f32", "e4m3:1x128:ue8m0", "mxfp4"):
        error = Scheme.parse(word).read_back(sent) - sent
        found["error"][word] = float(np.sqrt((error**2).sum() / (sent**2).sum()))
    print("sent back by experts:", found, flush=True)
    return found


def speculation(model: Model, text: str, recipe: Recipe | None) -> dict[str, Any]:
    """How many of MTP's drafts the model would have written itself, over several prompts of the text."""
    drafted, accepted, costs = [], [], []
    for start in range(0, len(text) - 256, len(text) // PROMPTS):
        prompt = list(text[start : start + 128].encode())
        done = model.generate(prompt, max_new_tokens=WRITTEN, speculative=True, recipe=recipe, absorbed=True)
        log = done.speculation
        assert log is not None
        drafted.append(log.drafted)
        accepted.append(log.accepted)
        costs.append(log.cost)
    rates = np.array(accepted) / np.array(drafted)
    p, c = sum(accepted) / sum(drafted), float(np.median(costs))
    low, high = interval(rates)
    print(
        f"MTP: {p:.3f} [{low:.3f}, {high:.3f}] of {sum(drafted)} drafts; "
        f"(1 + p) / (1 + c) {(1 + p) / (1 + c):.2f}"
    )
    return {"accepted": p, "interval": (low, high), "drafted": sum(drafted), "cost": c}


def expert_load(model: Model, text: str) -> dict[str, Any]:
    """Share of the tokens that each expert gets, beside an even one, with the bias and without it."""
    ids = np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    rows = ids[: len(ids) // TOKENS * TOKENS].reshape(-1, TOKENS)
    config = model.config
    layers = range(config.first_k_dense_replace, config.num_hidden_layers)
    found: dict[str, Any] = {}
    for name, chosen in (("with bias", model), ("without bias", without_bias(model))):
        seen = chosen.trace(rows, [f"layer{i}.topk_idx" for i in layers])
        loads = np.stack(
            [np.bincount(x.reshape(-1), minlength=config.n_routed_experts) for x in seen.values()]
        )
        share = loads / loads.mean(axis=-1, keepdims=True)
        sums = [traffic(x, config) for x in seen.values()]
        copies = sum(t.dispatched for t in sums) / sum(t.sent_to_experts for t in sums)
        found[name] = {"least": share.min(), "most": share.max(), "copies": copies}
        found[name]["load"] = share.round(4).tolist()
        print(
            f"load {name}: {share.min():.3f} to {share.max():.3f} of an even share; {copies:.3f} copies sent"
        )
    return found


def without_bias(model: Model) -> Model:
    """The same model with all balancing biases zero."""
    from dsv3_numerics import checkpoint
    from dsv3_numerics.model import CheckpointWeights

    held = CheckpointWeights(checkpoint.open(demo_checkpoint()))
    weights = {name: held[name] for name in model.weights}
    for name in weights:
        if name.endswith("e_score_correction_bias"):
            weights[name] = np.zeros(model.config.n_routed_experts, np.float32)
    return Model(model.config, weights, dtype=model.dtype)


def main() -> None:
    """Measure everything, print it, and write it where a file is named."""
    model = Model.from_checkpoint(demo_checkpoint(), dtype=np.float64)
    text = demo_text().encode()[:TEXT].decode()
    digest = hashlib.sha256((demo_checkpoint() / "model.safetensors").read_bytes()).hexdigest()
    random = Model(model.config, random_weights(model.config, seed=0), dtype=np.float64)
    found = {
        "sha256": digest,
        "bytes": len(text.encode()),
        "bits per byte": by_recipe(model, text, random),
        "hopper": sums(model, text[:SHORT]),
        "tiles": tiles(model, text),
        "tiles, random weights": tiles(random, text),
        "speculation": speculation(model, text, None),
        "speculation, deepseek_v3": speculation(model, text, Recipe.preset("deepseek_v3")),
        "expert load": expert_load(model, text),
    }
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
