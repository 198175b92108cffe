"""Plots of sizes and time: caches, work, wires, drafts, rooflines, trade-offs. A title is a question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .texts import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from .figures import Answer

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0C100", "#555555")
"""Okabe and Ito's, told apart by everyone."""


def needed(answer: Answer, key: str) -> Any:
    """Return data of a plot; LookupError leaves the plot out."""
    found = answer.data.get(key)
    if not found:
        raise LookupError(f"{answer.part}: no {key} to draw")
    return found


def axes_of(canvas: Canvas, title: str, width: float = 9.0, height: float = 5.0) -> Axes:
    """One pair of axes under a title."""
    canvas.set_size_inches(width, height)
    axes = canvas.subplots()
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return axes


def beside(axes: Axes, title: str = "") -> None:
    """Put the legend to the right of the axes."""
    axes.legend(frameon=False, title=title, loc="center left", bbox_to_anchor=(1.01, 0.5), alignment="left")


def bytes_axis(axis: Any) -> None:
    """Bytes as KiB, MiB, GiB at powers of 1024."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    names = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

    def text(value: float, _: Any) -> str:
        power = min(int(np.log2(value) // 10), 5) if value >= 1 else 0
        return f"{value / 1024**power:.4g} {names[power]}"

    axis.set_major_locator(LogLocator(base=2.0, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(text))


def _tokens_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    ticks = [1, 16, 256, 4096, 65536, 1 << 20]
    axes.set_xticks(ticks, ["1", "16", "256", "4K", "64K", "1M"])


def _kv(answer: Answer, canvas: Canvas) -> None:
    axes = axes_of(canvas, f"How much memory does a sequence's cache take? {answer.inputs['config']}")
    curves = needed(answer, "curves")
    for i, (name, points) in enumerate(curves.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=f"{name}, {human(y[-1], 'B')}", color=COLOURS[i % len(COLOURS)], linewidth=1.8)
    axes.set_yscale("log", base=2)
    bytes_axis(axes.yaxis)
    _tokens_axis(axes)
    axes.set_xlabel("tokens (K = 1024)")
    beside(axes, "cache format, bytes of 1M tokens")


KV_PLOTS = {"How much memory does the cache take?": ("bytes_over_tokens.png", _kv)}


def _flop(answer: Answer, canvas: Canvas) -> None:
    what = f"{answer.inputs['config']}, {answer.inputs['mode']}"
    axes = axes_of(canvas, f"Where do parameters and FLOP go? {what}", 9, 3.6)
    columns = {"all parameters": "total", "multiplied": "active", "FLOP a token": "flop_per_token"}
    parts = [row for row in answer.rows if row["part"] != "sum"]
    for k, column in enumerate(columns.values()):
        whole = sum(row[column] for row in parts) or 1
        left = 0.0
        for i, row in enumerate(parts):
            size = 100 * row[column] / whole
            colour = COLOURS[i % len(COLOURS)] if i < len(COLOURS) else "#BBBBBB"
            axes.barh(k, size, left=left, color=colour, label=row["part"] if k == 0 else None, height=0.62)
            if size > 6:
                axes.text(
                    left + size / 2, k, f"{size:.0f}", ha="center", va="center", fontsize=9, color="white"
                )
            left += size
    axes.set_yticks(range(3), list(columns))
    axes.invert_yaxis()
    axes.set_xlabel("percent")
    axes.grid(visible=False)
    beside(axes)


FLOP_PLOTS = {"Where do parameters and FLOP go?": ("parts.png", _flop)}


def _ep(answer: Answer, canvas: Canvas) -> None:
    axes = axes_of(
        canvas, f"How fast could a token be if only dispatch and combine took time? {answer.inputs['config']}"
    )
    data = needed(answer, "curves")
    speeds = np.geomspace(1e10, 1e12, 60)
    for i, (name, size) in enumerate(data["bytes"].items()):
        axes.plot(speeds, 1e3 * (size / speeds + data["fixed"]), label=name, color=COLOURS[i], linewidth=1.8)
    levels: dict[float, list[str]] = {}
    for machine, speed in data["machines"].items():
        levels.setdefault(speed, []).append(machine)
    for speed, names in levels.items():
        axes.axvline(speed, color="#999999", linewidth=0.8, linestyle=":")
        axes.text(
            speed, 0.02, " " + ", ".join(names), rotation=90, fontsize=8, va="bottom", ha="right",
            color="#666666", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=axes.get_ylim()[0] / 8)
    axes.set_xticks([1e10, 5e10, 1e11, 9e11], ["10", "50", "100", "900"])
    axes.set(xlabel="network of a GPU, GB/s, one direction", ylabel="bound on TPOT, ms")
    beside(axes, "dispatch / combine")


EP_PLOTS = {"How fast could a token be?": ("tpot_over_bandwidth.png", _ep)}


def _mtp(answer: Answer, canvas: Canvas) -> None:
    depth = answer.inputs["depth"]
    axes = axes_of(canvas, f"Does drafting {depth} token{'s' * (depth > 1)} pay?")
    curves = needed(answer, "curves")
    for i, (name, values) in enumerate(curves["speed"].items()):
        axes.plot(curves["p"], values, label=name, color=COLOURS[i], linewidth=1.8)
    axes.axhline(1, color="#999999", linewidth=0.8)
    axes.plot(
        [0.8, 0.9], [1.8, 1.8], color="#555555", linewidth=4, solid_capstyle="butt", label="the paper's 1.8"
    )
    axes.set(xlabel="acceptance of a draft", ylabel="tokens a second, relative")
    beside(axes, "a step's time is")


MTP_PLOTS = {"Does drafting pay?": ("speedup.png", _mtp)}


def _sweep(answer: Answer, canvas: Canvas) -> None:
    by_batch = needed(answer, "by_batch")
    if len(by_batch) < 3:
        raise LookupError("roofline: fewer than three batches")
    what = f"{answer.inputs['config']} on {answer.inputs['hardware']}"
    axes = axes_of(canvas, f"What bounds a layer as the batch grows? {what}")
    batches = [int(b) for b in by_batch]
    names = [o["name"] for o in by_batch[str(batches[0])] if o["name"] != "head"]
    totals = {
        n: sum(o["seconds"] for found in by_batch.values() for o in found if o["name"] == n) for n in names
    }
    large = sorted(names, key=lambda n: -totals[n])[:7]
    below = np.zeros(len(batches))
    for i, name in enumerate([*large, "others"]):
        mine = [name] if name in large else [n for n in names if n not in large]
        seconds = np.array(
            [[o["seconds"] for o in by_batch[str(b)] if o["name"] in mine] for b in batches]
        ).sum(axis=1)
        above = below + 1e6 * seconds
        axes.fill_between(
            batches, below, above, color=COLOURS[i] if name in large else "#BBBBBB", label=name, linewidth=0
        )
        kinds = [next((o["bound_by"] for o in by_batch[str(b)] if o["name"] == name), "") for b in batches]
        for k in range(1, len(batches)):
            if {kinds[k - 1], kinds[k]} == {"memory", "compute"}:
                axes.plot(batches[k], (below[k] + above[k]) / 2, "o", color="black", markersize=5)
        below = above
    axes.plot([], [], "o", color="black", markersize=5, label="from here on compute")
    users = answer.value("users that fit")
    if isinstance(users, int) and batches[0] < users < batches[-1]:
        axes.axvline(users, color="#333333", linewidth=1, linestyle=":", label=f"{users} users fit")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="users a GPU", ylabel="us a layer, stacked")
    beside(axes)


def _roof(answer: Answer, canvas: Canvas) -> None:
    memory, peaks = needed(answer, "memory"), needed(answer, "peaks")
    batch = list(needed(answer, "by_batch"))[-1]
    what = f"{answer.inputs['config']} on {answer.inputs['hardware']}, batch {batch}"
    axes = axes_of(canvas, f"Which operations are bound by memory? {what}")
    x = np.geomspace(0.5, 2e4, 200)
    for i, (name, peak) in enumerate(peaks.items()):
        axes.plot(x, np.minimum(x * memory, peak), color=COLOURS[i], linewidth=1.6, label=f"roof of {name}")
    places: list[tuple[float, float, list[str]]] = []
    for o in answer.data["by_batch"][batch]:
        if not (o["flop"] and o["bytes"]):
            continue
        at, height = o["flop"] / o["bytes"], o["flop"] / o["seconds"]
        axes.plot(at, height, "o", color="#333333", markersize=5)
        near = [n for a, h, n in places if abs(np.log(a / at)) < 0.4 and abs(np.log(h / height)) < 0.4]
        if near:
            near[0].append(o["name"])
        else:
            places.append((at, height, [o["name"]]))
    for at, height, names in places:
        axes.annotate(", ".join(names), (at, height), (6, -12), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlabel="FLOP a byte", ylabel="FLOP/s at the bound")
    beside(axes)


ROOFLINE_PLOTS = {
    "Which operations are bound by memory?": ("roofline.png", _roof),
    "What bounds a layer as the batch grows?": ("time_over_batch.png", _sweep),
}


def _time(row: dict[str, Any]) -> float:
    return float(row["us"] + row["cache_us"])


def _tradeoff(answer: Answer, canvas: Canvas) -> None:
    rows = [row for row in answer.rows if row["error"] is not None]
    if not rows:
        raise LookupError("tradeoff: no errors")
    apart, labels = answer.data["apart"], answer.data["labels"]
    what = f"{answer.inputs['config']} on {answer.inputs['hardware']}"
    axes = axes_of(canvas, f"What does less traffic cost in error? {what}")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(" / ".join(row[name] for name in apart), []).append(row)
    seen: list[tuple[float, float]] = []
    span = max(_time(row) for row in rows) - min(_time(row) for row in rows) or 1.0
    for i, (group, members) in enumerate(groups.items()):
        colour = COLOURS[i % len(COLOURS)]
        on = sorted((row for row in members if row["on_front"]), key=lambda row: (_time(row), -row["error"]))
        off = [row for row in members if not row["on_front"]]
        xs, ys = [_time(row) for row in on], [row["error"] for row in on]
        axes.plot(xs, ys, "o-", color=colour, linewidth=1, markersize=7, label=group or "front")
        axes.plot(
            [_time(row) for row in off], [row["error"] for row in off], "o", color="#BBBBBB", markersize=4
        )
        for row in on + (off if len(rows) <= 12 else []):
            at = (_time(row), row["error"])
            if any(abs(at[0] - x) < 0.02 * span and abs(at[1] - y) < 0.02 * y for x, y in seen):
                continue
            seen.append(at)
            text = " / ".join(row[name] for name in labels)
            axes.annotate(text, at, (7, 4), textcoords="offset points", fontsize=8)
    if all(row["error"] > 0 for row in rows):
        axes.set_yscale("log")
    axes.margins(x=0.15, y=0.12)
    axes.set_xlabel(f"us a layer, bound: dispatch, combine, cache read; labels: {' / '.join(labels)}")
    if apart:
        beside(axes, " / ".join(apart))
    axes.set_ylabel("relative error, measured")


TRADEOFF_PLOTS = {"What does less traffic cost in error?": ("pareto.png", _tradeoff)}
