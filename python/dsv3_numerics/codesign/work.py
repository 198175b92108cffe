"""Part ``flops``: parameters, and work for a token in training, prefill and decode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .attention import Compressed
from .checks import integer, one_of
from .figures import ISCA, Answer, Figure
from .plots import FLOP_PLOTS
from .shape import Shape
from .sizes import LARGEST_CONTEXT, read
from .texts import human


def attention_flop(shape: Shape, tokens: float) -> float:
    """FLOP of all layers' cores for one query over `tokens` tokens, expanded."""
    return sum(layer.attention.expanded(tokens) for layer in shape.layers)


def _products(shape: Shape, router: bool = True) -> int:
    return shape.multiplied - (0 if router else shape.parameters()["router"].multiplied)


def train_flop(
    shape: Shape, context: int = 4096, *, causal: bool = True, router: bool = True, share: float = 1.0
) -> float:
    """FLOP of training for a token: 6 N + 3 A, where a causal query sees half the context.

    `router=False` leaves the router out; `share` scales the attention term (table 2's LLaMA row: 0.5).
    """
    if any(isinstance(x.attention, Compressed) or getattr(x.attention, "index", None) for x in shape.layers):
        raise ValueError("mode: training of sparse attention is not defined here, expected prefill or decode")
    context = integer(context, "context", 1, LARGEST_CONTEXT)
    half = context / 2 if causal else context
    return 6 * _products(shape, router) + 3 * share * attention_flop(shape, half)


def prefill_flop(shape: Shape, context: int = 4096, *, causal: bool = True) -> float:
    """FLOP of prefill for a token: 2 (N - head) + A; the head runs once a prompt."""
    context = integer(context, "context", 1, LARGEST_CONTEXT)
    head = shape.parameters()["head"].multiplied
    return 2 * (shape.multiplied - head) + attention_flop(shape, context / 2 if causal else context)


def decode_flop(shape: Shape, tokens: int = 4096) -> float:
    """FLOP of decoding a token with `tokens` tokens in the cache: 2 N + A, MLA absorbed."""
    tokens = integer(tokens, "context", 1, LARGEST_CONTEXT)
    return 2 * shape.multiplied + sum(layer.attention.decoded(tokens) for layer in shape.layers)


MODES: dict[str, tuple[int, Callable[..., float], str]] = {
    "train": (6, train_flop, "6 N + 3 A"),
    "prefill": (2, prefill_flop, "2 (N - head) + A"),
    "decode": (2, decode_flop, "2 N + A'"),
}


def flops(
    config: object, context: int = 4096, *, causal: bool = True, mode: str = "train", mtp: bool = False
) -> Answer:
    """Part ``flops``: parameters and work for a token, by part of the model.

    Raises
    ------
    ValueError
        Context below 1; training of sparse attention.
    """
    one_of(mode, "mode", MODES)
    shape = read(config, mtp)
    rows: list[dict[str, Any]] = []
    factor, work, formula = MODES[mode]
    options = {} if mode == "decode" else {"causal": causal}
    total = work(shape, context, **options)
    for name, part in shape.parameters().items():
        times = 0 if mode == "prefill" and name == "head" else factor
        if part.total or part.multiplied:
            rows.append(
                {
                    "part": name,
                    "total": part.total,
                    "active": part.multiplied,
                    "flop_per_token": times * part.multiplied,
                }
            )
    products = sum(row["flop_per_token"] for row in rows)
    rows.append({"part": "core", "total": 0, "active": 0, "flop_per_token": total - products})
    rows.append({"part": "sum", "total": shape.total, "active": shape.active, "flop_per_token": total})
    n = shape.multiplied
    how = f"{formula}, N = {n:,}, attention {human(total - products, 'FLOP')} over {context:,} tokens"
    source = f"{ISCA}, table 2 (conventions in docs/codesign.md)"
    figures = [
        Figure(
            "total parameters", shape.total, "", "formula", "config.json", "all tensors, norms and biases too"
        ),
        Figure(
            "multiplied a token", n, "", "formula", "config.json", "matrices, head and router, no embedding"
        ),
        Figure("active parameters", shape.active, "", "formula", "config.json", f"{n:,} and the embedding"),
        Figure(f"{mode}, a token", total, "FLOP", "formula", source, how),
    ]
    inputs = {"config": shape.name, "context": context, "causal": causal, "mode": mode}
    columns = ("part", "total", "active", "flop_per_token")
    return Answer("flops", inputs, figures, columns, rows, list(shape.notes), {}, FLOP_PLOTS)
