"""Experiment ``training``, told: what each product loses in training, and to which choice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..report import charts
from ..report.page import ReportTable
from .experiment import Experiment, ExperimentData, PublishedFigure, pivot
from .products import between, number, percent
from .training import DATA, DRAWS, FLOORS, GRADIENTS, GROUPS, LOST, jobs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 1e-3
"""Bar of DeepGEMM's tests, for ``1 - 2<x, y> / (<x, x> + <y, y>)``."""


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    rows = [
        [
            str(row["data"]),
            f"{_FORMATS[str(row['stored'])]}, {_SCALES[str(row['scale'])]}",
            percent(number(row, "changed")),
            *(percent(number(row, c)) for c in ("once", "twice", "fresh")),
        ]
        for row in result.select("regroup")
    ]
    yield ReportTable(
        "Regrouping x from 1x128 to 128x1",
        ["data", "stored as", "changed", "error once", "error twice", "fresh 128x1"],
        rows,
        "Share of elements whose value the second cast changes; relative error of x in its 1x128 tiles, "
        "after it was regrouped to E4M3 in 128x1, and if its numbers were cast to 128x1 at once.",
    )
    header, body = pivot(
        result, "layer", "recipe", "product", lambda r: percent(number(r, "error")), data=DATA[0].name
    )
    yield ReportTable("Errors of a layer's products: x normal", header, body)
    for product in ("fprop", "wgrad"):
        header, body = pivot(
            result, "layer", "recipe", "data", lambda r: percent(number(r, "error")), product=product
        )
        yield ReportTable(f"{product.capitalize()} by the data of x", header, body)
    header, body = pivot(
        result, "layer", "recipe", "product", lambda r: percent(number(r, "sums")), data=DATA[0].name
    )
    yield ReportTable(
        "Of the sums alone: x normal",
        header,
        body,
        "Against the exact product of what the codes mean.",
    )
    header, body = pivot(result, "expert", "product", "recipe", lambda r: percent(number(r, "error")))
    yield ReportTable(
        "Errors of an expert's products",
        header,
        body,
        "Against float64 all the way from x and dy: what earlier products lost is in the later ones. "
        "x has loud channels.",
    )
    header, body = pivot(
        result,
        "tokens",
        "dy",
        "octaves",
        lambda r: f"{percent(number(r, 'median'))}, {percent(number(r, 'lost'))}",
    )
    yield ReportTable(
        "Dgrad, by the spread of tokens' gradients: error of the median token's dx, and share of tokens lost",
        header,
        body,
        "Columns: standard deviation of the tokens' sizes, in octaves. Lost: off by more than "
        f"{percent(LOST)}.",
    )
    rows = [
        [name, how, *(_at(result, name, how, n) for n in (1, DRAWS))]
        for name in GRADIENTS
        for how in ("nearest", "stochastic")
        if any(True for _ in result.select("mean", format=name, rounding=how))
    ]
    yield ReportTable(
        "Wgrad with dy rounded to nearest and at random: one gradient, and the mean of many",
        ["dy in", "rounding", "one", f"mean of {DRAWS}"],
        rows,
        "Against the product of dy's numbers with what x's codes mean: the error of dy's rounding alone. "
        "Each gradient is of the same dy, with random bits of its own.",
    )
    header, body = pivot(result, "floor", "size", "dy", lambda r: percent(number(r, "wgrad")))
    title = "The floor: Wgrad's error by the size of gradients"
    yield ReportTable(title, header, body, "Root mean square of dy.")


def _at(result: ExperimentData, name: str, how: str, draws: int) -> str:
    found = next(result.select("mean", format=name, rounding=how, draws=draws), None)
    return "–" if found is None else percent(number(found, "error"))


_FORMATS = {"float8_e4m3fn": "E4M3", "e5m6": "E5M6"}
_SCALES = {"float32": "float32", "ue8m0": "2^k"}


def _regrouped(
    result: ExperimentData, column: str, scale: str, stored: str = "float8_e4m3fn"
) -> tuple[float, float]:
    """Return the lowest and the highest over the data."""
    found = [number(row, column) for row in result.select("regroup", stored=stored, scale=scale)]
    if not found:
        raise LookupError("nothing regrouped")
    return min(found), max(found)


