"""Experiment ``combine``: the weighted sum of eight experts' outputs, sent in a small format.

An MoE layer of DeepSeek-V3 sends each token to eight experts and gets eight rows of 7168 values back; the
receiver decodes them, multiplies each by its gate in float32, adds them up and stores the sum in BF16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..report import charts
from ..report.page import ReportTable
from ..report.text import share
from ..schemes import DeepEPLog, LogTiles
from .draws import ACTIVATIONS, below_one
from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Row, RunConfig, pivot
from .wire import Floats, Wire, pick

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

HIDDEN, EXPERTS, CHOSEN, ROUTE_SCALE = 7168, 256, 8, 2.5
TILE = 128
NAMES = (
    "BF16",
    "E5M6 2^k",
    "E4M3",
    "E4M3 2^k",
    "E5M2",
    "LogFMT-8",
    "LogFMT-8, DeepEP",
    "LogFMT-10",
    "LogFMT-10, DeepEP",
)
AGREEING = "agreeing"
DATA = (*(d.name for d in ACTIVATIONS if d.name != "lognormal"), AGREEING)

# The paper's bound on a decoding step, section 2.3.2: 32 tokens on each device, 9 experts, 400 Gb/s.
_TOKENS, _ROUTES, _BYTES_PER_SECOND = 32, 9, 50e9
_DISPATCH = HIDDEN + 4 * HIDDEN // TILE  # E4M3 with a float32 scale per tile

Outputs = tuple[Floats, npt.NDArray[np.float32], npt.NDArray[np.float64]]
"""Experts' outputs (tokens, 8, 7168), gates (tokens, 8), and the sum in float64 (tokens, 7168)."""


def gates(rng: np.random.Generator, tokens: int) -> npt.NDArray[np.float32]:
    """DeepSeek-V3's gates of random affinities: the 8 largest of 256 sigmoids over their sum, times 2.5."""
    affinities = 1 / (1 + np.exp(-rng.standard_normal((tokens, EXPERTS))))
    chosen = np.sort(affinities, axis=1)[:, -CHOSEN:]
    return np.asarray(ROUTE_SCALE * chosen / chosen.sum(axis=1, keepdims=True), np.float32)


def outputs(config: RunConfig, name: str, tokens: int) -> Outputs:
    """Experts' outputs in bfloat16 precision, below 1; "agreeing" ones share half their variance."""
    rng = config.rng("combine", name)
    shape = (tokens * CHOSEN, HIDDEN)
    if name == AGREEING:
        common = np.repeat(rng.standard_normal((tokens, HIDDEN), dtype=np.float32), CHOSEN, axis=0)
        drawn: npt.NDArray[np.floating] = (common + rng.standard_normal(shape, dtype=np.float32)) / math.sqrt(
            2
        )
    else:
        drawn = next(d for d in ACTIVATIONS if d.name == name).draw(rng, shape)
    values = below_one(drawn).reshape(tokens, CHOSEN, HIDDEN)
    weights = gates(rng, tokens)
    exact = np.einsum("te,teh->th", weights.astype(np.float64), values.astype(np.float64))
    return values, weights, exact


def combine(received: Floats, weights: npt.NDArray[np.float32]) -> Floats:
    """Return the receiver's sum, in float32, one expert after the other."""
    total = np.zeros((received.shape[0], received.shape[2]), np.float32)
    for expert in range(received.shape[1]):
        total += weights[:, expert, None] * received[:, expert]
    return total


def bytes_of_a_row(name: str) -> float:
    """Count the bits of one expert's output: codes and scales; LogFMT with two BF16 magnitudes a tile."""
    (wire,) = pick(name)
    if isinstance(wire.scheme, LogTiles | DeepEPLog):
        return HIDDEN * wire.scheme.width / 8 + 4 * HIDDEN / TILE
    return wire.bits(1, HIDDEN) / 8


def jobs(config: RunConfig) -> list[Job]:
    """Return a job for each kind of data in each format."""
    tokens = 4 if config.quick else 96
    load = lru_cache(maxsize=1)(partial(outputs, config, tokens=tokens))
    return [
        Job(f"{name}: {wire.name}", partial(_measure, load, name, wire))
        for name in DATA
        for wire in pick(*NAMES)
    ]


