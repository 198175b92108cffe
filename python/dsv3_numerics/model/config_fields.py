"""Fields of a ``config.json`` as those of `Config`: one reading for each way in which files say them.

Lives here: `read_fields`, which collects everything that cannot be taken instead of stopping at the first.
Not here: the lists of fields by family (`families`), rotary settings (`rope_config`), `Config` itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .families import FAMILIES, NO_MATTER, Family
from .rope_config import read_rope

OPTIONAL_COUNTS = ("q_lora_rank", "index_n_heads", "index_head_dim", "index_topk")
INDEXER = OPTIONAL_COUNTS[1:]
"""Sizes of the lightning indexer."""

_MOST_LAYERS = 100_000  # of any model there is, by far


def read_fields(
    found: Mapping[str, Any], family: Family, names: Collection[str], required: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Read the fields of `Config` that a file sets, and list everything in it that cannot be taken.

    Parameters
    ----------
    found : mapping
        The content of the file.
    family : Family
    names, required : collections of str
        All fields of `Config`, and those that a file has to set.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for given, value in found.items():
        name = family.aliases.get(given, given)
        if name in family.only:
            possible = family.only[name]
            if value not in possible:
                problems.append(f"{given}: found {value!r}, expected {' or '.join(map(repr, possible))}")
        if name in values and values[name] != value:
            problems.append(f"{given}: found {value!r}, but {values[name]!r} under its other name")
        elif name in names:
            values[name] = value
        elif name not in family.only and name not in NO_MATTER and name not in _DERIVED:
            problems.append(f"{given}: found {value!r}; this field is not known, so its meaning is not")
    values.setdefault("model_type", "deepseek_v3")
    values = {**family.defaults, **{k: v for k, v in values.items() if v is not None or k in _NULLABLE}}
    try:
        values["rope_theta"], values["rope_scaling"] = read_rope(found)
    except ValueError as error:
        problems.append(str(error))
    for step in (_groups, _dense_layers, _layer_types, _indexer_types, _ends, _check_derived):
        problems += step(found, values)
    missing = [f"{name}: missing" for name in required if name not in values]
    return values, missing + problems


# Fields that say again, or in another way, what fields of `Config` say; each is held against them below.
_SIZES_OF_HEADS = ("head_dim", "q_head_dim", "qk_head_dim", "num_key_value_heads")
_SHARING = ("index_topk_freq", "index_topk_pattern", "index_skip_topk_offset")
_DERIVED = {*_SIZES_OF_HEADS, *_SHARING, "layer_types", "mlp_layer_types", "rope_parameters"}
_NULLABLE = {*OPTIONAL_COUNTS, "eos_token_id"}


def _groups(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """One group of experts where the method has none: ``greedy`` does not look at groups."""
    if values.get("topk_method") == "greedy":
        values |= {"n_group": 1, "topk_group": 1}
    return []


def _dense_layers(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """``mlp_layer_types``, where a file has it: ``dense`` layers first, and ``sparse`` ones behind."""
    types = found.get("mlp_layer_types")
    if types is None:
        return []
    layers = values.get("num_hidden_layers")
    if not isinstance(types, list) or len(types) != layers or not set(map(str, types)) <= {"dense", "sparse"}:
        return [f"mlp_layer_types: found {_brief(types)}, expected 'dense' or 'sparse', {layers} times"]
    dense = types.count("dense")
    if "dense" in types[dense:]:
        return [f"mlp_layer_types: found {_brief(types)}, expected the dense layers first"]
    given = found.get("first_k_dense_replace")
    if given is not None and given != dense and not FAMILIES[values["model_type"]].lists_layers:
        return [f"mlp_layer_types: found {dense} dense layers, but first_k_dense_replace is {given!r}"]
    values["first_k_dense_replace"] = dense
    return []


def _layer_types(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """``layer_types`` of transformers: all alike, as the family has them."""
    types = found.get("layer_types")
    kind = "full_attention" if values.get("index_topk") is None else "indexed_attention"
    if types is None or (isinstance(types, list) and all(found == kind for found in types)):
        return []
    return [f"layer_types: found {_brief(types)}, expected {kind!r} for every layer"]


def _indexer_types(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Layers that reuse the selection of the one before, by list, by pattern or by frequency."""
    layers = values.get("num_hidden_layers")
    given = [name for name in ("indexer_types", *_SHARING) if found.get(name) is not None]
    if not given or type(layers) is not int:
        return []
    if values.get("index_topk") is None:
        return [f"{', '.join(given)}: found without index_topk, the keys that an indexer selects"]
    if "indexer_types" in given:
        types = found["indexer_types"]
    elif "index_topk_pattern" in given:
        kinds = {"F": "full", "S": "shared"}
        types = [kinds.get(letter, letter) for letter in str(found["index_topk_pattern"])]
    else:
        every, offset = found.get("index_topk_freq", 1), found.get("index_skip_topk_offset", 2)
        if type(every) is not int or type(offset) is not int or every < 1:
            return [f"index_topk_freq: found {every!r}, with offset {offset!r}, expected whole numbers"]
        if layers > _MOST_LAYERS:
            return [f"num_hidden_layers: found {layers}, expected at most {_MOST_LAYERS}"]
        types = ["shared" if max(i - offset + 1, 0) % every else "full" for i in range(layers)]
    if not isinstance(types, (list, tuple)):
        return [f"indexer_types: found {_brief(types)}, expected a list"]
    values["indexer_types"] = (
        None if all(kind == "full" for kind in types) and len(types) == layers else tuple(types)
    )
    return []


def _ends(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """``eos_token_id`` as one number, several, or none."""
    ends = values.get("eos_token_id")
    if isinstance(ends, list):
        values["eos_token_id"] = None if not ends else ends[0] if len(ends) == 1 else tuple(ends)
    return []


def _check_derived(found: Mapping[str, Any], values: dict[str, Any]) -> list[str]:
    """Sizes that follow from others, where a file says them too."""
    heads, nope, rope, v, hidden = sizes = tuple(
        values.get(name, 0)
        for name in (
            "num_attention_heads",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "hidden_size",
        )
    )
    if not all(type(size) is int and size > 0 for size in sizes):
        return []
    one = (
        rope,
        nope + rope,
        v,
        hidden // heads,
    )  # transformers overwrites head_dim; releases mean one of these
    possible = {
        "num_key_value_heads": (heads,),
        "qk_head_dim": (nope + rope,),
        "head_dim": one,
        "q_head_dim": one,
    }
    meaning = {
        "num_key_value_heads": ", as num_attention_heads",
        "qk_head_dim": ", qk_nope_head_dim + qk_rope_head_dim",
    }
    return [
        f"{name}: found {found[name]!r}, expected "
        + " or ".join(map(str, dict.fromkeys(allowed)))
        + meaning.get(name, "")
        for name, allowed in possible.items()
        if found.get(name) is not None and found[name] not in allowed
    ]


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}..."