def _channels_of(result: ExperimentData, column: str, scale: str) -> float:
    """Return the figure for x in channels of different size."""
    return result.value(column, "regroup", data="channels", scale=scale, stored="float8_e4m3fn")


def _why_powers(result: ExperimentData) -> str:
    changed, kept = (_regrouped(result, "changed", scale) for scale in _SCALES)
    (once, twice), (_, error) = (
        [percent(_channels_of(result, column, scale)) for column in ("once", "twice")] for scale in _SCALES
    )
    return (
        f"Regrouping x for Wgrad with float32 scales changes {between(changed)} of its elements; in "
        f"channels of different size its error grows from {once} to {twice}. With scales 2^k, "
        f"{between(kept)} change (values that become subnormal), and the error stays at {error}."
    )


def _e5m6(result: ExperimentData) -> str:
    once, twice = (_regrouped(result, c, "ue8m0", "e5m6") for c in ("once", "twice"))
    fresh = _regrouped(result, "fresh", "ue8m0")
    return (
        f"In E5M6 the attention output loses {between(once)} while it waits; regrouped to E4M3 it has lost "
        f"{between(twice)}, beside {between(fresh)} had it been cast to 128x1 at once."
    )


def _layer_cost(result: ExperimentData) -> str:
    v3, bf16, up = (
        [
            result.value("error", "layer", data="normal", recipe=name, product=p)
            for p in ("fprop", "dgrad", "wgrad")
        ]
        for name in ("FP8, float32 scales", "BF16", "FP8 up projection")
    )
    return (
        f"A layer, x normal: FP8 loses {percent(v3[0])} in Fprop, {percent(v3[1])} in Dgrad and "
        f"{percent(v3[2])} in Wgrad, whose x is cast twice ({percent(up[2])} with x in scales 2^k). BF16 "
        f"loses {between(bf16)}."
    )


def _sums(result: ExperimentData) -> str:
    def of(recipe: str) -> list[float]:
        found = [number(row, "sums") for row in result.select("layer", data="normal", recipe=recipe)]
        if not found:
            raise LookupError(recipe)
        return found

    promoted, never = of("FP8, float32 scales"), of("FP8, one scale per row, never promoted")
    blackwell = of("FP8, Blackwell's sums")
    return (
        f"Of that, Hopper's sums are {between(promoted)} promoted every 128, and {between(never)} never "
        "promoted (with one scale per row, since scales cannot change within a sum); Blackwell's "
        f"{between(blackwell)}."
    )


def _expert_cost(result: ExperimentData) -> str:
    def of(recipe: str, product: str) -> str:
        return percent(result.value("error", "expert", recipe=recipe, product=product))

    products = ("down.fprop", "gate+up.dgrad", "down.wgrad", "gate.wgrad")
    fp8, bf16, kept, free = (
        [of(name, p) for p in products]
        for name in ("FP8", "BF16", "FP8, SwiGLU's inputs kept in BF16", "FP8, float32 scales")
    )
    return (
        f"An expert, all the way: y {fp8[0]} (BF16 {bf16[0]}), dx {fp8[1]} ({bf16[1]}), Wgrad of down "
        f"{fp8[2]} ({bf16[2]}) and of gate {fp8[3]} ({bf16[3]}). Keeping SwiGLU's inputs in BF16 would make "
        f"the last three {kept[1]}, {kept[2]} and {kept[3]}; float32 scales everywhere {free[1]}, {free[2]} "
        f"and {free[3]}."
    )


def _gradient_formats(result: ExperimentData) -> str:
    four, five = (
        [result.value("error", "layer", data="normal", recipe=name, product=p) for p in ("dgrad", "wgrad")]
        for name in ("FP8, float32 scales", "FP8, E5M2 gradients")
    )
    return (
        f"E5M2 gradients lose {percent(five[0])} in Dgrad and {percent(five[1])} in Wgrad, E4M3 "
        f"{percent(four[0])} and {percent(four[1])}: tiles of 128 make the wider range needless."
    )


