"""Operations of a layer on one GPU: FLOP, bytes, seconds, and what bounds each.

``seconds = max(flop / peak(format), bytes / memory)``, bytes: weights once, activations in and out, cache
read. Linears run in the recipe's format, the attention core in BF16, also over an FP8 cache, as the released
kernels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .attention import Compressed, Gqa, Mla
from .caches import INDEX_KEYS, chosen_format, default_index
from .hardware import Hardware
from .shape import Dense, Layer, Moe, Shape
from .wire import ep_step

WIDTHS = {"bf16": 2.0, "fp8": 1.0, "fp4": 0.5}
"""Bytes of a weight, and of an activation before a linear, by the format that linears run in."""
RESOURCES = ("memory", "compute", "network")


@dataclass(frozen=True)
class Operation:
    """One operation of a layer on one GPU."""

    name: str
    flop: float
    bytes: float
    seconds: float
    bound_by: str


@dataclass(frozen=True)
class Machine:
    """A machine with efficiencies: what turns FLOP and bytes into seconds."""

    hardware: Hardware
    efficiency: Mapping[str, float]

    def local(self, name: str, fmt: str, flop: float, size: float) -> Operation:
        """Return an operation on the GPU."""
        compute = flop / (self.hardware.need(fmt, name) * self.efficiency.get("compute", 1.0))
        memory = size / (self.hardware.need("memory", name) * self.efficiency.get("memory", 1.0))
        return Operation(name, flop, size, max(compute, memory), "compute" if compute > memory else "memory")


@dataclass(frozen=True)
class Setup:
    """Sizes that a layer's work depends on."""

    batch: int
    context: int
    decode: bool
    linear: str
    cache: str
    local: int
    dispatch: str
    combine: str

    @property
    def rows(self) -> int:
        """Tokens that pass a layer on one GPU."""
        return self.batch if self.decode else self.batch * self.context


def linear(m: Machine, name: str, rows: int, wide: int, out: int, fmt: str) -> Operation:
    """Return a product with a weight of `wide` x `out`: codes in, BF16 out."""
    size = WIDTHS[fmt] * (wide * out + rows * wide) + 2 * rows * out
    return m.local(name, fmt, 2 * rows * wide * out, size)


def mla_core(m: Machine, a: Mla, batch: int, tokens: int, record: int) -> Operation:
    """Absorbed decode over the latents of `tokens` tokens, `record` bytes each."""
    width = 2 * a.rank + a.rope
    flop = batch * tokens * 2 * a.heads * width
    return m.local("core", "bf16", flop, batch * tokens * record + 2 * batch * a.heads * width)


def experts(m: Machine, hidden: int, width: int, pairs: int, local: int, fmt: str = "fp8") -> Operation:
    """Gate, up and down of token-expert pairs; weights of those of the `local` experts that have a pair."""
    w = WIDTHS[fmt]
    weights = w * 3 * hidden * width * min(local, pairs)
    activations = pairs * (w * hidden + (4 + w) * width + 2 * hidden)
    return m.local("routed", fmt, 6 * hidden * width * pairs, weights + activations)


def switch_pairs(hardware: Hardware, fmt: str = "fp8") -> float:
    """Pairs an expert at which its products leave the memory bound, weights alone counted."""
    return hardware.need(fmt, "routed") * WIDTHS[fmt] / (2 * hardware.need("memory", "routed"))


