"""Experiment ``fit``: a small network trained in float64, BF16 and the FP8 recipe, and in variants of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..report import charts
from ..report.page import ReportTable
from ..schemes.scheme import Group
from ..training import ExpertRecipe
from . import network
from .experiment import Experiment, ExperimentData, Job, PublishedFigure, Row, RunConfig
from .network import BFLOAT16, DEEPSEEK_V3, FLOAT64, Optimizer, Size, Task, Training, held_out, train
from .products import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL = Size(hidden=256, inner=384, layers=2, classes=64, tokens=128, parts=2, steps=200)
RAGGED = FULL._replace(hidden=200, inner=328, tokens=120)
QUICK = Size(hidden=128, inner=160, layers=1, classes=16, tokens=48, parts=2, steps=24)
POINT = 4
"""Steps of which the mean loss is one point of a curve."""
EMA = 0.9
"""The report's smoothing of loss curves."""
BAR = 0.0025
"""The relative loss error that the report stays below."""
TOKENS_OF_A_BATCH = 15360 * 4096
"""DeepSeek-V3's."""

F64, BF16, FP8 = "float64", "BF16", "FP8 recipe"


def nvfp4(**changes: Any) -> ExpertRecipe:
    """Return NVFP4's expert with other fields in all its linear layers."""
    expert = ExpertRecipe.preset("nvfp4")
    return expert.replace(up=expert.up.replace(**changes), down=expert.down.replace(**changes))


def _expert(
    blocks: Mapping[str, Group] | None = None,
    formats: Mapping[str, str] | None = None,
    roundings: Mapping[str, str] | None = None,
    **changes: Any,
) -> Training:
    """Return the FP8 recipe with other groups, formats or fields in all linear layers of its experts."""
    expert, layers = DEEPSEEK_V3.expert, []
    for layer in (expert.up, expert.down):
        for name, block in (blocks or {}).items():
            layer = layer.replace(**{name: replace(getattr(layer, name), block=block)})
        for name, fmt in (formats or {}).items():
            layer = layer.replace(**{name: replace(getattr(layer, name), format=fmt)})
        for name, rounding in (roundings or {}).items():
            layer = layer.replace(**{name: getattr(layer, name).with_rounding(rounding)})
        layers.append(layer.replace(**changes))
    up, down = layers
    return replace(DEEPSEEK_V3, expert=replace(expert, up=up, down=down))


def _far_below(how: Training, size: Size) -> Training:
    """Gradients as small as if the loss were the mean over V3's batch."""
    share = size.tokens * size.parts / TOKENS_OF_A_BATCH
    return replace(how, loss_scale=2.0 ** round(math.log2(share)))


BY_ROW: dict[str, Group] = {"activations": (1, None), "weights": (None, None), "gradients": (1, None)}
"""One scale for each row: without promotion, scales cannot change within a sum."""


class FitVariant(NamedTuple):
    """A way to train: how it is drawn, what it is, and whether gradients are very small."""

    colour: str
    how: Training
    small: bool = False


VARIANTS: dict[str, FitVariant] = {
    F64: FitVariant("#555555", FLOAT64),
    BF16: FitVariant("#0072B2", BFLOAT16),
    FP8: FitVariant("#D55E00", DEEPSEEK_V3),
    "float32 sums": FitVariant("#009E73", _expert(accumulator="float32")),
    "one scale per row": FitVariant("#56B4E9", _expert(blocks=BY_ROW)),
    "one scale per row, never promoted": FitVariant("#332288", _expert(blocks=BY_ROW, promote_every=None)),
    "dy in 128x128 blocks in Dgrad": FitVariant("#CC79A7", _expert(blocks={"gradients": (128, 128)})),
    "E5M2 gradients": FitVariant("#E69F00", _expert(formats={"gradients": "float8_e5m2"})),
    "stochastic gradients": FitVariant("#BBBBBB", _expert(roundings={"gradients": "stochastic"})),
    "MXFP8": FitVariant("#44AA99", replace(DEEPSEEK_V3, expert=ExpertRecipe.preset("mxfp8"))),
    "NVFP4, to nearest": FitVariant(
        "#999933", replace(DEEPSEEK_V3, expert=nvfp4(gradients="nvfp4", hadamard=None))
    ),
    "NVFP4, as trained": FitVariant("#661100", replace(DEEPSEEK_V3, expert=ExpertRecipe.preset("nvfp4"))),
    "NVFP4, four over six": FitVariant(
        "#DDCC77",
        replace(
            DEEPSEEK_V3,
            expert=nvfp4(
                activations="nvfp4:nvfp4_four_over_six",
                weights="e2m1:16x16:nvfp4:nvfp4_four_over_six",
                gradients="nvfp4:nvfp4_four_over_six:stochastic",
            ),
        ),
    ),
    "float32 moments": FitVariant("#882255", replace(DEEPSEEK_V3, moments=np.float32)),
    "tiny gradients, no floor": FitVariant("#117733", _expert(gradient_floor=0.0), small=True),
    "tiny gradients, floor of 1e-4": FitVariant("#AA4499", DEEPSEEK_V3, small=True),
}
"""The first three from every start, the others (each the FP8 recipe but for what it says) from some."""

