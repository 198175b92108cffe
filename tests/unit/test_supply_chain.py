"""Supply chain: licences of linked crates, no paths of the building machine in what is shipped, audits."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import audit
import third_party
from dsv3_numerics import _core

ROOT = Path(__file__).parents[2]


def test_licences_are_of_the_crates_that_are_locked() -> None:
    """Without cargo: no version in the file is another than that of Cargo.lock."""
    listed = third_party.FILE.read_text("utf-8").split("\n\n")[1].splitlines()
    named = {tuple(line.split(":")[0].split()) for line in listed}
    assert len(named) > 30
    assert named <= set(audit.locked())
    direct = set(tomllib.loads((ROOT / "Cargo.toml").read_text())["dependencies"])
    assert direct <= {name for name, _ in named}
    assert "Permission is hereby granted, free of charge" in third_party.FILE.read_text("utf-8")


@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")
def test_licences_are_up_to_date_and_allowed() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "third_party.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "offline" in done.stderr or "failed to download" in done.stderr:
        pytest.skip("cargo cannot get the packages")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT OR Apache-2.0", True),
        ("MIT/Apache-2.0", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("Apache-2.0 WITH LLVM-exception OR MIT", True),
        ("GPL-3.0", False),
        ("MIT AND GPL-3.0", False),
        ("", False),
    ],
)
def test_which_licences_are_allowed(expression: str, allowed: bool) -> None:
    assert third_party.is_allowed(expression) is allowed


ADVISORY = """```toml
[advisory]
id = "RUSTSEC-2020-0001"
{more}
[versions]
patched = {patched}
unaffected = ["< 0.9.0"]
```
# Words
"""


@pytest.mark.parametrize(
    ("version", "patched", "more", "hit"),
    [
        ("1.2.3", '[">= 1.2.4"]', "", True),
        ("1.2.4", '[">= 1.2.4"]', "", False),
        ("1.2.3", '[">= 1.2.3, < 1.3.0", ">= 1.4.0"]', "", False),
        ("1.3.7", '[">= 1.2.3, < 1.3.0", ">= 1.4.0"]', "", True),
        ("1.3.7", '["^1.3.5"]', "", False),
        ("2.0.0", '["^1.3.5"]', "", True),
        ("0.8.9", "[]", "", False),
        ("1.0.0", "[]", "", True),
        ("1.0.0", "[]", 'withdrawn = "2021-01-01"', False),
        ("1.0.0", '["~> 2"]', "", True),
    ],
)
def test_advisories_are_matched_by_version(
    tmp_path: Path, version: str, patched: str, more: str, hit: bool
) -> None:
    folder = tmp_path / "crates" / "some"
    folder.mkdir(parents=True)
    (folder / "RUSTSEC-2020-0001.md").write_text(ADVISORY.format(patched=patched, more=more))
    found = list(audit.advisories(tmp_path, [("some", version), ("other", "1.0.0")]))
    assert bool(found) is hit
    with pytest.raises(OSError, match="no checkout"):
        list(audit.advisories(folder, []))


def _installed() -> importlib.metadata.Distribution | None:
    """Return the distribution that this package was installed as, if it was from a wheel."""
    try:
        found = importlib.metadata.distribution("dsv3_numerics")
    except importlib.metadata.PackageNotFoundError:
        return None
    here = Path(_core.__file__ or "").resolve()
    return found if any(Path(str(f.locate())).resolve() == here for f in found.files or ()) else None


@pytest.mark.skipif(_installed() is None, reason="not installed from a wheel")
def test_the_wheel_has_the_licences_and_no_paths() -> None:
    distribution = _installed()
    assert distribution is not None
    names = {file.name for file in distribution.files or ()}
    assert {"LICENSE", third_party.FILE.name} <= names
    binary = Path(_core.__file__ or "").read_bytes()
    home = os.environ.get("CARGO_HOME", str(Path.home() / ".cargo"))
    assert b"/registry/src/" not in binary
    assert home.encode() not in binary
    assert str(ROOT).encode() not in binary