def _blocks(result: ExperimentData) -> str:
    def of(octaves: int, dy: str) -> float:
        return result.value("lost", "tokens", octaves=octaves, dy=dy)

    tile, block, wide = (of(4, dy) for dy in ("E4M3, 1x128", "E4M3, 128x128", "E5M2, 128x128"))
    return (
        f"Where tokens' gradients differ by 4 octaves (standard deviation), the dx of {percent(block)} of "
        f"the tokens is off by more than {percent(LOST)} with dy in 128x128 blocks, the grouping that "
        f"diverged, and of {percent(tile)} with 1x128 tiles (with E5M2 in blocks, {percent(wide)}): the "
        "loudest of 128 tokens sets the scale of all."
    )


def _floor_cost(result: ExperimentData) -> str:
    sizes = result.kinds("size", "floor")

    def error(size: float, dy: str) -> float:
        return result.value("wgrad", "floor", size=size, dy=dy)

    plain = error(sizes[0], "E4M3, no floor")
    hurt = [s for s in sizes if error(s, "E4M3, floor of 1e-4") > 1.1 * plain]
    lost = [s for s in sizes if error(s, "E4M3, floor of 1e-4") > 0.5]
    if not hurt or not lost:
        raise LookupError("no gradients below the floor")
    return (
        "The floor of 1e-4 on amax costs more than a tenth of Wgrad's error from gradients of "
        f"{hurt[0]:.0e} (root mean square) down, and most of the gradient from {lost[0]:.0e}; without it "
        f"the error is {between([error(s, 'E4M3, no floor') for s in sizes])} at every size."
    )


def _block_scaled(result: ExperimentData) -> str:
    def of(name: str) -> list[str]:
        return [
            percent(result.value("error", "layer", data="normal", recipe=name, product=p))
            for p in ("fprop", "dgrad", "wgrad")
        ]

    words = [f"{name} {', '.join(of(name))}" for name in ("MXFP8", "NVFP4", "NVFP4, as trained")]
    searched = [of(f"NVFP4, {how}")[0] for how in ("four over six", "scales searched")]
    return (
        f"Fprop, Dgrad and Wgrad on block-scaled units, x normal: {'; '.join(words)}. Two scales to choose "
        f"from (four over six) make NVFP4's Fprop {searched[0]}, five {searched[1]}."
    )


def _stochastic(result: ExperimentData) -> str:
    def of(how: str, draws: int) -> str:
        return percent(result.value("error", "mean", format="NVFP4", rounding=how, draws=draws))

    return (
        f"Stochastic rounding of NVFP4 gradients makes one Wgrad worse ({of('stochastic', 1)} beside "
        f"{of('nearest', 1)}) and the mean of {DRAWS} better ({of('stochastic', DRAWS)} beside "
        f"{of('nearest', DRAWS)}): its errors are independent, those of nearest come back at every step."
    )


def _deepgemm(result: ExperimentData) -> tuple[float, float]:
    found = [
        number(row, "difference")
        for row in result.select("layer", recipe="FP8, float32 scales", data="normal")
        if row["product"] != "wgrad"
    ]
    if not found:
        raise LookupError("no layer")
    return min(found), max(found)


def _published() -> Iterator[PublishedFigure]:
    for what, scale, column, value in (
        ("float32 scales: elements that regrouping changes", "float32", "changed", 0.987),
        ("float32 scales: error of x, cast once", "float32", "once", 0.0211),
        ("float32 scales: error of x, cast twice", "float32", "twice", 0.0334),
        ("scales 2^k: elements that regrouping changes", "ue8m0", "changed", 0.0),
    ):
        yield PublishedFigure(what, value, partial(_channels_of, column=column, scale=scale), percent)
    yield PublishedFigure(
        "DeepGEMM's 1 - 2<x,y>/.., Fprop and Dgrad (known: below)", BAR, _deepgemm, lambda v: f"{v:.2g}"
    )


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")


