"""Table of dialects in docs/checkpoints.md: `python tests/docs/dialects_page.py` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from dsv3_numerics.checkpoint.dialects import DIALECTS, summary

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
_BETWEEN = re.compile(r"(?<=<!-- dialects -->\n).*(?=<!-- /dialects -->)", re.DOTALL)


def table() -> str:
    """One row a dialect."""
    rows = [summary(row) for row in DIALECTS]
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[f"`{row['dialect']}`", *list(row.values())[1:]] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def page() -> str:
    """The page with the table as it should be."""
    return _BETWEEN.sub(lambda _: table(), PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
