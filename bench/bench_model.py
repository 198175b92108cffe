"""The forward at DeepSeek-V3's own sizes: one attention layer, and a layer of sixteen experts.

Random weights, float32 and FP8 with 128x128 scales, computed in float32. Bars are seconds with two threads,
as a forward is run; peers are the same layers in torch's float32, written as the released inference code has
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench_gemm import Read
from dsv3_numerics import quantize_blocks
from dsv3_numerics.model import MLA, Cache, Config, MoE, random_weights
from dsv3_numerics.reference import model as textbook
from harness import Call, Row, Timed, measure, set_state
from suite import THREADS, product_levels

try:
    import torch
except ImportError:
    torch = None

Array = NDArray[Any]

LEGEND = """\
One layer of DeepSeek-V3 in float32. The column Gelem/s holds 10^9 parameters used in a second. `s` are
seconds of a call; `x float32` is the time with float32 weights over ours; `x read` the time in which as many
threads read the weights that are touched over ours; `x torch` torch's time, with as many threads, over ours.
Each is the
median over alternating pairs; `(-n)`: n pairs were dropped as disturbed."""

CACHED, PROMPT = 1024, 128


@dataclass(frozen=True)
class Sizes:
    """Case that is measured, or checked."""

    config: Config
    cached: int
    prompt: int


V3 = Config.preset("deepseek_v3")
FULL = Sizes(V3.replace(n_routed_experts=16), CACHED, PROMPT)
QUICK = Sizes(Config.preset("tiny"), 6, 5)


def fp8(weights: Mapping[str, Array]) -> dict[str, Any]:
    """The weights as a release holds them; norms and gates stay as they are."""
    plain = ("norm.weight", "gate.weight", "bias")
    return {name: w if name.endswith(plain) else quantize_blocks(w) for name, w in weights.items()}


class Attention:
    """An attention layer, a prompt, and a cache that holds tokens."""

    def __init__(self, sizes: Sizes) -> None:
        self.config, rng = sizes.config, np.random.default_rng(0)
        self.weights = random_weights(sizes.config, "model.layers.0.self_attn.")
        self.prompt = rng.standard_normal((1, sizes.prompt, sizes.config.hidden_size), np.float32)
        self.token = self.prompt[:, :1]
        self.empty = Cache(sizes.config, 1, sizes.prompt, layers=1)
        self.full = Cache(sizes.config, 1, sizes.cached + 1, layers=1)
        self.full.data[:] = rng.standard_normal(self.full.data.shape, np.float32)
        self.full.lengths[:] = sizes.cached
        self.parameters = sum(w.size for w in self.weights.values())

    def calls(self, weights: Mapping[str, Any]) -> dict[str, Callable[[], Array]]:
        """Name the timed calls. Neither advances its cache."""
        layer = MLA(self.config, weights)
        return {
            "prefill": lambda: layer(self.prompt, self.empty, absorbed=False),
            "decode": lambda: layer(self.token, self.full, absorbed=True),
            "decode naive": lambda: layer(self.token, self.full, absorbed=False),
        }


class Experts:
    """A layer of experts, and tokens."""

    def __init__(self, sizes: Sizes) -> None:
        self.config, rng = sizes.config, np.random.default_rng(1)
        self.weights = random_weights(sizes.config, f"model.layers.{sizes.config.first_k_dense_replace}.mlp.")
        self.tokens = rng.standard_normal((sizes.prompt, sizes.config.hidden_size), np.float32)
        self.expert = sum(w.size for name, w in self.weights.items() if name.startswith("experts.0."))
        self.shared = self.expert * sizes.config.n_shared_experts

    def layer(self, weights: Mapping[str, Any]) -> MoE:
        """The layer with these weights."""
        return MoE(self.config, weights)

    def touched(self, rows: int) -> int:
        """Parameters that so many tokens use."""
        used = np.unique(self.layer(self.weights).gate(self.tokens[:rows]).indices)
        return len(used) * self.expert + self.shared


class TorchAttention:
    """The released code's attention in torch: naive for a prompt, absorbed for a token."""

    def __init__(self, attention: Attention, dtype: Any = None) -> None:
        self.c, self.dtype = attention.config, dtype or torch.float32
        self.w = {name: torch.from_numpy(w).to(self.dtype) for name, w in attention.weights.items()}
        angles = textbook.rope_frequencies(self.c.to_dict())
        steps = torch.arange(attention.full.capacity, dtype=torch.float64)[:, None] * torch.from_numpy(angles)
        self.turns = torch.polar(torch.ones_like(steps), steps).to(torch.complex64)
        self.cache = torch.from_numpy(attention.full.data[0, 0].copy()).to(self.dtype)

    def rotate(self, x: Any, start: int) -> Any:
        """(tokens, heads, channels), interleaved."""
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        turned = pairs * self.turns[start : start + len(x), None]
        return torch.view_as_real(turned).flatten(-2).to(self.dtype)

    def __call__(self, x: Any, start: int, absorbed: bool) -> Any:
        """Attention of new tokens (tokens, channels) that follow `start` cached ones."""
        c, w, linear = self.c, self.w, torch.nn.functional.linear
        norm = torch.nn.functional.rms_norm
        rank, nope = c.kv_lora_rank, c.qk_nope_head_dim
        compressed = linear(x, w["q_a_proj.weight"])
        compressed = norm(compressed, (compressed.shape[-1],), w["q_a_layernorm.weight"], c.rms_norm_eps)
        q = linear(compressed, w["q_b_proj.weight"]).view(len(x), c.num_attention_heads, -1)
        q_nope, q_pe = q[..., :nope], self.rotate(q[..., nope:], start)
        joint = linear(x, w["kv_a_proj_with_mqa.weight"])
        latent = norm(joint[:, :rank], (rank,), w["kv_a_layernorm.weight"], c.rms_norm_eps)
        k_pe = self.rotate(joint[:, None, rank:], start)[:, 0]
        self.cache[start : start + len(x)] = torch.cat([latent, k_pe], dim=-1)
        seen = self.cache[: start + len(x)]
        latent, k_pe = seen[:, :rank], seen[:, rank:]
        up = w["kv_b_proj.weight"].view(c.num_attention_heads, -1, rank)
        if absorbed:
            logits = torch.einsum("thr,sr->ths", torch.einsum("thn,hnr->thr", q_nope, up[:, :nope]), latent)
        else:
            logits = torch.einsum("thn,shn->ths", q_nope, torch.einsum("sr,hnr->shn", latent, up[:, :nope]))
        logits = (logits + torch.einsum("thr,sr->ths", q_pe, k_pe)) * c.softmax_scale
        if len(x) > 1:
            logits += torch.full((len(x), len(seen)), float("-inf")).triu(start + 1)[:, None]
        p = logits.softmax(dim=-1)
        if absorbed:
            out = torch.einsum("thr,hvr->thv", torch.einsum("ths,sr->thr", p, latent), up[:, nope:])
        else:
            out = torch.einsum("ths,shv->thv", p, torch.einsum("sr,hvr->shv", latent, up[:, nope:]))
        return linear(out.flatten(1), w["o_proj.weight"])


