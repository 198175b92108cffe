"""Tables for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..report.page import ReportTable
from ..report.terminal import Column, rich_table
from ..report.text import figure, share
from .measuring import OpLocation
from .metrics import Spread, decibels
from .result import Cost, LogitDivergence, SensitivityData
from .variant import LAYERS, LOGITS, OPERATORS, Variant

if TYPE_CHECKING:
    from rich.table import Table


def dB(value: float) -> str:
    """Decibels of a relative error, to a tenth."""
    found = decibels(value)
    return "exact" if found == math.inf else f"{found:.1f}"


def from_to(spread: Spread) -> str:
    """Write the range that 90 of 100 tokens are in."""
    return f"{figure(spread.p5)} to {figure(spread.p95)}"


# --- the choices ---


def plus(names: tuple[str, ...]) -> str:
    """Other choices that come or go with one."""
    return f" (+ {', '.join(names)})" if names else ""


def _seen(text: Callable[[LogitDivergence], str], seen: LogitDivergence | None) -> str:
    return "–" if seen is None else text(seen)


def _median(seen: LogitDivergence) -> str:
    return figure(seen.kl.median)


def _ratio(seen: LogitDivergence) -> str:
    return "exact" if seen.sqnr_db == math.inf else f"{seen.sqnr_db:.1f}"


def _top(seen: LogitDivergence) -> str:
    return share(seen.same_top)


def _gain(cost: Cost) -> str:
    return "–" if math.isnan(cost.gain) else "0" if cost.gain == 0 else f"{cost.gain:+.2g}"


COST_COLUMNS: tuple[tuple[str, Callable[[Cost], str]], ...] = (
    ("choice", lambda c: c.choice),
    ("alone", lambda c: _seen(_median, c.alone) + plus(c.brings)),
    ("dB", lambda c: _seen(_ratio, c.alone)),
    ("top-1", lambda c: _seen(_top, c.alone)),
    ("its base", lambda c: _seen(_median, c.base)),
    ("without", lambda c: _seen(_median, c.without) + plus(c.takes)),
    ("dB", lambda c: _seen(_ratio, c.without)),
    ("top-1", lambda c: _seen(_top, c.without)),
    ("gain", _gain),
    ("effect", lambda c: c.effect),
)
"""Title and text of each column of the choices."""


def costs_shown(result: SensitivityData) -> ReportTable:
    """Make the table of what each choice costs."""
    rows = [[text(cost) for _, text in COST_COLUMNS] for cost in result.costs()]
    return ReportTable(
        "What each choice costs",
        [name for name, _ in COST_COLUMNS],
        rows,
        note="Median over tokens of the divergence from float64, KL in nats, with the SQNR of the median "
        "token's logits in dB, and the share of tokens whose likeliest next token is float64's. *alone*: "
        "float64 with this choice alone, and what it cannot do without (+); *its base*: the same without "
        "the choice. *without*: the recipe without this choice, and what cannot stay then (+). *gain*: "
        "how far the recipe's median divergence, the mean of its perturbed runs, falls without "
        "the choice" + (f"; the noise floor is ±{_half_width(result)}." if _half_width(result) else "."),
    )


def _half_width(result: SensitivityData) -> str:
    try:
        half_width = result.noise_floor().prediction_interval
    except LookupError:
        return ""
    return figure(half_width) if math.isfinite(half_width) else ""


def costs_table(result: SensitivityData) -> Table:
    """Return the choices as a rich table of 80 columns; what comes or goes with one stands below."""
    title = f"{result.recipe.name}: median KL from float64 in nats, SQNR, same likeliest token"
    columns: list[Column] = [("choice", {"no_wrap": True})]
    for name in ("alone", "dB", "top-1", "without", "dB", "top-1", "gain"):
        columns.append((name, {"no_wrap": True, "justify": "right"}))
    table = rich_table(
        [*columns, "effect"],
        title=title + (" (partial)" if result.partial else ""),
        caption="\n".join(_company(result)),
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    for cost in result.costs():
        seen = [_seen(text, of) for of in (cost.alone, cost.without) for text in (_median, _ratio, _top)]
        table.add_row(cost.choice, *seen, _gain(cost), cost.effect)
    return table


def _company(result: SensitivityData) -> Iterator[str]:
    for cost in result.costs():
        if cost.brings:
            without = f", which are at {_median(cost.base)} without it" if cost.base else ""
            yield f"{cost.choice} alone comes with {', '.join(cost.brings)}{without}"
        if cost.takes:
            yield f"{cost.choice} takes along {', '.join(cost.takes)}"


# --- runs ---


def label(variant: Variant) -> str:
    """Name a variant for people."""
    if variant.role == "all":
        return "the recipe"
    if variant.role == "form":
        return f"the recipe, attention {variant.name}"
    if variant.role == "one_channel":
        return "the recipe, one channel perturbed"
    return variant.name


def named(result: SensitivityData, variant: Variant) -> str:
    """Return a variant's choice, with what comes or goes with it: its name among those of its role."""
    if variant.role not in ("alone", "without"):
        return label(variant)
    mine, whole = set(variant.recipe.choices()), result.recipe.choices()
    others = mine if variant.role == "alone" else set(whole) - mine
    return variant.choice + plus(tuple(name for name in whole if name in others and name != variant.choice))


