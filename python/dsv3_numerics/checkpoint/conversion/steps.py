"""Steps of a conversion: how one tensor becomes another, chunk by chunk.

Lives here: the kinds of step. A chunk of a tensor is read, computed and handed out to be written, in buffers
that its worker uses again, so that memory is bounded whatever a tensor's size; results never depend on the
chunks. How tensors are chunk is in `chunks`, which tensor gets which step in `plan`; files and threads are
`pipeline`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._arrays import SOURCES, Array, flat
from ...number_formats import decode, format_info
from ...quant import Scale, quantize_blocks
from ...quantized import core_layout, scales_shape
from ..dtypes import DTYPES
from ..index import shown
from ..readers import CheckpointError
from ..scan import TensorInfo
from ..write import Entry
from .chunks import Chunk, WorkerContext, WriteOp, split, write_ops

_COPIED = 1 << 20  # bytes of a chunk that is only copied
_FLOAT16_INFINITY = 0x7C00
_FLOAT32_INFINITY = 0x7F800000
_FLOAT32_FRACTION = 0x7FFFFF
_SMALLEST_E8M0 = 0x00400000  # 2**-127, which is subnormal in float32


@dataclass(frozen=True)
class Step(ABC):
    """What is done with one tensor.

    Attributes
    ----------
    info : TensorInfo
        The tensor that is read.
    """

    info: TensorInfo
    action: ClassVar[str]

    @property
    @abstractmethod
    def outputs(self) -> tuple[Entry, ...]:
        """The tensors that it makes."""

    @property
    def bytes_read(self) -> int:
        """Bytes of what it reads."""
        return self.info.nbytes

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Its parts, which may be done in any order."""

    @abstractmethod
    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        """Do one part. What is yielded is good until the next."""


@dataclass(frozen=True)
class Copy(Step):
    """A tensor that stays what it is, byte for byte."""

    action = "copied"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.info.name, self.info.dtype, self.info.shape),)

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, self.info.nbytes, _COPIED):
            yield Chunk(0, 0, 1, start, min(start + _COPIED, self.info.nbytes))

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        data = context.buffer("in", chunk.c1 - chunk.c0, np.dtype(np.uint8))
        context.read(self.info, chunk.c0, data)
        yield WriteOp(self.info.name, chunk.c0, data)


@dataclass(frozen=True)
class WidenScales(Copy):
    """Scales of another dtype, as the float32 numbers that they are."""

    action = "widened"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.info.name, "F32", self.info.shape),)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        for op in super().run(chunk, context):
            wide = decode(op.data.view(self.info.row.element))
            factor = 4 // self.info.row.element.itemsize
            yield WriteOp(op.name, op.offset * factor, wide.view(np.uint8))


