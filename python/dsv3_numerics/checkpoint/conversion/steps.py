"""Steps of a conversion: how one tensor becomes another, chunk by chunk.

Lives here: the kinds of step. A chunk of a tensor is read, computed and handed out to be written, in buffers
that its worker uses again, so that memory is bounded whatever a tensor's size; results never depend on the
chunks. How tensors are split is in `checkpoint.chunks`, which tensor gets which step in `plan`; files and
threads are `pipeline`'s.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._arrays import SOURCES, Array, flat
from ...number_formats import decode, format_info
from ...quant import quantize_blocks
from ...quantized import scales_shape
from ...scale_rule import Scale
from ..chunks import LARGEST_CHUNK, Chunk, WorkerContext, WriteOp, sides_of, split, write_ops
from ..dequantize import chunks_of, decode_chunk, layout_of, read_codes, read_scales
from ..dtypes import DTYPES
from ..index import shown
from ..readers import CheckpointError
from ..scan import TensorInfo
from ..stored import StoredWeight
from ..write import Entry

_COPIED = 1 << 20  # bytes of a chunk that is only copied
_FLOAT16_INFINITY = 0x7C00
_FLOAT32_INFINITY = 0x7F800000
_FLOAT32_FRACTION = 0x7FFFFF
_SMALLEST_E8M0 = 0x00400000  # 2**-127, which is subnormal in float32


@dataclass(frozen=True)
class Step(ABC):
    """Work on one tensor."""

    action: ClassVar[str]

    @property
    @abstractmethod
    def outputs(self) -> tuple[Entry, ...]:
        """The tensors that it makes."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The tensors that it reads."""

    @property
    def bytes_read(self) -> int:
        """Bytes of what it reads."""
        total = 0
        for info in self.inputs:
            total += info.end - info.begin
        return total

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield its parts, which may be done in any order."""

    @abstractmethod
    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        """Process one chunk. Yielded buffers are reused by the next iteration."""


@dataclass(frozen=True)
class Copy(Step):
    """A tensor that stays what it is, byte for byte.

    Attributes
    ----------
    info : TensorInfo
        The tensor that is read.
    """

    info: TensorInfo
    action = "copied"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.info.name, self.info.dtype, self.info.shape),)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, self.info.nbytes, _COPIED):
            yield Chunk(0, 0, 1, start, min(start + _COPIED, self.info.nbytes))

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        data = context.buffer("in", chunk.c1 - chunk.c0, np.dtype(np.uint8))
        context.read(self.info, chunk.c0, data)
        yield WriteOp(self.info.name, chunk.c0, data)


@dataclass(frozen=True)
class WidenScales(Copy):
    """Scales of another dtype, as the float32 numbers that they are; `meaning` is "number" or "e8m0"."""

    meaning: str = "number"
    action = "widened"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.info.name, "F32", self.info.shape),)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        for op in super().run(chunk, context):
            if self.meaning == "e8m0":
                wide = decode(op.data, fmt="float8_e8m0fnu")
            else:
                wide = decode(op.data.view(self.info.row.element))
            factor = 4 // self.info.row.element.itemsize
            yield WriteOp(op.name, op.offset * factor, wide.view(np.uint8))


@dataclass(frozen=True)
class Dequantize(Step):
    """A weight in low precision becomes plain numbers.

    Attributes
    ----------
    weight : StoredWeight
        As it is found.
    dtype : str
        BF16, F16 or F32.
    """

    weight: StoredWeight
    dtype: str
    action = "dequantized"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.weight.name, self.dtype, self.weight.plain_shape),)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        some = (self.weight.codes, self.weight.scale, self.weight.second)
        return tuple(info for info in some if info is not None)

    def chunks(self) -> Iterator[Chunk]:
        # Columns of the result are rows of the source: tall chunks write longer runs.
        return chunks_of(self.weight, size=LARGEST_CHUNK if self.weight.dialect.transposed else None)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        weight, grid = self.weight, self.weight.grid
        out = context.buffer("numbers", math.prod(chunk.shape), DTYPES[self.dtype].element)
        numbers = decode_chunk(context, weight, chunk, out)
        if self.dtype == "F16":
            ensure_finite(context, weight, numbers)
        if weight.dialect.transposed:
            turned = context.buffer("transposed", numbers.size, numbers.dtype)
            turned.reshape(chunk.shape[::-1])[...] = numbers.reshape(chunk.shape).T
            place, r0, r1, c0, c1 = chunk
            yield from write_ops(weight.name, Chunk(place, c0, c1, r0, r1), (grid.cols, grid.rows), turned)
        else:
            yield from write_ops(weight.name, chunk, (grid.rows, grid.cols), numbers)


def ensure_finite(context: WorkerContext, weight: StoredWeight, numbers: Array) -> None:
    """Refuse float16 numbers that became infinite."""
    beyond = (flat(numbers) & 0x7FFF) == _FLOAT16_INFINITY
    if beyond.any():
        raise CheckpointError(
            f"{context.ckpt.folder / weight.codes.file}: {shown(weight.name)}: found numbers beyond "
            "float16's largest, 65504; convert to bf16 or f32, or exclude this tensor"
        )


@dataclass(frozen=True)
class Quantize(Step):
    """Plain numbers become E4M3 codes and float32 scales, by the rule of the release.

    Attributes
    ----------
    info : TensorInfo
    block : tuple of two int
    scale_name : str
        The name of the scales.
    kind : {"float32", "ue8m0"}
        ue8m0: powers of two, stored as float32 too.
    """

    info: TensorInfo
    block: tuple[int, int]
    scale_name: str
    kind: Scale
    action = "quantized"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return (self.info,)

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return _coded(self.info, self.scale_name, self.block)

    def chunks(self) -> Iterator[Chunk]:
        return split(self.info.shape, self.block, whole=True)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        info = self.info
        numbers = context.matrix("in", info, chunk, sides_of(info), info.row.element).reshape(chunk.shape)
        codes, scales = _quantized(info, chunk, context, numbers, self.block, self.kind)
        yield from _coded_ops(self.outputs, self.block, chunk, codes, scales)


@dataclass(frozen=True)
class Requantize(Step):
    """FP8 codes get power-of-two scales; E4M3 blocks that have such a scale already keep scale and codes."""

    weight: StoredWeight
    action = "requantized"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        assert self.weight.scale is not None
        return (self.weight.codes, self.weight.scale)

    @property
    def outputs(self) -> tuple[Entry, ...]:
        assert self.weight.scale is not None
        return _coded(self.weight.codes, self.weight.scale.name, self.weight.grid.block)

    def chunks(self) -> Iterator[Chunk]:
        return chunks_of(self.weight, whole=True)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        codes = read_codes(context, self.weight, chunk)
        scales = read_scales(context, self.weight, chunk)
        kept = powers_of_two(scales) & (self.weight.codes.dtype == "F8_E4M3")
        if not kept.all():
            codes, scales = self._new(chunk, context, codes, scales, kept)
        yield from _coded_ops(self.outputs, self.weight.grid.block, chunk, codes, scales)

    def _new(
        self,
        chunk: Chunk,
        context: WorkerContext,
        was: Array,
        old: NDArray[np.float32],
        kept: NDArray[np.bool_],
    ) -> tuple[Array, NDArray[np.float32]]:
        single, block = np.dtype(np.float32), self.weight.grid.block
        numbers = self._numbers(chunk, was, old, context.buffer("numbers", was.size, single))
        numbers = numbers.reshape(chunk.shape)
        new, scales = _quantized(self.weight.codes, chunk, context, numbers, block, "ue8m0")
        scales[kept] = old[kept]
        high, wide = block
        for i, j in np.argwhere(kept.reshape(scales_shape(chunk.shape, block, None))):
            where = np.s_[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            new[where] = was.reshape(chunk.shape)[where]
            numbers[where] = 0  # out of the sums below
        again = self._numbers(chunk, new, scales, context.buffer("again", was.size, single))
        again = again.reshape(chunk.shape)
        again[numbers == 0] = 0
        sums = _core.error_stats((numbers.reshape(-1), "float32"), again.reshape(-1))
        context.stats.requantized += int((~kept).sum())
        context.stats.note(self.weight.name, float(sums["sum_e2"]), float(sums["sum_x2"]))
        return new, scales

    def _numbers(self, chunk: Chunk, codes: Array, scales: NDArray[np.float32], out: Array) -> Array:
        name = format_info(codes.dtype).name
        coded = flat(codes), name, layout_of(self.weight, chunk), flat(scales)
        _core.dequantize(coded, (flat(out), SOURCES[out.dtype]))
        return out


def powers_of_two(scales: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find which finite numbers of at least 0 are powers of two that E8M0 has."""
    bits = scales.view(np.uint32)
    normal = ((bits & _FLOAT32_FRACTION) == 0) & (bits > 0) & (bits < _FLOAT32_INFINITY)
    powers: NDArray[np.bool_] = normal | (bits == _SMALLEST_E8M0)
    return powers


