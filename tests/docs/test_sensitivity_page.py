"""docs/sensitivity.md shows what the committed reports say; those are of whole attributions."""

from __future__ import annotations

import re

import pytest
from blocks import current
from sensitivity_page import BLOCKS, PAGE, REPORTS, body

from dsv3_numerics.model import Recipe
from dsv3_numerics.sensitivity.plots import PLOTS


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_are_what_the_reports_say(block: str) -> None:
    """`make sensitivity` rewrites both."""
    assert current(PAGE.read_text(), block) == body(block)


@pytest.mark.parametrize("name", BLOCKS)
def test_reports_are_whole(name: str) -> None:
    report = (REPORTS / name / "report.md").read_text()
    assert "Partial" not in report
    assert all(f"| {choice} |" in report for choice in Recipe.preset("deepseek_v3").choices())
    assert all((REPORTS / name / file).is_file() for file, _ in PLOTS.values())


def test_links_and_pictures_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)", PAGE.read_text())
    assert [link for link in links if link[0] != "#" and not (PAGE.parent / link).exists()] == []
