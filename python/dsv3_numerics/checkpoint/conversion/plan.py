"""What a conversion does to each tensor, decided from names, shapes and dtypes alone.

Lives here: the table of targets, the recipe's list of quantized weights, and the plan: steps, layouts, index
and configuration. No value is read. How a step is done is in `steps`, who does it in `pipeline`.
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

from ..dequantize import scale_problem
from ..dtypes import SCALED
from ..index import INDEX_NAME, read_json, shown
from ..reader import CONFIG_NAME, Checkpoint
from ..readers import CheckpointError
from ..scan import SCALE_SUFFIX, TensorInfo
from ..selection import selected
from ..write import Layout, layout
from .chunks import LARGEST_CHUNK
from .steps import Copy, Dequantize, Quantize, Requantize, Step, WidenScales

To = Literal["bf16", "f16", "f32", "fp8", "fp8-ue8m0"]
Kind = Literal["float32", "ue8m0"]


class Target(NamedTuple):
    """What ``to`` stands for.

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

# The weights that the release stores as FP8: not the embedding, the head, norms, the router, nor what joins
# the two inputs of the multi-token-prediction layer.
_RECIPE = re.compile(
    r"(.*\.)?(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj)\.weight"
)
_FLOATS = ("BF16", "F16", "F32", "F64")


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
        return {step.info.file for step in self.steps} | {
            step.scale.file for step in self.steps if isinstance(step, Dequantize | Requantize)
        }


@dataclass
class Plan:
    """Everything that a conversion will write, but for the files that it copies.

    Attributes
    ----------
    shards : list of Shard
    index : dict or None
        For ``model.safetensors.index.json``.
    config : dict or None
        For ``config.json``.
    counts : Counter of str
        Tensors by what is done with them.
    notes : list of str
        What the user should know.
    """

    shards: list[Shard]
    index: dict[str, Any] | None
    config: dict[str, Any] | None
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def in_recipe(name: str) -> bool:
    """Whether the release stores a weight of this name as FP8."""
    return _RECIPE.fullmatch(name) is not None


def make_plan(ckpt: Checkpoint, to: To, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Plan:
    """Decide what becomes of each tensor.

    Raises
    ------
    ValueError
        An `include` that no tensor matches.
    CheckpointError
        FP8 codes without scales, scales that do not fit, an index or a configuration that cannot be read.
    """
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in ckpt):
            raise ValueError(f"include: found {pattern!r}, which matches no tensor")
    rules = _Rules(ckpt, TARGETS[to], include, exclude)
    notes: list[str] = []
    shards = []
    for file, steps in _by_file(ckpt, rules).items():
        entries = [entry for step in steps for entry in step.outputs]
        if entries or len(ckpt.files) == 1:
            shards.append(Shard(file, tuple(steps), layout(entries, ckpt.metadata(file))))
        else:
            notes.append(f"{file} is left out: it held nothing but scales")
    counts = Counter(step.action for shard in shards for step in shard.steps)
    changed = sum(counts.values()) - counts["copied"]
    if not changed:
        notes.append(f"no tensor is changed: none is to become {to}")
    kinds = {step.info.dtype for shard in shards for step in shard.steps if isinstance(step, Copy)}
    stay = sorted(kinds & {"BF16", "F16", "F32"} - {TARGETS[to].dtype})
    if counts["dequantized"] and to != "bf16" and stay:
        notes.append(f"tensors that were not FP8 stay what they are: {', '.join(stay)}")
    if counts["requantized"]:
        notes.append(
            "FP8 blocks whose scale is no power of two yet are rounded a second time, an error of about 2.6% "
            "(root mean square); converting the original numbers, where they are at hand, has no such error"
        )
    if ckpt.unlisted:
        first = shown(ckpt.unlisted[0].name)
        notes.append(
            f"{len(ckpt.unlisted)} tensors that the index does not list are left out; the first is {first}"
        )
    orphans = [name for name in ckpt if _is_orphan(ckpt, name)]
    if orphans:
        notes.append(
            f"{len(orphans)} scale tensors have no weight and are copied; the first is {shown(orphans[0])}"
        )
    plan = Plan(shards, None, None, counts, notes)
    plan.index = _index(ckpt, plan)
    if (ckpt.folder / CONFIG_NAME).exists() and ckpt.path.is_dir():
        plan.config = _config(ckpt, plan, TARGETS[to], filtered=bool(include or exclude))
    return plan


def _is_orphan(ckpt: Checkpoint, name: str) -> bool:
    return name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) not in ckpt


