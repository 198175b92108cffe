"""Licences of the crates that are linked into the core: ``THIRD_PARTY_LICENSES.txt``, part of the wheel.

``python .ci/third_party.py`` writes it anew, ``--check`` compares (exit code 1: it is not what Cargo.lock
says). Linked are all that the crate depends on for any system, without what only runs while it is built:
build scripts' dependencies and procedural macros. Texts are those that the crates' own packages hold.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FILE = ROOT / "THIRD_PARTY_LICENSES.txt"
ALLOWED = {"MIT", "Apache-2.0", "Unlicense", "Zlib", "BSD-2-Clause", "BSD-3-Clause", "Unicode-3.0", "BSL-1.0"}
"""Licences of which one must be among those that a crate offers."""

_TEXTS = re.compile(r"(licen[sc]e|copying|notice|unlicense|copyright)", re.IGNORECASE)
_EXCEPTION = "Apache-2.0 WITH LLVM-exception"
_HEAD = """\
The core of dsv3_numerics is linked with the crates below, and with Rust's standard library (MIT OR
Apache-2.0, https://github.com/rust-lang/rust). Each is under one of its licences, at choice where it says OR;
texts follow the list.
"""


class Crate(NamedTuple):
    """A linked crate."""

    name: str
    version: str
    license: str
    source: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def metadata() -> dict[str, Any]:
    """Return what cargo knows of the dependencies, as Cargo.lock has them."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def linked(found: dict[str, Any]) -> list[Crate]:
    """Crates whose code is in the binary, by name."""
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    seen, waiting = {root}, [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            package = packages[dependency["pkg"]]
            macro = any("proc-macro" in target["kind"] for target in package["targets"])
            if None in kinds and not macro and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    crates = [packages[i] for i in seen - {root}]
    return sorted(
        Crate(p["name"], p["version"], p["license"] or "", p["source"] or "", Path(p["manifest_path"]).parent)
        for p in crates
    )


def is_allowed(expression: str) -> bool:
    """Tell if a licence may be chosen: of ``A OR B`` one, of ``A AND B`` both."""
    plain = expression.replace("(", " ").replace(")", " ").replace(_EXCEPTION, "Apache-2.0")
    offers = (re.split(r"\s+AND\s+", offer) for offer in re.split(r"\s+OR\s+|/", plain))
    return any({part.strip() for part in offer} <= ALLOWED for offer in offers)


def texts(crate: Crate) -> list[tuple[str, str]]:
    """Names and contents of a crate's licence files."""
    found = []
    for path in sorted(crate.folder.iterdir()):
        if path.is_file() and _TEXTS.search(path.name) and path.suffix not in (".rs", ".html", ".toml"):
            text = "\n".join(line.rstrip() for line in path.read_text("utf-8").splitlines()).strip("\n")
            found.append((path.name, text))
    return found


def document(crates: list[Crate]) -> str:
    """Write the whole file; a text that several crates have stands in it once."""
    of: dict[str, list[str]] = {}
    lacking = []
    for crate in crates:
        own = texts(crate)
        for name, text in own:
            of.setdefault(text, []).append(f"{crate} ({name})")
        if not own:
            lacking.append(str(crate))
    listed = [
        f"{crate}: {crate.license}" + (" (its package has no text)" if str(crate) in lacking else "")
        for crate in crates
    ]
    parts = [_HEAD, "\n".join(listed) + "\n"]
    for text, crates_of in sorted(of.items(), key=lambda item: item[1]):
        parts.append("=" * 100 + "\n" + "\n".join(crates_of) + "\n" + "-" * 100 + "\n" + text + "\n")
    return "\n".join(parts)


def problems(crates: list[Crate], text: str) -> list[str]:
    """List what is wrong: licences that nobody allowed, other sources than the registry, an old file."""
    found = [
        f"{crate}: licence {crate.license!r} is none of those allowed"
        for crate in crates
        if not is_allowed(crate.license)
    ]
    found += [
        f"{crate}: comes from {crate.source or 'a path'}, not from the registry"
        for crate in crates
        if not crate.source.startswith("registry+")
    ]
    if not FILE.exists() or FILE.read_text("utf-8") != text:
        found.append(f"{FILE.name} is not what Cargo.lock says: run python .ci/third_party.py")
    return found


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    crates = linked(metadata())
    text = document(crates)
    if not check:
        FILE.write_text(text, "utf-8")
    found = problems(crates, text)
    for line in found:
        print(line)
    print(f"{len(crates)} linked crates, {FILE.stat().st_size} bytes of licences")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
