"""Part ``paper``: the paper's numbers, each beside ours, from the rows of ``data/paper.toml``.

A row's `call` is arithmetic over the functions of `FUNCTIONS`, read by `evaluate`; nothing else runs.
"""

from __future__ import annotations

import ast
import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from .figures import ISCA, Answer, Figure
from .flows import mean_fullest
from .measured import low_latency_fit, measured
from .pipelines import timed
from .reader import read_shape
from .routes import expected_nodes
from .schedule import Times
from .sizes import kv_bytes
from .topologies import (
    algorithm_bandwidth,
    cost,
    dragonfly,
    is_prime_power,
    multi_plane,
    slim_fly,
    three_layer,
    two_layer,
)
from .wire import ep_step
from .work import decode_flop, train_flop

GPUS, SEQUENCES, LENGTH, PEAK = 2048, 15360, 4096, 989.5e12
"""Training of DeepSeek-V3: GPUs, sequences a step, tokens a sequence; BF16 peak of H800."""


def _step(seconds: float) -> float:
    """Tokens a second."""
    return SEQUENCES * LENGTH / seconds


def tokens_a_day(seconds: float) -> float:
    """Tokens trained a day, from the seconds of a step (table 4)."""
    return _step(seconds) * 86400


def training_rate(seconds: float, causal: bool = True) -> float:
    """FLOP/s a GPU of a step (table 4): table 2's work without the router."""
    flop = train_flop(read_shape("deepseek_v3"), LENGTH, causal=causal, router=False)
    return _step(seconds) * flop / GPUS


def gpu_hours(tokens: float, a_day: float) -> float:
    """GPU-hours of training on some tokens, from tokens a day."""
    return tokens / a_day * 24 * GPUS


def service(what: str) -> float:
    """Day 6: cost and revenue in dollars a day, and the margin."""
    spent = 226.75 * 8 * 2 * 24
    earned = (342e9 * 0.14 + (608e9 - 342e9) * 0.55 + 168e9 * 2.19) / 1e6
    return {"cost": spent, "revenue": earned, "margin": earned / spent - 1}[what]


TOPOLOGIES: dict[str, Callable[..., Any]] = {
    "FT2": lambda: two_layer(64),
    "MPFT": lambda: multi_plane(64, 8),
    "FT3": lambda: three_layer(64),
    "SF": lambda q=28: slim_fly(q),
    "DF": lambda g=511: dragonfly(16, 32, 16, g),
}


def _topology(name: str, what: str, **sizes: int) -> float:
    found = TOPOLOGIES[name](**sizes)
    money = cost(found)
    extra = {"cost": money, "per_endpoint": money / found.endpoints}
    return float(extra[what] if what in extra else getattr(found, what))


def _ep(what: str = "seconds", width: int = 7000, bandwidth: float = 50e9, **options: Any) -> float:
    forms = {"dispatch": options.pop("dispatch", "fp8_bare"), "combine": options.pop("combine", "bf16")}
    seconds = ep_step(width, bandwidth=bandwidth, **forms, **options).seconds
    time = 61 * 2 * seconds
    return {"seconds": seconds, "layer": 2 * seconds, "tpot": time, "tps": 1 / time}[what]


def _bubble(name: str, stages: int, chunks: int, f: float, b: float, w: float, both: float) -> float:
    return timed(name, stages, chunks, Times(f, b, w, both)).bubble


FUNCTIONS: dict[str, Callable[..., float]] = {
    "kv": lambda config, tokens=1, cache="bf16", **more: kv_bytes(read_shape(config), tokens, cache, **more),
    "total": lambda config: read_shape(config).total,
    "active": lambda config: read_shape(config).active,
    "multiplied": lambda config: read_shape(config).multiplied,
    "part": lambda config, name: read_shape(config).parameters()[name].total,
    "mtp_total": lambda config: read_shape(config).with_mtp().total - read_shape(config).total,
    "train": lambda config, context=4096, **how: train_flop(read_shape(config), context, **how),
    "decode": lambda config, tokens: decode_flop(read_shape(config), tokens),
    "ep": _ep,
    "nodes": expected_nodes,
    "topology": _topology,
    "prime_power": lambda q: float(is_prime_power(q)),
    "tokens_a_day": tokens_a_day,
    "training_rate": training_rate,
    "mfu": lambda seconds, causal=True: training_rate(seconds, causal) / PEAK,
    "gpu_hours": gpu_hours,
    "service": service,
    "bubble": _bubble,
    "fullest": mean_fullest,
    "ceiling": algorithm_bandwidth,
    "fitted_alpha": lambda way: low_latency_fit(way).alpha,
    "fitted_rate": lambda way: low_latency_fit(way).rate,
    "figure7": lambda ranks, way: (
        measured("figure7")[way][measured("figure7")["ranks"].index(ranks)] * (1 - 8 / ranks)
    ),
    "least": min,
    "most": max,
}
"""Functions that a row may call."""

_OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}


def evaluate(text: str) -> float:
    """Compute arithmetic over `FUNCTIONS`.

    Examples
    --------
    >>> from dsv3_numerics.codesign.published import evaluate
    >>> evaluate("kv('deepseek_v3') / 1e3")
    70.272
    """
    return float(_value(ast.parse(text, mode="eval").body))


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        options = {word.arg: _value(word.value) for word in node.keywords if word.arg}
        return FUNCTIONS[node.func.id](*map(_value, node.args), **options)
    raise ValueError(f"call: found {ast.dump(node)[:60]}, expected arithmetic")


@dataclass(frozen=True)
class Row:
    """One number of the paper; see ``data/paper.toml``."""

    section: str
    what: str
    verdict: str
    printed: str = ""
    unit: str = ""
    call: str = ""
    value: float | None = None
    within: float | None = None
    truncated: bool = False
    reason: str = ""

    def recomputed(self) -> float | None:
        """Our number; None where there is nothing to recompute."""
        return evaluate(self.call) if self.call else None

    def judged(self, found: float | None) -> str:
        """Return the verdict on our number: OK, DIFF, READ (not recomputed), DERIVED (not printed)."""
        if found is None:
            return "READ"
        if not self.printed:
            return "DERIVED" if self._near(found, float(self.value or 0.0), 1e-6) else "DIFF"
        digits = len(self.printed.partition(".")[2])
        printed = float(self.printed.replace(",", ""))
        if self.truncated:
            step = 10.0**-digits
            return "OK" if math.floor(found / step + 1e-9) == round(printed / step) else "DIFF"
        if self.within is not None:
            return "OK" if self._near(found, printed, self.within) else "DIFF"
        return "OK" if abs(found - printed) <= 0.5 * 10.0**-digits * (1 + 1e-9) else "DIFF"

    @staticmethod
    def _near(found: float, expected: float, within: float) -> bool:
        return abs(found - expected) <= within * abs(expected)


VERDICTS = ("OK", "DIFF", "READ", "DERIVED")


@cache
def rows() -> tuple[Row, ...]:
    """All rows."""
    text = (resources.files(__package__) / "data" / "paper.toml").read_text(encoding="utf-8")
    return tuple(Row(**row) for row in tomllib.loads(text)["rows"])


def paper(section: str | None = None) -> Answer:
    """Part ``paper``: every number of the paper, printed and recomputed.

    Raises
    ------
    ValueError
        No such section.
    """
    sections = list(dict.fromkeys(row.section for row in rows()))
    if section is not None and section not in sections:
        raise ValueError(f"section: found {section!r}, expected one of {', '.join(sections)}")
    shown, figures, changed = [], [], []
    for row in rows():
        if section not in (None, row.section):
            continue
        found = row.recomputed()
        verdict = row.judged(found)
        if verdict != row.verdict:
            changed.append(f"{row.section}, {row.what}: {verdict}, stored {row.verdict}")
        line = {"section": row.section, "what": row.what, "printed": row.printed or None, "recomputed": found}
        shown.append(line | {"verdict": verdict, "how": row.call, "reason": row.reason})
        name = f"{row.section}: {row.what}" + (f", {row.unit}" if row.unit else "")
        tag = "published" if found is None else "formula"
        value: Any = found if found is not None else row.printed
        figures.append(Figure(name, value, "", tag, f"{ISCA}, {row.section}", row.call or "as printed"))
    counts = {v: sum(line["verdict"] == v for line in shown) for v in VERDICTS}
    notes = [f"{len(shown)} numbers: " + ", ".join(f"{n} {v}" for v, n in counts.items())]
    notes += [f"changed: {text}" for text in changed]
    columns = ("section", "what", "printed", "recomputed", "verdict", "how", "reason")
    return Answer("paper", {"section": section}, figures, columns, shown, notes, {"changed": changed}, {})