@dataclass(frozen=True)
class Scaled(Step):
    """A step that reads codes and their scales.

    Attributes
    ----------
    scale : TensorInfo
    block : tuple of two int
        Rows and columns that share a scale.
    """

    scale: TensorInfo
    block: tuple[int, int]

    @property
    def bytes_read(self) -> int:
        return self.info.nbytes + self.scale.nbytes

    def _layout(self, chunk: Chunk) -> tuple[int, int, int, int, int]:
        return core_layout(chunk.shape, self.block, None)

    def _scale_chunk(self, chunk: Chunk) -> Chunk:
        (high, wide), (place, r0, r1, c0, c1) = self.block, chunk
        return Chunk(place, r0 // high, -(-r1 // high), c0 // wide, -(-c1 // wide))

    def _scales(self, chunk: Chunk, context: WorkerContext) -> NDArray[np.float32]:
        stored = context.matrix("scales", self.scale, self._scale_chunk(chunk))
        scales = stored if stored.dtype == np.float32 else decode(stored)
        # One comparison for the usual case; NaN fails it too.
        if scales.size and not (scales.min() >= 0 and scales.max() < np.inf):
            raise CheckpointError(
                f"{context.ckpt.folder / self.scale.file}: {shown(self.scale.name)}: found a scale that is "
                "negative, infinite or not a number"
            )
        return scales

    def _numbers(self, chunk: Chunk, codes: Array, scales: NDArray[np.float32], out: Array) -> Array:
        """The chunk as float32 code times scale, rounded to the dtype of `out`, on one axis."""
        name = format_info(codes.dtype).name
        _core.dequantize(flat(codes), name, self._layout(chunk), scales, flat(out), SOURCES[out.dtype])
        return out


@dataclass(frozen=True)
class Dequantize(Scaled):
    """FP8 codes and scales become plain numbers.

    Attributes
    ----------
    dtype : str
        BF16, F16 or F32.
    """

    dtype: str
    action = "dequantized"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return (Entry(self.info.name, self.dtype, self.info.shape),)

    def chunks(self) -> Iterator[Chunk]:
        return split(self.info.shape, self.block, whole=False)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        (entry,) = self.outputs
        codes = context.matrix("in", self.info, chunk)
        out = context.buffer("numbers", codes.size, DTYPES[self.dtype].element)
        numbers = self._numbers(chunk, codes, self._scales(chunk, context), out)
        if self.dtype == "F16":
            beyond = (flat(numbers) & 0x7FFF) == _FLOAT16_INFINITY
            if beyond.any():
                raise CheckpointError(
                    f"{context.ckpt.folder / self.info.file}: {shown(self.info.name)}: found numbers beyond "
                    "float16's largest, 65504; convert to bf16 or f32, or exclude this tensor"
                )
        yield from write_ops(entry, chunk, numbers)


@dataclass(frozen=True)
class Quantize(Step):
    """Plain numbers become E4M3 codes and float32 scales, by the rule of the release.

    Attributes
    ----------
    block : tuple of two int
    scale_name : str
        The name of the scales.
    kind : {"float32", "ue8m0"}
        ue8m0: powers of two, stored as float32 too.
    """

    block: tuple[int, int]
    scale_name: str
    kind: Scale
    action = "quantized"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return _coded(self.info, self.scale_name, self.block)

    def chunks(self) -> Iterator[Chunk]:
        return split(self.info.shape, self.block, whole=True)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        numbers = context.matrix("in", self.info, chunk).reshape(chunk.shape)
        codes, scales = _quantized(self, chunk, context, numbers, self.block, self.kind)
        yield from _coded_ops(self.outputs, self.block, chunk, codes, scales)


@dataclass(frozen=True)
class Requantize(Scaled):
    """FP8 codes get power-of-two scales; E4M3 blocks that have such a scale already keep scale and codes."""

    action = "requantized"

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return _coded(self.info, self.scale.name, self.block)

    def chunks(self) -> Iterator[Chunk]:
        return split(self.info.shape, self.block, whole=True)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        codes = context.matrix("in", self.info, chunk)
        scales = self._scales(chunk, context)
        kept = powers_of_two(scales) & (self.info.dtype == "F8_E4M3")
        if not kept.all():
            codes, scales = self._new(chunk, context, codes, scales, kept)
        yield from _coded_ops(self.outputs, self.block, chunk, codes, scales)

    def _new(
        self,
        chunk: Chunk,
        context: WorkerContext,
        was: Array,
        old: NDArray[np.float32],
        kept: NDArray[np.bool_],
    ) -> tuple[Array, NDArray[np.float32]]:
        single = np.dtype(np.float32)
        numbers = self._numbers(chunk, was, old, context.buffer("numbers", was.size, single)).reshape(
            chunk.shape
        )
        new, scales = _quantized(self, chunk, context, numbers, self.block, "ue8m0")
        scales[kept] = old[kept]
        high, wide = self.block
        for i, j in np.argwhere(kept.reshape(scales_shape(chunk.shape, self.block, None))):
            where = np.s_[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            new[where] = was.reshape(chunk.shape)[where]
            numbers[where] = 0  # out of the sums below
        again = self._numbers(chunk, new, scales, context.buffer("again", was.size, single)).reshape(
            chunk.shape
        )
        again[numbers == 0] = 0
        sums = _core.error_stats(numbers.reshape(-1), "float32", again.reshape(-1))
        context.stats.requantized += int((~kept).sum())
        context.stats.squared_error += float(sums["sum_e2"])
        context.stats.squared += float(sums["sum_x2"])
        return new, scales


def powers_of_two(scales: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which finite numbers of at least 0 are powers of two that E8M0 has."""
    bits = scales.view(np.uint32)
    normal = ((bits & _FLOAT32_FRACTION) == 0) & (bits > 0) & (bits < _FLOAT32_INFINITY)
    powers: NDArray[np.bool_] = normal | (bits == _SMALLEST_E8M0)
    return powers


def _quantized(
    step: Step, chunk: Chunk, context: WorkerContext, numbers: Array, block: tuple[int, int], kind: Scale
) -> tuple[Array, NDArray[np.float32]]:
    """Codes, and what they are multiplied by on one axis."""
    codes = context.buffer("codes", numbers.size, np.dtype(format_info("float8_e4m3fn").dtype))
    try:
        q = quantize_blocks(numbers, block=block, scale=kind, out=(codes.reshape(chunk.shape), None))
    except ValueError as error:
        file = context.ckpt.folder / step.info.file
        raise CheckpointError(f"{file}: {shown(step.info.name)}: {error}") from error
    return q.codes, q.weight_scale_inv().reshape(-1)


def _coded(info: TensorInfo, scale_name: str, block: tuple[int, int]) -> tuple[Entry, ...]:
    codes = Entry(info.name, "F8_E4M3", info.shape)
    return codes, Entry(scale_name, "F32", scales_shape(info.shape, block, None))


def _coded_ops(
    entries: tuple[Entry, ...], block: tuple[int, int], chunk: Chunk, codes: Array, scales: Array
) -> Iterator[WriteOp]:
    (high, wide), (place, r0, r1, c0, c1) = block, chunk
    yield from write_ops(entries[0], chunk, codes.reshape(-1))
    yield from write_ops(
        entries[1], Chunk(place, r0 // high, -(-r1 // high), c0 // wide, -(-c1 // wide)), scales
    )
