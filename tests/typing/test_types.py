"""Types and floors, as the tools see the installed package: mypy, stubtest, import-linter.

The tools run in a process of their own, on the package as it is installed: what they approve is what users
get.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dsv3_numerics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "pyproject.toml"
PACKAGE = Path(dsv3_numerics.__file__).parent


def run(command: list[str], folder: Path) -> None:
    """Run a tool from an empty folder, where no source tree shadows the installed package."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_package_is_strictly_typed(tmp_path: Path) -> None:
    """`mypy --strict` on the installed package."""
    config = ["--config-file", str(CONFIG), "--cache-dir", str(tmp_path)]
    run([sys.executable, "-m", "mypy", "--strict", *config, "-p", "dsv3_numerics"], tmp_path)


def test_use_of_the_package_is_strictly_typed(tmp_path: Path) -> None:
    """Check code of a typed caller: the types it gets (`assert_type`), and the mistakes mypy must see."""
    config = ["--config-file", str(CONFIG), "--cache-dir", str(tmp_path)]
    run(
        [sys.executable, "-m", "mypy", "--strict", *config, str(Path(__file__).with_name("usage.py"))],
        tmp_path,
    )


def test_stub_matches_the_core(tmp_path: Path) -> None:
    """`_core.pyi` says what the extension module is."""
    run([sys.executable, "-m", "mypy.stubtest", "dsv3_numerics._core"], tmp_path)


def test_package_is_marked_as_typed() -> None:
    """PEP 561."""
    assert (PACKAGE / "py.typed").is_file()


def test_python_floors_hold(tmp_path: Path) -> None:
    """The layers written down in pyproject.toml."""
    pytest.importorskip("importlinter")
    command = "import sys; from importlinter.cli import lint_imports_command as main; main()"
    options = ["--config", str(CONFIG), "--no-cache"]
    run([sys.executable, "-c", command, *options], tmp_path)


def imported(source: str) -> set[str]:
    """Every module that a source imports, relative ones with their leading dots."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def leaves_the_folder(name: str) -> bool:
    """Does an import reach the package from outside its own folder?"""
    return name.startswith(("..", "dsv3_numerics"))


def test_textbook_uses_nothing_of_the_package() -> None:
    """The extension module is invisible to import-linter, so this reads the imports themselves."""
    for source in ("from .. import _core", "import dsv3_numerics._core as c", "from ..formats import encode"):
        assert any(map(leaves_the_folder, imported(source))), source
    assert not any(map(leaves_the_folder, imported("import numpy as np\nfrom . import formats")))
    files = sorted((PACKAGE / "reference").rglob("*.py"))
    assert files
    found = {f.name: {n for n in imported(f.read_text()) if leaves_the_folder(n)} for f in files}
    assert found == {f.name: set() for f in files}


def test_files_are_short() -> None:
    """600 lines at most, and an opening paragraph in every package."""
    files = [f for part in ("python", "tests", "bench") for f in sorted((ROOT / part).rglob("*.py"))]
    assert files
    assert [f"{f.name}: {n}" for f in files if (n := len(f.read_text().splitlines())) > 600] == []
    packages = [f for f in files if f.name == "__init__.py"]
    assert [
        str(f.relative_to(ROOT)) for f in packages if not ast.get_docstring(ast.parse(f.read_text()))
    ] == []
