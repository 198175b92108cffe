"""Plot what is in the results: ``python plot.py results``. Needs matplotlib."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def curve(folder: Path) -> None:
    """Draw bits per byte over tokens: of the training's sequences, and held out."""
    with open(folder / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = [int(row["tokens"]) / 1e6 for row in rows]
    fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(tokens, [float(row["train"]) for row in rows], label="training, next byte")
    axis.plot(tokens, [float(row["mtp"]) for row in rows], label="training, the byte after it (MTP)")
    held = [(t, float(row["held_out"])) for t, row in zip(tokens, rows, strict=True) if row["held_out"]]
    axis.plot(*zip(*held, strict=True), "o-", label="held out, windows of 256")
    axis.set(xlabel="millions of bytes read", ylabel="bits per byte", ylim=(1.3, 4))
    axis.grid(alpha=0.3)
    axis.legend()
    fig.savefig(folder / "curve.png", dpi=110)


def recipes(folder: Path, found: dict[str, Any]) -> None:
    """Draw what recipes cost: bits per byte with intervals, and divergence beside random weights."""
    rows = {n: r for n, r in found["bits per byte"].items() if n not in ("float64", "float32")}
    names, places = list(rows)[::-1], range(len(rows))
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 6.5), layout="constrained", sharey=True)
    for place, name in zip(places, names, strict=True):
        low, high = rows[name]["interval"]
        left.plot([low, high], [place, place], "-", color="tab:blue", lw=2)
        left.plot(rows[name]["percent"], place, "o", color="tab:blue")
    left.axvline(0, color="gray", lw=1)
    left.axvspan(-0.25, 0.25, color="tab:green", alpha=0.12, label="the report's 0.25 %")
    left.set(yticks=list(places), yticklabels=names, xlabel="bits a byte beside float64, % (95 % interval)")
    left.legend()
    for key, label in (("kl", "trained"), ("random", "random weights")):
        right.semilogx([rows[name][key] for name in names], list(places), "o", label=label)
    right.set(xlabel="median KL from float64, nats")
    right.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    fig.savefig(folder / "recipes.png", dpi=110)


def load(folder: Path, found: dict[str, Any]) -> None:
    """Draw the tokens that each expert gets, with the balancing bias and without."""
    parts = found["expert load"]
    fig, axes = plt.subplots(1, len(parts), figsize=(9, 3.2), layout="constrained", sharey=True)
    for axis, (name, part) in zip(axes, parts.items(), strict=True):
        for layer, row in enumerate(part["load"], start=1):
            axis.plot(range(len(row)), row, "o-", label=f"layer {layer}")
        axis.axhline(1, color="gray", lw=1)
        axis.set(title=name, xlabel="expert", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share, 1 is even")
    axes[-1].legend()
    fig.savefig(folder / "load.png", dpi=110)


def twice(folder: Path) -> None:
    """Draw the loss of runs in BF16 and FP8 from the same starts, and FP8's gap beside that of seeds."""
    found: dict[tuple[int, str], dict[int, float]] = {}
    with open(folder / "twice.csv", newline="") as file:
        for row in csv.DictReader(file):
            if int(row["step"]) > 0:
                key = int(row["seed"]), row["arithmetic"]
                found.setdefault(key, {})[int(row["step"])] = float(row["bits"])
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (seed, name), bits in found.items():
        style = "-" if name == "bf16" else "--"
        left.plot(*zip(*bits.items(), strict=True), style, color=f"C{seed}", label=f"seed {seed}, {name}")
    seeds = sorted({seed for seed, _ in found})
    for seed in seeds:
        own = found[seed, "bf16"]
        gap = {step: 100 * (found[seed, "fp8"][step] / bits - 1) for step, bits in own.items()}
        right.plot(*zip(*gap.items(), strict=True), color=f"C{seed}", label=f"FP8, seed {seed}")
        if seed != seeds[0]:
            apart = {s: 100 * (bits / found[seeds[0], "bf16"][s] - 1) for s, bits in own.items()}
            right.plot(*zip(*apart.items(), strict=True), ":", color=f"C{seed}", label=f"BF16, seed {seed}")
    left.set(xlabel="step", ylabel="bits a byte, training", ylim=(2, 4))
    right.set(xlabel="step", ylabel="% beside BF16 (of seed 0, dotted)")
    right.axhspan(-0.25, 0.25, color="tab:green", alpha=0.12)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    fig.savefig(folder / "twice.png", dpi=110)


def main(folder: Path) -> None:
    """Draw all of them."""
    found: dict[str, Any] = json.loads((folder / "measured.json").read_text())
    curve(folder)
    recipes(folder, found)
    load(folder, found)
    if (folder / "twice.json").exists():
        twice(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
