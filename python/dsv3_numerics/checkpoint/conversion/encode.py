"""Steps that end in low precision, in any row of the table of dialects: with loss, and without.

Lives here: `Encode` rounds numbers and measures what that costs; `Reblock` and `ToNvfp4` move codes to other
blocks bit for bit, and refuse the first block for which there is no such codes, by its place. How codes and
scales are laid out is known in `targets`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import _core
from ..._arrays import SOURCES, Array
from ...number_formats import decode, encode, format_info
from ...quant import quantize_blocks
from ..chunks import Chunk, WorkerContext, WriteOp, sides_of, split
from ..dequantize import decode_region, read_codes, read_scales
from ..index import shown
from ..readers import CheckpointError
from ..scan import TensorInfo
from ..stored import StoredWeight
from ..write import Entry
from .steps import Step
from .targets import Form, stored_scales

_E4M3_LARGEST = 448
_LEAST_EXPONENT, _LARGEST_EXPONENT = -126, 127
_SINGLE = np.dtype(np.float32)


class Once:
    """Value that is computed by the first who asks, whichever thread that is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Any = None
        self._is_there = False

    def get(self, compute: Callable[[], Any]) -> Any:
        """Return the value."""
        with self._lock:
            if not self._is_there:
                self._value, self._is_there = compute(), True
            return self._value


@dataclass(frozen=True)
class ToForm(Step):
    """A step whose result is laid out by a form."""

    form: Form

    @property
    def outputs(self) -> tuple[Entry, ...]:
        return self.form.entries

    def chunks(self) -> Iterator[Chunk]:
        grid = self.form.grid
        shape = (grid.stack, grid.rows, grid.cols)
        if self.form.choice.writer.form == "one":
            return split(shape, (1, 1), whole=False)
        return split(shape, grid.block, whole=True)


@dataclass(frozen=True)
class Encode(ToForm):
    """Numbers are rounded to codes; the error is measured."""

    source: TensorInfo | StoredWeight
    once: Once = field(default_factory=Once, compare=False, repr=False)
    action = "quantized"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        if isinstance(self.source, StoredWeight):
            return _parts(self.source)
        return (self.source,)

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        form, scaled = self.form, self.form.choice.target.scaled
        numbers = self._numbers(chunk, context)
        settings: dict[str, Any] = {"fmt": scaled.format, "scale": scaled.scale}
        if scaled.scale == "nvfp4":
            settings["tensor_amax"] = self._amax(context)
        if form.choice.writer.form == "one":
            settings |= {"block": None, "amax": np.array([[self._amax(context)]], np.float32)}
        else:
            settings["block"] = form.grid.block
        try:
            q = quantize_blocks(numbers, **settings)
            if form.choice.writer.scale_dtype == "BF16":  # codes for the scales that will be there
                settings["amax"] = _bfloat16_above(q.scales) * np.float32(format_info(scaled.format).max)
                q = quantize_blocks(numbers, **settings)
        except ValueError as error:
            raise CheckpointError(f"{self._where(context)}: {error}") from error
        sums = _core.error_stats((_plain(numbers), SOURCES[numbers.dtype]), q.dequantize().reshape(-1))
        context.stats.note(form.name, float(sums["sum_e2"]), float(sums["sum_x2"]))
        is_float = form.choice.writer.scale_dtype in ("F32", "BF16")
        scales = q.weight_scale_inv() if is_float else q.scales
        yield from form.ops(
            chunk, q.codes.reshape(-1), stored_scales(form.choice, scales).reshape(-1), q.global_scale
        )

    def _numbers(self, chunk: Chunk, context: WorkerContext) -> Array:
        if isinstance(self.source, StoredWeight):
            return region(context, self.source, chunk, self.form)
        info = self.source
        return context.matrix("in", info, chunk, sides_of(info), info.row.element).reshape(chunk.shape)

    def _amax(self, context: WorkerContext) -> float:
        """Return the largest magnitude of the whole tensor, read before its first chunk is written."""

        def compute() -> float:
            own = WorkerContext(context.ckpt)
            try:
                largest = 0.0
                for chunk in split(
                    (self.form.grid.stack, self.form.grid.rows, self.form.grid.cols), (1, 1), whole=False
                ):
                    part = np.abs(self._numbers(chunk, own).astype(np.float32))
                    largest = max(largest, float(part.max(initial=0)))
                    if not np.isfinite(part).all():
                        raise CheckpointError(f"{self._where(context)}: found NaN or infinity")
            finally:
                own.close()
            return largest

        return float(self.once.get(compute))

    def _where(self, context: WorkerContext) -> str:
        info = self.inputs[0]
        return f"{context.ckpt.folder / info.file}: {shown(self.form.name)}"


