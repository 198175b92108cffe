"""Layers at DeepSeek-V3's own sizes under the FP8 recipe: products on codes, as the release runs them.

The recipe `deepseek_v3` with three accumulators: hopper_fp8, which is what the hardware does bit for bit,
float32, whose order of additions is the same on every CPU, and vdpbf16ps, the order of the CPUs' bfloat16
instruction. The same layers in float32 with float32 weights stand beside them, and torch's in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_gemm import Read
from bench_model import (
    FULL,
    QUICK,
    Attention,
    Experts,
    Sizes,
    TorchExperts,
    beside,
    fp8,
    numbers,
    seconds,
    torch,
    torch_calls,
    torch_timed,
)
from dsv3_numerics.model import MLA, Cache, MoE, Recipe
from dsv3_numerics.reference import model as textbook
from harness import Call, Row, Timed, set_state
from suite import THREADS, product_levels

Array = NDArray[Any]

LEGEND = """\
One layer of DeepSeek-V3 with FP8 weights under the recipe `deepseek_v3` (activations quantized in 1x128
tiles, products on codes, bfloat16 in between), accumulated as named. The column Gelem/s holds 10^9 parameters
used in a second. `s` are seconds of a call; `x float32` is the time of the same layer in float32 with float32
weights over ours; `x torch bf16` torch's time with bfloat16 weights and activations; `x read` the time in
which as many threads read the FP8 weights that are touched over ours.
Each is the median over alternating pairs; `(-n)`: n pairs were dropped as disturbed."""

RECIPE = Recipe.preset("deepseek_v3")
RECIPES = {
    "hopper_fp8": RECIPE,
    "float32": RECIPE.replace(accumulator="float32"),
    "vdpbf16ps": RECIPE.replace(accumulator="vdpbf16ps"),
}
"""By accumulator; bars are for float32, the order that every CPU has, and for vdpbf16ps beside torch."""
RUNS = {"hopper_fp8": THREADS[-1:], "float32": THREADS, "vdpbf16ps": THREADS}
"""Threads that each is measured with; emulating a tensor core's sums with one takes minutes."""


def calls(attention: Attention, weights: Mapping[str, Any], recipe: Recipe | None) -> dict[str, Call]:
    """Name the timed calls. None advances its cache."""
    layer = MLA(attention.config, weights)
    kept = "float32" if recipe is None else recipe.cache
    empty = Cache(attention.config, 1, attention.prompt.shape[1], layers=1, dtype=kept)
    full = Cache(attention.config, 1, attention.full.capacity, layers=1, dtype=kept)
    full.data[:] = attention.full.data.astype(full.data.dtype)
    full.lengths[:] = attention.full.lengths
    return {
        "prefill": lambda: layer(attention.prompt, empty, absorbed=False, recipe=recipe),
        "decode": lambda: layer(attention.token, full, absorbed=True, recipe=recipe),
        "decode naive": lambda: layer(attention.token, full, absorbed=False, recipe=recipe),
    }


def rows(sizes: Sizes = FULL) -> Iterator[Row]:
    """Everything, one thread and two."""
    yield from attention_rows(sizes)
    yield from expert_rows(sizes)


def attention_rows(sizes: Sizes) -> Iterator[Row]:
    """Attention: a prompt, and a token after a thousand, in both forms."""
    attention = Attention(sizes)
    plain, used = calls(attention, attention.weights, None), attention.parameters
    weights = fp8(attention.weights)
    peers = {} if torch is None else torch_calls(attention, torch.bfloat16)
    for accumulator, recipe in RECIPES.items():
        for name, call in calls(attention, weights, recipe).items():
            size = f"{sizes.prompt} tokens" if name == "prefill" else f"1 at {sizes.cached}"
            title = f"MLA {name}, {accumulator}"
            bar = 2.0 if (accumulator, name) == ("float32", "decode") else None
            for threads in RUNS[accumulator]:
                yield seconds(title, size, threads, call, used)
                other = Timed(plain[name], at(threads))
                yield beside(title, size, threads, call, other, "x float32", used, bar)
                if name in peers and accumulator != "hopper_fp8":
                    other = torch_timed(peers[name], threads)
                    faster = torch_bar(accumulator, name == "prefill")
                    yield beside(title, size, threads, call, other, "x torch bf16", used, faster)


