"""Inspection of a checkpoint: tensors, dtypes, layers, what is quantized and how, and what is inconsistent.

Lives here: `inspect` and its result, as data. What can be inconsistent is in `consistency`; how the result
looks on a terminal is the command line's affair.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import consistency
from .dequantize import scale_values, second_value
from .index import locate, shown, stored_files
from .reader import Checkpoint
from .readers import CheckpointError
from .scan import SCALE_SUFFIX, Problem, TensorInfo, scan
from .selection import selected

_LAYER = re.compile(r"(?:^|\.)layers\.([0-9]{1,9})\.")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,9}(?![^.])")
_DIGITS = re.compile(r"([0-9]{1,9})")
_SAMPLE = 64  # scale tensors that are read unless all are asked for
_SCALES_LIMIT = 64 << 20  # bytes; the largest weight of DeepSeek-V3 would have 0.2 MB of scales
_MANTISSA = np.uint32(0x007F_FFFF)


@dataclass
class Group:
    """Tensors that have something in common.

    Attributes
    ----------
    tensors : int
    parameters : int
        Numbers that codes and plain tensors stand for; scales and their kin are not counted.
    nbytes : int
        Bytes in the files, scales included.
    """

    tensors: int = 0
    parameters: int = 0
    nbytes: int = 0

    def add(self, info: TensorInfo, parameters: int) -> None:
        """Count a tensor in that stands for so many numbers."""
        self.tensors += 1
        self.parameters += parameters
        self.nbytes += info.nbytes


@dataclass
class Pattern(Group):
    """Tensors of one dtype and shape whose names differ in numbers only.

    Attributes
    ----------
    name : str
        With the least and the largest number in each place: ``layers.{3-60}``.
    dtype : str
    shape : tuple of int
    scales : str
        Dtype and shape of the scales beside each; empty for tensors that have none.
    dialect : str
        How codes are stored, see `dialects`; empty for plain tensors.
    """

    name: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    scales: str = ""
    dialect: str = ""


@dataclass
class Scales:
    """The scales of the quantized weights.

    Attributes
    ----------
    weights, parameters : int
        Quantized weights that have scales, and their elements.
    dtypes : dict of str to int
        How the scales are stored, and how many tensors of them.
    block : tuple of two int or None
        By the configuration; None where that makes no sense.
    declared : str or None
        ``scale_fmt`` of the configuration.
    read : int
        Scale tensors whose values were looked at: a sample, unless all were asked for.
    powers_of_two : bool or None
        Whether all positive scales that were read are; None if there was none.
    least, largest : float or None
    """

    weights: int = 0
    parameters: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    block: tuple[int, int] | None = None
    declared: str | None = None
    read: int = 0
    powers_of_two: bool | None = None
    least: float | None = None
    largest: float | None = None

    @property
    def count(self) -> int:
        """Scale tensors."""
        return sum(self.dtypes.values())

    @property
    def format(self) -> str | None:
        """``"float32"`` or ``"ue8m0"``, by how they are stored or by their values; None without scales."""
        if not self.dtypes:
            return None
        return "ue8m0" if self.dtypes.keys() == {"F8_E8M0"} or self.powers_of_two else "float32"


@dataclass
class Inspection:
    """Outcome of `inspect`.

    Attributes
    ----------
    path : str
    files : dict of str to int
        Bytes of each file.
    tensors : list of TensorInfo
        Those selected, in the order of their names, numbers in the order of numbers.
    total : Group
    dtypes, layers : dict of str to Group
        Layers by number; what belongs to none is under the empty name.
    mtp : list of str
        The layers that are for predicting more than one token, by the configuration.
    patterns : list of Pattern
    dialects : dict of str to Group
        Low-precision weights by dialect; tensors are weights, bytes are of all that belongs to them.
    scales : Scales
    problems : list of Problem
    """

    path: str
    files: dict[str, int]
    tensors: list[TensorInfo] = field(default_factory=list)
    total: Group = field(default_factory=Group)
    dtypes: dict[str, Group] = field(default_factory=dict)
    layers: dict[str, Group] = field(default_factory=dict)
    mtp: list[str] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    dialects: dict[str, Group] = field(default_factory=dict)
    scales: Scales = field(default_factory=Scales)
    problems: list[Problem] = field(default_factory=list)

    @property
    def consistent(self) -> bool:
        """Tell whether nothing does harm."""
        return all(problem.note for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain data, for JSON."""
        content = asdict(self)
        content["tensors"] = [info._asdict() | {"nbytes": info.nbytes} for info in self.tensors]
        content["scales"]["format"] = self.scales.format
        content["consistent"] = self.consistent
        return content


