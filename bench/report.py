"""Prints and records benchmark rows: a plain table, and JSON and Markdown under `results/KIND/`."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

from dsv3_numerics import _core
from dsv3_numerics.report.provenance import environment
from harness import HEADINGS, PAIRS, PROBE, Row, fields

RESULTS = Path(__file__).parent / "results"
MAKERS = ("intel", "amd", "apple", "aws", "ampere")
PACKAGES = ("dsv3_numerics", "numpy", "ml_dtypes", "numkong")

LEGEND = """\
Ratio: `M` is the time of a memory copy of as many float32 elements (same thread count) over the time of the
kernel; `x name` is the time of that peer over ours; `x normal` and `x 1T` compare the kernel with itself.
Each is the median over alternating pairs taken in the same second; `(-n)`: n pairs were dropped as
disturbed. Verdict `c`: a compute-bound gate, missed, which only a quiet machine decides. Output `out`:
preallocated and touched; `fresh`: a new array per call, in memory that the one before has left."""


def machine() -> dict[str, object]:
    """Collect what a reader needs to compare figures; nothing that names the machine."""
    about = environment(PACKAGES)
    versions = dict(about["versions"])
    return {
        "cpu": about["processor"],
        "cores": about["cpus"],
        "architecture": platform.machine(),
        "simd_levels": _core.simd_levels(),
        "python": versions.pop("python"),
        "versions": versions,
        "best_probe_gflops": round(PROBE.best, 1),
    }


def kind(cpu: str, levels: Sequence[str]) -> str:
    """Name the folder, by whose CPU it is and what it lacks: figures of one kind do not replace another's."""
    found = [name for name in MAKERS if name in cpu.lower()]
    maker = found[0] if found else platform.machine().lower()
    return maker if "avx2" not in levels or "avx512" in levels else f"{maker}-avx2"


def plain(rows: Sequence[Row]) -> str:
    """Fixed-width table."""
    cells = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def markdown(name: str, rows: Sequence[Row], legend: str = LEGEND) -> str:
    """The table as Markdown, below the machine that it was measured on."""
    about = machine()
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())  # type: ignore[attr-defined]
    lines = [
        f"# bench_{name}",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['architecture']}; Python {about['python']},",
        f"{versions}. At least {PAIRS} pairs per row unless the pairs column says otherwise;",
        f"best arithmetic probe {about['best_probe_gflops']} GFLOP/s (one thread).",
        "",
        legend,
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def save(name: str, rows: Sequence[Row], legend: str = LEGEND) -> None:
    """Write `NAME.json` and `NAME.md` into the folder of this kind of CPU."""
    about = machine()
    folder = RESULTS / kind(str(about["cpu"]), _core.simd_levels())
    folder.mkdir(parents=True, exist_ok=True)
    data = {"bench": name, "machine": about, "rows": [fields(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(name, rows, legend))


def summary(rows: Sequence[Row]) -> str:
    """One line: how the gates went."""
    count = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("pass", "c", "FAIL")}
    return f"gates: {count['pass']} passed, {count['FAIL']} failed, {count['c']} undecided (compute-bound)"
