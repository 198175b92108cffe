"""Folders that engines dump tensors into: their names, and the shards of tensor parallelism.

Lives here: SGLang's ``TP*_PP*_Rank*/Pass*.pt`` (forward hooks) and ``step=*___rank=*___name=*.pt`` (its
dumper), folders of msprobe, and the joining of ranks where the rule is known. Files themselves are read by
`files` and `torch_files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .._arrays import Array
from .kinds import as_codes

_HOOK = re.compile(
    r"^TP(\d+)_PP(\d+)_Rank(?P<rank>\d+)[^.]*\.Pass_?(?P<number>\d+)\.(?P<name>.+)$", re.IGNORECASE
)
_MSPROBE = re.compile(
    r"^(?:step(?P<number>\d+)\.)?(?:(?:rank(?P<rank>\d*)|proc\d+)\.)?dump_tensor_data\.(?P<name>.+)$",
    re.IGNORECASE,
)
_TAGGED = re.compile(r"^(?:[^=]*\.)?step=(?P<number>\d+)___rank=(?P<rank>\d+)___(?P<name>.+)$")
_VALUE = re.compile(r"\.(value|meta)(?P<inside>(\.\w+)*)$")
_LATE = re.compile(r"^(lm_head|logits_processor|pooler|score)\b")
"""Modules behind the inner model, whose outputs SGLang's hooks keep for the next file."""

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


class _Record(NamedTuple):
    """One tensor of a dump."""

    rank: int
    number: int
    name: str
    array: Array


def named(tensors: Mapping[str, Array]) -> Dump:
    """Take ranks and passes out of names, and join ranks; other folders are returned as they are."""
    for read in (_hooked, _tagged, _of_msprobe):
        notes: list[str] = []
        records = read(tensors, notes)
        if records is not None:
            return _gathered(records, notes) or Dump(
                dict(tensors), ["ranks of one number hold unlike tensors; names are left as they are"]
            )
    return Dump(dict(tensors), [])


def _matched(tensors: Mapping[str, Array], pattern: re.Pattern[str]) -> list[_Record] | None:
    """Read all names by a pattern; None where one does not fit."""
    out = []
    for full, array in tensors.items():
        match = pattern.match(full)
        if match is None:
            return None
        out.append(_Record(int(match["rank"] or 0), int(match["number"] or 0), match["name"], array))
    return out


def _hooked(tensors: Mapping[str, Array], notes: list[str]) -> list[_Record] | None:
    """Read ``TP*_PP*_Rank*/Pass*.pt``.

    A file is written when the inner model has run, before its own output and those of the modules behind it
    are kept: they open the file of the next pass, and belong to this one.
    """
    records = _matched(tensors, _HOOK)
    if records is None:
        return None
    mark = ".forward_batch_info.input_ids"
    model = next((r.name.removesuffix(mark) for r in records if r.name.endswith(mark)), "model")
    files: dict[tuple[int, int], list[_Record]] = {}
    for record in records:
        files.setdefault((record.rank, record.number), []).append(record)
    out: list[_Record] = []
    moved = 0
    for (_, number), held in files.items():
        inside = next((i for i, r in enumerate(held) if r.name.startswith(f"{model}.")), len(held))
        late = [i for i, r in enumerate(held[:inside]) if r.name == model or _LATE.match(r.name)]
        back = late[-1] + 1 if number and late else 0
        moved += back
        out += [r._replace(number=number - (i < back)) for i, r in enumerate(held)]
    if moved:
        notes.append(f"{moved} outputs of {model} and behind it belong to the pass before their file's")
    return out


def _tagged(tensors: Mapping[str, Array], notes: list[str]) -> list[_Record] | None:
    """Read ``step=*___rank=*___dump_index=*___name=*.pt`` of SGLang's dumper."""
    records = _matched(tensors, _TAGGED)
    if records is None:
        return None
    out: list[tuple[int, _Record]] = []
    skipped = 0
    for record in records:
        inside = ""
        told = record.name
        if match := _VALUE.search(told):
            told, inside = told[: match.start()], match["inside"]
            if match[1] == "meta":
                skipped += 1
                continue
        tags = dict(tag.partition("=")[::2] for tag in told.split("___"))
        name = tags.pop("name", "").removeprefix("non_intrusive__")
        index = int(tags.pop("dump_index", "0"))
        if tags.get("recompute_status") == "disabled":
            del tags["recompute_status"]
        if f"layers.{tags.get('layer_id')}." in f"{name}.":
            del tags["layer_id"]
        name = "".join((name, *(f".{key}={value}" for key, value in tags.items()), inside))
        out.append((index, record._replace(name=name)))
    if skipped:
        notes.append(f"{skipped} numbers about tensors (meta) are left out")
    count: dict[tuple[int, int, str], int] = {}
    again = []
    for _, record in sorted(out, key=lambda pair: pair[0]):
        key = record.rank, record.number, record.name
        count[key] = count.get(key, 0) + 1
        again.append(record._replace(name=f"{record.name}#{count[key]}") if count[key] > 1 else record)
    return again


def _of_msprobe(tensors: Mapping[str, Array], notes: list[str]) -> list[_Record] | None:
    return _matched(tensors, _MSPROBE)


def _gathered(records: list[_Record], notes: list[str]) -> Dump | None:
    """Join ranks, and name passes; None where files of one rank hold unlike tensors of one name."""
    found: dict[tuple[int, str], dict[int, Array]] = {}
    for record in records:
        held = found.setdefault((record.number, record.name), {})
        if record.rank in held and not _alike([held[record.rank], record.array]):
            return None
        held[record.rank] = record.array
    passes, ranks = ({getattr(r, what) for r in records} for what in ("number", "rank"))
    first = min(passes, default=0)
    out: dict[str, Array] = {}
    joined = {"replicated": 0, "columns": 0, "halves": 0}
    unjoined = 0
    for (number, name), shards in found.items():
        key = name if number == first else f"pass{number}.{name}"
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
