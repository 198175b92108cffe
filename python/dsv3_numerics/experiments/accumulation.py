"""Experiment ``accumulation``: the error of matrix products against their length K, by accumulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from ..report import charts
from ..report.page import ReportTable
from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Quantity, Row, RunConfig, pivot
from .products import LARGEST, MEASURES, Operands, between, cell, draw, largest_for, measure, number, percent
from .units import STYLES, UNITS, how, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
INTERVAL = 128

Load = Callable[[int, float], tuple[Operands, float]]


def jobs(config: RunConfig) -> list[Job]:
    """Three draws at K = 4096, as the known figures are of, then every unit at every K."""
    found: list[Job] = []
    side, published = (32, 64) if config.quick else (256, 1024)
    for take in range(3):
        load = lru_cache(maxsize=1)(partial(_draw, config, f"published {take}", published))
        for unit, every in (("hopper_fp8", None), ("hopper_fp8", INTERVAL), ("float32", None)):
            job = partial(_published, load, take, unit, every)
            found.append(Job(f"K = 4096: {unit}", job, cost=4096 * published**2))
    load = lru_cache(maxsize=2)(partial(_draw, config, "lengths", side))
    for k in LENGTHS[:3] if config.quick else LENGTHS:
        for unit in UNITS:
            for every in (None, INTERVAL) if UNITS[unit].promoted else (None,):
                job = partial(_length, load, k, unit, every)
                found.append(Job(f"K = {k}: {unit}", job, cost=k * side**2))
    return found


def _draw(config: RunConfig, purpose: str, side: int, k: int, largest: float) -> tuple[Operands, float]:
    return draw(config.rng("accumulation", purpose, k), "normal", side, k, largest)


def _published(load: Load, take: int, unit: str, every: int | None) -> list[Row]:
    operands, cast = load(4096, LARGEST)
    if unit == "float32":
        operands = operands.corner(256)
    row: Row = {
        "part": "published",
        "draw": take,
        "accumulator": unit,
        "promote_every": every,
        "cast": cast,
    }
    return [row | {"outputs": operands.exact.size} | measure(operands, unit, every)]


def _length(load: Load, k: int, unit: str, every: int | None) -> list[Row]:
    operands, cast = load(k, largest_for(unit))
    row: Row = {"part": "lengths", "k": k, "accumulator": unit, "promote_every": every, "cast": cast}
    return [row | {"outputs": operands.exact.size} | measure(operands, unit, every)]


# --- what is told ---


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    for every in (None, INTERVAL):
        for column in ("max_over_rms", "frobenius"):
            header, rows = pivot(
                result,
                "lengths",
                "accumulator",
                "k",
                cell(column),
                promote_every=every,
            )
            yield ReportTable(
                f"{MEASURES[column]} against K, {how(every)}", header, [[title(r[0]), *r[1:]] for r in rows]
            )


def _remark_two_percent(result: ExperimentData) -> str:
    never, often = (_draws(result, "max_over_rms", "hopper_fp8", every) for every in (None, INTERVAL))
    return (
        "The technical report's error of nearly 2 % at K = 4096 is the largest one over the root mean "
        f"square of the outputs: {between(never)} on Hopper's FP8 unit in three draws. Promoted every "
        f"{INTERVAL}, it is {between(often)}."
    )


def _remark_growth(result: ExperimentData) -> str:
    ks = result.kinds("k", "lengths")
    first, last = (_at(result, "frobenius", "hopper_fp8", None, k) for k in (ks[0], ks[-1]))
    held = [_at(result, "frobenius", "hopper_fp8", INTERVAL, k) for k in ks]
    return (
        f"From K = {ks[0]} to {ks[-1]}, Hopper FP8's Frobenius error grows from {percent(first)} to "
        f"{percent(last)}; promoted every {INTERVAL}, it stays at {between(held)}."
    )


def _remark_others(result: ExperimentData) -> str:
    k = result.kinds("k", "lengths")[-1]
    hopper, blackwell, bf16 = (
        _at(result, "frobenius", unit, None, k) for unit in ("hopper_fp8", "blackwell_fp8", "hopper_bf16")
    )
    return (
        f"Blackwell's FP8 unit, with 25 fraction bits instead of 13, is at {percent(blackwell)} without "
        f"promotion at K = {k}, next to Hopper's BF16 unit ({percent(bf16)}) and {hopper / blackwell:.0f} "
        "times below Hopper's FP8 unit."
    )


def _remark_cast(result: ExperimentData) -> str:
    cast = result.value("cast", "published", draw=0, accumulator="hopper_fp8", promote_every=None)
    error = result.value("frobenius", "published", draw=0, accumulator="hopper_fp8", promote_every=None)
    return (
        f"The cast to E4M3 costs {percent(cast)} in the same norm: {cast / error:.0f} times the accumulation "
        "error of K = 4096 without promotion."
    )


def _at(result: ExperimentData, column: str, unit: str, every: int | None, k: int) -> float:
    return result.value(column, "lengths", k=k, accumulator=unit, promote_every=every)


def _draws(result: ExperimentData, column: str, unit: str, every: int | None) -> tuple[float, float]:
    """Lowest and highest over the three draws."""
    found = [number(r, column) for r in result.select("published", accumulator=unit, promote_every=every)]
    if not found:
        raise LookupError("not measured")
    return min(found), max(found)


_PUBLISHED: dict[tuple[str, int | None], tuple[Quantity, ...]] = {
    ("hopper_fp8", None): (
        (0.0186, 0.0196), (0.0032, 0.0040), (0.0086, 0.0095), (0.0048, 0.0072), 0.00096, 0.00133,
    ),
    ("hopper_fp8", INTERVAL): (
        (0.00074, 0.00077), (0.00013, 0.00015), 0.0006, (0.0010, 0.0022), 0.000125, 0.000128,
    ),
    ("float32", None): (1e-6, 1.5e-7, 1e-6, 3e-7, 5e-8, 6e-8),
}  # fmt: skip


def _figures() -> Iterator[PublishedFigure]:
    for (unit, every), figures in _PUBLISHED.items():
        which = title(unit) + ("" if unit == "float32" else f", {how(every)}")
        for (column, name), published in zip(MEASURES.items(), figures, strict=False):
            measured = partial(_draws, column=column, unit=unit, every=every)
            yield PublishedFigure(f"{which}: {name}", published, measured, percent)
    yield PublishedFigure("cast to E4M3: Frobenius", 0.037, _cast, percent)


def _cast(result: ExperimentData) -> tuple[float, float]:
    found = [number(row, "cast") for row in result.select("published")]
    if not found:
        raise LookupError("not measured")
    return min(found), max(found)


def _plot(result: ExperimentData, figure: Figure) -> None:
    figure.set_size_inches(11.5, 5.6)
    left, right = figure.subplots(1, 2, sharey=True)
    ks = result.kinds("k", "lengths")
    for axes, every in ((left, None), (right, INTERVAL)):
        series = {}
        for unit, about in UNITS.items():
            rows = list(
                result.select("lengths", accumulator=unit, promote_every=every if about.promoted else None)
            )
            points = [(number(r, "k"), number(r, "frobenius")) for r in rows if number(r, "frobenius") > 0]
            if points:
                series[about.title] = ([k for k, _ in points], [e for _, e in points])
        charts.powers_of_two(axes, ks)
        axes.set_yscale("log")
        charts.draw_lines(axes, series, STYLES)
        axes.set_xlabel("K, the length of the sums")
        axes.set_title(how(every).capitalize(), fontsize=11)
        charts.name_ends(axes, series, STYLES)
    left.set_ylabel("relative Frobenius error of the product")


EXPERIMENT = Experiment(
    name="accumulation",
    title="Accumulation: the error of products against their length",
    shows="How the error of an FP8 product grows with K on each tensor core, with and without promotion of "
    "partial sums into float32.",
    source="DeepSeek-V3 technical report (arXiv 2412.19437), section 3.3.2; ISCA '25 paper "
    "(arXiv 2505.09343), section 3.1; models of tensor cores by Khattak and Mikaitis (arXiv 2512.07004)",
    jobs=jobs,
    tables=_tables,
    findings=(_remark_two_percent, _remark_growth, _remark_others, _remark_cast),
    published=tuple(_figures()),
    plots={"Error against K": ("error_k.png", _plot)},
)
