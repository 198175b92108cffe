"""Measured errors that `tradeoff` puts beside bytes: of `experiment combine`, `sensitivity`, or a forward.

A table says which choices its errors cover. Errors of different data are never put into one table.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._regular import read_small_text
from .checks import one_of
from .formats import COMMON, canonical
from .traces import open_model

if TYPE_CHECKING:
    from ..model import Model, Recipe

CHOICES = ("dispatch", "combine", "cache")
_LARGEST_FILE = 256 << 20

SENT_AS = {
    "BF16": "bf16",
    "E5M6 2^k": "e5m6:1x128:ue8m0",
    "E4M3": "e4m3:1x128:f32",
    "E4M3 2^k": "e4m3:1x128:ue8m0",
    "E5M2": "e5m2:1x128:f32",
    "LogFMT-8": "logfmt8",
    "LogFMT-10": "logfmt10",
}
"""Formats of `experiment combine` as recipes spell them; others (DeepEP's, whose bytes depend on values) are
listed and left out."""


@dataclass(frozen=True)
class ErrorTable:
    """Errors by the choices that they cover.

    Attributes
    ----------
    covers : tuple of str
        Of `CHOICES`.
    of : str
        What the error is of, and on which data.
    values : dict
        Error by the formats of `covers`, in its order.
    left_out : tuple of str
        Formats of the file that no recipe has.
    remark : str
        Sentence that a reader has to know.
    """

    covers: tuple[str, ...]
    of: str
    values: Mapping[tuple[str, ...], float]
    left_out: tuple[str, ...] = ()
    remark: str = ""

    def find(self, choice: Mapping[str, str]) -> float | None:
        """Return the error of a choice of formats, or None."""
        return self.values.get(tuple(canonical(name, choice[name]) for name in self.covers))


def stored_errors(data: str = "normal") -> ErrorTable:
    """Return the results of `experiment combine` that come with the package (docs/experiments/combine)."""
    text = (resources.files(__package__) / "data" / "combine.csv").read_text(encoding="utf-8")
    return _combine(list(csv.DictReader(text.splitlines())), data, "docs/experiments/combine")


def read_errors(paths: Sequence[str | Path], data: str = "normal") -> ErrorTable:
    """Errors from results of `experiment combine` (JSON or CSV) or of `sensitivity` (JSON; several recipes).

    Raises
    ------
    ValueError
        A file of another kind; several of different models or tokens.
    """
    found = [_content(Path(path)) for path in paths]
    if len(found) == 1 and isinstance(found[0], list):
        return _combine(found[0], data, str(paths[0]))
    if any(isinstance(content, list) for content in found):
        raise ValueError("errors: found results of combine among several files, expected it alone")
    return _sensitivity([content for content in found if isinstance(content, dict)], paths)


def _content(path: Path) -> list[dict[str, Any]] | dict[str, Any]:
    """Rows of combine, or the whole of a sensitivity analysis."""
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise ValueError(f"errors: found {str(path)!r}, no such file")
    try:
        text = read_small_text(path, _LARGEST_FILE)
        content: Any = list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else json.loads(text)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"errors: cannot read {path}: {error}") from None
    if isinstance(content, dict) and content.get("experiment") == "combine":
        content = content.get("rows")
    if isinstance(content, list) and content and all(isinstance(r, dict) and "sent_as" in r for r in content):
        return content
    if isinstance(content, dict) and isinstance(content.get("recipe"), dict) and "rows" in content:
        return content
    kinds = "results of experiment combine or of sensitivity"
    raise ValueError(f"errors: {path} is of another kind, expected {kinds}")


def _combine(rows: list[dict[str, Any]], data: str, where: str) -> ErrorTable:
    kinds = list(dict.fromkeys(str(row.get("data")) for row in rows))
    one_of(data, "data", kinds)
    values: dict[tuple[str, ...], float] = {}
    left_out: list[str] = []
    for row in rows:
        if row.get("data") != data:
            continue
        name = SENT_AS.get(row["sent_as"])
        if name is None:
            left_out.append(row["sent_as"])
        else:
            values[(canonical("combine", name),)] = _number(row.get("relative_error"), where)
    return ErrorTable(("combine",), f"sum of experts' outputs, {data}, {where}", values, tuple(left_out))


def _number(value: Any, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not 0 <= found < float("inf"):
        raise ValueError(f"errors: {where} has an error of {value!r}, expected a number of at least 0")
    return found


def _sensitivity(contents: list[dict[str, Any]], paths: Sequence[str | Path]) -> ErrorTable:
    values: dict[tuple[str, ...], float] = {}
    same: set[str] = set()
    source = "a model"
    for content, path in zip(contents, paths, strict=True):
        settings = content.get("settings") if isinstance(content.get("settings"), dict) else {}
        assert isinstance(settings, dict)
        others = {k: v for k, v in content["recipe"].items() if k not in CHOICES}
        same.add(json.dumps([settings.get("model"), settings.get("ids"), others], sort_keys=True))
        source = str(settings.get("source", source))
        rows = content["rows"] if isinstance(content["rows"], list) else []
        wanted = {"part": "logits", "variant": "all", "metric": "relative_error"}
        hits = [r for r in rows if isinstance(r, dict) and all(r.get(k) == v for k, v in wanted.items())]
        if len(hits) != 1 or any(not isinstance(content["recipe"].get(name), str) for name in CHOICES):
            raise ValueError(f"errors: {path} has no error of its recipe's logits, expected a whole analysis")
        key = tuple(canonical(name, _named(content["recipe"][name])) for name in CHOICES)
        values[key] = _number(hits[0].get("median"), str(path))
    if len(same) > 1:
        raise ValueError("errors: the files are of different models, tokens or recipes, expected one of each")
    return ErrorTable(CHOICES, f"logits of {source}, median token, sensitivity", values)


def _named(word: str) -> str:
    """BF16 where a recipe names none, under whose name it is counted."""
    return "bf16" if word in ("none", "numbers", "bfloat16") else word


def model_errors(
    folder: str | Path | None, recipe: str, choices: Sequence[str], *, tokens: int = 128, seed: int = 0
) -> ErrorTable:
    """Errors of a checkpoint's logits under a recipe with each common format of some choices.

    Parameters
    ----------
    folder : path or None
        None: the trained demo model.
    recipe : str
        Preset or JSON file.
    choices : sequence of str
        Of `CHOICES`.
    """
    from ..model import Recipe

    for name in choices:
        one_of(name, "vary", CHOICES)
    model, ids, source = open_model(folder, tokens=tokens, seed=seed)
    options = {name: COMMON[name] for name in CHOICES if name in choices}
    return measured_errors(model, ids, Recipe.read(recipe), options, source=source)


def measured_errors(
    model: Model,
    ids: Any,
    recipe: Recipe,
    options: Mapping[str, Sequence[str]],
    *,
    source: str = "a model",
) -> ErrorTable:
    """Errors of a model's logits against float64, of formats alone and of the whole recipe.

    All else is in float64: under the whole recipe the error of its products would hide that of the formats.

    Parameters
    ----------
    model : Model
    ids : array_like of int
    recipe : Recipe
        Formats of the choices that `options` does not name are its own.
    options : mapping
        Formats to try for some of `CHOICES`, as `tradeoff` spells them.

    Raises
    ------
    ValueError
        Formats that do not go together, in the recipe's own words.
    """
    from ..model import Recipe as Recipes

    exact = np.asarray(model.forward(ids, recipe="float64"), np.float64)

    def error(under: Recipe) -> float:
        found = np.asarray(model.forward(ids, recipe=under), np.float64)
        return float(np.median(np.linalg.norm(found - exact, axis=-1) / np.linalg.norm(exact, axis=-1)))

    names = [name for name in CHOICES if name in options]
    own = {name: getattr(recipe, name) for name in CHOICES}
    alone = Recipes.preset("float64").replace(**own)
    values = {}
    for formats in product(*(options[name] for name in names)):
        fields = dict(zip(names, formats, strict=True))
        values[tuple(map(canonical, names, formats))] = error(alone.replace(**fields))
    whole = f"the whole recipe ({recipe.name}) has {error(recipe):.4g} on the same logits"
    of = f"logits of {source}, median token, formats alone"
    return ErrorTable(tuple(names), of, values, remark=f"{whole}: formats that stay far below it hide in it")
