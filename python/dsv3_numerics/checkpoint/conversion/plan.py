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
from functools import cached_property
from itertools import repeat
from typing import Any

from ..chunks import LARGEST_CHUNK
from ..declared import HF_QUANT_NAME, METHODS
from ..index import read_json, shown
from ..reader import Checkpoint
from ..readers import CheckpointError
from ..scan import SCALE_SUFFIX, Problem, TensorInfo
from ..selection import selected
from ..stored import StoredWeight
from ..write import Layout, layout
from .configuration import ignore, set_dtype, with_ignored, with_section, without_sections
from .encode import Encode, Reblock, ToNvfp4
from .families import Family, family_of, is_quantized_by
from .steps import Copy, Dequantize, Quantize, Requantize, Step, WidenScales
from .targets import PLAIN, TARGETS, Choice, Form, choose, hf_quant_of, section_of

_FEW = 3  # names that a message lists
_FLOATS = ("BF16", "F16", "F32", "F64")
# Layers with two axes that are no linear layers.
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|embeddings?|wte|wpe|embed|tok_embeddings|shared)$")


@dataclass(frozen=True)
class Shard:
    """One file to be written.

    Attributes
    ----------
    file : str
        Relative to the destination.
    steps : tuple of Step
        What makes its tensors.
    layout : Layout
        Where they stand in it.
    """

    file: str
    steps: tuple[Step, ...]
    layout: Layout

    @cached_property
    def bytes_read(self) -> int:
        """Bytes that its steps read."""
        return sum([step.bytes_read for step in self.steps])

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


def make_plan(
    ckpt: Checkpoint,
    to: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dialect: str | None = None,
) -> Plan:
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
        if not any(map(fnmatchcase, (*ckpt, *ckpt.weights), repeat(pattern))):
            raise ValueError(f"include: found {pattern!r}, which matches no tensor")
    choice = choose(to, dialect)
    rules = _Rules(ckpt, to, choice, include, exclude)
    rules.ensure_understood()
    notes: list[str] = []
    shards = []
    for file, steps in _by_file(ckpt, rules).items():
        entries = [entry for step in steps for entry in step.outputs]
        if entries or len(ckpt.files) == 1:
            shards.append(Shard(file, tuple(steps), layout(entries, ckpt.metadata(file))))
        else:
            notes.append(f"{file} is left out: it held nothing but scales")
    plan = Plan(
        shards, counts=Counter([step.action for shard in shards for step in shard.steps]), notes=notes
    )
    _note(ckpt, plan, rules, to)
    if ckpt.index_name is not None:
        plan.index = _index(ckpt, plan)
    if not ckpt.is_single:
        _configure(ckpt, plan, rules)
    return plan


def _note(ckpt: Checkpoint, plan: Plan, rules: _Rules, to: str) -> None:
    counts, notes = plan.counts, plan.notes
    if sum(counts.values()) == counts["copied"] and not rules.dropped:
        notes.append(f"no tensor is changed: none is to become {to}")
    steps = [step for shard in plan.shards for step in shard.steps]
    kinds = {step.info.dtype for step in steps if isinstance(step, Copy)}
    stay = sorted(kinds & {"BF16", "F16", "F32"} - {PLAIN[to][0] if to in PLAIN else ""})
    if counts["dequantized"] and to != "bf16" and stay:
        notes.append(f"tensors that were plain numbers stay what they are: {', '.join(stay)}")
    if Requantize in set(map(type, steps)):
        notes.append(
            "FP8 blocks whose scale is no power of two yet are rounded a second time, an error of about 2.6% "
            "(root mean square); converting the original numbers, where they are at hand, has no such error"
        )
    notes += _about_forms(steps)
    if rules.dropped:
        ends = Counter(name.rsplit(".", 1)[-1] for name in rules.dropped)
        texts = ", ".join(f"{count} {end}" for end, count in ends.most_common())
        notes.append(f"companions of decoded weights are left out: {texts}")
    if rules.unfit:
        name, why = rules.unfit[0]
        notes.append(f"{len(rules.unfit)} weights stay plain, as {to} cannot hold them: {shown(name)}: {why}")
    raw = [weight for weight in ckpt.weights.values() if weight.scale is None]
    if raw:
        notes.append(f"{len(raw)} tensors of codes without scales count as numbers, as you said")
    if ckpt.unlisted:
        first = shown(ckpt.unlisted[0].name)
        notes.append(
            f"{len(ckpt.unlisted)} tensors that the index does not list are left out; the first is {first}"
        )
    notes += ckpt.notes