def inspect(
    path: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scales: bool = False,
    missing_scale: float | None = None,
) -> Inspection:
    """Look through a checkpoint without changing or converting anything.

    Parameters
    ----------
    path : path
        As for `open`.
    include, exclude : sequence of str
        Globs of tensor names. Scales go with their weights.
    scales : bool
        Read all scales, and report NaN, infinity, zero and negative ones. By default a sample is read, to
        find out whether scales are powers of two.
    missing_scale : float, optional
        As for `open`.

    Returns
    -------
    Inspection
        Its `problems` name everything that is inconsistent; files that cannot be read are among them.

    Raises
    ------
    CheckpointError
        Nothing at `path` that can be read.

    Examples
    --------
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> save_file({"norm.weight": np.ones(3, np.float32)}, "model.safetensors")
    >>> found = inspect("model.safetensors")
    >>> found.total, found.consistent
    (Group(tensors=1, parameters=3, nbytes=12), True)
    """
    place = locate(Path(path))
    found = scan(place)
    if not found.tensors:
        found.raise_first()
    with Checkpoint(Path(path), place, found, missing_scale) as ckpt:
        result = Inspection(
            str(path), {name: fingerprint.size for name, fingerprint in found.fingerprints.items()}
        )
        result.problems += found.problems
        taken = [info for info in ckpt.infos() if selected(_weight_name(info.name, ckpt), include, exclude)]
        result.tensors = sorted(taken, key=lambda info: _natural(info.name))
        for info in result.tensors:
            _count(result, info, ckpt)
        result.patterns = _patterns(result.tensors, ckpt)
        _read_scales(result, ckpt, scales)
        result.mtp = _mtp(result.layers, ckpt)
        complete = place.index is not None or len(stored_files(place.folder)) <= len(place.files)
        result.problems += consistency.check(place, found, ckpt, result, complete=complete)
    return result


