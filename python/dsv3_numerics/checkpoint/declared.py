"""Declarations: what configurations say about quantization, read into one value.

Lives here: `read_declaration`, which collects ``quantization_config`` wherever it stands in ``config.json``
(``text_config`` too) and ModelOpt's ``hf_quant_config.json``, and `Declaration`, which is asked whether it
agrees with a tensor. What it says and does not mean here is a problem, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .index import shown

CONFIG_NAME = "config.json"
HF_QUANT_NAME = "hf_quant_config.json"
# Keys under which a section stands: the second is that of old compressed-tensors.
SECTIONS = ("quantization_config", "compression_config")
_DEPTH = 8

# The spellings of one method.
METHODS = {
    "fp8": "fp8",
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "fbgemm_fp8": "fbgemm_fp8",
    "compressed-tensors": "compressed-tensors",
    "compressed_tensors": "compressed-tensors",
    "modelopt": "modelopt",
    "modelopt_fp4": "modelopt",
    "modelopt_fp8": "modelopt",
    "quark": "quark",
}
# Methods that no dialect describes, and why.
REFUSED = {
    "aqlm": "sums of vectors out of codebooks",
    "auto-round": "GPTQ's or AWQ's packing, as its own section says",
    "awq": "integers in an order that kernels want, with zero points",
    "bitnet": "ternary weights, four a byte along rows",
    "bitsandbytes": "codes by a table of quantiles, whose scales may be codes themselves",
    "eetq": "integers in an order that kernels want",
    "gguf": "blocks of llama.cpp's own kinds",
    "gptq": "integers packed down columns, with zero points and an order of columns",
    "higgs": "vectors out of a rotated grid",
    "hqq": "integers with zero points that are numbers, in tiles of their own",
    "quanto": "tensors that a library of its own takes apart",
    "spqr": "codes with outliers stored beside them",
    "torchao": "tensors that a library of its own takes apart",
    "vptq": "sums of vectors out of codebooks",
}
# Where a method lists modules that are not quantized.
IGNORE_KEYS = {
    "fp8": "modules_to_not_convert",
    "mxfp8": "modules_to_not_convert",
    "mxfp4": "modules_to_not_convert",
    "fbgemm_fp8": "modules_to_not_convert",
    "compressed-tensors": "ignore",
    "modelopt": "ignore",
    "quark": "exclude",
}
_FORMATS = {
    "float8_e4m3fn": ("e4m3", "float8_e4m3fn", "float8_e4m3", "e4m3fn"),
    "float8_e5m2": ("e5m2", "float8_e5m2"),
    "float8_e4m3fnuz": ("e4m3", "e4m3fnuz", "float8_e4m3fnuz"),
    "float8_e5m2fnuz": ("e5m2", "e5m2fnuz", "float8_e5m2fnuz"),
}
_E4M3, _E2M1 = "float8_e4m3fn", "float4_e2m1fn"
_ONE, _BLOCKS = ("one", "expert"), ("block", "split_block")
# Results of ModelOpt's algorithms on a weight: format of codes, forms of scales, elements of a group; None:
# any of them, by layer.
_ALGORITHMS: dict[str, tuple[str, tuple[str, ...], int | None] | None] = {
    "FP8": (_E4M3, _ONE, None),
    "FP8_PER_CHANNEL_PER_TOKEN": (_E4M3, ("row",), None),
    "FP8_PB_WO": (_E4M3, _BLOCKS, None),
    "FP8_PB_REAL": (_E4M3, _BLOCKS, None),
    "NVFP4": (_E2M1, ("group",), 16),
    "W4A16_NVFP4": (_E2M1, ("group",), 16),
    "NVFP4_AWQ": (_E2M1, ("group",), 16),
    "MXFP4": (_E2M1, ("group",), 32),
    "W4A8_MXFP4_FP8": (_E2M1, ("group",), 32),
    "MXFP8": (_E4M3, ("group",), 32),
    "MIXED_PRECISION": None,
}
_COMPRESSIONS = (
    "dense",
    "naive-quantized",
    "float-quantized",
    "int-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)
_STRATEGIES = {
    "tensor": ("one", "expert"),
    "channel": ("row", "column", "one"),
    "block": ("block",),
    "group": ("group",),
    "tensor_group": ("group",),
}
_QUARK = {
    "fp4": "float4_e2m1fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}


def fp8_section(side: int, *, ue8m0: bool = False) -> dict[str, Any]:
    """Section of a release in E4M3, with a scale for each square block of weights."""
    powers = {"scale_fmt": "ue8m0"} if ue8m0 else {}
    return {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        **powers,
        "weight_block_size": [side, side],
    }


class GroupScheme(NamedTuple):
    """One of compressed-tensors' ``config_groups``, as far as it is about weights."""

    bits: int
    kind: str
    strategy: str
    group: int | None
    block: tuple[int, int] | None

    def __str__(self) -> str:
        size = f" {self.group}" if self.group else f" {list(self.block)}" if self.block else ""
        return f"{self.kind}{self.bits} by {self.strategy}{size}"


