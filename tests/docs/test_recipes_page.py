"""docs/recipes.md lists the rows that there are, names presets that exist, and links that lead somewhere."""

from __future__ import annotations

import dataclasses
import re

from recipes_page import PAGE, filled

from dsv3_numerics import Recipe
from dsv3_numerics.model import PRESETS

TEXT = PAGE.read_text(encoding="utf-8")


def test_tables_are_those_of_the_code() -> None:
    """`python tests/docs/recipes_page.py` rewrites them."""
    assert filled(TEXT) == TEXT


def test_presets_and_fields_are_all_there() -> None:
    section = TEXT.split("## Presets")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| (`.*?`) \|", section, re.M)) == {
        "`float64`, `float32`",
        *(f"`{name}`" for name in PRESETS if not name.startswith("float")),
    }
    fields = re.findall(r"^\| `(\w+)` \|", TEXT.split("## Fields")[1].split("**Weights")[0], re.M)
    assert fields == [field.name for field in dataclasses.fields(Recipe)]


def test_fields_can_be_read() -> None:
    for fields in re.findall(r"`(\{.*?\})`", TEXT):
        assert Recipe.from_json(fields).name.startswith("deepseek_v3 with")


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []
