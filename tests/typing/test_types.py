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
    """What a typed caller writes: the types it gets (`assert_type`), and the mistakes mypy must see."""
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


def imports_core(source: str) -> bool:
    """Does a module import `_core`, by whichever spelling?"""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        if any(name.split(".")[-1] == "_core" for name in names):
            return True
    return False


def test_textbook_does_without_the_core() -> None:
    """An extension module is invisible to import-linter, so this reads the imports themselves."""
    assert imports_core("from .. import _core")
    assert imports_core("import dsv3_numerics._core as c")
    assert imports_core("from dsv3_numerics._core import encode")
    assert not imports_core("from . import formats")
    files = sorted((PACKAGE / "reference").rglob("*.py"))
    assert files
    assert [f.name for f in files if imports_core(f.read_text())] == []


def test_files_are_short() -> None:
    """600 lines at most, and an opening paragraph in every package."""
    files = [f for part in ("python", "tests", "bench") for f in sorted((ROOT / part).rglob("*.py"))]
    assert files
    assert [f"{f.name}: {n}" for f in files if (n := len(f.read_text().splitlines())) > 600] == []
    packages = [f for f in files if f.name == "__init__.py"]
    assert [
        str(f.relative_to(ROOT)) for f in packages if not ast.get_docstring(ast.parse(f.read_text()))
    ] == []
