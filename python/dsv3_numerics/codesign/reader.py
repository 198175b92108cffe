"""A config by its preset, file, folder or content, as a `Shape`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from .._regular import parse_object, read_small
from .families import FAMILIES, SAME, STATE_SPACE, layer_of
from .fields import Fields
from .shape import Shape

_LARGEST_FILE = 16 << 20  # bytes of a config.json; published ones have a few thousand
_MOST_LAYERS = 10_000


def read_shape(source: object) -> Shape:
    """Read what can be counted of a model.

    Parameters
    ----------
    source : str, path or mapping
        Name of a preset, a ``config.json``, the folder that holds it, or its content.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        Not a config; a family or layer that cannot be counted; fields missing or wrong, all at once.

    Examples
    --------
    >>> from dsv3_numerics.codesign import read_shape
    >>> read_shape("deepseek_v2_lite").layers[0].attention.q_rank is None
    True
    """
    if isinstance(source, Shape):
        return source
    if isinstance(source, Mapping):
        return _shape(dict(source), str(source.get("model_type", "config")))
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise TypeError(f"config: found {type(source).__name__}, expected a name, a path or a mapping")
    if name in presets():
        text = (resources.files(__package__) / "data" / "models" / f"{name}.json").read_bytes()
        return _shape(parse_object(text, name), name)
    path = Path(name)
    file = path / "config.json" if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"config: found {name!r}, no such file; presets are {', '.join(presets())}")
    label = file.parent.resolve().name if file.name == "config.json" else file.stem
    return _shape(parse_object(read_small(file, _LARGEST_FILE), str(file)), label)


def presets() -> list[str]:
    """Names of models that come with the package."""
    folder = resources.files(__package__) / "data" / "models"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".json"))


def _unwrapped(found: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    inner = found.get("text_config")
    if inner is None:
        return found, ()
    if not isinstance(inner, dict):
        raise ValueError(f"text_config: found {type(inner).__name__}, expected an object")
    outer: dict[str, Any] = {
        name: found[name] for name in ("model_type", "tie_word_embeddings") if name in found
    }
    return outer | inner, ("only the text model is counted: what reads images or sound is left out",)


def _shape(found: dict[str, Any], name: str) -> Shape:
    found, notes = _unwrapped(found)
    f = Fields(found)
    kind = found.get("model_type")
    for key, state in STATE_SPACE.items():
        if found.get(key) is not None:
            raise ValueError(f"{key}: found in a {kind} config, cannot count layer type {state}")
    if kind is None:
        f.missing.append("model_type")
        f.check()
    kind = SAME.get(str(kind), str(kind))
    if kind not in FAMILIES:
        raise ValueError(f"model_type: found {kind!r}, cannot count it; known are {', '.join(FAMILIES)}")
    row = FAMILIES[kind]
    f.found = found | {"model_type": kind}
    layers = f.count("num_hidden_layers")
    if layers > _MOST_LAYERS:
        f.refuse(f"num_hidden_layers: found {layers}, expected at most {_MOST_LAYERS}")
        f.check()
    more = f.count("num_nextn_predict_layers", least=0, default=0)
    if more > 100:
        f.refuse(f"num_nextn_predict_layers: found {more}, expected at most 100")
        f.check()
    mixing = f.count("hc_mult", default=0) if row.compressed else 0
    hidden, vocab, tied = f.count("hidden_size"), f.count("vocab_size"), f.flag("tie_word_embeddings")
    made = [layer_of(f, i, layers, row, mixing) for i in range(layers)]
    f.check()
    if row.compressed:
        notes += ("small tensors of DeepSeek-V4 are left out: hash tables, position biases, constants",)
    if more:
        notes += (f"layers of multi-token prediction are left out: {more} (--mtp counts them)",)
    return Shape(name, kind, tuple(made), hidden, vocab, tied, (made[-1],) * more, notes=notes)