def _bfloat16_above(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round up to bfloat16; times the largest number of a format the results are exact."""
    bits = scales.view(np.uint32)
    above: NDArray[np.float32] = ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    return above


def _plain(numbers: Array) -> Array:
    flat = np.ascontiguousarray(numbers).reshape(-1)
    return flat if flat.dtype in (np.float32, np.float64) else flat.view(np.uint16)


def _parts(weight: StoredWeight) -> tuple[TensorInfo, ...]:
    some = (weight.codes, weight.scale, weight.second)
    return tuple(info for info in some if info is not None)


def region(context: WorkerContext, weight: StoredWeight, chunk: Chunk, form: Form) -> NDArray[np.float32]:
    """Numbers of a chunk of a form's grid, whose axes are those of the weight as plain numbers."""
    out = context.buffer("source", math.prod(chunk.shape), _SINGLE).reshape(chunk.shape)
    turned = out.T if weight.dialect.transposed else out
    decode_region(context, weight, in_grid(weight, chunk, form), turned)
    return out


def in_grid(weight: StoredWeight, chunk: Chunk, form: Form) -> Chunk:
    """Return a chunk of a form's grid in that of the source: transposed, or in a stack seen as one matrix."""
    if weight.dialect.transposed:
        place, r0, r1, c0, c1 = chunk
        return Chunk(place, c0, c1, r0, r1)
    if weight.grid.stack == form.grid.stack:
        return chunk
    down = chunk.place * form.grid.rows
    return Chunk(0, down + chunk.r0, down + chunk.r1, chunk.c0, chunk.c1)


@dataclass(frozen=True)
class Exact(ToForm):
    """A step that changes no number, or refuses."""

    weight: StoredWeight
    once: Once = field(default_factory=Once, compare=False, repr=False)
    action = "recoded"

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return _parts(self.weight)

    def refuse(self, context: WorkerContext, chunk: Chunk, i: int, j: int, why: str) -> CheckpointError:
        """Error about the block at row i and column j of a chunk's blocks."""
        grid, weight = self.form.grid, self.weight
        row, col = chunk.r0 // grid.high + i, chunk.c0 // grid.wide + j
        place = f" of matrix {chunk.place}" if grid.stack > 1 else ""
        rows = f"rows {row * grid.high} to {min((row + 1) * grid.high, grid.rows) - 1}"
        cols = f"columns {col * grid.wide} to {min((col + 1) * grid.wide, grid.cols) - 1}"
        return CheckpointError(
            f"{context.ckpt.folder / weight.codes.file}: {shown(weight.name)}: block [{row}, {col}]{place} "
            f"({rows}, {cols}) cannot become {self.form.choice.target.name} without loss: {why}; "
            "exclude this tensor, or convert to bf16 first and round from there"
        )


@dataclass(frozen=True)
class Reblock(Exact):
    """Codes get the scales of larger blocks as E4M3: repeated where one fits, else powers of two.

    A power of two is taken into the codes' own exponents: for MXFP4 the block's exponent is the largest of
    its groups minus 6, exact while exponents spread by at most 14. Every block is proven: what its new codes
    and scale mean has the same bits.
    """

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        form, weight = self.form, self.weight
        numbers = region(context, weight, chunk, form)
        spread = self._spread(context, chunk)
        kept = self._repeated(context, chunk, spread)
        codes, scales = kept if kept is not None else self._powers(context, chunk, numbers, spread)
        if form.choice.target.scaled.scale == "ue8m0":
            self._ensure_powers(context, chunk, scales)
        stored: Array = scales
        if form.choice.writer.scale_dtype == "BF16":
            stored = stored_scales(form.choice, scales)
            self._ensure_held(context, chunk, scales, decode(stored))
        elif form.choice.writer.scale_dtype != "F32":
            stored = encode(scales, "float8_e8m0fnu").view(np.uint8)
        yield from form.ops(chunk, codes.reshape(-1), stored.reshape(-1), None)

    def _spread(self, context: WorkerContext, chunk: Chunk) -> NDArray[np.float32]:
        """Scales of the source, one for each element of the chunk."""
        weight = self.weight
        place, r0, r1, c0, c1 = in_grid(weight, chunk, self.form)
        high, wide = weight.grid.block
        top, left = r0 // high * high, c0 // wide * wide
        cover = Chunk(place, top, min(-(-r1 // high) * high, weight.grid.rows), left, c1)
        down = -(-r1 // high) - top // high
        scales = read_scales(context, weight, cover).reshape(down, -1)
        rows, cols = np.arange(r0, r1) // high - top // high, np.arange(c0, c1) // wide - left // wide
        each: NDArray[np.float32] = scales[rows][:, cols]
        return each.T if weight.dialect.transposed else each

    def _blocks(self, x: Array, how: Any, fill: float) -> Array:
        """One value for each block of a chunk: `how` over its elements."""
        high, wide = (min(side, n) for side, n in zip(self.form.grid.block, x.shape, strict=True))
        down, across = -(-x.shape[0] // high), -(-x.shape[1] // wide)
        wide_x = np.full((down * high, across * wide), fill, x.dtype)
        wide_x[: x.shape[0], : x.shape[1]] = x
        values: Array = how(how(wide_x.reshape(down, high, across, wide), axis=3), axis=1)
        return values

    def _each(self, values: Array, shape: tuple[int, int]) -> Array:
        """Values of blocks, one for each element."""
        high, wide = (min(side, n) for side, n in zip(self.form.grid.block, shape, strict=True))
        return np.repeat(np.repeat(values, high, 0), wide, 1)[: shape[0], : shape[1]]

    def _repeated(
        self, context: WorkerContext, chunk: Chunk, spread: NDArray[np.float32]
    ) -> tuple[Array, NDArray[np.float32]] | None:
        """Codes as they are, where no block has two scales; None where one has, or codes are not E4M3."""
        if self.weight.format != "float8_e4m3fn" or self.weight.dialect.transposed:
            return None
        least, largest = self._blocks(spread, np.min, np.inf), self._blocks(spread, np.max, -np.inf)
        if not (least == largest).all():
            return None
        codes = read_codes(context, self.weight, in_grid(self.weight, chunk, self.form))
        return codes, np.ascontiguousarray(least)

    def _powers(
        self,
        context: WorkerContext,
        chunk: Chunk,
        numbers: NDArray[np.float32],
        spread: NDArray[np.float32],
    ) -> tuple[Array, NDArray[np.float32]]:
        amax = self._blocks(np.abs(numbers), np.max, 0).astype(np.float64)
        fraction, exponent = np.frexp(amax / _E4M3_LARGEST)
        least = np.where(amax > 0, exponent - (fraction == 0.5), 0)
        tried = least
        if self.weight.format == "float4_e2m1fn" and self.weight.scale_meaning == "e8m0":
            used = np.where(numbers != 0, spread, 0)
            top = self._blocks(used, np.max, 0)
            tried = np.where(top > 0, np.frexp(np.where(top > 0, top, 1))[1] - 1 - 6, 0)
        codes, scales, bad = self._coded(numbers, tried)
        if bad.any() and tried is not least:
            again, other, worse = self._coded(numbers, np.where(bad, least, tried))
            codes, scales, bad = again, other, worse
        if bad.any():
            i, j = (int(n) for n in np.argwhere(bad)[0])
            used = np.where(numbers != 0, spread, np.nan)[
                i * self.form.grid.high : (i + 1) * self.form.grid.high,
                j * self.form.grid.wide : (j + 1) * self.form.grid.wide,
            ]
            why = f"its scales reach from {np.nanmin(used)} to {np.nanmax(used)}"
            raise self.refuse(context, chunk, i, j, why)
        return codes, scales

    def _coded(
        self, numbers: NDArray[np.float32], exponents: Array
    ) -> tuple[Array, NDArray[np.float32], NDArray[np.bool_]]:
        """Codes under powers of two, these, and the blocks that they do not hold exactly."""
        exponents = np.clip(exponents, _LEAST_EXPONENT, _LARGEST_EXPONENT)
        scales = np.ldexp(np.float32(1), exponents.astype(np.int32)).astype(np.float32)
        shifts = self._each(-exponents, (numbers.shape[0], numbers.shape[1]))
        codes = encode(np.ldexp(numbers.astype(np.float64), shifts.astype(np.int32)), "float8_e4m3fn")
        each = self._each(scales, (numbers.shape[0], numbers.shape[1]))
        again = decode(codes) * each
        wrong = again.view(np.uint32) != np.ascontiguousarray(numbers).view(np.uint32)
        return codes, scales, self._blocks(wrong, np.max, False)

    def _ensure_held(
        self, context: WorkerContext, chunk: Chunk, scales: NDArray[np.float32], held: NDArray[np.float32]
    ) -> None:
        bad = held != scales
        if bad.any():
            i, j = (int(n) for n in np.argwhere(bad)[0])
            raise self.refuse(context, chunk, i, j, f"its scale, {scales[i, j]}, is no bfloat16 number")

    def _ensure_powers(self, context: WorkerContext, chunk: Chunk, scales: NDArray[np.float32]) -> None:
        bad = (scales > 0) & (np.frexp(scales)[0] != 0.5)
        if bad.any():
            i, j = (int(n) for n in np.argwhere(bad)[0])
            raise self.refuse(context, chunk, i, j, f"its scale, {scales[i, j]}, is no power of two")


@dataclass(frozen=True)
class ToNvfp4(Exact):
    """MXFP4 becomes NVFP4: codes stay, and each scale becomes two E4M3 scales under a common power of two."""

    def run(self, chunk: Chunk, context: WorkerContext) -> Iterator[WriteOp]:
        form, weight = self.form, self.weight
        second = np.float32(np.ldexp(1.0, int(self.once.get(lambda: self._largest(context))) - 8))
        codes = read_codes(context, weight, chunk).reshape(chunk.shape)
        scales = read_scales(context, weight, chunk).reshape(chunk.shape[0], -1)
        is_zero = ((codes.view(np.uint8) & 7) == 0).reshape(*scales.shape, 32).all(axis=2)
        wanted = np.where(is_zero, np.float64(1), scales.astype(np.float64) / np.float64(second))
        small = encode(wanted, "float8_e4m3fn")
        wrong = decode(small) * second != np.where(is_zero, decode(small) * second, scales)
        if wrong.any():
            i, j = (int(n) for n in np.argwhere(wrong)[0])
            top = second * np.float32(256)
            why = f"its scale, {scales[i, j]}, is too far below the tensor's largest, {top}"
            raise self.refuse(context, chunk, i, 2 * j, why)
        stored = np.repeat(small.view(np.uint8), 2, axis=1)
        yield from form.ops(chunk, codes.reshape(-1), stored.reshape(-1), second)

    def chunks(self) -> Iterator[Chunk]:
        grid = self.form.grid
        return split((grid.stack, grid.rows, grid.cols), (1, 32), whole=True)

    def _largest(self, context: WorkerContext) -> int:
        """Return the largest exponent of a group that is not zero, over the whole tensor."""
        largest = -math.inf
        own = WorkerContext(context.ckpt)
        try:
            for chunk in self.chunks():
                codes = read_codes(own, self.weight, chunk).reshape(chunk.shape[0], -1, 32)
                scales = read_scales(own, self.weight, chunk).reshape(codes.shape[:2])
                used = scales[((codes.view(np.uint8) & 7) != 0).any(axis=2)]
                if used.size:
                    largest = max(largest, float(np.frexp(used.max())[1]) - 1)
        finally:
            own.close()
        return 0 if largest == -math.inf else int(largest)
