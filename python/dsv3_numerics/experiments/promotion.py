"""Experiment ``promotion``: how often partial sums have to go into float32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..report import charts
from ..report.page import ReportTable
from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Row, RunConfig, pivot
from .products import (
    LARGEST,
    LARGEST_F16,
    MEASURES,
    Operands,
    cell,
    draw,
    largest_for,
    measure,
    number,
    percent,
)
from .units import STYLES, how, title

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

INTERVALS: tuple[int | None, ...] = (32, 64, 128, 256, 512, None)
ACCUMULATORS = ("hopper_fp8_f16", "hopper_fp8", "ada_fp8", "blackwell_fp8", "hopper_mma_fp8", "hopper_bf16")
K = 4096


def jobs(config: RunConfig) -> list[Job]:
    """Every unit at every interval, on the same operands."""
    side = 48 if config.quick else 512
    loads = {
        largest: lru_cache(maxsize=1)(partial(_draw, config, side, largest))
        for largest in (LARGEST, LARGEST_F16)
    }
    return [
        Job(f"{title(unit)}, {how(every)}", partial(_measure, loads[largest_for(unit)], unit, every))
        for unit in ACCUMULATORS
        for every in INTERVALS
    ]


def _draw(config: RunConfig, side: int, largest: float) -> tuple[Operands, float]:
    return draw(config.rng("promotion"), "normal", side, K, largest)


def _measure(load: Callable[[], tuple[Operands, float]], unit: str, every: int | None) -> list[Row]:
    operands, cast = load()
    row: Row = {"part": "intervals", "accumulator": unit, "promote_every": every, "k": K, "cast": cast}
    return [row | {"outputs": operands.exact.size} | measure(operands, unit, every)]


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    for column in ("frobenius", "max_over_rms"):
        header, rows = pivot(
            result,
            "intervals",
            "promote_every",
            "accumulator",
            cell(column),
        )
        yield ReportTable(
            f"{MEASURES[column]}, K = {K}",
            ["promoted every", "additions per 1000 products", *map(title, header[1:])],
            [[r[0].replace("None", "never"), _additions(r[0]), *r[1:]] for r in rows],
            "Each promotion is one float32 fused multiplication and addition per output, on the CUDA cores.",
        )


def _additions(interval: str) -> str:
    return "0" if interval == "None" else f"{1000 / int(interval):.1f}"


def _at(result: ExperimentData, unit: str, every: int | None, column: str = "frobenius") -> float:
    return result.value(column, "intervals", accumulator=unit, promote_every=every)


def _gain(result: ExperimentData) -> str:
    at = {every: _at(result, "hopper_fp8", every) for every in INTERVALS}
    return (
        f"Hopper's FP8 unit at K = {K}: {percent(at[None])} without promotion, {percent(at[128])} with one "
        f"every 128, {at[None] / at[128]:.0f} times less. Every 32 products instead of 128 would gain a "
        f"factor of {at[128] / at[32]:.1f} more for four times the additions; every 512 would lose one of "
        f"{at[512] / at[128]:.1f}."
    )


def _flat(result: ExperimentData) -> str:
    never, often = (_at(result, "blackwell_fp8", every) for every in (None, 128))
    return (
        f"Blackwell's FP8 unit keeps 25 fraction bits: {percent(never)} without promotion, "
        f"{percent(often)} with one every 128."
    )


def _cast(result: ExperimentData) -> str:
    cast = result.value("cast", "intervals", accumulator="hopper_fp8", promote_every=128)
    return (
        f"The cast of the operands to E4M3 costs {percent(cast)} in the same norm, far more than any of "
        "these: promotion matters for what adds up, which rounding of the operands does not."
    )


def _published() -> Iterator[PublishedFigure]:
    values = (4.5e-5, 7.6e-5, 1.28e-4, 2.1e-4, 3.4e-4, 1.33e-3)
    for every, value in zip(INTERVALS, values, strict=True):
        measured = partial(_at, unit="hopper_fp8", every=every)
        yield PublishedFigure(f"Hopper FP8, {how(every)}: Frobenius", value, measured, percent)


def _plot(result: ExperimentData, figure: Figure) -> None:
    figure.set_size_inches(8.6, 5.6)
    axes = figure.add_subplot()
    places = {every: i for i, every in enumerate(INTERVALS)}
    series = {}
    for unit in result.kinds("accumulator", "intervals"):
        rows = list(result.select("intervals", accumulator=unit))
        xs = [places[every] for r in rows if isinstance(every := r["promote_every"], int | None)]
        series[title(unit)] = (xs, [number(r, "frobenius") for r in rows])
    axes.set_yscale("log")
    charts.draw_lines(axes, series, STYLES)
    axes.set_xticks(list(places.values()), ["never" if every is None else str(every) for every in places])
    axes.set_xlabel("products between promotions into float32")
    axes.set_ylabel(f"relative Frobenius error of the product, K = {K}")
    axes.set_title("How often to promote?")
    charts.name_ends(axes, series, STYLES)


EXPERIMENT = Experiment(
    name="promotion",
    title="Promotion: how often partial sums have to go into float32",
    shows="What the interval of promotion buys at K = 4096, from 32 products to none at all.",
    source="DeepSeek-V3 technical report (arXiv 2412.19437), section 3.3.2 (an interval of 128); DeepGEMM",
    jobs=jobs,
    tables=_tables,
    findings=(_gain, _flat, _cast),
    published=tuple(_published()),
    plots={"Error against the interval": ("error_interval.png", _plot)},
)
