"""Plots that answer one question each: what does a choice cost, which tokens pay, and where does error arise.

A choice has one colour, marker and dash in all of them, in a palette that colour-blind readers can tell apart
(Okabe and Ito); the recipe itself is black, the noise floor grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..report.charts import legend, percent_axis
from ..report.drawing import LINES, Style, alone
from .measuring import OpLocation
from .metrics import Floats, Spread, decibels
from .result import SensitivityData
from .tables import label, named, operation_columns
from .variant import LAYERS, LOGITS, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, GREY = "#222222", "#999999"
PALE = ("#808080", 0.2)
# what is below is as good as nothing, and would stretch every axis
_LEAST_KL = 1e-9
_LEAST_ERROR = 1e-6
_LEAST_LAYER = 1e-5


_STYLES = {
    "compute": Style("#555555", "X", LINES[1]),
    "activations": Style("#0072B2", "o", LINES[0]),
    "weights": Style("#56B4E9", "v", LINES[1]),
    "accumulator": Style("#D55E00", "^", LINES[0]),
    "rule": Style("#332288", "p", LINES[2]),
    "cache": Style("#009E73", "D", LINES[0]),
    "dispatch": Style("#E69F00", "s", LINES[1]),
    "combine": Style("#CC79A7", "P", LINES[2]),
    "gate": Style("#882255", "*", LINES[3]),
    "masked": Style("#999933", "h", LINES[4]),
}


def style(variant: Variant) -> Style:
    """Return the style of a variant."""
    if variant.role == "all":
        return Style(BLACK, "o", LINES[0])
    return _STYLES.get(variant.choice, Style(GREY, "o", LINES[0]))


def _needed(found: list[Variant]) -> list[Variant]:
    if not found:
        raise LookupError("nothing measured")
    return found


# --- what a choice costs ---


METRICS = ("kl_nats", "relative_error")
"""Metrics that the costs of choices are drawn in: KL from float64, and the error as SQNR."""


def costs(result: SensitivityData, axes: Axes, metric: str = "kl_nats") -> Axes:
    """Cost with each choice left out and alone; bars hold 90 of 100 tokens, grey is the noise floor."""
    rows = _cost_rows(result)
    places, heads = _cost_places(rows)
    divergence = metric == METRICS[0]
    floor = result.noise_floor(metric)
    if math.isfinite(floor.prediction_interval):
        least = _LEAST_KL if divergence else _LEAST_ERROR
        ends = (max(floor.mean - floor.prediction_interval, least), floor.mean + floor.prediction_interval)
        axes.axvspan(*(ends if divergence else sorted(map(decibels, ends))), color=PALE, zorder=0)
    for variant, y in zip(rows, places, strict=True):
        spread, look = result.spread(variant, metric), style(variant)
        if divergence:
            _bar(axes, y, look, _above(spread, _LEAST_KL), "< 1e-9" if spread.median else "nothing", "left")
        else:
            above = [decibels(e) for e in _above(spread, _LEAST_ERROR)]
            _bar(axes, y, look, above, "> 120 dB" if spread.median else "exact", "right")
    if divergence:
        axes.set_xscale("log")
    axes.set_yticks(places, [named(result, v) for v in rows])
    for y, text in heads:
        axes.annotate(
            text, (0, y), (-6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="center", fontsize=9, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axes.set_ylim(places[-1] + 0.7, -0.8)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "KL from float64, nats (left is better)" if divergence else "SQNR of the logits, dB (right is better)"
    )
    axes.set_title("dot: median token, bar: 5 to 95 %; grey: noise floor", fontsize=9, fontweight="normal")
    return axes


def _cost_rows(result: SensitivityData) -> list[Variant]:
    """Variants in the order of the rows: the recipe, then without each choice, then each alone."""
    order = [cost.choice for cost in result.costs()]
    rows = [result.variant("all"), *(v for v in result.variants if v.role == "form")]
    rows = [v for v in rows if v in result.done(LOGITS)]
    rows += [v for role in ("without", "alone") for c in order for v in _there(result, role, c)]
    return _needed(rows)


def _cost_places(rows: list[Variant]) -> tuple[list[float], list[tuple[float, str]]]:
    """Height of each row, and of the words above the groups of them."""
    places: list[float] = []
    heads: list[tuple[float, str]] = []
    place = 0.0
    for i, variant in enumerate(rows):
        if i and rows[i - 1].role != variant.role and variant.role in ("without", "alone"):
            place += 0.9
            heads.append((place - 0.8, variant.role))
        places.append(place)
        place += 1
    return places, heads


def _costs(result: SensitivityData, figure: Figure) -> None:
    """Costs in both metrics, side by side."""
    figure.set_size_inches(11.5, 1.6 + 0.34 * (len(_cost_rows(result)) + 2))
    left, right = figure.subplots(1, 2)
    for axes, metric in zip((left, right), METRICS, strict=True):
        costs(result, axes, metric)
    right.set_yticklabels([])
    right.set_title("")
    for text in [text for text in right.texts if text.get_text() in ("without", "alone")]:
        text.remove()
    figure.suptitle("What does each choice cost?", x=0.01, ha="left", fontsize=13, fontweight="bold")


def _above(spread: Spread, least: float) -> list[float]:
    return [v if v > least else math.nan for v in (spread.p5, spread.median, spread.p95)]


def _bar(
    axes: Axes, y: float, look: Style, values: list[float], nothing: str, best: Literal["left", "right"]
) -> None:
    """Draw a dot for the median, a bar between the percentiles; without them a word at the best end."""
    ends = [v for v in values if math.isfinite(v)]
    if math.isfinite(values[1]):
        axes.plot(
            [min(ends), max(ends)], [y, y], color=look.colour, linewidth=5, alpha=0.3, solid_capstyle="butt"
        )
        axes.plot(
            [values[1]], [y], color=look.colour, marker=look.marker, markersize=8, markeredgecolor="white",
            markeredgewidth=0.7,
        )  # fmt: skip
    else:
        axes.annotate(
            nothing, (0.01 if best == "left" else 0.99, y), xycoords=("axes fraction", "data"), va="center",
            ha=best, fontsize=8, color=GREY,
        )  # fmt: skip


def _there(result: SensitivityData, role: str, choice: str) -> list[Variant]:
    return [v for v in result.done(LOGITS) if (v.role, v.choice) == (role, choice)]


# --- which tokens pay ---


def tokens(result: SensitivityData, axes: Axes) -> Axes:
    """Draw the share of tokens below each divergence: the recipe, perturbed, and each choice alone."""
    chosen = _needed([v for v in result.done(LOGITS) if v.role in ("all", "alone", "perturbed")])
    untouched, perturbed = [], False
    for variant in sorted(chosen, key=lambda v: v.role == "all"):
        values = np.sort(np.maximum(result.tokens(variant), _LEAST_KL))
        if values[-1] <= _LEAST_KL:
            untouched.append(variant.choice or label(variant))
            continue
        look, name = style(variant), named(result, variant)
        if variant.role == "perturbed":
            name, perturbed = ("" if perturbed else "the recipe, perturbed"), True
        axes.step(
            values, np.arange(1, len(values) + 1) / len(values), where="post", color=look.colour,
            linestyle=look.line, linewidth=2.2 if variant.role == "all" else 1.3, label=name or None,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("KL from float64, nats" + _left_out("no token above 1e-9", untouched))
    axes.set_ylabel("share of tokens at or below")
    axes.set_title("Which tokens pay?")
    axes.grid(alpha=0.25)
    legend(axes)
    return axes


# --- where error arises ---


def layers(result: SensitivityData, axes: Axes) -> Axes:
    """Draw the error that each layer makes on float64's input, by choice alone."""
    chosen = _needed([v for v in result.done(LAYERS) if v.role in ("all", "alone")])
    low = []
    for variant in chosen:
        rows = result.part(LAYERS, variant)["rows"]
        at = [row["layer"] for row in rows]
        p5, median, p95 = (
            np.array([_error(row["increment"][name]) for row in rows]) for name in ("p5", "median", "p95")
        )
        if (median <= _LEAST_LAYER).all():
            low.append(named(result, variant))
            continue
        look = style(variant)
        if variant.role == "all":
            axes.fill_between(at, p5, p95, color=PALE, linewidth=0, label="the recipe, 5 to 95 % of tokens")
        axes.plot(
            at, np.where(median > _LEAST_LAYER, median, np.nan), color=look.colour, marker=look.marker,
            linestyle=look.line, linewidth=1.6, markersize=5, label=named(result, variant),
        )  # fmt: skip
    axes.set_yscale("log")
    percent_axis(axes.yaxis)
    _whole(axes)
    axes.set_xlabel(
        "layer, on the input that it has in the float64 forward" + _left_out("below 0.001 %", low)
    )
    axes.set_ylabel("relative error of what it adds")
    axes.set_title("Where does error arise?")
    axes.grid(axis="y", alpha=0.25)
    legend(axes)
    return axes