def runs_shown(result: SensitivityData) -> ReportTable:
    """Every free-running forward beside float64."""
    rows = []
    for variant in result.done(LOGITS):
        kl, errors = (result.spread(variant, metric) for metric in ("kl_nats", "relative_error"))
        rows.append(
            [
                _run(result, variant),
                figure(kl.median),
                from_to(kl),
                figure(kl.worst),
                dB(errors.median),
                f"{dB(errors.p95)} to {dB(errors.p5)}",
                share(result.agreement(variant)),
                share(result.rerouted(variant)),
            ]
        )
    header = ["", "KL median", "5 to 95 %", "worst", "SQNR dB", "5 to 95 %", "same top-1", "other experts"]
    return ReportTable(
        "Every run beside float64",
        header,
        rows,
        note="Over tokens, of the logits. *same top-1*: tokens whose likeliest next token is float64's; "
        "*other experts*: tokens that go to another set of experts in at least one layer.",
    )


def _run(result: SensitivityData, variant: Variant) -> str:
    return (
        f"{variant.role} {named(result, variant)}"
        if variant.choice and variant.role != "base"
        else label(variant)
    )


# --- operations ---


def operations_shown(result: SensitivityData) -> ReportTable:
    """Which choice puts how much error into which operation."""
    columns = operation_columns(result)
    cells: dict[OpLocation, dict[str, str]] = {}
    for name, errors in columns.items():
        for place, error in errors.items():
            cells.setdefault(place, {})[name] = figure(error)
    rows = [
        [f"`{place.operation}`", place.kind, *(found.get(name, "") for name in columns)]
        for place, found in cells.items()
    ]
    return ReportTable(
        "Operation by operation",
        ["operation", "kind", *columns],
        rows,
        note="Relative error of an operation's output on float64's inputs: the median over tokens, then over "
        "layers. Empty: the operation is done as in float64. *over its base*: not beside float64, but beside "
        "what the choice's base makes of the same inputs: what the choice itself adds.",
    )


def operation_columns(result: SensitivityData) -> dict[str, dict[OpLocation, float]]:
    """Median errors by operation: of the recipe, of each choice alone, and of those over their bases."""
    found = {}
    for variant in result.done(OPERATORS):
        if variant.role in ("all", "alone"):
            found[named(result, variant)] = operation_errors(result, variant)
            if variant.base is not None:
                found[f"{variant.choice}, over its base"] = operation_errors(result, variant, "over_base")
    return found


def operation_errors(
    result: SensitivityData, variant: str | Variant, rows: str = "rows"
) -> dict[OpLocation, float]:
    """Median errors by operation: over rows in each layer, then over layers."""
    medians: dict[OpLocation, list[float]] = {}
    for row in result.part(OPERATORS, variant)[rows]:
        value = math.inf if row["median"] is None else row["median"]
        medians.setdefault(OpLocation(None, row["operation"], row["kind"]), []).append(value)
    return {place: Spread.of(values).median for place, values in medians.items()}


def kinds_shown(result: SensitivityData) -> ReportTable:
    """Errors of a kind of operation, in each layer."""
    try:
        rows = result.part(OPERATORS, "all")["kinds"]
    except LookupError:
        return ReportTable("Kind by kind, layer by layer", [], [])
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    layers = sorted({row["layer"] for row in rows if row["layer"] is not None})
    found = {(row["layer"], row["kind"]): row["median"] for row in rows}
    body = [
        [
            "all" if layer is None else str(layer),
            *(figure(found[layer, kind]) if (layer, kind) in found else "" for kind in kinds),
        ]
        for layer in (*layers, None)
    ]
    return ReportTable(
        "Kind by kind, layer by layer",
        ["layer", *kinds],
        body if kinds else [],
        note="Under the recipe: relative error of the outputs of all operations of a kind, the median over "
        "their rows.",
    )


# --- layers ---


def layers_shown(result: SensitivityData) -> ReportTable:
    """Every layer on float64's input, and in the free-running forward."""
    try:
        forced, free = (result.part(part, "all") for part in (LAYERS, LOGITS))
    except LookupError:
        return ReportTable("Layer by layer", [], [])
    rows = []
    for alone, run in zip(forced["rows"], free["layers"], strict=True):
        added, out = alone["increment"], alone["output"]
        rows.append(
            [
                str(alone["layer"]),
                figure(added["median"]),
                f"{figure(added['p5'])} to {figure(added['p95'])}",
                figure(out["median"]),
                figure(run["hidden"]["median"]),
                *("–" if r["experts_changed"] is None else share(r["experts_changed"]) for r in (alone, run)),
            ]
        )
    return ReportTable(
        "Layer by layer",
        ["layer", "increment", "5 to 95 %", "output", "stream, free", "other experts", "free"],
        rows,
        note="Under the recipe. *increment*: relative error of what the layer adds to the residual stream, "
        "on float64's input; *output*: of the stream after it; *stream, free*: the same where every layer "
        "runs on what the one before made. Medians over tokens. *other experts*: share of tokens.",
    )


def tables(result: SensitivityData) -> Iterator[ReportTable]:
    """Yield the report's tables; those without rows are left out."""
    for table in (f(result) for f in (runs_shown, layers_shown, operations_shown, kinds_shown)):
        if table.rows:
            yield table
