"""Experiment ``logfmt``: LogFMT beside floating-point formats of as many bits (ISCA '25 paper, section 3.2).

Lives here: what is measured. What is told of it is in `logfmt_report`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from ..logfmt import logfmt_encode
from ..logfmt_result import Rounding
from ..study import demo_inputs, prepare
from ..study.metrics import Metrics, sums_of
from .draws import ACTIVATIONS, activations, log_uniform
from .experiment import Job, Row, RunConfig
from .wire import WIRES, Floats, Wire, pick

HIDDEN = 7168
TILE = 128
WEIGHTS = "weights"
SPANS = (1, 2, 4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24, 26, 28, 30, 32, 36, 40)
SPAN_WIRES = ("E5M6 2^k", "E4M3", "E5M2", "LogFMT-8", "LogFMT-10")
E4M3_OCTAVES = float(np.log2(448) + 6)
"""Normal numbers of E4M3: from 2^-6 to 448, 14.8 octaves below the tile's largest magnitude."""
SIZES = (-5, -4, -3, -2, -1, 0)
DENSITIES = ("flat", "half-normal", "exponential")
ROUNDINGS: tuple[Rounding, ...] = ("linear", "log", "stochastic")

Load = Callable[[str], Floats]


def jobs(config: RunConfig) -> list[Job]:
    """Return a job for each kind of data and each span, in each format, and each size under DeepEP."""
    rows = 32 if config.quick else 585  # of 7168: 4.2 million values, as many as the published figures are of

    @lru_cache(maxsize=1)  # the jobs of one kind of data follow each other
    def load(name: str) -> Floats:
        if name == WEIGHTS:
            return weights(1 << 18 if config.quick else None)
        data = next(d for d in ACTIVATIONS if d.name == name)
        return activations(data, config.rng("logfmt", name), (rows, HIDDEN))

    names = [*(d.name for d in ACTIVATIONS), WEIGHTS]
    found: list[Job] = []
    for name in names:
        found.append(Job(f"{name}: spans of tiles", partial(_spans, load, name)))
        found += [Job(f"{name}: {wire.name}", partial(_data, load, name, wire)) for wire in WIRES]
    tiles = 256 if config.quick else 8192
    for octaves in SPANS:
        x = partial(log_uniform, octaves=octaves, shape=(tiles, TILE))
        for wire in pick(*SPAN_WIRES):
            rng = partial(config.rng, "logfmt span", octaves)
            found.append(
                Job(f"{octaves} octaves: {wire.name}", partial(_span, x, rng, octaves, wire), cost=0.2)
            )
    for size in SIZES:
        rng = partial(config.rng, "logfmt size")
        found.append(Job(f"DeepEP at 2^{size}", partial(_size, rng, rows, size)))
    for density in DENSITIES:
        rng = partial(config.rng, "logfmt bias", density)
        for rounding in ROUNDINGS:
            job = partial(_bias, rng, 16 * tiles, density, rounding)
            found.append(Job(f"bias: {density}, {rounding}", job))
    return found


