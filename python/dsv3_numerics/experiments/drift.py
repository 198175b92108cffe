"""Experiment ``drift``: truncation makes sums of one sign come out too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..report import charts
from ..report.page import ReportTable
from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Row, RunConfig, pivot
from .products import KINDS, Operands, draw, largest_for, measure, number, percent
from .units import STYLES, UNITS, how, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
INTERVAL = 128
ACCUMULATORS = ("hopper_fp8", "ada_fp8", "blackwell_fp8", "hopper_bf16", "float32")
SAME_SIGN = "uniform(0, 1)"
CORNER = 128
"""Rows and columns of outputs that are computed by all units; Hopper's FP8 unit computes 512."""

Load = Callable[[int, float], tuple[Operands, float]]


def jobs(config: RunConfig) -> list[Job]:
    """Every kind of operands at every length, in every unit, with and without promotion."""
    side = 32 if config.quick else 512
    found: list[Job] = []
    for kind in KINDS:
        load = lru_cache(maxsize=1)(partial(_draw, config, kind, side))
        for k in LENGTHS[:4] if config.quick else LENGTHS:
            for unit in ACCUMULATORS:
                for every in (None, INTERVAL) if UNITS[unit].promoted else (None,):
                    job = partial(_measure, load, kind, k, unit, every)
                    found.append(Job(f"{kind}, K = {k}: {unit}", job, cost=k))
    return found


def _draw(config: RunConfig, kind: str, side: int, k: int, largest: float) -> tuple[Operands, float]:
    return draw(config.rng("drift", kind, k), kind, side, k, largest)


def _measure(load: Load, kind: str, k: int, unit: str, every: int | None) -> list[Row]:
    operands, _ = load(k, largest_for(unit))
    if unit != "hopper_fp8":
        operands = operands.corner(CORNER)
    row: Row = {"part": "drift", "data": kind, "k": k, "accumulator": unit, "promote_every": every}
    return [row | {"outputs": operands.exact.size} | measure(operands, unit, every)]


# --- what is told ---


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + percent(value)


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    for every in (None, INTERVAL):
        header, rows = pivot(
            result,
            "drift",
            "accumulator",
            "k",
            lambda r: _signed(number(r, "drift")),
            data=SAME_SIGN,
            promote_every=every,
        )
        yield ReportTable(
            f"Drift of sums of one sign against K, {how(every)}",
            header,
            [[title(r[0]), *r[1:]] for r in rows],
            "Sum of the errors over the sum of the exact values; operands uniform on (0, 1).",
        )
    for kind in KINDS:
        header, rows = pivot(
            result,
            "drift",
            "promote_every",
            "k",
            lambda r: f"{percent(number(r, 'max_over_rms'))}, {_signed(number(r, 'drift'))}",
            data=kind,
            accumulator="hopper_fp8",
        )
        yield ReportTable(
            f"Hopper FP8, operands {kind}: largest error over rms, and drift",
            header,
            [[how(None if r[0] == "None" else int(r[0])), *r[1:]] for r in rows],
        )


def _at(
    result: ExperimentData, kind: str, k: int, every: int | None, column: str, unit: str = "hopper_fp8"
) -> float:
    return result.value(column, "drift", data=kind, k=k, accumulator=unit, promote_every=every)


def _same_sign(result: ExperimentData) -> str:
    k = result.kinds("k", "drift", data=SAME_SIGN)[-1]
    first, last = (_at(result, SAME_SIGN, n, None, "drift") for n in (4096, k))
    promoted = _at(result, SAME_SIGN, k, INTERVAL, "drift")
    further = f" and {percent(-last)} at K = {k}" if k > 4096 else ""
    return (
        "Truncation toward zero makes sums of one sign too small: on Hopper's FP8 unit by "
        f"{percent(-first)} at K = 4096{further}. Promoted every {INTERVAL}, by "
        f"{percent(-promoted)} at K = {k}."
    )


def _all_bias(result: ExperimentData) -> str:
    drift, worst = (_at(result, SAME_SIGN, 4096, None, column) for column in ("drift", "max_relative"))
    return f"It is nearly all bias: at K = 4096 the mean is {_signed(drift)}, the largest {percent(worst)}."


def _zero_mean(result: ExperimentData) -> str:
    normal, flat = (_at(result, kind, 4096, None, "max_over_rms") for kind in ("normal", "uniform(-1, 1)"))
    return (
        f"On zero-mean data the sums stay small, so less is cut: the largest error at K = 4096 is "
        f"{percent(normal)} of the root mean square for normal operands, {percent(flat)} for uniform ones."
    )