class TorchExperts:
    """The same layer in torch, an expert at a time."""

    def __init__(self, experts: Experts, dtype: Any = None) -> None:
        self.dtype = dtype or torch.float32
        self.w = {name: torch.from_numpy(w).to(self.dtype) for name, w in experts.weights.items()}
        self.gate = experts.layer(experts.weights).gate

    def __call__(self, x: Array) -> Any:
        """For (tokens, channels), routed by our gate, whose time is nothing beside the rest."""
        routing, tokens = self.gate(x), torch.from_numpy(x).to(self.dtype)
        out = self.swiglu(tokens, "shared_experts.")
        for expert in np.unique(routing.indices):
            token, slot = np.nonzero(routing.indices == expert)
            part = self.swiglu(tokens[token], f"experts.{expert}.")
            weights = torch.from_numpy(routing.weights[token, slot]).to(self.dtype)
            out.index_add_(0, torch.from_numpy(token), part * weights[:, None])
        return out

    def swiglu(self, x: Any, at: str) -> Any:
        """One expert."""
        f = torch.nn.functional
        gate, up, down = (self.w[f"{at}{name}_proj.weight"] for name in ("gate", "up", "down"))
        return f.linear(f.silu(f.linear(x, gate)) * f.linear(x, up), down)


def torch_calls(attention: Attention, dtype: Any = None) -> dict[str, Call]:
    """Name torch's calls as those of the layer are."""
    peer = TorchAttention(attention, dtype)
    prompt, token = (torch.from_numpy(x[0]).to(peer.dtype) for x in (attention.prompt, attention.token))
    cached = int(attention.full.lengths[0])
    return {"prefill": partial(peer, prompt, 0, False), "decode": partial(peer, token, cached, True)}


def torch_timed(call: Call, threads: int) -> Timed:
    """A call of torch with so many threads, and without what only training needs."""

    def theirs() -> object:
        with torch.inference_mode():
            return call()

    return Timed(theirs, partial(torch.set_num_threads, threads))


def seconds(name: str, size: str, threads: int, call: Call, parameters: int, bar: float | None = None) -> Row:
    """A row whose figure is the time of a call."""
    timed = Timed(call, lambda: set_state(product_levels()[-1], threads))
    m = measure(timed, timed)
    gate = bar if threads == 2 else None
    what = (name, size, product_levels()[-1], threads, "out", "s")
    return replace(m, ratio=m.seconds).row(*what, parameters, gate, at_most=True)


def beside(
    name: str,
    size: str,
    threads: int,
    call: Call,
    other: Timed,
    yardstick: str,
    parameters: int,
    bar: float | None,
) -> Row:
    """A row whose figure is another call's time over ours."""
    m = measure(Timed(call, lambda: set_state(product_levels()[-1], threads)), other)
    gate = bar if threads == 2 else None
    return m.row(name, size, product_levels()[-1], threads, "out", yardstick, parameters, gate)


