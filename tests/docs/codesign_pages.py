"""Fills the pages under docs/codesign: what each command prints, and with --run the pictures too (a minute).

A block of a page starts with ``$ dsv3-numerics codesign ...``; its other lines are what that prints. A
picture's line ``<!-- picture: FILE of COMMAND -->`` says which plot of which command it is.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from dsv3_numerics import cli

LOADS = "90,132,40,61,104,165,39,4,73,56,183,86\n20,107,104,64,19,197,187,157,172,86,16,27\n"
MINE = '[mine]\nnetwork = 25e9\nsource = "measured by us with ib_write_bw"\n'
PAGES = Path(__file__).parents[2] / "docs" / "codesign"
BLOCK = re.compile(r"(?m)^```console\n\$ dsv3-numerics ([^\n]*)\n(.*?)^```$", re.DOTALL)
PICTURE = re.compile(r"<!-- picture: (\S+) of (.*?) -->")


def pages() -> list[Path]:
    """All pages of parts."""
    return sorted(PAGES.glob("*.md"))


def write_inputs(folder: Path) -> None:
    """Write the files that commands of the pages read."""
    (folder / "loads.csv").write_text(LOADS)
    (folder / "mine.toml").write_text(MINE)


def printed(command: str) -> str:
    """Output of a command, without spaces at the ends of lines."""
    out = io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out):
        try:
            cli.main(shlex.split(command, comments=True))
        except SystemExit as stop:
            code = stop.code
    assert not code, command
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"


def filled(text: str) -> str:
    """A page with the output of its commands."""
    return BLOCK.sub(lambda m: f"```console\n$ dsv3-numerics {m[1]}\n{printed(m[1])}```", text)


def _draw(page: Path) -> None:
    for name, command in PICTURE.findall(page.read_text()):
        with tempfile.TemporaryDirectory() as folder:
            printed(f"{command} --out {folder}")
            target = re.search(rf"{re.escape(name)} of .*? -->\n!\[[^]]*\]\((\S+)\)", page.read_text())
            assert target, f"{page.name}: no picture below {name}"
            shutil.copy(Path(folder) / name, page.parent / target[1])


def main() -> None:
    """Rewrite the pages."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_inputs(Path(folder))
        for page in pages():
            page.write_text(filled(page.read_text()))
            if "--run" in sys.argv:
                _draw(page)
            print(page)


if __name__ == "__main__":
    main()
