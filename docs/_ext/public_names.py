"""Directive ``public-names``: the reference of a module's public names, in the order of its ``__all__``.

Names that another module is the home of are left to that one. Constants show what is written below them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective


class PublicNames(SphinxDirective):
    """Document the names of a module: those of the body, or all of them."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write directives of autodoc, and have them parsed."""
        module = import_module(self.arguments[0])
        names = [name for line in self.content for name in line.split()] or list(module.__all__)
        lines = ["```{eval-rst}", f".. py:currentmodule:: {module.__name__}", ""]
        for name in names:
            lines += entry(module, name)
        return self.parse_text_to_nodes("\n".join([*lines, "```"]))


def entry(module: ModuleType, name: str) -> Iterator[str]:
    """Yield the lines that document a name."""
    value = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if home(name, value) not in ("", module.__name__):
        yield from (f"* `{name}`: see :py:obj:`{home(name, value)}.{name}`", "")
    elif inspect.isclass(value):
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
        yield from (f".. {kind}:: {full}", "   :members:", "")
    elif inspect.isroutine(value):
        yield from (f".. autofunction:: {full}", "")
    elif inspect.ismodule(value):
        yield from (f"* :py:mod:`{full}`", "")
    else:
        yield from (f".. py:data:: {name}", f"   :type: {type(value).__name__}", "")
        yield from (f"   {line}" for line in constant(module, name, value))
        yield ""


def home(name: str, value: Any) -> str:
    """Return the module whose page a class or function is on; empty for a constant."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return ""
    package, *room = value.__module__.split(".")
    top = sys.modules[package]
    if name in top.__all__ and getattr(top, name) is value:
        return package
    return ".".join([package, *room[:1]])


def constant(module: ModuleType, name: str, value: Any) -> list[str]:
    """Find what is written below a constant, in whichever module of the package defines it."""
    if name == "__version__":
        return ["Version of the package, and of its core."]
    package = module.__name__.split(".")[0]
    for place in [module.__name__, *sorted(m for m in sys.modules if m.startswith(f"{package}."))]:
        holder = sys.modules[place]
        if getattr(holder, name, None) is value and (holder.__file__ or "").endswith(".py"):
            documented = ModuleAnalyzer.for_module(place).find_attr_docs()
            if ("", name) in documented:
                return documented["", name]
    raise LookupError(f"{module.__name__}.{name} has no text below it")


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
