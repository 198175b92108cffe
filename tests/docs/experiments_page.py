"""Fills docs/experiments.md from the reports under docs/experiments/; with --run, makes those anew (minutes).

A block of the page is what one report says, with pictures as seen from the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dsv3_numerics.experiments import EXPERIMENTS, run

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
REPORTS = PAGE.parent / "experiments"
LEFT_OUT = ("How this was made",)


def table() -> str:
    """One row per experiment."""
    lines = ["| experiment | shows | source |", "| --- | --- | --- |"]
    lines += [f"| [`{e.name}`](#{e.name}) | {e.shows} | {e.source} |" for e in EXPERIMENTS]
    return "\n".join(lines)


def sections(name: str) -> dict[str, str]:
    """The sections of a report by their titles, pictures as seen from the page."""
    text = (REPORTS / name / "report.md").read_text()
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    bodies = (re.sub(r"\]\((\w+\.png)\)", rf"](experiments/{name}/\1)", body.strip()) for body in parts[2::2])
    return dict(zip(parts[1::2], bodies, strict=True))


def body(name: str) -> str:
    """Make the page's text of an experiment: its findings, then pictures and tables, each under its title."""
    found = {title: text for title, text in sections(name).items() if title not in LEFT_OUT}
    findings = found.pop("What came out")
    return "\n\n".join([findings, *(f"**{title}**\n\n{text}" for title, text in found.items())])


def blocks() -> dict[str, str]:
    """Every block of the page, as it should be."""
    return {"table": table()} | {e.name: body(e.name) for e in EXPERIMENTS}


def _pattern(block: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {block}: begin[^\n]*-->\n)(.*?)(\n<!-- {block}: end -->)", re.DOTALL)


def current(text: str, block: str) -> str:
    """A block of the page, as it is."""
    found = _pattern(block).search(text)
    if found is None:
        raise LookupError(f"no block {block!r} in {PAGE.name}")
    return found[2]


def main() -> None:
    """Rewrite the blocks."""
    for experiment in EXPERIMENTS if "--run" in sys.argv else ():
        print(run(experiment).save(REPORTS / experiment.name))
    text = PAGE.read_text()
    for block, content in blocks().items():
        current(text, block)
        text = _pattern(block).sub(lambda m, content=content: m[1] + content + m[3], text)  # type: ignore[misc]
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
