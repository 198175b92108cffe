"""Fills docs/experiments.md from the reports under docs/experiments/; with --run, makes those anew (minutes).

A block of the page is what one report says, with pictures as seen from the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from blocks import rewrite, sections

from dsv3_numerics.experiments import EXPERIMENTS, run

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
REPORTS = PAGE.parent / "experiments"
LEFT_OUT = ("How this was made",)


def table() -> str:
    """One row per experiment."""
    lines = ["| experiment | shows | source |", "| --- | --- | --- |"]
    lines += [f"| [`{e.name}`](#{e.name}) | {e.shows} | {e.source} |" for e in EXPERIMENTS]
    return "\n".join(lines)


def body(name: str) -> str:
    """Make the page's text of an experiment: its findings, then pictures and tables, each under its title."""
    found = {
        title: text
        for title, text in sections(REPORTS / name / "report.md", f"experiments/{name}").items()
        if title not in LEFT_OUT
    }
    findings = found.pop("What came out")
    return "\n\n".join([findings, *(f"**{title}**\n\n{text}" for title, text in found.items())])


def blocks() -> dict[str, str]:
    """Every block of the page, as it should be."""
    return {"table": table()} | {e.name: body(e.name) for e in EXPERIMENTS}


def main() -> None:
    """Rewrite the blocks."""
    for experiment in EXPERIMENTS if "--run" in sys.argv else ():
        print(run(experiment).save(REPORTS / experiment.name))
    rewrite(PAGE, blocks())


if __name__ == "__main__":
    main()
