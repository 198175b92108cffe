"""The site has every page and every public name, and its notebooks run."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dsv3_numerics

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^```\{public-names\} (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_notebook_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells in one namespace, the hidden ones too, which hold the sentences around them."""
    monkeypatch.chdir(tmp_path)
    cells = [re.sub(r"^:tags:.*\n", "", cell, flags=re.MULTILINE) for cell in CELL.findall(page.read_text())]
    assert page.read_text().count("```{code-cell}") == len(cells)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"{page.name}[{number}]", "exec"), names)
    assert any("assert " in cell for cell in cells)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 4


def test_every_page_is_in_the_contents() -> None:
    """Sphinx says so too, where it is installed; a page that no list names cannot be found."""
    listed = set(re.findall(r"^([\w/]+)$", (DOCS / "index.md").read_text(), re.MULTILINE))
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in [*DOCS.glob("*.md"), *NOTEBOOKS]}
    assert pages - listed == {"index"}
    contents = (DOCS / "api" / "index.md").read_text()
    reference = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}
    assert reference == set(re.findall(r"^(\w+)$", contents, re.MULTILINE))


def documented() -> set[str]:
    """Full names that pages of the reference list."""
    found = set()
    for page in (DOCS / "api").glob("*.md"):
        for module, body in DIRECTIVE.findall(page.read_text()):
            names = body.split() or import_module(module).__all__
            assert all(hasattr(import_module(module), name) for name in names), module
            found |= {f"{module}.{name}" for name in names}
    return found


def test_every_public_name_is_in_the_reference() -> None:
    """Names of the package, and of each room that it names."""
    known = documented()
    for name in dsv3_numerics.__all__:
        value = getattr(dsv3_numerics, name)
        if isinstance(value, ModuleType):
            assert {f"{value.__name__}.{inner}" for inner in value.__all__} <= known, name
        else:
            assert f"dsv3_numerics.{name}" in known