def _quantized(
    info: TensorInfo,
    chunk: Chunk,
    context: WorkerContext,
    numbers: Array,
    block: tuple[int, int],
    kind: Scale,
) -> tuple[Array, NDArray[np.float32]]:
    """Codes, and what they are multiplied by on one axis."""
    codes = context.buffer("new codes", numbers.size, np.dtype(format_info("float8_e4m3fn").dtype))
    try:
        q = quantize_blocks(numbers, block=block, scale=kind, out=(codes.reshape(chunk.shape), None))
    except ValueError as error:
        file = context.ckpt.folder / info.file
        raise CheckpointError(f"{file}: {shown(info.name)}: {error}") from error
    return q.codes, q.weight_scale_inv().reshape(-1)


def _coded(info: TensorInfo, scale_name: str, block: tuple[int, int]) -> tuple[Entry, ...]:
    codes = Entry(info.name, "F8_E4M3", info.shape)
    return codes, Entry(scale_name, "F32", scales_shape(info.shape, block, None))


def _coded_ops(
    entries: tuple[Entry, ...], block: tuple[int, int], chunk: Chunk, codes: Array, scales: Array
) -> Iterator[WriteOp]:
    (high, wide), (place, r0, r1, c0, c1) = block, chunk
    yield from write_ops(entries[0].name, chunk, sides_of(entries[0]), codes.reshape(-1))
    part = Chunk(place, r0 // high, -(-r1 // high), c0 // wide, -(-c1 // wide))
    yield from write_ops(entries[1].name, part, sides_of(entries[1]), scales)