def weights(limit: int | None = None) -> Floats:
    """Return the matrices of the study's demo, in rows of 1024.

    Whole tiles of 128 of each row, one after the other: no tile has values of two rows.
    """
    demo = demo_inputs()
    _, tensors = prepare(demo.inputs, ["bf16"])
    parts: list[npt.NDArray[np.floating]] = []
    total = 0
    for tensor in tensors:
        if tensor.rows < 2 or tensor.cols < TILE or (limit and total >= limit):
            continue
        with tensor.open() as rows:
            part = rows(0, tensor.rows, 0, tensor.cols // TILE * TILE).reshape(-1, TILE)
        parts.append(part[: (limit - total) // TILE] if limit else part)
        total += parts[-1].size
    joined = np.concatenate(parts).astype(np.float32, copy=False)
    return joined[: len(joined) // 8 * 8].reshape(-1, 8 * TILE)


def tile_spans(x: Floats) -> npt.NDArray[np.float64]:
    """Octaves between the least and the largest magnitude of each tile of 128; zeros take no part."""
    magnitudes = np.abs(x.reshape(-1, TILE).astype(np.float64))
    largest = magnitudes.max(axis=1)
    least = np.where(magnitudes > 0, magnitudes, np.inf).min(axis=1)
    some = largest > 0
    octaves: npt.NDArray[np.float64] = np.log2(largest[some] / least[some])
    return octaves


def _spans(load: Load, name: str) -> list[Row]:
    low, median, high = np.percentile(tile_spans(load(name)), [5, 50, 95])
    return [{"part": "spans", "data": name, "low": float(low), "median": float(median), "high": float(high)}]


def relative_errors(x: Floats, y: Floats) -> npt.NDArray[np.float64]:
    """Magnitudes of e/x, over x that is not zero."""
    some = x != 0
    wide = x[some].astype(np.float64)
    found: npt.NDArray[np.float64] = np.abs(y[some] / wide - 1)
    return found


def _data(load: Load, name: str, wire: Wire) -> list[Row]:
    x = load(name)
    received = wire.send(x)
    metrics = Metrics.of(sums_of(x, received.values)[0])
    errors = relative_errors(x, received.values)
    return [
        {
            "part": "data",
            "data": name,
            "sent_as": wire.name,
            "elements": x.size,
            "sqnr_db": metrics.sqnr_db,
            "mean_relative_error": float(errors.mean()),
            "worst_relative_error": float(errors.max()),
            "became_zero": metrics.underflow_rate,
            "bits_per_element": received.bits_per_element,
            "escaped": received.escaped,
        }
    ]


def _span(
    draw: Callable[[np.random.Generator], Floats],
    rng: Callable[[], np.random.Generator],
    octaves: int,
    wire: Wire,
) -> list[Row]:
    x = draw(rng())
    y = wire.send(x).values
    inside = np.abs(x) >= 2.0**-E4M3_OCTAVES
    errors = relative_errors(x[inside], y[inside])
    metrics = Metrics.of(sums_of(x, y)[0])
    return [
        {
            "part": "span",
            "octaves": octaves,
            "sent_as": wire.name,
            "rms_relative_error": float(np.sqrt(np.mean(errors**2))),
            "worst_relative_error": float(errors.max()),
            "sqnr_db": metrics.sqnr_db,
            "became_zero": metrics.underflow_rate,
        }
    ]


def _size(rng: Callable[[], np.random.Generator], rows: int, size: int) -> list[Row]:
    """LogFMT-10 under DeepEP's rules on normal data with a standard deviation of 2^size."""
    normal = rng().standard_normal((rows, HIDDEN), dtype=np.float32)
    x = np.ldexp(normal, size)
    (wire,) = pick("LogFMT-10, DeepEP")
    received = wire.send(x)
    return [
        {
            "part": "size",
            "deviation": 2.0**size,
            "escaped": received.escaped,
            "bits_per_element": received.bits_per_element,
            "sqnr_db": Metrics.of(sums_of(x, received.values)[0]).sqnr_db,
        }
    ]


def _bias(rng: Callable[[], np.random.Generator], tiles: int, density: str, rounding: Rounding) -> list[Row]:
    """Return the bias of magnitudes where nothing but the density matters: every tile has all 32 octaves.

    Each tile is given both ends of its range, which are not counted. Stochastic rounding draws its bits from
    the seed 0.
    """
    x = _magnitudes(rng(), density, (tiles, TILE))
    x[:, 0], x[:, -1] = 1, 2.0**-32
    y = logfmt_encode(x, bits=8, rounding=rounding, seed=0).dequantize()
    before, after = (v[:, 1:-1].sum(dtype=np.float64) for v in (x, y))
    return [
        {
            "part": "bias",
            "density": density,
            "rounding": rounding,
            "magnitude_bias": float(after / before - 1),
        }
    ]


def _magnitudes(rng: np.random.Generator, density: str, shape: tuple[int, int]) -> Floats:
    """Magnitudes below 1; those that are not flat have all but vanished there."""
    drawn: npt.NDArray[np.floating]
    if density == "flat":
        drawn = rng.random(shape, dtype=np.float32)
    elif density == "half-normal":
        drawn = np.abs(rng.standard_normal(shape, dtype=np.float32)) / np.float32(8)
    else:
        drawn = np.minimum(rng.standard_exponential(shape, dtype=np.float32) / np.float32(24), np.float32(1))
    return np.asarray(drawn, np.float32)
