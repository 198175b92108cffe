"""What docs/recipes.md says of tables and a preset; ``python tests/docs/recipes_page.py`` fills it in."""

from __future__ import annotations

import re
from pathlib import Path

from dsv3_numerics import Recipe
from dsv3_numerics.model.forms import ACTIVATIONS, CACHES, COMBINES, DISPATCHES, GATES, RULES, WEIGHTS

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
TABLES = {
    "activations": ACTIVATIONS,
    "weights": WEIGHTS,
    "rule": RULES,
    "cache": CACHES,
    "dispatch": DISPATCHES,
    "combine": COMBINES,
    "gate": GATES,
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
