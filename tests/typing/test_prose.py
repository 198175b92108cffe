"""Prose of the sources: docstrings and comments begin with a verb or a noun, never with a question word."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = re.compile(r"(What|Whether|Of|Those|That which)\b")


def python_openings(source: str) -> Iterator[tuple[int, str]]:
    """Lines and first words of docstrings (those of attributes too) and of blocks of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, str(node.value.value).strip()
    before = -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, alone = token.start[0], token.line.lstrip().startswith("#")
            if line != before + 1 or not alone:
                yield line, token.string.lstrip("#: ")
            before = line if alone else -2


def rust_openings(source: str) -> Iterator[tuple[int, str]]:
    """Lines and first words of paragraphs in comments."""
    before = ""
    for number, line in enumerate(source.splitlines(), 1):
        found = re.match(r"\s*//[/!]? ?(.*)", line)
        text = found[1].strip() if found else ""
        if text and not before:
            yield number, text
        before = text


def banned(openings: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    """Openings that are banned."""
    return [(line, text[:60]) for line, text in openings if BANNED.match(text)]


def test_openings_are_found() -> None:
    python = '"""What it is."""\n\nx = 1\n"""Of x."""\n# Those of x,\n# Of which\ny = 2  # Whether\n"Offer"\n'
    assert [line for line, _ in banned(python_openings(python))] == [1, 4, 5, 7]
    rust = "//! What\n//! Of it\n//!\n//! Whether\nfn f() {} // no\n    // Those\n/// Offers\n"
    assert [line for line, _ in banned(rust_openings(rust))] == [1, 4, 6]


@pytest.mark.parametrize("folder", ["python", "tests", "bench"])
def test_python_begins_with_a_verb_or_a_noun(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {str(f.relative_to(ROOT)): banned(python_openings(f.read_text())) for f in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_rust_begins_with_a_verb_or_a_noun() -> None:
    files = sorted(f for folder in ("src", "tests/rust") for f in (ROOT / folder).rglob("*.rs"))
    assert files
    found = [(f.name, *one) for f in files for one in banned(rust_openings(f.read_text()))]
    assert found == []
