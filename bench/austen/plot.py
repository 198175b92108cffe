"""Plot the loss curve: ``python plot.py results/curve.csv results/curve.png``. Needs matplotlib."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main(curve: Path, target: Path) -> None:
    """Draw bits per byte over tokens: of the training's sequences, and held out."""
    with open(curve, newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = [int(row["tokens"]) / 1e6 for row in rows]
    fig, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(tokens, [float(row["train"]) for row in rows], label="training, next byte")
    axis.plot(tokens, [float(row["mtp"]) for row in rows], label="training, the byte after it (MTP)")
    held = [(t, float(row["held_out"])) for t, row in zip(tokens, rows, strict=True) if row["held_out"]]
    axis.plot(*zip(*held, strict=True), "o-", label="held out, windows of 256")
    axis.set(xlabel="millions of bytes read", ylabel="bits per byte", ylim=(1.5, 4))
    axis.grid(alpha=0.3)
    axis.legend()
    fig.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