@dataclass(frozen=True)
class Section:
    """A section about quantization.

    Attributes
    ----------
    where : str
        File and keys, for messages.
    keys : tuple of str
        The way to it in ``config.json``; empty for a file of its own.
    content : dict
    """

    where: str
    keys: tuple[str, ...]
    content: dict[str, Any]


@dataclass(frozen=True)
class Declaration:
    """Content of all sections together.

    Attributes
    ----------
    sections : tuple of Section
    method : str or None
        ``quant_method`` in its usual spelling; None where nothing says one.
    block : tuple of two int, None or "null"
        ``weight_block_size``; "null" where the section says that there are no blocks.
    scale_fmt, fmt, expert_dtype, algorithm : str or None
    groups : tuple of GroupScheme
    quark : tuple of str
        Formats of codes that Quark's section names.
    group_size : int or None
        Elements that share a scale, where ModelOpt's or Quark's section says so for all weights.
    scale_format : str or None
        ``"e8m0"`` or another, where Quark's section says so for all weights.
    problems : tuple of str
        What cannot be understood.
    """

    sections: tuple[Section, ...] = ()
    method: str | None = None
    block: tuple[int, int] | str | None = None
    scale_fmt: str | None = None
    fmt: str | None = None
    expert_dtype: str | None = None
    algorithm: str | None = None
    groups: tuple[GroupScheme, ...] = ()
    quark: tuple[str, ...] = ()
    group_size: int | None = None
    scale_format: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The first section's place."""
        return self.sections[0].where if self.sections else CONFIG_NAME

    def disagreement(self, fmt: str, form: str, block: tuple[int, int]) -> str | None:
        """Tell why a weight of these codes and scales is not what is declared; None if it is.

        Parameters
        ----------
        fmt : str
            Format of a code.
        form : str
            Shape of the scales, see `resolve.FORMS`.
        block : tuple of two int
            Rows and columns that share a scale.
        """
        if self.fmt is not None and fmt in _FORMATS and self.fmt not in _FORMATS[fmt]:
            return f"fmt: found {self.fmt!r}, but codes are {fmt}"
        if self.method == "compressed-tensors" and self.groups:
            return self._compressed(fmt, form, block)
        if self.method == "modelopt" and self.algorithm is not None:
            row = _ALGORITHMS[self.algorithm]
            if row is not None and fmt != row[0]:
                return f"quant_algo: found {self.algorithm!r}, but codes are {fmt}"
            if row is not None and (form not in row[1] or row[2] not in (None, block[1])):
                size = f" of {block[1]}" if form == "group" else ""
                return f"quant_algo: found {self.algorithm!r}, but scales are {form_text(form)}{size}"
        if self.method == "quark" and self.quark and fmt not in self.quark:
            return f"weight dtype: found {', '.join(self.quark)}, but codes are {fmt}"
        if form == "group" and self.group_size not in (None, block[1]):
            return f"group_size: found {self.group_size}, but scales are for {block[1]} elements of a row"
        if self.method == "mxfp4" and fmt != "float4_e2m1fn":
            return f"quant_method: found 'mxfp4', but codes are {fmt}"
        return self._blocks(fmt, form, block)

    def _blocks(self, fmt: str, form: str, block: tuple[int, int]) -> str | None:
        if self.method not in ("fp8", "mxfp8", None) or fmt.startswith("float4"):
            return None
        if self.block == "null":
            return None if form in ("one", "row") else "weight_block_size: found null, but scales are blocks"
        if isinstance(self.block, tuple) and form not in ("block", "split_block") and block != self.block:
            return f"weight_block_size: found {list(self.block)}, but scales are {form_text(form)}"
        return None

    def _compressed(self, fmt: str, form: str, block: tuple[int, int]) -> str | None:
        kind = "int" if fmt.startswith("int") else "float"
        bits = {"float8_e4m3fn": 8, "float8_e5m2": 8, "float4_e2m1fn": 4, "int4": 4, "int8": 8}.get(fmt)
        for group in self.groups:
            if (group.bits, group.kind) != (bits, kind) or form not in _STRATEGIES.get(group.strategy, ()):
                continue
            if form == "group" and group.group is not None and group.group != block[1]:
                continue
            if form == "block" and group.block is not None and group.block != block:
                continue
            return None
        wanted = " or ".join(str(group) for group in self.groups)
        size = f" {block[1]}" if form == "group" else ""
        return f"config_groups: found {wanted}, but the weight is {fmt} with {form_text(form)}{size}"


