"""Builds the site and checks it: ``python .ci/site.py FOLDER``.

Sphinx runs with warnings as errors. Then every link within the site has to lead to a file, and to a place in
it, and every public name has to be in the reference. No network is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import dsv3_numerics as d3

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> int:
    """Run Sphinx, without what it kept of an earlier run."""
    from sphinx.cmd.build import main

    options = ["-q", "-W", "--keep-going", "-E", "-b", "html", "-c", str(ROOT / "docs")]
    return main([*options, "-d", str(folder / ".doctrees"), str(ROOT), str(folder)])


class Page(HTMLParser):
    """Links of a page, and the places that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what an element links to, and its name."""
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src"):
                self.links.append(value)
            elif name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)


def broken(folder: Path) -> Iterator[str]:
    """Yield each local link that leads nowhere."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))}
    if len(pages) < 50:
        yield f"only {len(pages)} pages"
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{path.relative_to(folder)}: {link}: no such file"
            elif target in pages and unquote(parts.fragment) not in pages[target].places:
                yield f"{path.relative_to(folder)}: {link}: no such place"


def loaded_from_elsewhere(folder: Path) -> Iterator[str]:
    """Yield each script, style or picture that a page would load from another host."""
    for path in sorted(folder.rglob("*.html")):
        text = path.read_text()
        for start in ('<script src="', '<link rel="stylesheet" href="', '<img src="'):
            for piece in text.split(start)[1:]:
                if "//" in (link := piece.split('"', 1)[0]):
                    yield f"{path.relative_to(folder)}: {link}: loaded from elsewhere"


def undrawn(folder: Path) -> Iterator[str]:
    """Yield each page that names a figure where it should show it."""
    for path in sorted((folder / "docs" / "notebooks").glob("*.html")):
        if "&lt;Figure" in path.read_text():
            yield f"{path.relative_to(folder)}: a figure is named, not drawn"


def undocumented(folder: Path) -> Iterator[str]:
    """Yield each public name that the reference does not have."""
    from importlib import import_module
    from types import ModuleType

    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((folder / "objects.inv").read_bytes(), uri="")
    known = {name for kind in inventory.data.values() for name in kind}
    for name in d3.__all__:
        value = getattr(d3, name)
        if not isinstance(value, ModuleType):
            if f"dsv3_numerics.{name}" not in known:
                yield f"dsv3_numerics.{name}: not in the reference"
            continue
        room = import_module(f"dsv3_numerics.{name}")
        for inner in room.__all__:
            held = getattr(room, inner)
            names = {f"dsv3_numerics.{name}.{inner}", f"dsv3_numerics.{inner}"}
            names.add(f"{getattr(held, '__module__', '')}.{inner}")
            names.add(".".join([*getattr(held, "__module__", "").split(".")[:2], inner]))
            if not names & known:
                yield f"dsv3_numerics.{name}.{inner}: not in the reference"


def main() -> int:
    """Build, check, and say what was found."""
    folder = Path(sys.argv[1]).resolve()
    if code := build(folder):
        return code
    faults = [*broken(folder), *loaded_from_elsewhere(folder), *undrawn(folder), *undocumented(folder)]
    print(*faults, sep="\n", end="\n" if faults else "")
    pages = sum(1 for _ in folder.rglob("*.html"))
    print(f"{folder}: {pages} pages, {len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
