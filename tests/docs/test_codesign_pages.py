"""docs/codesign: every command runs and prints what the page shows; links and pictures lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from codesign_pages import BLOCK, PAGES, PICTURE, filled, pages, write_inputs

from dsv3_numerics.cli.codesign import PARTS

INDEX = PAGES.parent / "codesign.md"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python tests/docs/codesign_pages.py` rewrites it."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    text = page.read_text()
    assert BLOCK.search(text)
    assert filled(text) == text


def test_every_part_has_a_page_and_a_worked_question() -> None:
    assert {page.stem for page in pages()} == {name for name, *_ in PARTS}
    for page in pages():
        text = page.read_text()
        assert text.splitlines()[2].endswith("?**"), f"{page.name}: opens with a question in bold"
        commands = [shlex.split(command, comments=True)[:2] for command, _ in BLOCK.findall(text)]
        assert ["codesign", page.stem] in commands
        assert f"]({PAGES.name}/{page.name})" in INDEX.read_text()


@pytest.mark.parametrize("page", [INDEX, *pages()], ids=lambda page: page.stem)
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    for _, command in PICTURE.findall(text):
        assert command.split()[:2] == ["codesign", page.stem]
