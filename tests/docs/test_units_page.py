"""docs/units.md shows the table of the code, and names functions that exist."""

from __future__ import annotations

import re
from importlib import import_module

from units_page import PAGE, filled

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_that_of_the_code() -> None:
    """`python tests/docs/units_page.py` rewrites it."""
    assert filled(TEXT) == TEXT


def test_named_functions_exist() -> None:
    for room in ("grouped", "layouts", "shards"):
        import_module(f"dsv3_numerics.{room}")
        assert f"`dsv3_numerics.{room}`" in TEXT
    grouped = import_module("dsv3_numerics.grouped")
    for name in re.findall(r"`(matmul_\w+_nt)`", TEXT):
        assert hasattr(grouped, name) or name == "matmul_nt"
