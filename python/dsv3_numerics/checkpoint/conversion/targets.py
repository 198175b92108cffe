"""Targets of a conversion: what weights become, and in whose dialect.

Lives here: one row a target, the sections that configurations get, and `Form`: a weight laid out by a row of
the table of dialects. How numbers come about is in `steps`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ... import _core
from ..._arrays import Array, brief, flat
from ...number_formats import encode, format_info
from ...quantized import Quantized
from ...schemes import Cast, Scaled, Scheme
from ..chunks import Chunk, WriteOp, write_ops
from ..dialects import BY_NAME, Dialect, expand, weight_of
from ..forms import Grid, matrices
from ..write import Entry

# Plain forms: dtype as safetensors spells it, and as config.json does.
PLAIN: dict[str, tuple[str, str]] = {
    "bf16": ("BF16", "bfloat16"),
    "f16": ("F16", "float16"),
    "f32": ("F32", "float32"),
}
_CODES_IN_WORDS = {"int4": 8, "int8": 4}


@dataclass(frozen=True)
class Writer:
    """One consumer's way to hold a target.

    Attributes
    ----------
    dialect : str
        A row of the table of dialects.
    form : str
        Shape of the scales, see `forms.FORMS`.
    scale_dtype : str
        As safetensors spells it; BF16 where loaders hold scales so, whatever the file has.
    exact : bool
        True: a low-precision source is converted without loss, or refused. Its scales are stored as F32 where
        BF16 could not hold them.
    """

    dialect: str
    form: str
    scale_dtype: str
    exact: bool = False


@dataclass(frozen=True)
class LowTarget:
    """A low-precision form.

    Attributes
    ----------
    name : str
        As ``to`` takes it.
    scheme : str
        Format, group and scales, see `Scheme.parse`.
    writers : dict of str to Writer
        By consumer, as ``dialect`` takes it; the first is the default.
    """

    name: str
    scheme: str
    writers: Mapping[str, Writer] = field(default_factory=dict)

    @property
    def scaled(self) -> Scaled:
        """The scheme as a value."""
        scheme = Scheme.parse(self.scheme)
        assert isinstance(scheme, Scaled)
        return scheme


LOW: tuple[LowTarget, ...] = (
    LowTarget(
        "fp8",
        "e4m3:128x128:f32",
        {
            "deepseek_v3": Writer("deepseek_v3", "block", "F32", exact=True),
            "compressed-tensors": Writer("compressed_tensors_fp8", "block", "BF16", exact=True),
            "modelopt": Writer("modelopt_fp8", "split_block", "F32", exact=True),
        },
    ),
    LowTarget(
        "fp8-ue8m0",
        "e4m3:128x128:ue8m0",
        {
            "deepseek_v3": Writer("deepseek_v3", "block", "F32", exact=True),
            "deepseek_v4": Writer("deepseek_v4", "block", "F8_E8M0", exact=True),
        },
    ),
    LowTarget(
        "fp8-row",
        "e4m3:row:f32",
        {
            "compressed-tensors": Writer("compressed_tensors_fp8", "row", "BF16"),
            "modelopt": Writer("modelopt_fp8", "row", "F32"),
        },
    ),
    LowTarget(
        "fp8-tensor",
        "e4m3:tensor:f32",
        {
            "compressed-tensors": Writer("compressed_tensors_fp8", "one", "BF16"),
            "modelopt": Writer("modelopt_fp8", "one", "F32"),
            "mistral": Writer("mistral", "one", "F32"),
        },
    ),
    LowTarget(
        "mxfp8",
        "mxfp8",
        {
            "mxfp8": Writer("mxfp8", "group", "U8"),
            "compressed-tensors": Writer("mxfp8_weight_scale", "group", "U8"),
            "modelopt": Writer("mxfp8_weight_scale", "group", "U8"),
        },
    ),
    LowTarget(
        "mxfp4",
        "mxfp4",
        {
            "compressed-tensors": Writer("compressed_tensors_mxfp4", "group", "U8"),
            "quark": Writer("quark_mxfp4", "group", "U8"),
        },
    ),
    LowTarget(
        "nvfp4",
        "nvfp4",
        {
            "modelopt": Writer("modelopt_nvfp4", "group", "F8_E4M3"),
            "compressed-tensors": Writer("compressed_tensors_nvfp4", "group", "F8_E4M3"),
        },
    ),
    LowTarget(
        "int8",
        "int8:row",
        {"compressed-tensors": Writer("compressed_tensors_int8", "row", "BF16")},
    ),
    LowTarget(
        "int4",
        "int4:1x32",
        {"compressed-tensors": Writer("compressed_tensors_int4", "group", "BF16")},
    ),
)
TARGETS: tuple[str, ...] = (*PLAIN, *(row.name for row in LOW))


@dataclass(frozen=True)
class Choice:
    """A low-precision target and whose dialect it is written in."""

    target: LowTarget
    consumer: str

    @property
    def writer(self) -> Writer:
        """How the consumer holds it."""
        return self.target.writers[self.consumer]

    @property
    def row(self) -> Dialect:
        """The row of the table of dialects."""
        return BY_NAME[self.writer.dialect]

    def with_scales(self, dtype: str) -> Choice:
        """Return the same with scales of another dtype."""
        writer = replace(self.writer, scale_dtype=dtype)
        return Choice(
            replace(self.target, writers={**self.target.writers, self.consumer: writer}), self.consumer
        )


def target_name(to: str | Scheme) -> str:
    """Return a target's name, or the spelling of a scheme: what is noted of a run.

    Raises
    ------
    TypeError, ValueError
        Neither.

    Examples
    --------
    >>> from dsv3_numerics import Scheme
    >>> target_name(Scheme.parse("bfloat16")), target_name(Scheme.parse("e4m3:128x128:f32"))
    ('bf16', 'e4m3:128x128:f32')
    """
    if to in TARGETS:
        return str(to)
    try:
        scheme = Scheme.parse(to)
    except (TypeError, ValueError) as error:
        names = ", ".join(TARGETS)
        text = f"to: found {brief(to)}, expected one of {names}, or a scheme ({error})"
        raise type(error)(text) from error
    return next((name for name, (_, word) in PLAIN.items() if scheme == Cast(word)), str(scheme))


def choose(to: str, dialect: str | None) -> Choice | None:
    """Find what ``to`` and ``dialect`` mean; None for plain numbers.

    Raises
    ------
    ValueError
        An unknown target, a scheme that no consumer's dialect holds, a dialect that does not hold the target.
    """
    if to in PLAIN:
        if dialect is not None:
            raise ValueError(f"dialect: found {dialect!r}, but {to} is plain numbers and has none")
        return None
    row = next((row for row in LOW if row.name == to), None) or _by_scheme(to)
    if dialect is None:
        return Choice(row, next(iter(row.writers)))
    for consumer, writer in row.writers.items():
        if dialect in (consumer, writer.dialect):
            return Choice(row, consumer)
    raise ValueError(f"dialect: found {dialect!r}, expected one that holds {to}: {', '.join(row.writers)}")


def _by_scheme(to: str) -> LowTarget:
    scheme = Scheme.parse(to)
    for row in LOW:
        if row.scaled == scheme:
            return row
    held = ", ".join(f"{row.name} ({row.scheme})" for row in LOW)
    raise ValueError(f"to: found {to!r}, a scheme that no dialect holds; expected one of {held}")


@dataclass(frozen=True)
class Form:
    """A weight as a writer lays it out.

    Attributes
    ----------
    choice : Choice
        The target, and the writer of its dialect.
    name : str
        The weight's.
    shape : tuple of int
        The weight's, as numbers.
    """

    choice: Choice
    name: str
    shape: tuple[int, ...]

    @property
    def grid(self) -> Grid:
        """The weight in the blocks of the target."""
        stack, rows, cols = matrices(self.shape)
        high, wide = self.choice.target.scaled.block
        if self.choice.writer.form == "one":
            return Grid(1, stack * rows, cols, max(stack * rows, 1), max(cols, 1))
        return Grid(stack, rows, cols, high or max(rows, 1), wide or max(cols, 1))

    @property
    def format(self) -> str:
        """Format of a code."""
        return self.choice.target.scaled.format

    @property
    def problem(self) -> str | None:
        """Why the weight cannot be laid out so; None if it can."""
        grid, row = self.grid, self.choice.row
        if len(self.shape) < 2:
            return f"shape {list(self.shape)} has no rows and columns"
        if weight_of(row.codes, expand(row.codes, self.name)) != self.name:
            return f"its codes would be {expand(row.codes, self.name)}, which is another weight's name"
        if self.choice.writer.form == "group" and grid.cols % grid.wide:
            return f"{grid.cols} columns are no multiple of groups of {grid.wide}"
        if row.packing == "nibbles" and grid.cols % 2:
            return f"{grid.cols} columns are no whole bytes of two codes"
        if self.choice.writer.form == "split_block" and len(self.shape) != 2:
            return f"shape {list(self.shape)}: such scales are for two axes"
        if self.choice.writer.form == "one" and len(self.shape) > 2:
            return f"shape {list(self.shape)}: one scale for all experts is in no dialect"
        return None

    @property
    def code_sides(self) -> tuple[int, int]:
        """Rows, and stored elements of a row."""
        grid = self.grid
        if self.choice.row.packing == "nibbles":
            return grid.rows, -(-grid.cols // 2)
        if self.choice.row.packing == "words":
            return grid.rows, -(-grid.cols // _CODES_IN_WORDS[self.format])
        return grid.rows, grid.cols

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Codes, scales and what else belongs to them."""
        row, writer, grid = self.choice.row, self.choice.writer, self.grid
        dtype = next(dtype for dtype, fmt in row.code_dtypes.items() if fmt == self.format)
        lead = self.shape[:-2]
        codes = Entry(expand(row.codes, self.name), dtype, (*self.shape[:-1], self.code_sides[1]))
        shape: tuple[int, ...] = (*lead, grid.down, grid.across)
        if writer.form == "one":
            shape = () if self.choice.consumer in ("modelopt", "mistral") else (1,)
        elif writer.form == "split_block":
            shape = (grid.down, 1, grid.across, 1)
        entries = [codes, Entry(expand(row.scale, self.name), writer.scale_dtype, shape)]
        if row.second:
            entries.append(Entry(expand(row.second, self.name), "F32", (1,) if row.divides else ()))
        entries += [Entry(expand(need, self.name), "I32", (len(self.shape),)) for need in row.needs]
        return tuple(entries)

    def ops(self, chunk: Chunk, codes: Array, scales: Array, second: Any) -> Iterator[WriteOp]:
        """Yield what a chunk of whole blocks writes.

        Parameters
        ----------
        chunk : Chunk
            Of the grid.
        codes : ndarray
            One code an element, on one axis.
        scales : ndarray
            As they are stored, on one axis.
        second : numpy.float32 or None
            What scales are multiplied by.
        """
        entries, grid, row = self.entries, self.grid, self.choice.row
        sides = self.code_sides
        place, r0, r1, c0, c1 = chunk
        per = grid.cols / max(sides[1], 1)
        part = Chunk(place, r0, r1, int(c0 / per), sides[1] if c1 == grid.cols else int(c1 / per))
        packed = self._packed(codes, chunk)
        yield from write_ops(entries[0].name, part, sides, packed)
        blocks = Chunk(place, r0 // grid.high, -(-r1 // grid.high), c0 // grid.wide, -(-c1 // grid.wide))
        yield from write_ops(entries[1].name, blocks, (grid.down, grid.across), scales)
        if (place, r0, c0) == (0, 0, 0):
            rest = iter(entries[2:])
            if row.second:
                if np.ndim(second) or second is None:
                    raise ValueError("global_scale: found one for each row, expected one for the tensor")
                number = np.float32(1) / second if row.divides else second
                yield WriteOp(next(rest).name, 0, np.array([number], np.float32).view(np.uint8))
            for entry in rest:
                yield WriteOp(entry.name, 0, np.array(self.shape, np.int32).view(np.uint8))

    def _packed(self, codes: Array, chunk: Chunk) -> Array:
        row, rows = self.choice.row, chunk.shape[0]
        raw = flat(codes).view(np.uint8)
        if not row.packing:
            return codes
        if row.packing == "words":
            each = _CODES_IN_WORDS[self.format]
            raw = raw ^ np.uint8(0x8 if self.format == "int4" else 0x80)
            width = -(-chunk.shape[1] // each) * each
            if width != chunk.shape[1]:  # a last word is filled with zeros
                wide = np.full((rows, width), 0x8 if self.format == "int4" else 0x80, np.uint8)
                wide[:, : chunk.shape[1]] = raw.reshape(chunk.shape)
                raw = wide.reshape(-1)
            if self.format == "int8":
                return raw.view(np.uint32)
        length = raw.size // max(rows, 1)
        out = _core.empty((rows * (length // 2),), np.uint8)
        _core.pack(np.ascontiguousarray(raw), self.format, length, out)
        return out.view(np.uint32) if row.packing == "words" else out


def stored_scales(choice: Choice, scales: Array) -> Array:
    """Scales of `quantize_blocks` in the dtype that the writer stores."""
    dtype = choice.writer.scale_dtype
    if dtype == "F32":
        return np.ascontiguousarray(scales, np.float32)
    if dtype == "BF16":
        return encode(np.ascontiguousarray(scales, np.float32), "bfloat16")
    return scales.view(np.uint8)


def section_of(choice: Choice, ignored: list[str]) -> dict[str, Any]:
    """Section of ``config.json`` for a checkpoint in a consumer's dialect."""
    scheme, consumer, form = choice.target.scaled, choice.consumer, choice.writer.form
    bits = format_info(scheme.format).bits
    kind = "int" if format_info(scheme.format).is_integer else "float"
    if consumer == "compressed-tensors":
        strategy = {"block": "block", "row": "channel", "one": "tensor", "group": "group"}[form]
        if choice.target.name == "nvfp4":
            strategy = "tensor_group"
        weights: dict[str, Any] = {
            "num_bits": bits,
            "type": kind,
            "strategy": strategy,
            "symmetric": True,
            "dynamic": False,
        }
        if form == "group":
            weights["group_size"] = scheme.block[1]
        if form == "block":
            weights["block_structure"] = [scheme.block[0], scheme.block[1]]
        formats = {
            "mxfp8": "mxfp8-quantized",
            "mxfp4": "mxfp4-pack-quantized",
            "nvfp4": "nvfp4-pack-quantized",
            "int8": "int-quantized",
            "int4": "pack-quantized",
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
        return {
            "quant_method": "compressed-tensors",
            "format": formats.get(choice.target.name, "float-quantized"),
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignored,
        }
    if consumer == "modelopt":
        return {"quant_method": "modelopt", **_algorithm(choice), "ignore": ignored}
    if consumer == "quark":
        weight = {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}
        return {
            "quant_method": "quark",
            "export": {"weight_format": "real_quantized", "pack_method": "order"},
            "global_quant_config": {"weight": weight},
            "exclude": ignored,
        }
    section: dict[str, Any] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "mxfp8" if consumer == "mxfp8" else "fp8",
        "weight_block_size": None if form == "one" else [scheme.block[0], scheme.block[1]],
        "modules_to_not_convert": ignored,
    }
    if scheme.scale != "float32":
        section["scale_fmt"] = "ue8m0"
    return section


def _algorithm(choice: Choice) -> dict[str, Any]:
    name, form = choice.target.name, choice.writer.form
    if name == "nvfp4":
        return {"quant_algo": "NVFP4", "group_size": 16}
    if name == "mxfp8":
        return {"quant_algo": "MXFP8", "group_size": 32}
    algorithms = {"one": "FP8", "row": "FP8_PER_CHANNEL_PER_TOKEN", "split_block": "FP8_PB_WO"}
    return {"quant_algo": algorithms[form]}


def hf_quant_of(choice: Choice, ignored: list[str]) -> dict[str, Any] | None:
    """Content of ``hf_quant_config.json``, which ModelOpt's loaders read; None for other consumers."""
    if choice.consumer != "modelopt":
        return None
    quantization = {**_algorithm(choice), "kv_cache_quant_algo": None, "exclude_modules": ignored}
    return {"producer": {"name": "dsv3_numerics"}, "quantization": quantization}


def elements_of(chunk: Chunk) -> int:
    """Elements of a chunk."""
    return math.prod(chunk.shape)


def lay_out(name: str, q: Quantized, dialect: str | None = None) -> dict[Entry, Array]:
    """Lay a quantized weight out as a dialect stores it: the bytes of each tensor.

    Parameters
    ----------
    name : str
        The weight's.
    q : Quantized
    dialect : str, optional
        A consumer or a row of the table of dialects; the first that holds such codes by default.

    Raises
    ------
    ValueError
        No dialect holds it, or not this one.
    """
    form = _form_of(name, q, dialect)
    is_float = form.choice.writer.scale_dtype == "F32"
    scales = q.weight_scale_inv() if is_float else q.scales
    stored = stored_scales(form.choice, np.ascontiguousarray(scales)).reshape(form.grid.stack, -1)
    codes = flat(q.codes).view(q.codes.dtype).reshape(form.grid.stack, -1)
    found = {entry: _core.empty((entry.nbytes,), np.uint8) for entry in form.entries}
    by_name = {entry.name: data for entry, data in found.items()}
    for place in range(form.grid.stack):
        chunk = Chunk(place, 0, form.grid.rows, 0, form.grid.cols)
        for op in form.ops(chunk, codes[place], stored[place], q.global_scale):
            by_name[op.name][op.offset : op.offset + op.data.size] = op.data
    return found


def _form_of(name: str, q: Quantized, dialect: str | None) -> Form:
    stack, rows, cols = matrices(q.shape)
    if q.axis is None:
        grid = Grid(stack, rows, cols, q.block[0], q.block[1])
    elif q.axis == len(q.shape) - 1 and len(q.shape) > 1:
        grid = Grid(stack, rows, cols, 1, q.block[0])
    else:
        raise ValueError(f"tensors: {name!r} has tiles along axis {q.axis}, which no dialect holds")
    for row in LOW:
        for consumer, writer in row.writers.items():
            choice = Choice(row, consumer)
            if writer.scale_dtype == "BF16":  # which would round the scales that are there
                choice = choice.with_scales("F32")
            form = Form(choice, name, q.shape)
            if form.problem is not None or dialect not in (None, consumer, writer.dialect):
                continue
            same = (row.scaled.format, row.scaled.scale) == (q.format, q.scale_kind)
            if same and form.grid.canonical() == grid.canonical():
                return form
    known = {
        name for row in LOW for consumer, writer in row.writers.items() for name in (consumer, writer.dialect)
    }
    if dialect is not None and dialect not in known | set(BY_NAME):
        raise ValueError(f"dialect: found {dialect!r}, expected one of {', '.join(sorted(known))}")
    told = "no dialect holds" if dialect is None else f"dialect {dialect!r} does not hold"
    raise ValueError(f"tensors: {name!r} is {q!r}, which {told}; write its codes and scales as arrays")
