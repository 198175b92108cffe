"""Plots of schedules and networks: timelines, routing, loads of GPUs, costs of topologies, loads of links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from .plots import COLOURS, axes_of, beside, needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from .figures import Answer

KINDS = {"F": "#0072B2", "B": "#E69F00", "I": "#F0C100", "W": "#009E73", "FB": "#CC79A7"}
NAMES = {
    "F": "F, forward",
    "B": "B, full backward",
    "I": "B, input part",
    "W": "W, weight part",
    "FB": "F and B together",
}


def _pipeline(answer: Answer, canvas: Canvas) -> None:
    from matplotlib.patches import Patch

    found = needed(answer, "timelines")
    if sum(map(len, found.values())) > 20_000:
        raise LookupError("pipeline: too many pieces to draw")
    canvas.set_size_inches(12, 1.2 + 2.0 * len(found))
    every = np.atleast_1d(canvas.subplots(len(found), 1, sharex=True))
    end = max(event["end"] for events in found.values() for event in events)
    for axes, (name, events) in zip(every, found.items(), strict=True):
        ranks = 1 + max(event["rank"] for event in events)
        for event in events:
            start, width = event["start"], event["end"] - event["start"]
            shade = 0.55 if event["directions"][0] else 1.0
            look = {"color": KINDS[event["kinds"]], "alpha": shade, "linewidth": 0.3, "edgecolor": "white"}
            axes.barh(event["rank"], width, left=start, height=0.86, **look)
            if ranks * end / max(width, 1e-12) < 4000 and len(event["kinds"]) == 1:
                axes.text(
                    start + width / 2,
                    event["rank"],
                    str(event["chunks"][0]),
                    ha="center",
                    va="center",
                    fontsize=5,
                )
        row = next(r for r in answer.rows if r["schedule"] == name)
        axes.set_title(f"{name}: bubble {row['bubble']:.4g} of {row['span']:.4g}", fontsize=10)
        axes.set_ylim(ranks - 0.5, -0.5)
        axes.set_ylabel("rank")
        axes.set_yticks([0, ranks - 1])
    every[-1].set_xlabel("time")
    canvas.suptitle(
        "Which schedule leaves ranks idle least?", x=0.01, ha="left", fontsize=13, fontweight="bold"
    )
    patches = [Patch(color=KINDS[k], label=NAMES[k]) for k in KINDS]
    patches.append(Patch(color="#0072B2", alpha=0.55, label="paler: the other direction"))
    canvas.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=8)


PIPELINE_PLOTS = {"Which schedule leaves ranks idle least?": ("timeline.png", _pipeline)}


def _overlap(answer: Answer, canvas: Canvas) -> None:
    events = needed(answer, "events")
    axes = axes_of(canvas, f"What stays exposed? {answer.rows[0]['period']:.6g} a layer", 12, 2.8)
    stages = len(answer.data["stages"])
    labels = {"c": 0, "n": 1}
    for event in events:
        start, width = event["start"], event["end"] - event["start"]
        colour = COLOURS[event["micro"] % len(COLOURS)]
        axes.barh(labels[event["resource"]], width, left=start, height=0.8, color=colour, edgecolor="white")
        text = f"{event['stage'] // stages}.{event['stage'] % stages}"
        if width > 0:
            axes.text(
                start + width / 2, labels[event["resource"]], text, ha="center", va="center", fontsize=6
            )
    for micro in range(1 + max(event["micro"] for event in events)):
        axes.barh(0, 0, color=COLOURS[micro % len(COLOURS)], label=f"micro-batch {micro}")
    axes.set_yticks([0, 1], ["compute", "network"])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel("time; numbers: layer.stage")
    beside(axes)


OVERLAP_PLOTS = {"What stays exposed?": ("timeline.png", _overlap)}


def _bars(
    axes: Axes, which: tuple[int, int], places: Sequence[int], heights: ArrayLike, colour: str, label: str
) -> None:
    """Bars of one of several series (its number, and how many), which stand side by side at each place."""
    number, count = which
    width = 0.8 / count
    axes.bar(np.array(places) + (number - (count - 1) / 2) * width, heights, width, color=colour, label=label)


def _routing(answer: Answer, canvas: Canvas) -> None:
    axes = axes_of(canvas, f"How many nodes does a token go to? {answer.inputs['config']}")
    for i, row in enumerate(answer.rows):
        share = 100 * np.array(row["distribution"])
        label = f"{row['source']}: {row['nodes_mean']:.3g} on average"
        _bars(axes, (i, len(answer.rows)), range(1, len(share)), share[1:], COLOURS[i], label)
    axes.set_xticks(range(1, len(answer.rows[0]["distribution"])))
    axes.set(xlabel="nodes", ylabel="percent of tokens")
    axes.legend(frameon=False)


ROUTING_PLOTS = {"How many nodes does a token go to?": ("nodes.png", _routing)}


def _eplb(answer: Answer, canvas: Canvas) -> None:
    bars = needed(answer, "bars")
    worst = max(range(len(bars)), key=lambda i: max(bars[i]["before"]))
    axes = axes_of(canvas, f"How even do replicas make the GPUs? Layer {bars[worst]['layer']}")
    series = {name: values for name, values in bars[worst].items() if name != "layer"}
    mean = sum(series["before"]) / len(series["before"])
    colours = ("#BBBBBB", *COLOURS)
    for i, (name, values) in enumerate(series.items()):
        heights = np.array(values) / (mean or 1)
        _bars(axes, (i, len(series)), range(len(values)), heights, colours[i], name)
    axes.axhline(1, color="#555555", linewidth=0.8)
    axes.set(xlabel="GPU", ylabel="load over the mean")
    axes.legend(frameon=False)


EPLB_PLOTS = {"How even do replicas make the GPUs?": ("loads.png", _eplb)}


def _cost(answer: Answer, canvas: Canvas) -> None:
    axes = axes_of(canvas, "What does an endpoint cost, by the size of the network?")
    for i, (name, points) in enumerate(needed(answer, "curves").items()):
        x, y, _ = zip(*sorted(points), strict=True)
        axes.plot(x, np.array(y) / 1e3, label=name, color=COLOURS[i], marker=".", linewidth=1.4)
        for size, price, ports in points:
            if ports == answer.inputs["ports"]:
                axes.plot(size, price / 1e3, "o", color=COLOURS[i], markersize=9)
    axes.set_xscale("log")
    axes.set(
        xlabel=f"endpoints, of switches with 8 to 128 ports; large: {answer.inputs['ports']} ports",
        ylabel="thousand dollars, by fitted prices of 64-port switches",
    )
    axes.set_ylim(bottom=0)
    beside(axes)


COST_PLOTS = {"What does an endpoint cost?": ("cost_over_endpoints.png", _cost)}


def _flows(answer: Answer, canvas: Canvas) -> None:
    axes = axes_of(canvas, f"Does routing spread the load? Pattern {answer.inputs['pattern']}")
    found = needed(answer, "histogram")
    edges = sorted({value for values, _ in found.values() for value in values})
    for i, (name, (values, counts)) in enumerate(found.items()):
        label = f"{name}: heaviest {max(values):.4g}"
        _bars(axes, (i, len(found)), [edges.index(v) for v in values], counts, COLOURS[i], label)
    step = max(1, len(edges) // 20)
    axes.set_xticks(range(0, len(edges), step), [f"{value:.4g}" for value in edges[::step]])
    axes.set(xlabel="flows on a link between switches", ylabel="links")
    axes.legend(frameon=False)


FLOW_PLOTS = {"Does routing spread the load?": ("link_loads.png", _flows)}
