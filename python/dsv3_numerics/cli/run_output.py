"""Files of the verb ``run``: logits, traces and operations, with what they are of in the file's metadata.

Lives here: which names a pattern means, names as transformers has them, and the writing.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from ..model import Model, OpRecord, Recipe

FORMAT = "dsv3_numerics.trace/1"
_CHUNK = 512  # tokens that a forward without traces takes at a time


class Wanted(NamedTuple):
    """Names that patterns match: traces, and operations where there is no such trace."""

    traces: list[str]
    operations: list[str]


def matching(patterns: Sequence[str], model: Model) -> Wanted:
    """Find what patterns name.

    Raises
    ------
    click.BadParameter
        A pattern that names nothing.
    """
    from ..model.operation_names import operation_names

    found = Wanted([], [])
    known, operations = model.trace_names(), operation_names(model.config)
    for pattern in patterns:
        hits = fnmatch.filter(known, pattern)
        into = found.traces if hits else found.operations
        hits = hits or fnmatch.filter(operations, pattern)
        if not hits:
            raise click.BadParameter(
                f"nothing is called {pattern!r}; --trace list prints all names, --trace operations those of "
                "single operations",
                param_hint="--trace",
            )
        into += [name for name in hits if name not in into]
    return found


def keeping(names: Sequence[str], found: dict[str, Any], *, inputs: bool) -> Callable[[OpRecord], None]:
    """Return a hook that keeps the results, and `inputs`, of operations of these names; the first of each."""
    wanted = frozenset(names)

    def hook(record: OpRecord) -> None:
        name = record.operation.name
        if name not in wanted or name in found:
            return
        found[name] = record.output.copy()
        for number, array in enumerate(record.inputs if inputs else ()):
            found[f"{name}.input{number or ''}"] = array.copy()

    return hook


def renamed(found: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """Return results under the names that transformers has for them, with its axes (batch, tokens, ...).

    What transformers has no module for keeps its name.
    """
    out: dict[str, Any] = {}
    for name, array in found.items():
        hf = _renamed(name)
        held = array
        if name.endswith("router_logits"):  # of all sequences, there
            held = array.reshape(-1, array.shape[-1])
        elif hf is not None and array.ndim == 2 and len(array) == tokens:
            held = array[None]
        out.setdefault(hf or name, held)
    return out


def _renamed(name: str) -> str | None:
    """Return a name of transformers, that of an operation's input too."""
    from ..model.operation_names import hf_name

    base, dot, number = name.rpartition(".input")
    module = hf_name(base) if dot else None
    return hf_name(name) if module is None else f"{module}.input{number}"


def metadata(
    path: Path,
    model: Model,
    recipe: Recipe | None,
    *,
    tokens: int,
    absorbed: bool | None,
    traced: bool,
    names: str,
    weights_as_bf16: bool,
) -> dict[str, str]:
    """Say what a file's arrays are of, as strings."""
    import numpy as np

    from .. import __version__

    config = model.config
    return {
        "format": FORMAT,
        "model": path.resolve().name,
        "model_type": config.model_type,
        "config": json.dumps(config.to_dict(), separators=(",", ":")),
        "dtype": model.dtype.name if recipe is None else recipe.compute,
        "recipe": "none" if recipe is None else recipe.name,
        "recipe_fields": "" if recipe is None else " ".join(recipe.to_json().split()),
        "attention": attention_form(model, tokens, absorbed, chunk=max(tokens, 1) if traced else _CHUNK),
        "weights_as_bf16": str(weights_as_bf16).lower(),
        "names": names,
        "dsv3_numerics": __version__,
        "numpy": np.__version__,
    }


def attention_form(model: Model, tokens: int, absorbed: bool | None, *, chunk: int) -> str:
    """Return how attention is computed for a prompt: naive, absorbed, or both in turn, by cost."""
    if absorbed is not None:
        return "absorbed" if absorbed else "naive"
    forms = []
    for start in range(0, tokens, chunk):
        stop = min(start + chunk, tokens)
        form = "absorbed" if model.layers[0].attention.prefers_absorbed(stop - start, stop) else "naive"
        forms += [] if form in forms else [form]
    return f"{' and '.join(forms)}, by cost"


def write(out: Path, found: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Write a file that appears under its name only when complete.

    ``about`` is the metadata of a safetensors file, and the comment of an npz, as JSON.
    """
    import numpy as np

    from .._archive import write_npz
    from ..checkpoint import save

    arrays = {name: np.ascontiguousarray(x) for name, x in found.items()}
    if out.suffix == ".npz":
        write_npz(out, arrays, comment=json.dumps(about).encode())
    else:
        save(out, arrays, metadata=dict(about))