def rows(sizes: Sizes = FULL) -> Iterator[Row]:
    """Everything, one thread and two."""
    yield from attention_rows(sizes)
    yield from expert_rows(sizes)


def attention_rows(sizes: Sizes) -> Iterator[Row]:
    """Attention: a prompt, and a token after a thousand."""
    attention = Attention(sizes)
    plain, small = attention.calls(attention.weights), attention.calls(fp8(attention.weights))
    used, at = attention.parameters, {"prefill": f"{sizes.prompt} tokens"}
    bars = {"prefill": 0.30, "decode": 0.040}
    peers = {} if torch is None else torch_calls(attention)
    for name, call in plain.items():
        size = at.get(name, f"1 at {sizes.cached}")
        for threads in THREADS:
            yield seconds(f"MLA {name}", size, threads, call, used, bars.get(name))
            if name == "decode":
                other = Timed(call, lambda threads=threads: set_state(product_levels()[-1], threads))  # type: ignore[misc]
                yield beside(f"MLA {name}, FP8", size, threads, small[name], other, "x float32", used, 2.0)
            if name in peers:
                theirs = torch_timed(peers[name], threads)
                bar = 1 / 1.3 if name == "prefill" else 1.0
                yield beside(f"MLA {name}", size, threads, call, theirs, "x torch", used, bar)


def expert_rows(sizes: Sizes) -> Iterator[Row]:
    """Sixteen experts: many tokens, and one."""
    experts = Experts(sizes)
    kinds = {"float32": experts.layer(experts.weights), "FP8": experts.layer(fp8(experts.weights))}
    peer = None if torch is None else TorchExperts(experts)
    for tokens in (sizes.prompt, 1):
        x, used = experts.tokens[:tokens], experts.touched(tokens)
        size = f"{tokens} tokens" if tokens > 1 else "1 token"
        for kind, layer in kinds.items():
            name = f"MoE, {sizes.config.n_routed_experts} experts, {kind}"
            bar = 0.50 if (tokens, kind) == (sizes.prompt, "float32") else None
            for threads in THREADS:
                call: Call = lambda layer=layer, x=x: layer(x)  # type: ignore[misc]  # noqa: E731
                yield seconds(name, size, threads, call, used, bar)
                if tokens == 1 and kind == "FP8":
                    read = Timed(Read(np.ones(used, np.uint8))(threads))
                    yield beside(name, size, threads, call, read, "x read", used, 0.6)
                if peer is not None and kind == "float32":
                    other = torch_timed(partial(peer, x), threads)
                    yield beside(name, size, threads, call, other, "x torch", used, 1.0)


def quick() -> str:
    """Every call once at tiny sizes, against the textbook and the peers, through the reporting path."""
    attention, experts = Attention(QUICK), Experts(QUICK)
    settings = QUICK.config.to_dict()
    for name, weights in {"float32": attention.weights, "FP8": fp8(attention.weights)}.items():
        wide = {key: np.asarray(numbers(w), np.float64) for key, w in weights.items()}
        held = attention.full.data[0, :, : QUICK.cached].astype(np.float64)
        rank = QUICK.config.kv_lora_rank
        past = textbook.Cache(held[..., :rank], held[..., rank:])
        for call, made in attention.calls(weights).items():
            x, cache = (attention.prompt, None) if call == "prefill" else (attention.token, past)
            expected = textbook.mla(x.astype(np.float64), wide, settings, cache).out
            close(made(), expected, f"{call}, {name}")
    wide = {key: w.astype(np.float64) for key, w in experts.weights.items()}
    out, _, _ = textbook.moe(experts.tokens.astype(np.float64), wide, settings)
    close(experts.layer(experts.weights)(experts.tokens), out, "experts")
    if torch is not None:
        peer = TorchAttention(attention)
        for absorbed in (False, True):
            mine = attention.calls(attention.weights)["decode"]()
            close(
                peer(torch.from_numpy(attention.token[0]), QUICK.cached, absorbed).numpy(), mine[0], "torch"
            )
        close(TorchExperts(experts)(experts.tokens).numpy(), out, "torch's experts")
    found = list(rows(QUICK))
    return f"{len(found)} rows at tiny sizes, every call close to the textbook"


def numbers(weight: Any) -> Array:
    """A weight's numbers, quantized or not."""
    plain: Array = weight if isinstance(weight, np.ndarray) else weight.dequantize()
    return plain


def close(found: Array, expected: Array, what: str) -> None:
    """float32 sums of some hundred terms: 1e-4 is far above their rounding and far below any mistake."""
    if np.abs(found - expected).max() > 1e-4 * max(1.0, np.abs(expected).max()):
        raise AssertionError(f"{what}: differs from the textbook by {np.abs(found - expected).max()}")
