"""docs/austen.md shows what bench/austen/results say, and the results are of the model that comes along."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from austen_page import BLOCKS, PAGE, RESULTS, measured
from blocks import current

from dsv3_numerics.model import demo_checkpoint


@pytest.mark.parametrize("block", BLOCKS)
def test_tables_are_what_the_results_say(block: str) -> None:
    """``python tests/docs/austen_page.py`` rewrites them."""
    assert current(PAGE.read_text(), block) == BLOCKS[block]()


def test_results_are_of_this_model() -> None:
    """``python bench/austen/measure.py bench/austen/results/measured.json`` measures it anew."""
    digest = hashlib.sha256((demo_checkpoint() / "model.safetensors").read_bytes()).hexdigest()
    assert measured()["sha256"] == digest


@pytest.mark.parametrize("page", [PAGE, RESULTS.parent / "README.md"], ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
