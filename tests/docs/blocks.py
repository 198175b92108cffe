"""Blocks of a page that a program writes, between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path


def _pattern(block: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {block}: begin[^\n]*-->\n)(.*?)(\n<!-- {block}: end -->)", re.DOTALL)


def current(text: str, block: str) -> str:
    """Find a block as it is."""
    found = _pattern(block).search(text)
    if found is None:
        raise LookupError(f"no block {block!r}")
    return found[2]


def rewrite(page: Path, blocks: Mapping[str, str]) -> None:
    """Write every block of a page anew."""
    text = page.read_text()
    for block, content in blocks.items():
        current(text, block)
        text = _pattern(block).sub(lambda m, content=content: m[1] + content + m[3], text)  # type: ignore[misc]
    page.write_text(text)


def sections(report: Path, folder: str) -> dict[str, str]:
    """Find the sections of a report by their titles, pictures as seen from a page beside the folder."""
    parts = re.split(r"^## (.*)\n", report.read_text(), flags=re.MULTILINE)
    bodies = (re.sub(r"\]\((\w+\.png)\)", rf"]({folder}/\1)", body.strip()) for body in parts[2::2])
    return dict(zip(parts[1::2], bodies, strict=True))