def _error(value: float | None) -> float:
    return math.nan if value is None else value


def _left_out(why: str, names: list[str]) -> str:
    return f"\n{why}: {', '.join(names)}" if names else ""


def routes(result: SensitivityData, axes: Axes, part: str = LAYERS) -> Axes:
    """Tokens that go to another set of experts: on float64's input, or running freely (`LOGITS`)."""
    drawn = 0
    for variant in (v for v in result.done(part) if v.role in ("all", "alone")):
        rows = result.part(part, variant)["layers" if part == LOGITS else "rows"]
        points = [(r["layer"], r["experts_changed"]) for r in rows if r["experts_changed"] is not None]
        look = style(variant)
        if points:
            drawn += 1
            axes.plot(
                *zip(*points, strict=True), color=look.colour, marker=look.marker, linestyle=look.line,
                linewidth=1.6, markersize=5, label=named(result, variant),
            )  # fmt: skip
    if not drawn:
        raise LookupError("no layer has experts")
    title = "running freely" if part == LOGITS else "each layer on float64's input"
    axes.set_title(title, fontsize=10, fontweight="normal")
    axes.set_xlabel("layer")
    axes.set_ylabel("tokens with another set of experts")
    axes.grid(axis="y", alpha=0.25)
    axes.set_ylim(bottom=0)
    _whole(axes)
    percent_axis(axes.yaxis)
    return axes


