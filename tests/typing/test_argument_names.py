"""One argument, one name: what an argument is about has one name and one type in every public function."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dsv3_numerics

TEXTBOOK = ".reference"  # its dtypes and types are its own, its names are not

NAMES: dict[str, set[str]] = {
    # what it is about: the types that it may have
    "accumulator": {"str"},
    "axis": {"int"},
    "block": {
        "tuple[int, int]",
        "tuple[int, int] | None",
        "tuple[int | None, int | None] | None",
        "tuple[int | None, int | None] | Literal['standard'] | None",
    },
    "cache": {"Cache", "Cache | None", "str", "Sequence[str]"},  # one, or the schemes of some, as in recipes
    "dialect": {"str | None"},
    "dtype": {"Any", "DTypeLike", "np.dtype[Any]"},
    "exclude": {"Sequence[str]"},
    "fmt": {"Any", "str | None"},
    "folder": {"str | os.PathLike[str]", "str | os.PathLike[str] | None", "str | Path", "str | Path | None"},
    "hook": {"Hook | None"},
    "include": {"Sequence[str]"},
    "layer": {"int"},
    "nonfinite": {"NonFinite", "str"},
    "progress": {"Progress | None"},
    "promote_every": {"int | None"},
    "quick": {"bool"},
    "resume": {"bool"},
    "rounding": {"Rounding", "Rounding | None", "str", "str | None"},
    "rule": {"str", "str | Rule", "str | Rule | None", "str | None", "Rule"},
    "scale": {"Scale", "Scale | None", "Literal['float32', 'ue8m0']", "str", "str | None"},
    "scheme": {"Any", "str | Scheme"},
    "schemes": {"Iterable[str | Scheme]"},
    "seed": {
        *("Any", "int", "int | None", "int | np.random.Generator", "int | np.random.Generator | None"),
        *("Seed", "np.random.Generator | None"),
    },
    "threads": {"int | None"},
    "tile": {"int", "int | None", "int | Literal['standard'] | None", "Any"},
}
"""Names of arguments that many functions have."""

OTHERS: dict[str, str] = {
    "block_shape": "block",
    "block_size": "block",
    "callback": "progress",
    "data_type": "dtype",
    "format": "fmt",
    "generator": "seed",
    "granularity": "tile or block",
    "group_size": "tile",
    "jobs": "threads",
    "masked": "group_mask_value",
    "n_threads": "threads",
    "num_threads": "threads",
    "numbers": "compute",
    "on_progress": "progress",
    "output": "out",
    "preset": "recipe",
    "quant_format": "fmt",
    "random": "seed",
    "random_state": "seed",
    "rng": "seed",
    "rounding_mode": "rounding",
    "scale_kind": "scale",
    "tile_size": "tile",
    "unit": "accumulator",
    "watch": "hook",
    "workers": "threads",
}
"""Other words for the same, which no argument has."""

Argument = tuple[str, inspect.Parameter]


def functions(name: str, found: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A function, or the methods of a class that outsiders call; fields of a dataclass are no arguments."""
    if inspect.isfunction(found):
        yield name, found
    elif inspect.isclass(found):
        for method, held in vars(found).items():
            function = held.__func__ if isinstance(held, classmethod | staticmethod) else held
            made = method == "__init__" and not dataclasses.is_dataclass(found)
            if inspect.isfunction(function) and (made or method == "__call__" or not method.startswith("_")):
                yield f"{name}.{method}", function


def arguments() -> Iterator[Argument]:
    """Every argument of the public functions of every room."""
    rooms = [dsv3_numerics.__name__] + [
        info.name
        for info in pkgutil.walk_packages(dsv3_numerics.__path__, "dsv3_numerics.")
        if info.ispkg and not any(part.startswith("_") for part in info.name.split("."))
    ]
    for room in rooms:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", ()):
            for path, function in functions(f"{room}.{name}", getattr(module, name)):
                if function.__module__.startswith("dsv3_numerics"):
                    for parameter in inspect.signature(function).parameters.values():
                        yield path, parameter


FOUND = list(arguments())


def spelled(parameter: inspect.Parameter) -> str:
    """The type, without the module that its name comes from."""
    return str(parameter.annotation).replace("npt.", "").replace('"', "'")


def test_the_rooms_are_found() -> None:
    rooms = {path.split(".")[1] for path, _ in FOUND}
    assert {"model", "training", "checkpoint", "study", "schemes", "reference", "quantize_tiles"} <= rooms
    assert {name for _, parameter in FOUND for name in (parameter.name,)} >= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_one_meaning(name: str) -> None:
    wrong = {
        f"{path}({name}: {spelled(parameter)})"
        for path, parameter in FOUND
        if parameter.name == name and TEXTBOOK not in path and spelled(parameter) not in NAMES[name]
    }
    assert not wrong, f"expected one of {sorted(NAMES[name])}"


@pytest.mark.parametrize("name", OTHERS)
def test_there_is_no_other_name(name: str) -> None:
    wrong = {path for path, parameter in FOUND if parameter.name == name}
    assert not wrong, f"expected the argument {OTHERS[name]}"


def test_no_argument_has_two_names() -> None:
    """The format of codes is `fmt`; `dtype` beside it is another thing, the dtype of an output."""
    both: dict[str, set[str]] = {}
    for path, parameter in FOUND:
        both.setdefault(path, set()).add(parameter.name)
    for path, names in both.items():
        if {"fmt", "dtype"} <= names:
            assert path.rsplit(".", 1)[-1] in ("decode", "random_words"), path