def _about_forms(steps: Sequence[Step]) -> list[str]:
    """Remarks on weights whose new form is not quite what a reader expects."""
    notes = []
    turned = [
        step
        for step in steps
        if isinstance(step, Encode)
        and isinstance(step.source, StoredWeight)
        and step.source.dialect.transposed
    ]
    if turned:
        notes.append(
            f"{len(turned)} weights are stored with their axes exchanged, and are rounded again: the new "
            "groups run along rows of the weight as plain numbers, across the old ones"
        )
    wide = [
        step
        for step in steps
        if isinstance(step, Reblock)
        and (step.form.choice.consumer, step.form.choice.writer.scale_dtype) == ("compressed-tensors", "F32")
    ]
    if wide:
        notes.append(
            f"{len(wide)} weights keep their float32 scales; transformers' loader of this dialect holds them "
            "in bfloat16, and changes what weights mean by up to 0.4 %"
        )
    return notes


class _Rules:
    """Which step a tensor gets.

    Attributes
    ----------
    dropped : list of str
        Companions that belonged to codes which are decoded.
    decoded, kept : list of StoredWeight
        Low-precision weights that become numbers, and those that stay as they are.
    coded : int
        Weights that get new codes or scales.
    unfit : list of two str
        Plain weights that the target cannot hold, and why; they stay plain.
    block : tuple of two int
        Of DeepSeek's dialect in the result.
    """

    def __init__(
        self,
        ckpt: Checkpoint,
        to: str,
        choice: Choice | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> None:
        self._ckpt = ckpt
        self.to, self.choice = to, choice
        self._globs = include, exclude
        self._contents = ckpt.contents
        own = {weight.grid.block for weight in ckpt.weights.values() if weight.dialect.name == "deepseek_v3"}
        self.block = ckpt.block if ckpt.block in own or not ckpt.weights else (128, 128)
        self.family: Family = family_of(ckpt.config)
        self.dropped: list[str] = []
        self.decoded: list[StoredWeight] = []
        self.kept: list[StoredWeight] = []
        self.coded = 0
        self.unfit: list[tuple[str, str]] = []

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
        """Return the step that makes something of this tensor; None where another tensor's step does."""
        owner = self._contents.owner.get(info.name)
        if owner is not None:
            return self._of_weight(self._contents.weights[owner], info)
        if info.name in self._contents.markers:
            if all(self.is_selected(name) for name in self._contents.weights):
                self.dropped.append(info.name)
                return None
            return Copy(info)
        if self.choice is None or not self.is_selected(info.name):
            return Copy(info)
        if not self._is_to_be_quantized(info) or self._is_left_plain_by_source:
            return Copy(info)
        if self._is_release(self.choice):
            self.coded += 1
            self._ensure_block(info.name, info.shape)
            return Quantize(info, self.block, info.name + SCALE_SUFFIX, _kind(self.choice))
        form = Form(self.choice, info.name, info.shape)
        if form.problem is not None:
            self.unfit.append((info.name, form.problem))
            return Copy(info)
        self.coded += 1
        return Encode(self._form(self.choice, info.name, info.shape, info), info)

    @cached_property
    def _is_left_plain_by_source(self) -> bool:
        """True where the source is in low precision already, and left other weights plain by choice."""
        rows = {weight.dialect.name for weight in self._contents.weights.values()}
        return bool(rows) and not (
            rows == {"deepseek_v3"} and self.choice is not None and self._is_release(self.choice)
        )

    @staticmethod
    def _is_release(choice: Choice) -> bool:
        """Tell if the result is in the dialect of DeepSeek-V3's release."""
        return choice.row.name == "deepseek_v3"

    def _is_to_be_quantized(self, info: TensorInfo) -> bool:
        return info.dtype in _FLOATS and len(info.shape) > 1 and is_quantized_by(self.family, info.name)

    def _of_weight(self, weight: StoredWeight, info: TensorInfo) -> Step | None:
        is_codes = info == weight.codes
        if not self.is_selected(weight.name):
            if is_codes:
                self.kept.append(weight)
            return Copy(info)
        if self.choice is None:
            if is_codes:
                self.decoded.append(weight)
                return Dequantize(weight, PLAIN[self.to][0])
            if info in weight.others:
                self.dropped.append(info.name)
            return None
        return self._low_to_low(weight, info, self.choice)

    def _low_to_low(self, weight: StoredWeight, info: TensorInfo, choice: Choice) -> Step | None:
        """Low precision to low precision: as it is, without loss where the target asks for it, or rounded."""
        is_codes = info == weight.codes
        if (
            self._is_release(choice)
            and weight.dialect.name == "deepseek_v3"
            and weight.grid.block == self.block
        ):
            return self._release_to_release(weight, info, choice)
        form = Form(choice, weight.name, weight.shape)
        if self._is_the_same(weight, form):
            if is_codes:
                self.kept.append(weight)
            return Copy(info)
        if not is_codes:
            if info in weight.others:
                self.dropped.append(info.name)
            return None
        if choice.writer.exact and self.block != (128, 128):
            raise self._error(weight, f"others are in blocks of {self.block[0]}x{self.block[1]}, and stay so")
        self.coded += 1
        if choice.writer.exact:
            is_short = weight.scale_meaning == "e8m0" or (weight.scale and weight.scale.dtype == "BF16")
            if choice.writer.scale_dtype == "BF16" and not is_short:
                choice = choice.with_scales("F32")
            return Reblock(self._form(choice, weight.name, weight.plain_shape, weight.codes), weight)
        form = self._form(choice, weight.name, weight.plain_shape, weight.codes)
        turned = weight.dialect.transposed
        is_mxfp4 = weight.scale_meaning == "e8m0" and weight.grid.block == (1, 32)
        if choice.target.name == "nvfp4" and weight.format == "float4_e2m1fn" and is_mxfp4 and not turned:
            return ToNvfp4(form, weight)
        return Encode(form, weight)

    def _release_to_release(self, weight: StoredWeight, info: TensorInfo, choice: Choice) -> Step | None:
        """FP8 in blocks to FP8 in the same blocks."""
        is_codes = info == weight.codes
        if is_codes:
            self.kept.append(weight)
        if _kind(choice) == "float32":
            if info == weight.scale and info.dtype != "F32":
                return WidenScales(info, weight.scale_meaning)
            return Copy(info)
        if info in weight.others:
            self.dropped.append(info.name)
        self._ensure_block(weight.name, weight.shape)
        return Requantize(weight) if is_codes else None

    @staticmethod
    def _is_the_same(weight: StoredWeight, form: Form) -> bool:
        """Tell if a weight is stored as the target would store it."""
        writer = form.choice.writer
        same_scales = weight.scale is not None and weight.scale.dtype == writer.scale_dtype
        return (
            weight.dialect.name == writer.dialect
            and weight.format == form.format
            and (same_scales or writer.form == "group" or writer.scale_dtype == "BF16")
            and weight.grid.canonical() == form.grid.canonical()
        )

    def _form(self, choice: Choice, name: str, shape: tuple[int, ...], info: TensorInfo) -> Form:
        form = Form(choice, name, shape)
        if form.problem is not None:
            what = f"{self._ckpt.folder / info.file}: {shown(name)}: cannot be {choice.target.name} in the"
            raise CheckpointError(f"{what} dialect of {choice.consumer}: {form.problem}; exclude it")
        if choice.writer.form not in ("one", "group"):
            area = math.prod(min(pair) for pair in zip(form.grid.block, shape[-2:], strict=True))
            if area > LARGEST_CHUNK:
                raise CheckpointError(
                    f"{shown(name)}: blocks of {area} elements, expected at most {LARGEST_CHUNK}"
                )
        return form

    def _error(self, weight: StoredWeight, why: str) -> CheckpointError:
        what = f"{self._ckpt.folder / weight.codes.file}: {shown(weight.name)}: stored as {weight}"
        return CheckpointError(f"{what}: {why}, or exclude it")

    def _ensure_block(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse blocks that do not fit in memory whole, as quantizing them takes."""
        area = math.prod(min(pair) for pair in zip(self.block, shape[-2:], strict=True))
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
    """Return the index with its other entries as they were."""
    assert ckpt.index_name is not None
    index = read_json(ckpt.folder / ckpt.index_name)
    metadata = index.get("metadata")
    size = sum(shard.layout.size - len(shard.layout.header) for shard in plan.shards)
    index["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "total_size": size}
    files: dict[str, str] = {}
    for shard in plan.shards:
        files |= dict.fromkeys(shard.layout.begins, shard.file)
    index["weight_map"] = dict(sorted(files.items()))
    return index


def _configure(ckpt: Checkpoint, plan: Plan, rules: _Rules) -> None:
    """Make the configuration say what the weights are now."""
    config, declaration, choice = ckpt.config, ckpt.declaration, rules.choice
    hf_quant = next((section for section in declaration.sections if not section.keys), None)
    steps = [step for shard in plan.shards for step in shard.steps]
    new = dict(config) if config is not None else None
    if not rules.kept and not rules.coded:  # nothing is in low precision any more
        if new is not None:
            new = without_sections(new, declaration)
    elif choice is not None and (rules.coded or declaration.sections):
        _ensure_one_method(ckpt, rules, choice)
        plain = plain_linears(steps)
        if plain and (config or {}).get("tie_word_embeddings") is True and "lm_head" not in plain:
            plain.append("lm_head")  # a linear layer without a weight of its own
        if new is not None:
            new = with_section(new, declaration, _section(ckpt, plan, rules, choice, plain))
        plan.hf_quant = hf_quant_of(choice, plain)
        if plain:
            few = ", ".join(plain[:_FEW]) + (f" and {len(plain) - _FEW} more" if len(plain) > _FEW else "")
            plan.notes.append(
                f"{len(plain)} linear layers stay plain, and the configuration lists them: {few}"
            )
    else:
        modules = [weight.module for weight in rules.decoded]
        if new is not None and modules:
            new = with_ignored(new, declaration, modules)
        if declaration.sections and modules:
            plan.notes.append(f"{len(modules)} modules are plain now, and the configuration says so")
        if hf_quant is not None:
            plan.hf_quant = read_json(ckpt.folder / HF_QUANT_NAME)
            if modules:
                ignore(plan.hf_quant["quantization"], "modelopt", modules)
    if new is not None and (rules.decoded or plan.counts["quantized"]):
        set_dtype(new, PLAIN[rules.to][1] if rules.to in PLAIN else "bfloat16")
    plan.config = new


def _ensure_one_method(ckpt: Checkpoint, rules: _Rules, choice: Choice) -> None:
    """Refuse a result of two methods, which no section can declare."""
    method = METHODS.get(str(section_of(choice, [])["quant_method"]))
    for weight in rules.kept:
        if method not in weight.dialect.methods:
            raise CheckpointError(
                f"{ckpt.folder / weight.codes.file}: {shown(weight.name)} stays as {weight}, which no "
                f"configuration declares together with {choice.consumer}; convert it too"
            )


def _section(ckpt: Checkpoint, plan: Plan, rules: _Rules, choice: Choice, plain: list[str]) -> dict[str, Any]:
    section = section_of(choice, plain)
    if choice.row.name != "deepseek_v3":
        return section
    if not plain:
        del section["modules_to_not_convert"]
    declared = next((s.content for s in ckpt.declaration.sections if s.keys), {})
    if ckpt.declaration.method in ("fp8", None):
        section = {**section, **declared}
    section["weight_block_size"] = list(rules.block)
    if rules.dropped:  # scales of activations are gone
        section["activation_scheme"] = "dynamic"
    if _kind(choice) == "ue8m0":
        section["scale_fmt"] = "ue8m0"
    elif plan.counts["quantized"]:
        section.pop("scale_fmt", None)
    if plain:
        ignore(section, "fp8", plain)
    return section


def _kind(choice: Choice) -> Any:
    return choice.target.scaled.scale


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


__all__ = ["TARGETS", "Plan", "Shard", "make_plan", "plain_linears", "to_json"]