def _plot_regroup(result: ExperimentData, figure: Figure) -> None:
    """Draw the error of x: cast once, and regrouped with either kind of scale."""
    figure.set_size_inches(10, 4.2)
    axes = figure.add_subplot()
    looks: dict[str, tuple[str, str, str, charts.Style]] = {
        "float32 scales, cast once": ("float32", "once", "float8_e4m3fn", ("#0072B2", "o", "")),
        "float32 scales, regrouped": ("float32", "twice", "float8_e4m3fn", ("#D55E00", "s", "")),
        "scales 2^k, cast once": ("ue8m0", "once", "float8_e4m3fn", ("#009E73", charts.RING, "")),
        "scales 2^k, regrouped": ("ue8m0", "twice", "float8_e4m3fn", ("#009E73", "o", "")),
        "E5M6 with 2^k, regrouped to E4M3": ("ue8m0", "twice", "e5m6", ("#E69F00", "D", "")),
    }
    series = {
        name: {
            str(row["data"]): number(row, column)
            for row in result.select("regroup", scale=scale, stored=stored)
        }
        for name, (scale, column, stored, _) in looks.items()
    }
    charts.dots(axes, result.kinds("data", "regroup"), series, {n: look[3] for n, look in looks.items()})
    charts.percent_axis(axes.xaxis)
    axes.set_xlabel("relative error of x in E4M3")
    charts.legend(axes)


def _plot_expert(result: ExperimentData, figure: Figure) -> None:
    """Errors of an expert's products, by recipe."""
    figure.set_size_inches(10.5, 4.8)
    axes = figure.add_subplot()
    products = result.kinds("product", "expert")
    names = result.kinds("recipe", "expert")
    series = {
        name: {str(r["product"]): number(r, "error") for r in result.select("expert", recipe=name)}
        for name in names
    }
    styles = {
        name: (colour, marker, "")
        for name, colour, marker in zip(
            names, _COLOURS, ("o", charts.RING, "s", "D", "^", "v", "P", "X"), strict=False
        )
    }
    charts.dots(axes, products, series, styles)
    charts.percent_axis(axes.xaxis)
    axes.set_xlabel("relative error against float64, all the way")
    charts.legend(axes)


def _plot_gradients(result: ExperimentData, figure: Figure) -> None:
    """Draw what gradients suffer: tokens of different size in one block, and the floor."""
    figure.set_size_inches(13, 5)
    left, right = figure.subplots(1, 2)
    series, styles = {}, {}
    for name, colour in zip(GROUPS, _COLOURS, strict=False):
        rows = list(result.select("tokens", dy=name))
        if rows:
            series[name] = ([number(r, "octaves") for r in rows], [number(r, "lost") for r in rows])
            styles[name] = (colour, "o", "-" if "1x128" in name else (0, (4, 1.5)))
    if not series:
        raise LookupError("no gradients")
    charts.draw_lines(left, series, styles)
    charts.percent_axis(left.yaxis)
    left.set_xlabel("spread of tokens' gradients (octaves, standard deviation)")
    left.set_ylabel(f"tokens whose dx is off by more than {percent(LOST)}")
    left.legend(frameon=False, title="dy in", handlelength=3.2)
    series, styles = {}, {}
    for name, colour in zip(FLOORS, _COLOURS, strict=False):
        rows = list(result.select("floor", dy=name))
        if rows:
            series[name] = ([number(r, "size") for r in rows], [number(r, "wgrad") for r in rows])
            styles[name] = (colour, "o", "-")
    if not series:
        raise LookupError("no small gradients")
    right.set_xscale("log")
    right.set_yscale("log")
    right.invert_xaxis()
    charts.draw_lines(right, series, styles)
    charts.percent_axis(right.yaxis)
    right.set_xlabel("root mean square of dy")
    right.set_ylabel("error of Wgrad")
    right.legend(frameon=False, handlelength=3.2)


EXPERIMENT = Experiment(
    name="training",
    title="The three products of training, in a layer and in an expert",
    shows="What Fprop, Dgrad and Wgrad lose in FP8, beside BF16 and against float64: by the kind of scale, "
    "the regrouping, the format, groups and size of gradients, and the sums.",
    source="DeepSeek-V3 technical report (arXiv 2412.19437), sections 3.3 and 3.5.2, appendix B.2; DeepGEMM",
    jobs=jobs,
    tables=_tables,
    findings=(
        _why_powers,
        _e5m6,
        _layer_cost,
        _sums,
        _gradient_formats,
        _blocks,
        _floor_cost,
        _expert_cost,
        _block_scaled,
        _stochastic,
    ),
    published=tuple(_published()),
    plots={
        "The error of x, regrouped": ("regroup.png", _plot_regroup),
        "An expert's products": ("expert.png", _plot_expert),
        "Groups and size of gradients": ("gradients.png", _plot_gradients),
    },
)