MAIN = (F64, BF16, FP8)


def jobs(config: RunConfig) -> list[Job]:
    """Return a run for each start and variant; a start's three main runs first."""
    size = QUICK if config.quick else FULL
    seeds, some = (2, 1) if config.quick else (5, 2)
    runs = [("main", size, seed, name) for seed in range(seeds) for name in MAIN]
    runs += [("main", size, seed, name) for seed in range(some) for name in VARIANTS if name not in MAIN]
    if not config.quick:
        runs += [("ragged", RAGGED, seed, name) for seed in range(some) for name in (BF16, FP8)]
    return [
        Job(f"{name}, {sizes}, start {seed}", partial(_run, config, sizes, size, seed, name))
        for sizes, size, seed, name in runs
    ]


def _run(config: RunConfig, sizes: str, size: Size, seed: int, name: str) -> list[Row]:
    variant = VARIANTS[name]
    how = _far_below(variant.how, size) if variant.small else variant.how
    task = Task(config, size, seed)
    about: Row = {"part": "loss", "sizes": sizes, "start": seed, "recipe": name}
    losses: list[float] = []
    rows, weights = [], network.start(task)
    for loss, after in train(task, how, Optimizer()):
        weights = after
        losses.append(loss)
        if len(losses) % POINT == 0:
            rows.append(about | {"step": len(losses), "loss": float(np.mean(losses[-POINT:]))})
    seen = 256 if config.quick else 4096
    return [*rows, about | {"part": "final", "held_out": held_out(task, weights, seen)}]


# --- what is told ---


def curve(
    result: ExperimentData, name: str, start: Any, sizes: str = "main"
) -> tuple[list[float], list[float]]:
    """Return the steps and the smoothed losses of one run; LookupError where it was not done."""
    rows = list(result.select("loss", sizes=sizes, start=start, recipe=name))
    if not rows:
        raise LookupError(f"no run of {name} from start {start}")
    smooth: list[float] = []
    for row in rows:
        loss = number(row, "loss")
        smooth.append(EMA * smooth[-1] + (1 - EMA) * loss if smooth else loss)
    return [number(row, "step") for row in rows], smooth


def gaps(result: ExperimentData, name: str, start: Any, to: str = BF16, sizes: str = "main") -> list[float]:
    """Return the smoothed losses of one run over those of another from the same start, less 1."""
    (_, one), (_, other) = (curve(result, n, start, sizes) for n in (name, to))
    if len(one) != len(other):
        raise LookupError("an unfinished run")
    return [a / b - 1 for a, b in zip(one, other, strict=True)]


def _held_out(result: ExperimentData, name: str, start: Any, to: str = BF16, sizes: str = "main") -> float:
    one, other = (result.value("held_out", "final", sizes=sizes, start=start, recipe=n) for n in (name, to))
    return one / other - 1


def _starts(result: ExperimentData, name: str, to: str = BF16, sizes: str = "main") -> list[Any]:
    """Return the starts from which both were run."""
    both = [{row["start"] for row in result.select("final", sizes=sizes, recipe=n)} for n in (name, to)]
    found = sorted(both[0] & both[1], key=str)
    if not found:
        raise LookupError(f"no start with both {name} and {to}")
    return found


def _finals(
    result: ExperimentData, name: str, to: str = BF16, sizes: str = "main"
) -> tuple[list[float], list[float]]:
    """Return the last gaps of the smoothed training loss, and those of the held-out loss, of every start."""
    starts = _starts(result, name, to, sizes)
    return (
        [gaps(result, name, s, to, sizes)[-1] for s in starts],
        [_held_out(result, name, s, to, sizes) for s in starts],
    )