def torch_bar(accumulator: str, many: bool) -> float | None:
    """Many tokens in the order of the instruction that torch has too, where this CPU has it."""
    has = product_levels()[-1] in ("avx512_bf16", "amx")
    return 1.0 if accumulator == "vdpbf16ps" and many and has else None


def expert_rows(sizes: Sizes) -> Iterator[Row]:
    """Sixteen experts: many tokens, and one."""
    experts = Experts(sizes)
    plain, small = experts.layer(experts.weights), experts.layer(fp8(experts.weights))
    peer = None if torch is None else TorchExperts(experts, torch.bfloat16)
    for accumulator, recipe in RECIPES.items():
        for tokens in (sizes.prompt, 1):
            x, used = experts.tokens[:tokens], experts.touched(tokens)
            title = f"MoE, {sizes.config.n_routed_experts} experts, {accumulator}"
            size = f"{tokens} tokens" if tokens > 1 else "1 token"
            ours = layer_call(small, x, recipe)
            canonical = accumulator == "float32"
            for threads in RUNS[accumulator]:
                bar = 0.25 if canonical and tokens > 1 else None
                yield seconds(title, size, threads, ours, used, bar)
                other = Timed(layer_call(plain, x, None), at(threads))
                yield beside(title, size, threads, ours, other, "x float32", used, None)
                if peer is not None and accumulator != "hopper_fp8":
                    other = torch_timed(partial(peer, x), threads)
                    faster = torch_bar(accumulator, tokens > 1)
                    yield beside(title, size, threads, ours, other, "x torch bf16", used, faster)
                if tokens == 1:
                    read = Timed(Read(np.ones(used, np.uint8))(threads))
                    yield beside(title, size, threads, ours, read, "x read", used, 0.6 if canonical else None)


def layer_call(layer: MoE, x: Array, recipe: Recipe | None) -> Call:
    """A call of a layer."""
    return lambda: layer(x, recipe=recipe)


def at(threads: int) -> Callable[[], None]:
    """Sets so many threads, at the best level."""
    return lambda: set_state(product_levels()[-1], threads)


def quick() -> str:
    """Every call once at tiny sizes, against the float64 textbook on the same weights."""
    attention, experts, settings = Attention(QUICK), Experts(QUICK), QUICK.config.to_dict()
    for accumulator, recipe in RECIPES.items():
        weights = fp8(attention.weights)
        wide = {name: numbers(w).astype(np.float64) for name, w in weights.items()}
        rank, held = QUICK.config.kv_lora_rank, attention.full.data[0, :, : QUICK.cached].astype(np.float64)
        past = textbook.Cache(held[..., :rank], held[..., rank:])
        for name, call in calls(attention, weights, recipe).items():
            x, cache = (attention.prompt, None) if name == "prefill" else (attention.token, past)
            near(
                call(),
                textbook.mla(x.astype(np.float64), wide, settings, cache).out,
                f"{name}, {accumulator}",
            )
        weights = fp8(experts.weights)
        wide = {name: numbers(w).astype(np.float64) for name, w in weights.items()}
        out, _, _ = textbook.moe(experts.tokens.astype(np.float64), wide, settings)
        near(experts.layer(weights)(experts.tokens, recipe=recipe), out, f"experts, {accumulator}")
    found = list(rows(QUICK))
    return f"{len(found)} rows at tiny sizes, every call within FP8's error of the textbook"


def near(found: Array, expected: Array, what: str) -> float:
    """The relative error, which must be that of FP8.

    Each E4M3 operand is off by 2.6 % (root mean square), and at most four products in a row stand behind an
    output: 10 % of the whole is above that, and far below any mistake.
    """
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    if not error < 0.1:
        raise AssertionError(f"{what}: differs from the textbook by {error:.1%}")
    return error
