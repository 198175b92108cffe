"""Inconsistencies of a checkpoint, and how they are told.

Lives here: one function for each pair of things that must agree: weights and scales, index and files,
configuration and tensors. All work on names, shapes and dtypes; values are `inspection`'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard

from .declared import CONFIG_NAME
from .dtypes import SCALED
from .index import CheckpointFiles, shown, stored_files
from .reader import Checkpoint
from .readers import CheckpointError
from .scan import Problem, Scan
from .selection import is_of_text

if TYPE_CHECKING:
    from .inspection import Inspection

# Families whose tensors and sizes have DeepSeek's names, by ``model_type``: other names of the keys below.
# The forward's own list of them is in `dsv3_numerics.model`, a floor above; a test holds the two together.
FAMILIES: dict[str, dict[str, str]] = {
    "deepseek_v2": {},
    "deepseek_v3": {},
    "deepseek_v32": {},
    "deepseek_v4": {},
    "deepseek_v41": {},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {},
    "kimi_k2": {},
    "sarvam_mla": {"n_routed_experts": "num_experts"},
}
# Shapes by their configurations: the end of a name, and the keys of its lengths.
_SHAPES = {
    "embed_tokens.weight": ("vocab_size", "hidden_size"),
    "lm_head.weight": ("vocab_size", "hidden_size"),
    "input_layernorm.weight": ("hidden_size",),
    "post_attention_layernorm.weight": ("hidden_size",),
    "self_attn.q_a_proj.weight": ("q_lora_rank", "hidden_size"),
    "self_attn.q_a_layernorm.weight": ("q_lora_rank",),
    "self_attn.kv_a_layernorm.weight": ("kv_lora_rank",),
    "mlp.gate.weight": ("n_routed_experts", "hidden_size"),
    "mlp.gate.e_score_correction_bias": ("n_routed_experts",),
    "experts.*.gate_proj.weight": ("moe_intermediate_size", "hidden_size"),
    "experts.*.up_proj.weight": ("moe_intermediate_size", "hidden_size"),
    "experts.*.down_proj.weight": ("hidden_size", "moe_intermediate_size"),
}
# Nine digits: longer ones are no numbers of layers, and cost quadratic time.
_LAYER = re.compile(r"(?:^|\.)layers\.([0-9]{1,9})\.(?:mlp\.experts\.([0-9]{1,9})\.)?")
_NUMBER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.)")
_NAMED = 8  # numbers that a problem names
_MAY_BE_ELSEWHERE = ("scale missing", "scale without weight")


def check(
    place: CheckpointFiles, found: Scan, ckpt: Checkpoint, result: Inspection, *, complete: bool
) -> Iterator[Problem]:
    """Everything that the headers, the index and the configuration say against each other.

    `complete` is whether all files of the checkpoint are looked at: in one shard of several, what is missing
    may be in another.
    """
    yield from _dialects(ckpt, result, complete)
    yield from _index(place, found)
    try:
        config = ckpt.config
    except CheckpointError as error:
        yield Problem("config", str(error))
        return
    if config is None:
        return
    where = str(ckpt.folder / CONFIG_NAME)
    yield from _quantization(where, ckpt, result, complete)
    sizes = _sizes(config)
    if sizes is not None:
        yield from _shapes(where, sizes, result)
        if complete and not found.problems:
            yield from _layers(where, sizes, ckpt)


def _sizes(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the part of a configuration that tells sizes, under DeepSeek's names; None in other families."""
    for part in (config, config.get("text_config")):
        kind = part.get("model_type") if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(kind, str) and kind in FAMILIES:
            other = {name: part[alias] for name, alias in FAMILIES[kind].items() if alias in part}
            return {**part, **other}
    return None


def _dialects(ckpt: Checkpoint, result: Inspection, complete: bool) -> Iterator[Problem]:
    """Problems of the selected tensors; in one shard of several, what is missing may be in another."""
    chosen = {info.name for info in result.tensors}
    for problem in ckpt.contents.problems:
        if problem.tensors and chosen.isdisjoint(problem.tensors):
            continue
        elsewhere = problem.kind in _MAY_BE_ELSEWHERE and not complete
        yield replace(problem, note=True) if elsewhere else problem


def _index(place: CheckpointFiles, found: Scan) -> Iterator[Problem]:
    for name in place.left_out:
        text = f"{place.folder / name}: another checkpoint in this folder, left out"
        yield Problem("not in the index", text, note=True)
    if place.index is None:
        return
    for info in found.tensors.unlisted:
        text = f"{place.folder / info.file}: holds {shown(info.name)}, but the index does not list it there"
        yield Problem("not in the index", text, note=True)
    for file in set(stored_files(place.folder)) - set(place.files):
        text = f"{place.folder / file}: the index names nothing in this file"
        yield Problem("not in the index", text, note=True)
    total, held = place.index.metadata.get("total_size"), sum(i.nbytes for i in found.tensors.values())
    if total is not None and total != held and not found.problems:
        text = f"total_size: found {shown(total)}, expected {held}, the bytes of all tensors"
        yield Problem("index total", f"{place.index.path}: {text}", note=True)


def _quantization(where: str, ckpt: Checkpoint, result: Inspection, complete: bool) -> Iterator[Problem]:
    scales, weights, declaration = result.scales, ckpt.weights, ckpt.declaration
    low = {info.dtype for info in ckpt.infos() if info.dtype in SCALED}
    if not declaration.sections and not declaration.problems:
        rows = ckpt.contents.dialects.values()
        if low and (not rows or any(row.declared for row in rows)):
            yield Problem("config", f"{where}: no quantization_config, but {', '.join(sorted(low))} weights")
        return
    if complete and not weights and not low and declaration.method is not None:
        text = f"quant_method says {declaration.method}, but no weight is in low precision"
        yield Problem("config", f"{declaration.where}: {text}")
    if scales.declared == "ue8m0" and scales.format == "float32":
        yield Problem("config", f"{where}: scale_fmt says 'ue8m0', but scales are no powers of two")
    deepseek = any(weight.dialect.name.startswith("deepseek_v3") for weight in weights.values())
    if scales.declared is None and "F8_E8M0" in scales.dtypes and deepseek:
        yield Problem("config", f"{where}: no scale_fmt 'ue8m0', but scales are stored as F8_E8M0", note=True)


def _shapes(where: str, config: dict[str, Any], result: Inspection) -> Iterator[Problem]:
    rules = {
        "." + end: (" x ".join(keys), tuple(config[key] for key in keys))
        for end, keys in _SHAPES.items()
        if all(type(config.get(key)) is int for key in keys)
    }
    for info in result.tensors:
        name = "." + _NUMBER.sub("*", info.name)
        for end, (keys, expected) in rules.items():
            if name.endswith(end) and info.shape != expected:
                text = f"{shown(info.name)}: found shape {list(info.shape)}, but {keys} is {list(expected)}"
                yield Problem("config", f"{where}: {text}")


def _layers(where: str, config: dict[str, Any], ckpt: Checkpoint) -> Iterator[Problem]:
    layers: dict[int, set[int]] = {}
    for info in ckpt.infos():
        match = _LAYER.search(info.name)
        if match and is_of_text(info.name):
            experts = layers.setdefault(int(match[1]), set())
            if match[2] is not None:
                experts.add(int(match[2]))
    main, more = config.get("num_hidden_layers"), config.get("num_nextn_predict_layers") or 0
    routed = config.get("n_routed_experts")
    for key, value in (
        ("num_hidden_layers", main),
        ("num_nextn_predict_layers", more),
        ("n_routed_experts", routed),
    ):
        if value is not None and not _is_count(value):
            yield Problem("config", f"{where}: {key}: found {_brief(value)}, expected a number of at least 0")
    if _is_count(main) and _is_count(more):
        here = f"{where}: num_hidden_layers is {main}, num_nextn_predict_layers {more}"
        for numbers, what, note in (
            (_absent(0, main, layers), "not there", False),
            (_absent(main, main + more, layers), "not there", True),
            (_few({layer for layer in layers if layer >= main + more}), "one too many", False),
        ):
            if numbers:
                yield Problem("config", f"{here}, but layer {numbers} is {what}", note)
    if _is_count(routed):
        wrong = {
            number
            for number, experts in layers.items()
            if experts and (len(experts) != routed or max(experts) >= routed)
        }
        if wrong:
            text = f"layer {_few(wrong)} has others than experts 0 to {routed - 1}"
            yield Problem("config", f"{where}: n_routed_experts is {routed}, but {text}")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}..."


def _absent(start: int, stop: int, there: Collection[int]) -> str:
    """Say which numbers of a range are not there; the range may be of any length."""
    held = sum(start <= number < stop for number in there)
    return _some(islice((n for n in range(start, stop) if n not in there), _NAMED), stop - start - held)


def _few(numbers: set[int]) -> str:
    """Say the first of some numbers, and how many there are more."""
    return _some(sorted(numbers)[:_NAMED], len(numbers))


def _some(numbers: Iterable[int], count: int) -> str:
    first = ", ".join(map(str, numbers))
    return first if count <= _NAMED else f"{first} (and {count - _NAMED} more)"