def form_text(form: str) -> str:
    """Return a form of scales in words."""
    return {
        "one": "one number",
        "row": "one for each row",
        "column": "one for each column",
        "expert": "one for each expert",
        "block": "blocks",
        "split_block": "blocks",
        "group": "groups of a row",
        "group_column": "groups of a row",
    }.get(form, form)


def sections_of(config: Mapping[str, Any], where: str) -> Iterator[Section | str]:
    """Find the sections in a configuration, at any depth; a message for one that is no object."""
    yield from _sections(config, where, (), 0)


def _sections(
    content: Mapping[str, Any], where: str, keys: tuple[str, ...], depth: int
) -> Iterator[Section | str]:
    for key, value in content.items():
        if key in SECTIONS:
            if isinstance(value, dict):
                name = ".".join((*keys, key))
                yield Section(f"{where}: {name}", (*keys, key), value)
            elif value is not None:
                yield f"{where}: {key}: found {shown(value)}, expected an object"
        elif isinstance(value, dict) and depth < _DEPTH:
            yield from _sections(value, where, (*keys, key), depth + 1)


def read_declaration(
    config: Mapping[str, Any] | None, hf_quant: Mapping[str, Any] | None, folder: str
) -> Declaration:
    """Read what the configuration and ModelOpt's file say; contradictions become problems.

    Parameters
    ----------
    config : mapping or None
        Content of ``config.json``.
    hf_quant : mapping or None
        Content of ``hf_quant_config.json``.
    folder : str
        For messages.
    """
    found: list[Section] = []
    problems: list[str] = []
    for entry in sections_of(config or {}, f"{folder}/{CONFIG_NAME}"):
        if isinstance(entry, str):
            problems.append(entry)
        elif entry.content:
            found.append(entry)
    if hf_quant is not None:
        inner = hf_quant.get("quantization")
        if isinstance(inner, dict):
            section = {"quant_method": "modelopt", **inner}
            found.append(Section(f"{folder}/{HF_QUANT_NAME}", (), section))
        else:
            problems.append(
                f"{folder}/{HF_QUANT_NAME}: quantization: found {shown(inner)}, expected an object"
            )
    state = _Reading(problems)
    for part in (config or {}, *(config or {}).values()):
        if isinstance(part, dict) and part.get("expert_dtype") is not None:
            state.take_text("expert_dtype", part["expert_dtype"], f"{folder}/{CONFIG_NAME}")
    for place in found:
        state.take(place)
    return Declaration(tuple(found), **state.values, problems=tuple(problems))