def _attention(m: Machine, shape: Shape, layer: Layer, s: Setup) -> list[Operation]:
    a, d, b, rows, fmt = layer.attention, shape.hidden, s.batch, s.rows, s.linear
    if isinstance(a, Compressed):
        raise ValueError("roofline: operations of compressed attention (V4) are not defined here")
    record = chosen_format(shape, s.cache).record(a)
    seen = s.context if s.decode else s.context / 2
    if isinstance(a, Gqa):
        q = a.heads * a.head_dim
        near = min(seen, a.span) if a.span else seen
        kept = (min(s.context, a.span) if a.span else s.context) * record
        return [
            linear(m, "qkv", rows, d, q + 2 * a.kv_heads * a.head_dim, fmt),
            m.local("core", "bf16", rows * 4 * q * near, b * kept + 4 * rows * q),
            linear(m, "o", rows, q, d, fmt),
        ]
    q = a.heads * (a.nope + a.rope)
    found = [linear(m, "q", rows, d, q, fmt)] if a.q_rank is None else []
    if a.q_rank is not None:
        found = [linear(m, "q_a", rows, d, a.q_rank, fmt), linear(m, "q_b", rows, a.q_rank, q, fmt)]
    found.append(linear(m, "kv_a", rows, d, a.rank + a.rope, fmt))
    read = seen
    if a.index is not None:
        read = min(seen, a.index.topk)
        if not a.index.shared and a.q_rank is not None:
            keys = a.index.heads * a.index.dim
            key = INDEX_KEYS[default_index(s.cache)](a.index.dim)
            found.append(linear(m, "index q, k", rows, a.q_rank, keys, fmt))
            found.append(
                m.local("index", fmt, rows * a.index.scores(seen), b * s.context * key + rows * keys)
            )
    w = WIDTHS[fmt]
    if s.decode:
        for name, wide, out in (("absorb k", a.nope, a.rank), ("absorb v", a.rank, a.v)):
            size = w * a.heads * wide * (out + rows) + 2 * rows * a.heads * out
            found.append(m.local(name, fmt, 2 * rows * a.heads * wide * out, size))
        found.insert(-1, mla_core(m, a, b, int(read), record))
    else:
        found.append(linear(m, "kv_b", rows, a.rank, a.heads * (a.nope + a.v), fmt))
        channels = a.nope + a.rope + a.v
        size = 2 * rows * a.heads * (2 * (a.nope + a.rope) + 2 * a.v)
        found.append(m.local("core", "bf16", rows * 2 * a.heads * channels * read, size))
    return [*found, linear(m, "o", rows, a.heads * a.v, d, fmt)]


def _mlp(m: Machine, shape: Shape, mlp: Dense | Moe, s: Setup) -> list[Operation]:
    d = shape.hidden
    if isinstance(mlp, Dense):
        return [_gated(m, "dense", s.rows, d, mlp.width, s.linear)]
    found = [linear(m, "router", s.rows, d, mlp.experts, "bf16")]
    if mlp.shared:
        found.append(_gated(m, "shared", s.rows, d, mlp.shared * mlp.width, s.linear))
    return [*found, experts(m, d, mlp.width, s.rows * mlp.chosen, s.local, s.linear)]


def _gated(m: Machine, name: str, rows: int, hidden: int, width: int, fmt: str) -> Operation:
    one = experts(m, hidden, width, rows, 1, fmt)
    return Operation(name, one.flop, one.bytes, one.seconds, one.bound_by)


def layer_operations(m: Machine, shape: Shape, layer: Layer, s: Setup, sends: bool) -> list[Operation]:
    """All operations of a layer on one GPU; `sends`: experts are on other GPUs too."""
    found = _attention(m, shape, layer, s) + _mlp(m, shape, layer.mlp, s)
    if isinstance(layer.mlp, Moe) and sends:
        speed = m.hardware.need("network", "dispatch") * m.efficiency.get("network", 1.0)
        step = ep_step(
            shape.hidden,
            dispatch=s.dispatch,
            combine=s.combine,
            bandwidth=speed,
            tokens=s.rows,
            destinations=layer.mlp.chosen,
        )
        found.append(Operation("dispatch", 0, step.dispatch_bytes, step.dispatch, "network"))
        found.append(Operation("combine", 0, step.combine_bytes, step.combine, "network"))
    return found


def layer_seconds(operations: Sequence[Operation]) -> tuple[float, float]:
    """Seconds of a layer's local operations, and of its transfers."""
    wire = sum(o.seconds for o in operations if o.bound_by == "network")
    return sum(o.seconds for o in operations) - wire, wire


def weights_on_gpu(shape: Shape, local: int, fmt: str = "fp8") -> int:
    """Bytes of weights on a GPU: `local` routed experts, all else whole; router, embedding, head in BF16."""
    p, w = shape.parameters(), WIDTHS[fmt]
    moe = [layer.mlp for layer in shape.layers if isinstance(layer.mlp, Moe)]
    coded = sum(p[name].total for name in ("attention", "dense", "shared", "mixing"))
    coded += sum(3 * shape.hidden * mlp.width * min(local, mlp.experts) for mlp in moe)
    return int(w * coded) + 2 * sum(p[name].total for name in ("router", "head", "embedding"))


def users_that_fit(capacity: float, keep: float, weights: float, cache: float) -> int:
    """Users whose cache fits beside weights and a reserve; 0 where the weights alone do not."""
    return max(0, int((capacity - keep - weights) // cache))