def _others(result: ExperimentData) -> str:
    k = result.kinds("k", "drift", data=SAME_SIGN)[-1]
    blackwell, bf16, plain = (
        _at(result, SAME_SIGN, k, None, "drift", unit) for unit in ("blackwell_fp8", "hopper_bf16", "float32")
    )
    return (
        f"Units with 25 fraction bits truncate too: at K = {k} Blackwell's FP8 drifts by "
        f"{_signed(blackwell)}, Hopper's BF16 by {_signed(bf16)}; float32, which rounds to nearest, by "
        f"{_signed(plain)}."
    )


_KNOWN: tuple[tuple[str, int, str, int | None, float], ...] = (
    ("uniform(-1, 1)", 4096, "max_over_rms", None, 0.0137),
    ("uniform(-1, 1)", 4096, "max_over_rms", INTERVAL, 0.00067),
    (SAME_SIGN, 4096, "max_relative", None, 0.080),
    (SAME_SIGN, 4096, "drift", None, -0.075),
    (SAME_SIGN, 4096, "max_relative", INTERVAL, 0.00068),
    (SAME_SIGN, 16384, "max_relative", None, 0.258),
    (SAME_SIGN, 16384, "max_relative", INTERVAL, 0.00061),
)
_WORDS = {
    "max_over_rms": "largest error over rms",
    "max_relative": "largest relative error",
    "drift": "drift",
}


def _published() -> Iterator[PublishedFigure]:
    for kind, k, column, every, value in _KNOWN:
        measured = partial(_at, kind=kind, k=k, every=every, column=column)
        yield PublishedFigure(f"{kind}, K = {k}, {how(every)}: {_WORDS[column]}", value, measured, percent)


def _plot(result: ExperimentData, figure: Figure) -> None:
    """Drift against K: sums of one sign without and with promotion."""
    figure.set_size_inches(11.5, 5.4)
    left, right = figure.subplots(1, 2)
    ks = result.kinds("k", "drift")
    for axes, every in ((left, None), (right, INTERVAL)):
        series = {}
        for unit in ACCUMULATORS:
            rows = list(
                result.select(
                    "drift",
                    data=SAME_SIGN,
                    accumulator=unit,
                    promote_every=every if UNITS[unit].promoted else None,
                )
            )
            if rows:
                series[title(unit)] = ([number(r, "k") for r in rows], [number(r, "drift") for r in rows])
        charts.powers_of_two(axes, ks)
        charts.draw_lines(axes, series, STYLES)
        charts.percent_axis(axes.yaxis)
        axes.axhline(0, color=charts.GREY, linewidth=0.8, zorder=1)
        axes.set_xlabel("K, the length of the sums")
        axes.set_title(how(every).capitalize(), fontsize=11)
        charts.name_ends(axes, series, STYLES)
    left.set_ylabel("drift: mean error of sums of one sign")


def _plot_data(result: ExperimentData, figure: Figure) -> None:
    """Hopper FP8: the largest error for each kind of operands."""
    figure.set_size_inches(9, 5.4)
    axes = figure.add_subplot()
    colours = dict(zip(KINDS, ("#0072B2", "#009E73", "#D55E00"), strict=True))
    series: dict[str, charts.Points] = {}
    styles: dict[str, charts.Style] = {}
    for kind in result.kinds("data", "drift"):
        for every, dashes in ((None, "-"), (INTERVAL, (0, (4, 1.5)))):
            rows = list(result.select("drift", data=kind, accumulator="hopper_fp8", promote_every=every))
            if rows:
                name = f"{kind}, {how(every)}"
                series[name] = ([number(r, "k") for r in rows], [number(r, "max_over_rms") for r in rows])
                styles[name] = (colours[kind], "o", dashes)
    charts.powers_of_two(axes, result.kinds("k", "drift"))
    axes.set_yscale("log")
    charts.draw_lines(axes, series, styles)
    charts.percent_axis(axes.yaxis)
    axes.set_xlabel("K, the length of the sums")
    axes.set_ylabel("largest error over the root mean square")
    axes.set_title("Hopper FP8: the data decide")
    charts.name_ends(axes, series, styles)


EXPERIMENT = Experiment(
    name="drift",
    title="Drift: truncation and sums of one sign",
    shows="What truncation does to sums of terms of one sign, beside zero-mean data: an error that grows "
    "with K and points one way.",
    source="DeepSeek-V3 technical report (arXiv 2412.19437), section 3.3.2; models of tensor cores by "
    "Khattak and Mikaitis (arXiv 2512.07004)",
    jobs=jobs,
    tables=_tables,
    findings=(_same_sign, _all_bias, _zero_mean, _others),
    published=tuple(_published()),
    plots={
        "Drift of sums of one sign": ("drift_k.png", _plot),
        "Largest error by kind of operands": ("data_k.png", _plot_data),
    },
)