def _signed(value: float) -> str:
    return f"{100 * value:+.3f}%"


def _spread(values: Sequence[float]) -> str:
    """Mean, and lowest to highest."""
    if len(values) == 1:
        return _signed(values[0])
    return f"{_signed(float(np.mean(values)))} ({_signed(min(values))} to {_signed(max(values))})"


def _tables(result: ExperimentData) -> Iterator[ReportTable]:
    rows = []
    for sizes, name, to in [
        *(("main", name, BF16) for name in VARIANTS if name != BF16),
        ("ragged", FP8, BF16),
    ]:
        try:
            trained, unseen = _finals(result, name, to, sizes)
        except LookupError:
            continue
        label = name if sizes == "main" else f"{name}, ragged sizes"
        rows.append([label, str(len(trained)), _spread(trained), _spread(unseen)])
    yield ReportTable(
        "Final gap to BF16",
        ["", "starts", "smoothed training loss", "held-out loss"],
        rows,
        "Relative; mean over the starts, lowest to highest. The training loss is that of each step's own "
        f"batch in the run's own recipe, smoothed by an exponential moving average of {EMA} over points of "
        f"{POINT} steps; the held-out loss is of the final weights, in float64, on inputs that no batch "
        "had. Below the first two rows: the FP8 recipe but for what is said.",
    )
    body = []
    for start in _starts_of(result):
        cells = [str(start)]
        for name in MAIN:
            found = next(result.select("final", sizes="main", start=start, recipe=name), None)
            cells.append("–" if found is None else f"{number(found, 'held_out'):.4f}")
        body.append(cells)
    yield ReportTable("Held-out loss by start, in nats", ["start", *MAIN], body)


def _starts_of(result: ExperimentData) -> list[Any]:
    return list(dict.fromkeys(row["start"] for row in result.select("final", sizes="main")))