def _measure(load: Callable[..., Outputs], name: str, wire: Wire) -> list[Row]:
    values, weights, exact = load(name=name)
    received = wire.send(values.reshape(-1, HIDDEN))
    total = combine(received.values.reshape(values.shape), weights)
    stored = total.astype(ml_dtypes.bfloat16)
    before, after = (_noise(exact, y.astype(np.float64)) for y in (total, stored))
    return [
        {
            "part": "combine",
            "data": name,
            "sent_as": wire.name,
            "tokens": len(values),
            "sqnr_db": -10 * math.log10(after),
            "sqnr_before_storing_db": -10 * math.log10(before),
            "relative_error": math.sqrt(after),
            "sent_sqnr_db": _sent(values, received.values),
            "escaped": received.escaped,
            "bytes_per_row": bytes_of_a_row(wire.name),
        }
    ]


def _noise(exact: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    """Noise over signal; float32 sums of BF16 values are never exact here, so it is not 0."""
    return float(np.square(found - exact).sum() / np.square(exact).sum())


def _sent(values: Floats, received: Floats) -> float | None:
    """SQNR of what was sent, before any sum; None where it arrives as it was."""
    noise = _noise(values.astype(np.float64), received.reshape(values.shape).astype(np.float64))
    return -10 * math.log10(noise) if noise else None


# --- what is told ---


def microseconds(name: str) -> float:
    """Dispatch in E4M3 and combine in this format, for a device's 32 tokens and 9 experts, at 50 GB/s."""
    return (_DISPATCH + bytes_of_a_row(name)) * _TOKENS * _ROUTES / _BYTES_PER_SECOND * 1e6


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    def cell(row: Row) -> str:
        db, error = row["sqnr_db"], row["relative_error"]
        return f"{db:.1f}, {100 * error:.2f}%" if isinstance(db, float) and isinstance(error, float) else "–"

    header, rows = pivot(result, "combine", "data", "sent_as", cell)
    yield ReportTable(
        "Error of the sum as stored (BF16): SQNR in dB, and relative error",
        header,
        rows,
        "Against the sum in float64. *agreeing*: half of the outputs' variance is common to all eight.",
    )
    header, rows = pivot(result, "combine", "data", "sent_as", lambda r: f"{r['sqnr_before_storing_db']:.1f}")
    yield ReportTable(
        "The same before the sum is stored, dB",
        header,
        rows,
        "The format's own error; storing the sum in BF16 adds noise at about 55.6 dB.",
    )
    full = bytes_of_a_row("BF16")
    yield ReportTable(
        "Bytes",
        ["", "one row of 7168", "of BF16", "a token's 8 rows", "dispatch and combine, µs"],
        [
            [n, f"{bytes_of_a_row(n):.0f}", f"{bytes_of_a_row(n) / full:.3f}", f"{8 * bytes_of_a_row(n):.0f}",
             f"{microseconds(n):.1f}"]
            for n in NAMES
        ],
        "With scales; LogFMT with its two magnitudes per tile in BF16. The time is the paper's bound "
        "(section 2.3.2): 32 tokens, 9 experts, 50 GB/s, dispatch in E4M3.",
    )  # fmt: skip


def _db(result: ExperimentData, data: str, name: str, column: str = "sqnr_db") -> float:
    return result.value(column, "combine", data=data, sent_as=name)


def _ten(result: ExperimentData) -> str:
    ten, sixteen = (_db(result, "normal", n) for n in ("LogFMT-10", "BF16"))
    ratio = bytes_of_a_row("LogFMT-10") / bytes_of_a_row("BF16")
    return (
        f"LogFMT-10 sends {ratio:.3f} of BF16's bytes. The stored sum has {ten:.1f} dB against "
        f"{sixteen:.1f}: close to BF16, {sixteen - ten:.1f} dB short of it (normal outputs)."
    )


def _eight(result: ExperimentData) -> str:
    gains = {d: _db(result, d, "LogFMT-8") - _db(result, d, "E4M3") for d in DATA}
    listed = ", ".join(f"{d} {g:+.1f}" for d, g in gains.items())
    return (
        f"With as many bytes as E4M3 with float32 scales, LogFMT-8 has more SQNR, in dB: {listed}. Both "
        f"are far from BF16: of normal outputs, the sum is off by {share(_error(result, 'LogFMT-8'))} and "
        f"{share(_error(result, 'E4M3'))}, against {share(_error(result, 'BF16'))}."
    )


def _error(result: ExperimentData, name: str) -> float:
    return result.value("relative_error", "combine", data="normal", sent_as=name)


def _averaging(result: ExperimentData) -> str:
    single, together, agreeing = (
        _db(result, "normal", "E4M3", "sent_sqnr_db"),
        _db(result, "normal", "E4M3"),
        _db(result, AGREEING, "E4M3"),
    )
    return (
        f"Adding eight independent outputs does not average the error away: E4M3 has {single:.1f} dB "
        f"before the sum and {together:.1f} dB after it, since signal and noise grow alike. Where the "
        f"outputs have half their variance in common, the sum has {agreeing:.1f} dB."
    )


def _zeros(result: ExperimentData) -> str:
    ten, deepep = (_db(result, "one zero", n) for n in ("LogFMT-10", "LogFMT-10, DeepEP"))
    return f"One exact zero in each tile takes DeepEP's LogFMT-10 from {ten:.1f} to {deepep:.1f} dB."


def _published() -> Iterator[PublishedFigure]:
    def fixed(value: Callable[[str], float], name: str) -> Callable[[ExperimentData], float]:
        return lambda result: value(name)

    for name, published in (("LogFMT-10", 9184), ("BF16", 14336)):
        text = "{:.0f} bytes".format
        yield PublishedFigure(f"a row of 7168 in {name}", published, fixed(bytes_of_a_row, name), text)
    for name, time in (("BF16", 125.2), ("LogFMT-10", 95.5), ("LogFMT-8", 85.2)):
        text = "{:.1f} µs".format
        yield PublishedFigure(f"dispatch and combine, {name}", time, fixed(microseconds, name), text)


_KINDS: dict[str, charts.Style] = {
    "normal": ("#0072B2", "o", "-"),
    "laplace": ("#E69F00", "s", "-"),
    "outliers": ("#D55E00", "^", "-"),
    "one zero": ("#CC79A7", "v", "-"),
    AGREEING: ("#009E73", "D", "-"),
}


def _plot(result: ExperimentData, figure: Figure) -> None:
    """Draw a row for each format: the bytes it takes, and the SQNR of the sum for each kind of outputs."""
    figure.set_size_inches(11, 5.2)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    names = sorted(result.kinds("sent_as", "combine"), key=bytes_of_a_row, reverse=True)
    series = {
        kind: {
            name: float(db)
            for name in names
            for row in result.select("combine", data=kind, sent_as=name)
            if isinstance(db := row["sqnr_db"], float)
        }
        for kind in result.kinds("data", "combine")
    }
    charts.dots(right, names, series, _KINDS)
    bars = left.barh(range(len(names)), [bytes_of_a_row(n) for n in names], height=0.62, color="#bbbbbb")
    left.bar_label(bars, [f"{bytes_of_a_row(n):.0f}" for n in names], padding=3, fontsize=9)
    left.spines[["left", "bottom"]].set_visible(False)
    left.set_xticks([])
    left.set_title("Bytes of one expert's output\n(7168 values, with scales)", fontsize=11)
    right.set_title("SQNR of the stored sum of eight, dB", fontsize=11)
    charts.legend(right, "experts' outputs")


EXPERIMENT = Experiment(
    name="combine",
    title="Combine: sums of eight experts' outputs sent in small formats",
    shows="What the weighted sum of a token's eight expert outputs loses when they are sent as E4M3, E5M2, "
    "E5M6 or LogFMT rather than BF16, and how many bytes that saves.",
    source="ISCA '25 paper (arXiv 2505.09343), sections 2.3.2 and 3.2; DeepEP's low-latency combine kernel",
    jobs=jobs,
    tables=_tables,
    findings=(_ten, _eight, _averaging, _zeros),
    published=tuple(_published()),
    plots={"Bytes against SQNR": ("bytes_sqnr.png", _plot)},
)
