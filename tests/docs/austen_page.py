"""Fills the tables of docs/austen.md from bench/austen/results: ``python tests/docs/austen_page.py``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from blocks import rewrite

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "austen.md"
RESULTS = ROOT / "bench" / "austen" / "results"


def measured() -> dict[str, Any]:
    """The figures that ``bench/austen/measure.py`` wrote."""
    found: dict[str, Any] = json.loads((RESULTS / "measured.json").read_text())
    return found


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _filled(cells: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table by what each column makes of a row's fields."""
    return _table([*cells], [[cell.format_map(row) for cell in cells.values()] for row in rows])


def recipes() -> str:
    """Bits per byte by recipe."""
    rows = []
    for name, row in measured()["bits per byte"].items():
        low, high = row["interval"]
        more = "" if name == "float64" else f"{row['percent']:+.3f} %"
        span = "" if name == "float64" else f"{low:+.3f} to {high:+.3f}"
        both = ["" if name == "float64" else f"{row[key]:.1e}" for key in ("kl", "random")]
        rows.append([name, f"{row['bits']:.5f}", more, span, *both])
    return _table(
        ["recipe", "bits a byte", "beside float64", "95 % interval, %", "median KL, nats", "random weights"],
        rows,
    )


def hopper() -> str:
    """Hopper's sums beside exact ones."""
    row = measured()["hopper"]
    low, high = row["interval"]
    return _table(
        ["bits a byte, beside exact sums", "95 % interval, %", "median KL, nats"],
        [[f"{row['percent']:+.4f} %", f"{low:+.4f} to {high:+.4f}", f"{row['kl']:.1e}"]],
    )


def tiles() -> str:
    """Tiles that experts send back, and what formats lose of them."""
    both = measured()["tiles"], measured()["tiles, random weights"]
    rows = [["zeros", *(f"{row['zeros']:.2%}" for row in both)]]
    for q in both[0]["span"]:
        name = "widest span" if q == "100" else f"span, {q} %"
        rows.append([f"{name}, powers of two", *(f"{row['span'][q]:.1f}" for row in both)])
    rows += [
        [f"error in {word}", *(f"{row['error'][word]:.2%}" for row in both)] for word in both[0]["error"]
    ]
    return _table(["tiles of 128", "trained", "random weights"], rows)


def twice() -> str:
    """Trained in BF16 and in FP8 from the same starts."""
    with open(RESULTS / "twice.json") as file:
        rows = json.load(file)
    for row in rows:
        row |= {"low": row["gap"] - row["half"], "high": row["gap"] + row["half"]}
    cells = {
        "": "{what}",
        "BF16": "{bf16:.4f}",
        "FP8, beside it": "{gap:+.3f} %",
        "95 % interval, %": "{low:+.3f} to {high:+.3f}",
        "BF16 runs of different seeds": "up to {apart:.2f} % apart",
    }
    return _filled(cells, rows)


def speculation() -> str:
    """Drafts of MTP that were right."""
    rows = []
    both = ("float64", "speculation"), ("deepseek_v3", "speculation, deepseek_v3")
    for name, key in (pair for pair in both if pair[1] in measured()):
        row = measured()[key]
        low, high = row["interval"]
        p, c = row["accepted"], row["cost"]
        rows.append([name, f"{p:.1%}", f"{low:.1%} to {high:.1%}", f"{c:.2f}", f"{(1 + p) / (1 + c):.2f}"])
    return _table(["recipe", "drafts accepted", "95 % interval", "cost c", "(1 + p) / (1 + c)"], rows)


def load() -> str:
    """Load of experts with the bias and without."""
    cells = {
        "routing": "{name}",
        "least loaded": "{least:.2f}",
        "most loaded": "{most:.2f}",
        "copies sent between nodes, a choice": "{copies:.2f}",
    }
    return _filled(cells, [{"name": name, **row} for name, row in measured()["expert load"].items()])


def training() -> str:
    """The curve's milestones."""
    with open(RESULTS / "curve.csv", newline="") as file:
        found = [row for row in csv.DictReader(file) if row["held_out"]]
    rows = [{name: float(value) for name, value in row.items()} for row in found]
    for row in rows:
        row["millions"] = row["tokens"] / 1e6
    cells = {
        "step": "{step:.0f}",
        "millions of bytes read": "{millions:.2f}",
        "training": "{train:.3f}",
        "held out, windows of 256": "{held_out:.3f}",
        "MTP right": "{mtp_right:.1%}",
    }
    return _filled(cells, rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "recipes": recipes,
    "hopper": hopper,
    "tiles": tiles,
    "twice": twice,
    "speculation": speculation,
    "load": load,
    "training": training,
}


def main() -> None:
    """Rewrite the tables."""
    rewrite(PAGE, {block: table() for block, table in BLOCKS.items()})


if __name__ == "__main__":
    main()