class _Rules:
    """Which step a tensor gets."""

    def __init__(
        self, ckpt: Checkpoint, target: Target, include: Sequence[str], exclude: Sequence[str]
    ) -> None:
        self._ckpt = ckpt
        self._target = target
        self._globs = include, exclude
        self._block = ckpt.block

    def step(self, info: TensorInfo) -> Step | None:
        """The step that makes something of this tensor; None where another tensor's step does."""
        name = info.name
        weight = name.removesuffix(SCALE_SUFFIX)
        if weight != name and weight in self._ckpt and selected(weight, *self._globs):
            return self._of_scales(self._ckpt.info(weight), info)
        if not selected(name, *self._globs):
            return Copy(info)
        found = self._ckpt.scale_name(name)
        if found is not None:
            return self._of_codes(info, self._ckpt.info(found))
        if info.dtype in SCALED:
            raise CheckpointError(
                f"{self._ckpt.folder / info.file}: {shown(name)}: {info.dtype} without scales, expected "
                f"{shown(name + SCALE_SUFFIX)}; exclude it to copy it as it is"
            )
        scale = self._target.scale
        if scale and info.dtype in _FLOATS and len(info.shape) > 1 and in_recipe(name):
            self._ensure_block(info)
            return Quantize(info, self._block, name + SCALE_SUFFIX, scale)
        return Copy(info)

    def _of_codes(self, info: TensorInfo, scale: TensorInfo) -> Step:
        problem = scale_problem(info, scale, self._block)
        if problem is not None:
            raise CheckpointError(f"{self._ckpt.folder / scale.file}: {problem}")
        if self._target.scale is None:
            return Dequantize(info, scale, self._block, self._target.dtype)
        if self._target.scale == "float32":
            return Copy(info)
        self._ensure_block(info)
        return Requantize(info, scale, self._block)

    def _ensure_block(self, info: TensorInfo) -> None:
        """Refuse blocks that do not fit in memory whole, as quantizing them takes."""
        area = math.prod(min(pair) for pair in zip(self._block, info.shape[-2:], strict=True))
        if area > LARGEST_CHUNK:
            raise CheckpointError(
                f"{shown(info.name)}: blocks of {area} elements, expected at most {LARGEST_CHUNK}"
            )

    def _of_scales(self, weight: TensorInfo, info: TensorInfo) -> Step | None:
        if weight.dtype not in SCALED or self._target.scale != "float32":
            return None
        return Copy(info) if info.dtype == "F32" else WidenScales(info)


def _by_file(ckpt: Checkpoint, rules: _Rules) -> dict[str, list[Step]]:
    steps: dict[str, list[Step]] = {file: [] for file in ckpt.files}
    for info in ckpt.infos():
        step = rules.step(info)
        if step is not None:
            steps[info.file].append(step)
    return steps


def _index(ckpt: Checkpoint, plan: Plan) -> dict[str, Any] | None:
    """The index with its other entries as they were; None where there was none."""
    path = ckpt.folder / INDEX_NAME
    if not ckpt.path.is_dir() or not path.exists():
        return None
    index = read_json(path)
    metadata = index.get("metadata")
    size = sum(shard.layout.size - len(shard.layout.header) for shard in plan.shards)
    index["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "total_size": size}
    index["weight_map"] = dict(
        sorted((name, shard.file) for shard in plan.shards for name in shard.layout.begins)
    )
    return index


def _config(ckpt: Checkpoint, plan: Plan, target: Target, *, filtered: bool) -> dict[str, Any]:
    """The configuration, saying what the weights are now."""
    config = dict(ckpt.config or {})
    coded, plain = [], []
    for entry in (entry for shard in plan.shards for step in shard.steps for entry in step.outputs):
        if entry.dtype in SCALED:
            coded.append(entry.name)
        elif in_recipe(entry.name):
            plain.append(entry.name)
    if not coded:
        if plan.counts["dequantized"] or ckpt.quantization.get("quant_method") == "fp8":
            config.pop("quantization_config", None)
    elif target.scale or "quantization_config" in config:
        config["quantization_config"] = _quantization(ckpt, plan, target)
        if filtered and plain:
            # What loaders must not look for scales of.
            names = sorted(name.removesuffix(".weight") for name in plain)
            config["quantization_config"]["modules_to_not_convert"] = names
            plan.notes.append(
                f"{len(plain)} weights of the recipe are not quantized, and {CONFIG_NAME} says so"
            )
    if plan.counts["dequantized"] or plan.counts["quantized"]:
        key = "dtype" if "dtype" in config and "torch_dtype" not in config else "torch_dtype"
        config[key] = target.torch
    return config


def _quantization(ckpt: Checkpoint, plan: Plan, target: Target) -> dict[str, Any]:
    section = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        **ckpt.quantization,
        "weight_block_size": list(ckpt.block),
    }
    if target.scale == "ue8m0":
        section["scale_fmt"] = "ue8m0"
    elif plan.counts["quantized"]:
        section.pop("scale_fmt", None)
    return section


def to_json(content: dict[str, Any]) -> bytes:
    """As the files of a release look."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
