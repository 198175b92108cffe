"""Structure of the package: layers name every module, no import goes in a circle, heavy parts load late."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import dsv3_numerics

ROOT = Path(__file__).parents[2]
PACKAGE = Path(dsv3_numerics.__file__).parent
TEXTBOOK = "dsv3_numerics.reference"
CORE = "dsv3_numerics._core"


def modules() -> dict[str, Path]:
    """Every module of the package, by its full name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imports(name: str, file: Path) -> Iterator[str]:
    """Modules of the package that a module imports, within functions too; not for a type checker alone."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in _statements(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of a tree, without the bodies of ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _statements(node)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module."""
    reach = {start: _reached(graph, start) for start in graph}
    found = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph}
    return sorted((set(circle) for circle in found if len(circle) > 1), key=sorted)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def test_no_import_goes_in_a_circle() -> None:
    """Among all modules, whenever the import runs; packages' own files, which only gather names, aside."""
    files = {name: file for name, file in MODULES.items() if file.name != "__init__.py"}
    graph = {name: set(imports(name, file)) & set(files) for name, file in files.items()}
    assert sum(map(len, graph.values())) > 200
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]
    assert circles(graph) == []


def test_every_module_is_in_a_layer() -> None:
    """import-linter lets a module that it is not told of import what it likes."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layered, textbook = config["tool"]["importlinter"]["contracts"]
    top = {name for name in MODULES if name.count(".") == 1}
    assert set(layered["layers"]) == top - {TEXTBOOK}
    assert set(textbook["forbidden_modules"]) == top - {TEXTBOOK}


def packages() -> list[str]:
    """Packages, the whole one first."""
    return [name for name, file in MODULES.items() if file.name == "__init__.py"]


@pytest.mark.parametrize("package", packages())
def test_no_function_shadows_a_module(package: str) -> None:
    """`package.name` is the module of that name, so that what it holds can be reached, read and patched."""
    loaded = importlib.import_module(package)
    names = [info.name for info in pkgutil.iter_modules(loaded.__path__) if info.name != "__main__"]
    for name in names:
        importlib.import_module(f"{package}.{name}")
    assert names
    assert [name for name in names if not isinstance(getattr(loaded, name), ModuleType)] == []


def test_public_names_are_there() -> None:
    for name in dsv3_numerics.__all__:
        assert getattr(dsv3_numerics, name) is not None
    assert set(dir(dsv3_numerics)) == set(dsv3_numerics.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        dsv3_numerics.quantise  # type: ignore[attr-defined]  # noqa: B018


def loaded_by(statement: str) -> set[str]:
    """Modules that a fresh process has after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = ("matplotlib", "rich", "click", "tokenizers", "importlib.metadata")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import dsv3_numerics", ("numpy", "ml_dtypes")),
        ("import dsv3_numerics as d3; d3.quantize_tiles", ("dsv3_numerics.model", "dsv3_numerics.study")),
        *(
            (f"import dsv3_numerics as d3; d3.{room}", HEAVY)
            for room in ("checkpoint", "model", "study", "sensitivity", "experiments", "report")
        ),
        ("import dsv3_numerics.cli", ("numpy", "matplotlib", "rich", "importlib.metadata")),
    ],
)
def test_heavy_parts_load_on_first_use(statement: str, absent: tuple[str, ...]) -> None:
    assert loaded_by(statement) & set(absent) == set()


def test_packages_say_what_lives_in_them() -> None:
    for package in packages():
        text = importlib.import_module(package).__doc__ or ""
        assert len(text.split()) > 15, package