def _routes(result: SensitivityData, figure: Figure) -> None:
    """Draw both, side by side."""
    figure.set_size_inches(11.5, 5)
    left, right = figure.subplots(1, 2, sharey=True)
    top = max(routes(result, axes, part).get_ylim()[1] for axes, part in ((left, LAYERS), (right, LOGITS)))
    left.set_ylim(0, top)
    right.set_ylabel("")
    figure.suptitle("Who goes elsewhere?", x=0.01, ha="left", fontsize=13, fontweight="bold")
    legend(right)


def _operation_grid(
    result: SensitivityData,
) -> tuple[dict[str, dict[OpLocation, float]], list[OpLocation], list[str]]:
    """Errors by column and operation, with the rows and columns that have any."""
    found = operation_columns(result)
    columns = [name for name, errors in found.items() if errors]
    rows: list[OpLocation] = list(dict.fromkeys(place for errors in found.values() for place in errors))
    if not rows:
        raise LookupError("no operation differs")
    return found, rows, columns


def operations_size(result: SensitivityData) -> tuple[float, float]:
    """Width and height of the plot of operations, inches: it grows with its rows and columns."""
    _, rows, columns = _operation_grid(result)
    return max(6.5, 2.8 + 0.85 * len(columns)), max(3.0, 1.8 + 0.26 * len(rows))  # room for labels of few


def operations(result: SensitivityData, axes: Axes) -> Axes:
    """Median error of each operation, under the recipe and under each choice alone."""
    found, rows, columns = _operation_grid(result)
    values: Floats = np.array([[found[name].get(place, np.nan) for name in columns] for place in rows])
    shown = np.log10(np.where(values > 0, np.maximum(values, 1e-8), np.nan))
    axes.set_facecolor("#f4f4f4")
    image = axes.pcolormesh(
        np.arange(len(columns) + 1), np.arange(len(rows) + 1), shown, cmap="viridis_r",
        vmin=-5, vmax=-1, edgecolors="white", linewidth=1,
    )  # fmt: skip
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = "0" if value == 0 else "<.001" if value < 1e-5 else f"{100 * value:.2g}"
            dark = shown[i, j] > -3.4
            axes.text(
                j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7,
                color="white" if dark else "#333333",
            )  # fmt: skip
    axes.set_ylim(len(rows), 0)
    axes.set_yticks(np.arange(len(rows)) + 0.5, [place.operation for place in rows], fontsize=8)
    names = [name.replace(" (", "\n(").replace(", ", ",\n", 1) for name in columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, names, rotation=35, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Which operation errs? Relative error in %, median over tokens and layers", fontsize=12)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.5, aspect=30)
    bar.set_ticks([-5, -4, -3, -2, -1], labels=["0.001%", "0.01%", "0.1%", "1%", "10%"])
    return axes


def _whole(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


PLOTS: dict[str, tuple[str, Callable[[SensitivityData, Any], None]]] = {
    "Costs of choices": ("costs.png", _costs),
    "Divergence over tokens": ("tokens.png", alone(tokens, lambda _: (9.5, 5.4))),
    "Error by layer": ("layers.png", alone(layers, lambda _: (9.5, 5.4))),
    "Error by operation": ("operations.png", alone(operations, operations_size)),
    "Expert sets by layer": ("experts.png", _routes),
}
"""Title, file and function of each plot."""
