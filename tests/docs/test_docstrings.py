"""Every example in a docstring runs and prints what it says; every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import dsv3_numerics

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> list[str]:
    """All modules of the package but the extension, which has no doctests of its own."""
    found = pkgutil.walk_packages(dsv3_numerics.__path__, "dsv3_numerics.")
    return ["dsv3_numerics", *(m.name for m in found if not m.name.endswith(("._core", ".__main__")))]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctests of one module, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=FLAGS).failed == 0


def public(module: ModuleType) -> list[str]:
    """Public functions and classes of a package, by its `__all__`."""
    names: list[str] = module.__all__
    return [n for n in names if inspect.isroutine(getattr(module, n)) or inspect.isclass(getattr(module, n))]


@pytest.mark.parametrize("name", public(dsv3_numerics))
def test_public_name_is_documented_with_an_example(name: str) -> None:
    """A first line, and an example; run here too, as doctest does not look into the extension module."""
    thing = getattr(dsv3_numerics, name)
    text = inspect.getdoc(thing) or ""
    assert text.splitlines()[0].endswith("."), f"{name}: the docstring opens with one sentence"
    assert ">>>" in text, f"{name}: no example"
    names = {n: getattr(dsv3_numerics, n) for n in dsv3_numerics.__all__} | {"dsv3_numerics": dsv3_numerics}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test).failed == 0
