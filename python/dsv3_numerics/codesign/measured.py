"""Rows of ``data/measured.toml``: what public sources measured, and fits through them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .formats import row_bytes


@cache
def _tables() -> dict[str, Any]:
    text = (resources.files(__package__) / "data" / "measured.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def measured(name: str) -> dict[str, Any]:
    """Return a table of measurements, with its source."""
    return dict(_tables()[name])


@dataclass(frozen=True)
class Fit:
    """A line ``alpha + amount / rate`` through times, and its relative errors."""

    alpha: float
    rate: float
    worst: float
    rms: float


def fit_line(amount: ArrayLike, seconds: ArrayLike) -> Fit:
    """Fit ``alpha + amount / rate`` by least squares of relative errors.

    Examples
    --------
    >>> fit = fit_line([1.0, 2.0, 4.0], [3.0, 5.0, 9.0])
    >>> round(fit.alpha, 9), round(fit.rate, 9)
    (1.0, 0.5)
    """
    x, y = np.asarray(amount, float), np.asarray(seconds, float)
    weighted = np.stack([1 / y, x / y], axis=1)
    (alpha, slope), *_ = np.linalg.lstsq(weighted, np.ones_like(y), rcond=None)
    off = np.abs((alpha + slope * x) / y - 1)
    return Fit(float(alpha), float(1 / slope), float(off.max()), float(np.sqrt((off**2).mean())))


def low_latency_fit(way: str) -> Fit:
    """DeepEP's low-latency kernels on H200: seconds a transfer and bytes a second, dispatch or combine."""
    table = measured("h200_low_latency")
    row = row_bytes("e4m3:1x128:f32" if way == "dispatch" else "bf16", table["hidden"])
    column = 2 if way == "dispatch" else 3
    amount = [tokens * table["chosen"] * row * (1 - 1 / nodes) for nodes, tokens, *_ in table["rows"]]
    return fit_line(amount, [line[column] * 1e-6 for line in table["rows"]])


def experts_fit() -> Fit:
    """Experts of few tokens on H200: fixed seconds, and bytes of FP8 weights a second."""
    table = measured("h200_experts")
    weights = 3 * table["hidden"] * table["width"]
    return fit_line([weights * n for n in table["local"]], [us * 1e-6 for us in table["us"]])
