"""Tables and a preset of docs/recipes.md; ``python tests/docs/recipes_page.py`` fills it in."""

from __future__ import annotations

import re
from pathlib import Path

from dsv3_numerics import Recipe
from dsv3_numerics.model.fields import COMPUTE, GATES, MASK_VALUES, RULES

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TABLES = {
    "compute": COMPUTE,
    "rule": RULES,
    "gate": GATES,
    "group_mask_value": MASK_VALUES,
}


def filled(page: str) -> str:
    """The page with the rows of every field, and the table of a recipe."""
    for field, rows in TABLES.items():
        words = " ".join(f"`{word}`" for word in rows)
        page = re.sub(
            rf"(?m)^(\| `{field}` \| )[^|]*( \|)", lambda m, w=words: m[1] + w + m[2], page, count=1
        )
    table = str(Recipe.preset("deepseek_v3"))
    return re.sub(r"(?s)(```text\n).*?(\n```)", lambda m: m[1] + table + m[2], page, count=1)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
