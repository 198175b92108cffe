"""Folders that engines dump tensors into: their names, and the shards of tensor parallelism.

Lives here: SGLang's ``TP*_PP*_Rank*/Pass*.pt``, folders of msprobe, and the joining of ranks where the rule
is known. Files themselves are read by `files` and `torch_files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .._arrays import Array
from .kinds import as_codes

_RANK = re.compile(r"^TP(\d+)_PP(\d+)_Rank(\d+)[^.]*\.", re.IGNORECASE)
_PASS = re.compile(r"^Pass_?(\d+)\.", re.IGNORECASE)
_MSPROBE = re.compile(r"^(?:step(\d+)\.)?(?:rank(\d*)\.)?(?:dump_tensor_data\.)", re.IGNORECASE)

COLUMN = r"\b(q_b_proj|q_proj|kv_b_proj|k_proj|v_proj|gate_proj|up_proj|attn_mqa|attn_mha|lm_head)\b"

JOINS: tuple[tuple[str, str, str], ...] = (
    ("gate and up beside each other in every rank", r"\bgate_up_proj\b", "halves"),
    ("columns split over ranks", COLUMN, "columns"),
)
"""Rules for tensors that differ between ranks: reason, names, and how they are joined."""


class Dump(NamedTuple):
    """Tensors of a folder under the names of the model, and what was done to them."""

    tensors: dict[str, Array]
    notes: list[str]


def named(tensors: Mapping[str, Array]) -> Dump:
    """Take ranks and passes out of names, and join ranks; other folders are returned as they are."""
    found: dict[tuple[str, str], dict[int, Array]] = {}
    passes: set[str] = set()
    ranks: set[int] = set()
    for full, array in tensors.items():
        rank, number, name = 0, "", full
        if match := _RANK.match(name):
            rank, name = int(match[1]), name[match.end() :]
        elif match := _MSPROBE.match(name):
            rank, number, name = int(match[2] or 0), match[1] or "", name[match.end() :]
        else:
            return Dump(dict(tensors), [])
        if match := _PASS.match(name):
            number, name = match[1], name[match.end() :]
        held = found.setdefault((number, name), {})
        if rank in held and not _alike([held[rank], array]):
            return Dump(
                dict(tensors), ["ranks of one number hold unlike tensors; names are left as they are"]
            )
        held[rank] = array
        passes.add(number)
        ranks.add(rank)
    first = min(passes, default="")
    out: dict[str, Array] = {}
    notes: list[str] = []
    joined = {"replicated": 0, "columns": 0, "halves": 0}
    unjoined = 0
    for (number, name), shards in found.items():
        key = name if number == first else f"pass{int(number)}.{name}"
        arrays = [shards[rank] for rank in sorted(shards)]
        how, whole = _joined(name, arrays)
        if whole is None:
            unjoined += 1
            out.update({f"{key}.rank{rank}": shards[rank] for rank in sorted(shards)})
            continue
        joined[how] += len(arrays) > 1
        out[key] = whole
    if len(ranks) > 1:
        told = ", ".join(f"{count} {how}" for how, count in joined.items() if count)
        notes.append(f"{len(ranks)} ranks of tensor parallelism joined: {told or 'none'}")
    if unjoined:
        notes.append(f"{unjoined} tensors differ between ranks and no rule joins them: each rank by itself")
    if len(passes) > 1:
        notes.append(f"{len(passes)} passes: the first under plain names, later ones as passN.")
    return Dump(out, notes)


def _alike(arrays: list[Array]) -> bool:
    first = arrays[0]
    return all(
        a.shape == first.shape and a.dtype == first.dtype and bool((as_codes(a) == as_codes(first)).all())
        for a in arrays[1:]
    )


def _joined(name: str, arrays: list[Array]) -> tuple[str, Array | None]:
    if _alike(arrays):
        return "replicated", arrays[0]
    if any(a.ndim < 1 or a.shape[:-1] != arrays[0].shape[:-1] or a.dtype != arrays[0].dtype for a in arrays):
        return "", None
    for _, pattern, how in JOINS:
        if re.search(pattern, name):
            if how == "columns":
                return how, np.concatenate(arrays, axis=-1)
            if all(a.shape[-1] % 2 == 0 for a in arrays):
                halves = [np.split(a, 2, axis=-1) for a in arrays]
                return how, np.concatenate([h[0] for h in halves] + [h[1] for h in halves], axis=-1)
    return "", None
