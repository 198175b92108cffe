"""The table of dialects in the documentation is the table of the code."""

from __future__ import annotations

from dialects_page import PAGE, page

from dsv3_numerics.checkpoint.conversion.targets import LOW


def test_the_table_of_dialects_is_that_of_the_code() -> None:
    assert PAGE.read_text() == page(), "run python tests/docs/dialects_page.py"


def test_the_targets_are_documented_with_their_dialects() -> None:
    text = (PAGE.parent / "convert.md").read_text()
    for row in LOW:
        line = next(
            line
            for line in text.splitlines()
            if line.startswith("| `")
            and f"`{row.name}`" in line
            and "--" not in line
            and all(f"`{c}`" in line for c in row.writers)
        )
        assert line.index(f"`{next(iter(row.writers))}`") == min(line.index(f"`{c}`") for c in row.writers)