def _weight_name(name: str, ckpt: Checkpoint) -> str:
    """Return the weight that a tensor belongs to, or the tensor itself."""
    owner = ckpt.contents.owner.get(name)
    if owner is not None:
        return owner
    base = name.removesuffix(SCALE_SUFFIX)
    return base if base in ckpt else name


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts layer 10 after layer 9."""
    parts = _DIGITS.split(name)  # text and numbers by turns
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def _count(result: Inspection, info: TensorInfo, ckpt: Checkpoint) -> None:
    layer = _LAYER.search(info.name)
    owner = ckpt.contents.owner.get(info.name)
    weight = None if owner is None else ckpt.weights[owner]
    is_codes = weight is not None and weight.codes == info
    parameters = info.size if weight is None else weight.size if is_codes else 0
    if weight is None and _weight_name(info.name, ckpt) != info.name:
        parameters = 0
    for group in (
        result.total,
        result.dtypes.setdefault(info.dtype, Group()),
        result.layers.setdefault(layer[1] if layer else "", Group()),
    ):
        group.add(info, parameters)
    if weight is None:
        return
    if is_codes:
        dialect = result.dialects.setdefault(weight.dialect.name, Group())
        dialect.tensors += 1
        dialect.parameters += weight.size
        dialect.nbytes += weight.nbytes
    if is_codes and weight.scale is not None:
        result.scales.weights += 1
        result.scales.parameters += weight.size
    if info == weight.scale:
        result.scales.dtypes[info.dtype] = result.scales.dtypes.get(info.dtype, 0) + 1


def _mtp(layers: Iterable[str], ckpt: Checkpoint) -> list[str]:
    try:
        main = (ckpt.config or {}).get("num_hidden_layers")
    except CheckpointError:  # told by `consistency`
        main = None
    return [name for name in layers if name and type(main) is int and int(name) >= main]


def _patterns(tensors: Iterable[TensorInfo], ckpt: Checkpoint) -> list[Pattern]:
    found: dict[tuple[str, str, tuple[int, ...], str], Pattern] = {}
    numbers: dict[int, list[list[int]]] = {}
    for info in tensors:
        name = _weight_name(info.name, ckpt)
        weight = ckpt.weights.get(name)
        if name != info.name if weight is None else weight.codes != info:
            continue
        scale = None if weight is None else weight.scale
        beside = f"{scale.dtype} {list(scale.shape)}" if scale else ""
        shape, dialect = (info.shape, "") if weight is None else (weight.shape, weight.dialect.name)
        key = (_NUMBER.sub("0", name), info.dtype, shape, beside)
        empty = Pattern(name=key[0], dtype=info.dtype, shape=shape, scales=beside, dialect=dialect)
        row = found.setdefault(key, empty)
        row.add(info, info.size if weight is None else weight.size)
        row.nbytes += 0 if weight is None else weight.nbytes - info.nbytes
        numbers.setdefault(id(row), []).append([int(n) for n in _NUMBER.findall(name)])
    for row in found.values():
        ranges = [(min(column), max(column)) for column in zip(*numbers[id(row)], strict=True)]
        texts = [f"{{{low}-{high}}}" if low < high else str(low) for low, high in ranges]
        parts = _NUMBER.split(row.name)
        row.name = "".join(part + text for part, text in zip(parts, [*texts, ""], strict=True))
    return list(found.values())


def _read_scales(result: Inspection, ckpt: Checkpoint, all_of_them: bool) -> None:
    scales = result.scales
    try:
        scales.block, scales.declared = ckpt.block, ckpt.scale_fmt
    except CheckpointError as error:
        result.problems.append(Problem("config", str(error)))
    weights = [
        ckpt.weights[n]
        for n in dict.fromkeys(_weight_name(i.name, ckpt) for i in result.tensors)
        if n in ckpt.weights
    ]
    if not all_of_them and len(weights) > _SAMPLE:
        weights = [weights[i * len(weights) // _SAMPLE] for i in range(_SAMPLE)]
    for weight in weights:
        info = weight.scale
        if info is None or not info.size:
            continue
        name = info.name
        if info.nbytes > _SCALES_LIMIT:
            text = f"{ckpt.folder / info.file}: {shown(name)}: {info.nbytes} bytes, too many for scales"
            result.problems.append(Problem("scale not read", text))
            continue
        values = scale_values(ckpt, weight)
        scales.read += 1
        good = values[(values > 0) & (values < np.inf)]
        if good.size:
            scales.least = min(float(good.min()), scales.least or np.inf)
            scales.largest = max(float(good.max()), scales.largest or 0.0)
            powers = not (good.view(np.uint32) & _MANTISSA).any()
            scales.powers_of_two = powers and scales.powers_of_two is not False
        result.problems += _bad_values(f"{ckpt.folder / info.file}: {shown(name)}", values)
        if weight.second is not None:
            try:
                second_value(ckpt, weight)
            except CheckpointError as error:
                result.problems.append(Problem("scale of scales", str(error)))


def _bad_values(where: str, values: np.ndarray[Any, np.dtype[np.float32]]) -> Iterable[Problem]:
    for what, bad, harmless in (
        ("NaN", np.isnan(values), False),
        ("infinite", np.isinf(values), False),
        ("negative", values < 0, False),
        ("zero", values == 0, True),
    ):
        count = int(bad.sum())
        if count:
            yield Problem(f"scale {what}", f"{where}: {count} of {values.size} scales are {what}", harmless)