@dataclass
class _Reading:
    """Values collected from sections, which must agree."""

    problems: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def take(self, section: Section) -> None:
        """Take what a section says."""
        content, where = section.content, section.where
        method = content.get("quant_method")
        if method is None and content.get("config_groups") is not None:
            method = "compressed-tensors"
        if method is not None:
            if isinstance(method, str) and method.lower() in METHODS:
                self._put("method", METHODS[method.lower()], where)
            else:
                why = REFUSED.get(method.lower()) if isinstance(method, str) else None
                known = ", ".join(sorted(set(METHODS.values())))
                told = f"{why}; no dialect here reads it" if why else f"expected one of {known}"
                self.problems.append(f"{where}: quant_method: found {shown(method)}, {told}")
        if "weight_block_size" in content:
            self._block(content["weight_block_size"], where)
        for key in ("scale_fmt", "fmt", "expert_dtype"):
            value = content.get(key)
            if value is not None:
                self.take_text(key, value, where)
        own = {"compressed-tensors": self._compressed, "modelopt": self._modelopt, "quark": self._quark}
        if self.values.get("method") in own:
            own[self.values["method"]](content, where)

    def _put(self, key: str, value: Any, where: str) -> None:
        before = self.values.setdefault(key, value)
        first = self.places.setdefault(key, where)
        if before != value:
            self.problems.append(f"{where}: {key} is {shown(value)}, but {first} says {shown(before)}")

    def take_text(self, key: str, value: object, where: str) -> None:
        """Take a value that is one of a few words."""
        known = {
            "scale_fmt": ("ue8m0", "float"),
            "fmt": tuple(sorted({name for names in _FORMATS.values() for name in names})),
            "expert_dtype": ("fp4", "fp8"),
        }[key]
        if value in known:
            self._put(key, value, where)
        else:
            expected = "'ue8m0'" if key == "scale_fmt" else f"one of {', '.join(known)}"
            self.problems.append(f"{where}: {key}: found {shown(value)}, expected {expected}")

    def _block(self, size: object, where: str) -> None:
        if size is None:
            self._put("block", "null", where)
        elif isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
            self._put("block", (size[0], size[1]), where)
        else:
            self.problems.append(
                f"{where}: weight_block_size: found {shown(size)}, expected two positive integers"
            )

    def _compressed(self, content: Mapping[str, Any], where: str) -> None:
        kind = content.get("format")
        if kind is not None and kind not in _COMPRESSIONS:
            self.problems.append(
                f"{where}: format: found {shown(kind)}, expected one of {', '.join(_COMPRESSIONS)}"
            )
        sparsity = content.get("sparsity_config")
        if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
            self.problems.append(f"{where}: sparsity_config: found {shown(sparsity)}, expected none")
        if content.get("transform_config"):
            self.problems.append(
                f"{where}: transform_config: weights are stored rotated, which no dialect here undoes"
            )
        groups = content.get("config_groups")
        if not isinstance(groups, dict):
            if groups is not None:
                self.problems.append(f"{where}: config_groups: found {shown(groups)}, expected an object")
            return
        schemes = []
        for name, group in groups.items():
            weights = group.get("weights") if isinstance(group, dict) else None
            scheme = self._group(weights, f"{where}: config_groups: {name}")
            if scheme is not None:
                schemes.append(scheme)
        self._put("groups", tuple(schemes), where)

    def _group(self, weights: object, where: str) -> GroupScheme | None:
        if not isinstance(weights, dict):
            self.problems.append(f"{where}: weights: found {shown(weights)}, expected an object")
            return None
        if weights.get("symmetric", True) is not True:
            self.problems.append(f"{where}: symmetric: found {shown(weights['symmetric'])}, expected true")
        bits, kind = weights.get("num_bits"), weights.get("type")
        strategy, size = weights.get("strategy"), weights.get("group_size")
        block = weights.get("block_structure")
        if strategy is None:
            strategy = "tensor" if size is None else "channel" if size == -1 else "group"
        good = (
            kind in ("int", "float")
            and isinstance(strategy, str)
            and strategy in _STRATEGIES
            and (size is None or (type(size) is int and (size > 0 or size == -1)))
        )
        sides: tuple[int, int] | None = None
        if isinstance(block, str) and block.replace("x", "").isdigit():
            block = [int(part) for part in block.split("x") if part]
        if block is not None:
            if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
                sides = (block[0], block[1])
            else:
                good = False
        if not good or type(bits) is not int:
            self.problems.append(f"{where}: weights: found {shown(weights)}, which no dialect here has")
            return None
        return GroupScheme(bits, str(kind), str(strategy), size if size and size > 0 else None, sides)

    def _modelopt(self, content: Mapping[str, Any], where: str) -> None:
        algorithm = content.get("quant_algo")
        if algorithm is None:
            return
        if isinstance(algorithm, str) and algorithm.upper() in _ALGORITHMS:
            self._put("algorithm", algorithm.upper(), where)
            if _ALGORITHMS[algorithm.upper()] is not None:
                self._group_size(content.get("group_size"), where)
        else:
            self.problems.append(
                f"{where}: quant_algo: found {shown(algorithm)}, expected one of {', '.join(_ALGORITHMS)}"
            )

    def _group_size(self, size: object, where: str) -> None:
        if type(size) is int and size > 0:
            self._put("group_size", size, where)
        elif size not in (None, 0, -1):
            self.problems.append(f"{where}: group_size: found {shown(size)}, expected a positive integer")

    def _quark(self, content: Mapping[str, Any], where: str) -> None:
        formats, sizes, kinds = set[str](), list[object](), list[object]()
        layers = content.get("layer_quant_config")
        configs = [content.get("global_quant_config")]
        configs += list(layers.values()) if isinstance(layers, dict) else []
        for config in configs:
            weight = config.get("weight") if isinstance(config, dict) else None
            for part in weight if isinstance(weight, list) else [weight]:
                kind = part.get("dtype") if isinstance(part, dict) else None
                if isinstance(part, dict) and isinstance(kind, str) and kind in _QUARK:
                    formats.add(_QUARK[kind])
                    sizes.append(part.get("group_size"))
                    kinds.append(part.get("scale_format"))
                elif kind is not None:
                    self.problems.append(
                        f"{where}: weight dtype: found {shown(kind)}, expected one of {', '.join(_QUARK)}"
                    )
        self._put("quark", tuple(sorted(formats)), where)
        if len(sizes) == 1:
            self._group_size(sizes[0], where)
            if isinstance(kinds[0], str):
                self._put("scale_format", kinds[0].lower(), where)