def _falls(result: ExperimentData) -> str:
    losses = [number(row, "loss") for row in result.select("loss", sizes="main", start=0, recipe=BF16)]
    if not losses:
        raise LookupError("no run in BF16")
    steps = result.kinds("step", "loss", sizes="main", start=0, recipe=BF16)
    third = losses[2 * len(losses) // 3]
    return (
        f"The loss falls over the whole run: from {losses[0]:.2f} nats to {third:.2f} after two thirds of "
        f"the {steps[-1]} steps and {losses[-1]:.2f} at the end (BF16, first start)."
    )


def _gap(result: ExperimentData) -> str:
    trained, unseen = _finals(result, FP8)
    floor, floor_unseen = _finals(result, BF16, F64)
    worst = max(abs(g) for s in _starts(result, FP8) for g in gaps(result, FP8, s))
    return (
        f"FP8 against BF16, over {len(trained)} starts: training loss {_spread(trained)} at the end, never "
        f"further than {percent(worst)} on the way; held-out loss {_spread(unseen)}. BF16 against float64, "
        f"the noise: {_spread(floor)} and {_spread(floor_unseen)}. The report's bar is {percent(BAR)}."
    )


def _variants(result: ExperimentData) -> str:
    changes = {}
    for name in VARIANTS:
        if name not in MAIN and not VARIANTS[name].small:
            starts = _starts(result, name)
            changes[name] = float(np.mean([gaps(result, name, s, FP8)[-1] for s in starts]))
    found = ", ".join(f"{name} {_signed(gap)}" for name, gap in changes.items())
    own = _finals(result, FP8)[0]
    return (
        f"What one change does to the FP8 recipe's final training loss, relative to it: {found}. The "
        f"recipe's own gap to BF16 scatters over {percent(max(own) - min(own))} between starts."
    )


def _floor(result: ExperimentData) -> str:
    floor, none = (_finals(result, f"tiny gradients, {f}")[1] for f in ("floor of 1e-4", "no floor"))
    return (
        "Gradients as small as a mean over DeepSeek-V3's batch of 63 million tokens makes them: with the "
        "open kernels' floor of 1e-4 on a tile's amax, codes of gradients are subnormal or zero and the "
        f"held-out loss ends {_signed(float(np.mean(floor)))} from BF16's; without the floor, "
        f"{_signed(float(np.mean(none)))}."
    )


def _limits(result: ExperimentData) -> str:
    trained, _ = _finals(result, "dy in 128x128 blocks in Dgrad")
    return (
        "Not to be seen here: 128x128 blocks for the gradients in Dgrad, with which a 16B model diverged "
        f"after 300B tokens (technical report, B.2), end {_spread(trained)} from BF16. A run of this size "
        "shows an error that acts at once, not one that adds up over a trillion tokens."
    )


def _measured(result: ExperimentData) -> tuple[float, float]:
    found = [abs(gap) for gap in _finals(result, FP8)[0]]
    return min(found), max(found)


def _plot(result: ExperimentData, figure: Figure) -> None:
    """Loss curves of every start, and how far FP8 and float64 are from BF16."""
    figure.set_size_inches(12.5, 5.4)
    left, right = figure.subplots(1, 2)
    starts = _starts(result, FP8)
    styles: dict[str, charts.Style] = {
        name: (VARIANTS[name].colour, "", dashes)
        for name, dashes in zip(MAIN, ("-", (0, (5, 2)), (0, (1.5, 1.5))), strict=True)
    }
    for name in MAIN:
        colour, _, dashes = styles[name]
        for i, start in enumerate(starts):
            left.plot(
                *curve(result, name, start),
                color=colour,
                linestyle=dashes,
                linewidth=1.8 if name != F64 else 3.2,
                alpha=0.35 if name == F64 else 0.9,
                label=name if i == 0 else None,
            )
    left.set_xlabel("step")
    left.set_ylabel(f"training loss (nats), EMA {EMA}")
    left.set_title(f"{len(starts)} starts", fontsize=11)
    left.legend(frameon=False, handlelength=3.2)
    left.grid(axis="y", alpha=0.25)
    right.axhspan(-BAR, BAR, color="#eeeeee", zorder=0)
    for name in (F64, FP8):
        for i, start in enumerate(_starts(result, name)):
            steps, _ = curve(result, name, start)
            label = f"{name} against BF16" if i == 0 else None
            right.plot(steps, gaps(result, name, start), color=styles[name][0], linewidth=1.4, label=label)
    right.axhline(0, color=charts.GREY, linewidth=0.8, zorder=1)
    charts.percent_axis(right.yaxis)
    right.set_xlabel("step")
    right.set_ylabel("relative difference of smoothed losses")
    right.set_title(f"grey: the report's {percent(BAR)}", fontsize=11)
    right.legend(frameon=False)
    right.grid(axis="y", alpha=0.25)


def _plot_variants(result: ExperimentData, figure: Figure) -> None:
    """Draw the final gap of every run, by variant."""
    figure.set_size_inches(10, 5.0)
    axes = figure.add_subplot()
    names = [name for name in VARIANTS if name != BF16]
    shown: list[str] = []
    axes.axvspan(-BAR, BAR, color="#eeeeee", zorder=0)
    for name in names:
        try:
            trained, unseen = _finals(result, name)
        except LookupError:
            continue
        y = len(shown)
        shown.append(name)
        colour = VARIANTS[name].colour
        axes.scatter(trained, [y - 0.12] * len(trained), color=colour, marker="o", s=34, zorder=3)
        axes.scatter(
            unseen, [y + 0.12] * len(unseen), edgecolors=colour, facecolors="none", marker="D", s=30, zorder=3
        )
    if not shown:
        raise LookupError("no run beside BF16")
    axes.set_xscale("symlog", linthresh=BAR)
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.axvline(0, color=charts.GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="x", alpha=0.25)
    charts.percent_axis(axes.xaxis)
    axes.set_xlabel(
        f"final gap to BF16 (linear within the grey ±{percent(BAR)}); dots: training loss, diamonds: held out"
    )


EXPERIMENT = Experiment(
    name="fit",
    title="A small network trained in float64, BF16 and FP8",
    shows="How far the loss of a network trained in the FP8 recipe ends from that of one trained in BF16, "
    "over several starts, beside BF16 against float64; and what variants of the recipe change.",
    source="DeepSeek-V3 technical report (arXiv 2412.19437), sections 3.3 and 4.2, appendix B",
    jobs=jobs,
    tables=_tables,
    findings=(_falls, _gap, _variants, _floor, _limits),
    published=(
        PublishedFigure(
            "FP8 against BF16, relative loss error at the end (known: below)", BAR, _measured, percent
        ),
    ),
    plots={
        "Loss curves, and their difference": ("loss.png", _plot),
        "The final gap, by variant": ("gaps.png", _plot_variants),
    },
)
