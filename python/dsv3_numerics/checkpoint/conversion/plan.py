"""Decisions of a conversion: what becomes of each tensor, from names, shapes and dtypes alone.

Lives here: the table of targets, and the plan: steps, layouts, index and configuration. No value is read.
What is declared or named and not understood stops the plan, before a byte is written. How a step is done is
in `steps`, who does it in `pipeline`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from ..chunks import LARGEST_CHUNK
from ..declared import CONFIG_NAME, HF_QUANT_NAME
from ..dtypes import SCALED
from ..index import read_json, shown
from ..reader import Checkpoint
from ..readers import CheckpointError
from ..resolve import StoredWeight
from ..scan import SCALE_SUFFIX, Problem, TensorInfo
from ..selection import selected
from ..write import Layout, layout
from .configuration import ignore, set_dtype, with_ignored, with_section, without_sections
from .families import Family, family_of, is_quantized_by
from .steps import Copy, Dequantize, Quantize, Requantize, Step, WidenScales

To = Literal["bf16", "f16", "f32", "fp8", "fp8-ue8m0"]
Kind = Literal["float32", "ue8m0"]


class Target(NamedTuple):
    """Meaning of a value of ``to``.

    Attributes
    ----------
    dtype : str
        Of the weights, as safetensors spells it.
    torch : str
        The same as ``config.json`` spells it.
    scale : str or None
        The kind of scale, for FP8.
    """

    dtype: str
    torch: str
    scale: Kind | None = None


TARGETS: dict[str, Target] = {
    "bf16": Target("BF16", "bfloat16"),
    "f16": Target("F16", "float16"),
    "f32": Target("F32", "float32"),
    "fp8": Target("F8_E4M3", "bfloat16", "float32"),
    "fp8-ue8m0": Target("F8_E4M3", "bfloat16", "ue8m0"),
}
_FLOATS = ("BF16", "F16", "F32", "F64")
# Layers with two axes that are no linear layers.
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embeddings?|wte|wpe|embed|tok_embeddings|shared)$")
_FEW = 3


@dataclass(frozen=True)
class Shard:
    """One file to be written.

    Attributes
    ----------
    file : str
        Relative to the destination.
    steps : tuple of Step
    layout : Layout
    """

    file: str
    steps: tuple[Step, ...]
    layout: Layout

    @property
    def bytes_read(self) -> int:
        """Bytes that its steps read."""
        return sum(step.bytes_read for step in self.steps)

    @property
    def sources(self) -> set[str]:
        """The files that its steps read."""
        return {info.file for step in self.steps for info in step.inputs}


@dataclass
class Plan:
    """Everything that a conversion will write, but for the files that it copies.

    Attributes
    ----------
    shards : list of Shard
    index : dict or None
        For the index, under the name that the source's has.
    config : dict or None
        For ``config.json``.
    hf_quant : dict or None
        For ``hf_quant_config.json``; None: it is not written.
    counts : Counter of str
        Tensors by what is done with them.
    notes : list of str
        What the user should know.
    """

    shards: list[Shard]
    index: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    hf_quant: dict[str, Any] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def make_plan(ckpt: Checkpoint, to: To, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Plan:
    """Decide what becomes of each tensor.

    Raises
    ------
    ValueError
        An `include` that no tensor matches.
    CheckpointError
        Something declared or known by its name that no dialect explains, codes without scales, scales that do
        not fit, an index or a configuration that cannot be read.
    """
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in (*ckpt, *ckpt.weights)):
            raise ValueError(f"include: found {pattern!r}, which matches no tensor")
    rules = _Rules(ckpt, TARGETS[to], include, exclude)
    rules.ensure_understood()
    notes: list[str] = []
    shards = []
    for file, steps in _by_file(ckpt, rules).items():
        entries = [entry for step in steps for entry in step.outputs]
        if entries or len(ckpt.files) == 1:
            shards.append(Shard(file, tuple(steps), layout(entries, ckpt.metadata(file))))
        else:
            notes.append(f"{file} is left out: it held nothing but scales")
    plan = Plan(shards, counts=Counter(step.action for shard in shards for step in shard.steps), notes=notes)
    _note(ckpt, plan, rules, to)
    if ckpt.index_name is not None:
        plan.index = _index(ckpt, plan)
    if not ckpt.is_single:
        _configure(ckpt, plan, rules)
    return plan


def _note(ckpt: Checkpoint, plan: Plan, rules: _Rules, to: To) -> None:
    counts, notes = plan.counts, plan.notes
    if sum(counts.values()) == counts["copied"] and not rules.dropped:
        notes.append(f"no tensor is changed: none is to become {to}")
    steps = [step for shard in plan.shards for step in shard.steps]
    kinds = {step.info.dtype for step in steps if isinstance(step, Copy)}
    stay = sorted(kinds & {"BF16", "F16", "F32"} - {TARGETS[to].dtype})
    if counts["dequantized"] and to != "bf16" and stay:
        notes.append(f"tensors that were plain numbers stay what they are: {', '.join(stay)}")
    if counts["requantized"]:
        notes.append(
            "FP8 blocks whose scale is no power of two yet are rounded a second time, an error of about 2.6% "
            "(root mean square); converting the original numbers, where they are at hand, has no such error"
        )
    if rules.dropped:
        ends = Counter(name.rsplit(".", 1)[-1] for name in rules.dropped)
        texts = ", ".join(f"{count} {end}" for end, count in ends.most_common())
        notes.append(f"companions of decoded weights are left out: {texts}")
    raw = [weight for weight in ckpt.weights.values() if weight.scale is None]
    if raw:
        notes.append(f"{len(raw)} tensors of codes without scales count as numbers, as you said")
    if ckpt.unlisted:
        first = shown(ckpt.unlisted[0].name)
        notes.append(
            f"{len(ckpt.unlisted)} tensors that the index does not list are left out; the first is {first}"
        )
    notes += ckpt.notes


class _Rules:
    """Which step a tensor gets.

    Attributes
    ----------
    dropped : list of str
        Companions that belonged to codes which are decoded.
    decoded, kept : list of StoredWeight
        Low-precision weights that become numbers or new codes, and those that stay as they are.
    """

    def __init__(
        self, ckpt: Checkpoint, target: Target, include: Sequence[str], exclude: Sequence[str]
    ) -> None:
        self._ckpt = ckpt
        self.target = target
        self._globs = include, exclude
        self._contents = ckpt.contents
        self._block = ckpt.block
        self.family: Family = family_of(ckpt.config)
        self.dropped: list[str] = []
        self.decoded: list[StoredWeight] = []
        self.kept: list[StoredWeight] = []

    def is_selected(self, name: str) -> bool:
        """Tell if the user's globs take a tensor."""
        return selected(name, *self._globs)

    def ensure_understood(self) -> None:
        """Refuse what is not understood, unless it is left out."""
        found = [problem for problem in self._contents.problems if self._matters(problem)]
        if found:
            text = found[0].text
            if len(found) > 1:
                text += f" (and {len(found) - 1} more like this; inspect lists them)"
            raise CheckpointError(text)

    def _matters(self, problem: Problem) -> bool:
        if problem.note:
            return False
        return not problem.tensors or all(self.is_selected(name) for name in problem.tensors[:2])

    def step(self, info: TensorInfo) -> Step | None:
        """The step that makes something of this tensor; None where another tensor's step does."""
        owner = self._contents.owner.get(info.name)
        if owner is not None:
            return self._of_weight(self._contents.weights[owner], info)
        if info.name in self._contents.markers:
            if all(self.is_selected(name) for name in self._contents.weights) and self.target.scale is None:
                self.dropped.append(info.name)
                return None
            return Copy(info)
        if not self.is_selected(info.name):
            return Copy(info)
        scale = self.target.scale
        if scale and self._is_to_be_quantized(info):
            self._ensure_block(info.name, info.shape)
            return Quantize(info, self._block, info.name + SCALE_SUFFIX, scale)
        return Copy(info)

    def _is_to_be_quantized(self, info: TensorInfo) -> bool:
        return info.dtype in _FLOATS and len(info.shape) > 1 and is_quantized_by(self.family, info.name)

    def _of_weight(self, weight: StoredWeight, info: TensorInfo) -> Step | None:
        is_codes = info is weight.codes
        if not self.is_selected(weight.name):
            if is_codes:
                self.kept.append(weight)
            return Copy(info)
        if self.target.scale is None:
            if is_codes:
                self.decoded.append(weight)
                return Dequantize(weight, self.target.dtype)
            if info in weight.others:
                self.dropped.append(info.name)
            return None
        return self._low_to_low(weight, info)

    def _low_to_low(self, weight: StoredWeight, info: TensorInfo) -> Step | None:
        """FP8 in blocks to FP8 in the same blocks."""
        if weight.dialect.name not in ("deepseek_v3", "mxfp8") or weight.grid.block != self._block:
            raise CheckpointError(
                f"{self._ckpt.folder / weight.codes.file}: {shown(weight.name)}: stored as {weight}; "
                "convert to bf16, f16 or f32 first, or exclude it"
            )
        if self.target.scale == "float32":
            if info is weight.codes:
                self.kept.append(weight)
                return Copy(info)
            if info is weight.scale and info.dtype != "F32":
                return WidenScales(info, weight.scale_meaning)
            return Copy(info)
        self._ensure_block(weight.name, weight.shape)
        if info is weight.codes:
            self.kept.append(weight)
            return Requantize(weight)
        return None

    def _ensure_block(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse blocks that do not fit in memory whole, as quantizing them takes."""
        area = math.prod(min(pair) for pair in zip(self._block, shape[-2:], strict=True))
        if area > LARGEST_CHUNK:
            raise CheckpointError(
                f"{shown(name)}: blocks of {area} elements, expected at most {LARGEST_CHUNK}"
            )


def _by_file(ckpt: Checkpoint, rules: _Rules) -> dict[str, list[Step]]:
    steps: dict[str, list[Step]] = {file: [] for file in ckpt.files}
    for info in ckpt.infos():
        step = rules.step(info)
        if step is not None:
            steps[info.file].append(step)
    return steps


def _index(ckpt: Checkpoint, plan: Plan) -> dict[str, Any]:
    """The index with its other entries as they were."""
    assert ckpt.index_name is not None
    index = read_json(ckpt.folder / ckpt.index_name)
    metadata = index.get("metadata")
    size = sum(shard.layout.size - len(shard.layout.header) for shard in plan.shards)
    index["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "total_size": size}
    index["weight_map"] = dict(
        sorted((name, shard.file) for shard in plan.shards for name in shard.layout.begins)
    )
    return index


def _configure(ckpt: Checkpoint, plan: Plan, rules: _Rules) -> None:
    """Make the configuration say what the weights are now."""
    config, declaration, target = ckpt.config, ckpt.declaration, rules.target
    hf_quant = next((section for section in declaration.sections if not section.keys), None)
    steps = [step for shard in plan.shards for step in shard.steps]
    quantized = [step for step in steps if isinstance(step, Quantize | Requantize)]
    new = dict(config) if config is not None else None
    if not rules.kept and not quantized:  # nothing is in low precision any more
        if new is not None:
            new = without_sections(new, declaration)
        hf_quant = None
    elif target.scale is not None and (quantized or declaration.sections):
        if new is not None:
            section = _fp8_section(ckpt, plan, rules, steps)
            new = with_section(new, declaration, section)
        hf_quant = None
    elif rules.decoded:
        modules = [weight.module for weight in rules.decoded]
        if new is not None:
            new = with_ignored(new, declaration, modules)
        if declaration.sections:
            plan.notes.append(f"{len(modules)} modules are plain now, and the configuration says so")
    if hf_quant is not None:
        content = read_json(ckpt.folder / HF_QUANT_NAME)
        if rules.decoded:
            ignore(content["quantization"], "modelopt", [weight.module for weight in rules.decoded])
        plan.hf_quant = content
    if new is not None and (rules.decoded or plan.counts["quantized"]):
        set_dtype(new, target.torch)
    plan.config = new


def _fp8_section(ckpt: Checkpoint, plan: Plan, rules: _Rules, steps: Sequence[Step]) -> dict[str, Any]:
    declared = next((s.content for s in ckpt.declaration.sections if s.keys), {})
    section: dict[str, Any] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        **declared,
        "weight_block_size": list(ckpt.block),
    }
    if rules.target.scale == "ue8m0":
        section["scale_fmt"] = "ue8m0"
    elif plan.counts["quantized"]:
        section.pop("scale_fmt", None)
    plain = plain_linears(steps)
    if plain:
        ignore(section, "fp8", plain)
        plan.notes.append(
            f"{len(plain)} linear layers stay plain, and {CONFIG_NAME} lists them: {', '.join(plain[:_FEW])}"
            + (f" and {len(plain) - _FEW} more" if len(plain) > _FEW else "")
        )
    return section


def plain_linears(steps: Sequence[Step]) -> list[str]:
    """Modules whose weight has two axes and stays plain: loaders must look for no scales of these."""
    found = []
    for step in steps:
        if isinstance(step, Copy | Dequantize):
            (entry,) = step.outputs
            module = entry.name.removesuffix(".weight")
            linear = module != entry.name and len(entry.shape) == 2 and entry.dtype in _FLOATS
            if linear and not _EMBEDDING.search(module):
                found.append(module)
    return sorted(found)


def to_json(content: dict[str, Any]) -> bytes:
    """Bytes as the files of a release look."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


__all__ = ["SCALED", "TARGETS", "Plan", "Shard", "Target", "To", "make_plan", "plain_linears", "to_json"]
