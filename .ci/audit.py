"""Audit of what the core is linked with: licences, sources, advisories. It says what it could not check.

``python .ci/audit.py [--db FOLDER]``; exit code 1 for anything found. Advisories are matched by cargo-audit
or cargo-deny where one is installed and has its data; else, with ``--db``, against a checkout of RustSec's
advisory-db by the plain comparisons that its files hold.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import third_party

_COMPARISON = re.compile(r"\s*(>=|<=|>|<|=|\^)\s*(\d+)(?:\.(\d+))?(?:\.(\d+))?[-0-9A-Za-z.]*\s*")
_FRONT = re.compile(r"```toml\n(.*?)```", re.DOTALL)

Version = tuple[int, int, int]


def version_of(text: str) -> Version:
    """Return the three numbers of a version."""
    major, minor, patch = (int(part) for part in re.split(r"[-+]", text)[0].split("."))
    return major, minor, patch


def satisfies(version: Version, requirement: str) -> bool:
    """Tell if a version meets all comparisons of a requirement, as ``>= 0.7.4, < 0.8.0``.

    Raises
    ------
    ValueError
        A comparison that is not understood.
    """
    for part in requirement.split(","):
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise ValueError(f"a requirement that is not understood: {requirement!r}")
        bound = (int(match[2]), int(match[3] or 0), int(match[4] or 0))
        upper = (bound[0] + 1, 0, 0) if bound[0] else (0, bound[1] + 1, 0)
        meets = {
            ">=": version >= bound,
            ">": version > bound,
            "<=": version <= bound,
            "<": version < bound,
            "=": version == bound,
            "^": bound <= version < upper,
        }
        if not meets[match[1]]:
            return False
    return True


def locked() -> list[tuple[str, str]]:
    """Names and versions of all packages in Cargo.lock that come from a registry."""
    packages = tomllib.loads((third_party.ROOT / "Cargo.lock").read_text())["package"]
    return [(p["name"], p["version"]) for p in packages if "source" in p]


def advisories(db: Path, packages: list[tuple[str, str]]) -> Iterator[str]:
    """Advisories of a database that hit a locked package."""
    if not (db / "crates").is_dir():
        raise OSError(f"{db}: no checkout of advisory-db: it has no folder crates")
    for name, version in packages:
        for path in sorted((db / "crates" / name).glob("RUSTSEC-*.md")):
            match = _FRONT.search(path.read_text("utf-8"))
            found = tomllib.loads(match[1]) if match else {}
            if "withdrawn" in found.get("advisory", {}):
                continue
            ranges = found.get("versions", {})
            safe = [*ranges.get("patched", []), *ranges.get("unaffected", [])]
            try:
                hit = not any(satisfies(version_of(version), text) for text in safe)
            except ValueError as error:
                yield f"{path.stem}: {name} {version}: {error}; look at it"
                continue
            if hit:
                yield f"{path.stem}: {name} {version} is affected; safe are {', '.join(safe) or 'none'}"


def tools() -> Iterator[tuple[str, bool, str]]:
    """Run the tools that are installed: name, whether all is well, and the output."""
    for name, args in (
        ("cargo-audit", ["audit"]),
        ("cargo-deny", ["deny", "check", "advisories", "bans", "sources"]),
    ):
        if shutil.which(name) is not None:
            done = subprocess.run(["cargo", *args], cwd=third_party.ROOT, capture_output=True, text=True)
            yield name, done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, help="a checkout of https://github.com/rustsec/advisory-db")
    db = parser.parse_args().db
    crates = third_party.linked(third_party.metadata())
    found = third_party.problems(crates, third_party.document(crates))
    print(f"checked: licences and sources of {len(crates)} linked crates")
    by_tools = False
    for name, well, output in tools():
        by_tools = True
        print(f"checked: {name}" if well else f"{name}:\n{output}")
        found += [] if well else [f"{name} found something"]
    if db is not None:
        packages = locked()
        found += list(advisories(db, packages))
        print(f"checked: {len(packages)} locked packages against {db}")
    elif not by_tools:
        print("NOT CHECKED: advisories; install cargo-audit or cargo-deny, or give --db")
    print("NOT CHECKED: Python's dependencies (pip-audit does), the compiler, the code of the crates")
    for line in found:
        print(f"FOUND: {line}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
