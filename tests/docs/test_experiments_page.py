"""docs/experiments.md shows what the committed reports say; those are of full runs of every experiment."""

from __future__ import annotations

import csv
import re

import pytest
from blocks import current
from experiments_page import PAGE, REPORTS, blocks

from dsv3_numerics.experiments import EXPERIMENTS, Experiment, RunConfig


@pytest.mark.parametrize("block", ["table", *(e.name for e in EXPERIMENTS)])
def test_blocks_are_what_the_reports_say(block: str) -> None:
    """`make experiments` rewrites both."""
    assert current(PAGE.read_text(), block) == blocks()[block]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_reports_are_of_full_runs(experiment: Experiment) -> None:
    """Every remark and known figure is there, every plot, and a row for every job at least."""
    report = (REPORTS / experiment.name / "report.md").read_text()
    assert "Partial" not in report
    assert "quick" not in report
    findings = report.split("## What came out\n")[1].split("\n## ")[0]
    assert findings.count("\n* ") == len(experiment.findings)
    assert all(f"| {known.what} |" in report for known in experiment.published)
    with open(REPORTS / experiment.name / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= len(experiment.jobs(RunConfig()))
    assert all((REPORTS / experiment.name / name).is_file() for name, _ in experiment.plots.values())


def test_links_and_pictures_lead_somewhere() -> None:
    """Relative ones, and those within the page."""
    text = PAGE.read_text()
    links = re.findall(r"\]\((?!https?:)([^)]+)", text)
    assert [link for link in links if link[0] != "#" and not (PAGE.parent / link).exists()] == []
    anchors = {
        re.sub(r"[^\w -]", "", line[3:].lower()).replace(" ", "-")
        for line in text.splitlines()
        if line[:3] == "## "
    }
    assert {link[1:] for link in links if link[0] == "#"} <= anchors
