"""Schemes of LogFMT: logarithmic codes between each tile's least and largest magnitude."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...formats import decode, encode
from ...logfmt import logfmt_encode
from ...logfmt_packing import LEAST_BITS, MOST_BITS
from .base import Approximation, Floats, Group, Scheme, pick, read_group

_NAME = re.compile(r"logfmt(\d{1,9})")
_ROUNDINGS = ["linear", "log"]
_RANGE_BITS = 64  # two float32
_DEEPEP = "deepep"
_ROW = 512  # DeepEP's kernel takes rows that are multiples of it
_CHUNK = 1024


@dataclass(frozen=True)
class LogTiles(Scheme):
    """LogFMT in tiles along the rows (``logfmt8:1x128``, ``logfmt10:1x64:log``).

    Each tile's range is stored as two float32. Rounding is to the nearest code in linear space, or with
    ``log`` in the logarithm.
    """

    width: int
    tile: int = 128
    rounding: Literal["linear", "log"] = "linear"

    @property
    def format(self) -> str:
        """As the scheme spells it."""
        return f"logfmt{self.width}"

    @property
    def group(self) -> Group | None:
        return 1, self.tile

    def bits(self, rows: int, cols: int) -> int | None:
        return rows * cols * self.width + rows * -(-cols // self.tile) * _RANGE_BITS

    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        q = logfmt_encode(slab, bits=self.width, tile=self.tile, rounding=self.rounding)
        return Approximation(q.dequantize(), 0)

    def __str__(self) -> str:
        return _spell(self.format, f"1x{self.tile}", self.rounding)

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return _NAME.fullmatch(parts[0]) is not None and parts[1:2] != [_DEEPEP]

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        width, rounding = _width(spelling, parts), _rounding(spelling, parts)
        rows, tile = read_group(spelling, parts[1])
        if rows != 1 or tile is None:
            raise ValueError(f"scheme {spelling!r}: group {parts[1]}; expected tiles of a row, such as 1x128")
        return cls(width, tile, rounding)


@dataclass(frozen=True)
class DeepEPLog(Scheme):
    """LogFMT as DeepEP's combine sends it (``logfmt10:deepep``): tiles of 128, and what does not fit as BF16.

    How many bits that takes depends on the values: a chunk of 1024 channels (or 512) with a magnitude of 1 or
    more is sent as BF16, and so are rows that are no multiple of 512, which the kernel does not take. A row
    too long for a slab is taken as the pieces that it is read in.
    """

    width: int
    rounding: Literal["linear", "log"] = "linear"

    @property
    def format(self) -> str:
        """As the scheme spells it."""
        return f"logfmt{self.width}"

    @property
    def group(self) -> Group | None:
        return 1, _CHUNK

    def bits(self, rows: int, cols: int) -> int | None:
        return None

    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        sent = encode(slab, "bfloat16")
        if slab.shape[1] % _ROW:
            return Approximation(decode(sent), 0, slab.size * 16)
        q = logfmt_encode(sent, bits=self.width, mode="deepep", rounding=self.rounding)
        return Approximation(q.dequantize(), 0, q.nbits)

    def __str__(self) -> str:
        return _spell(self.format, _DEEPEP, self.rounding)

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return _NAME.fullmatch(parts[0]) is not None and parts[1:2] == [_DEEPEP]

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        return cls(_width(spelling, parts), _rounding(spelling, parts))


def _spell(name: str, tiles: str, rounding: str) -> str:
    return ":".join([name, tiles, *([] if rounding == "linear" else [rounding])])


def _width(spelling: str, parts: list[str]) -> int:
    match = _NAME.fullmatch(parts[0])
    width = int(match[1]) if match else 0
    if not LEAST_BITS <= width <= MOST_BITS:
        raise ValueError(
            f"scheme {spelling!r}: {parts[0]} has {width} bits; expected {LEAST_BITS} to {MOST_BITS}"
        )
    if not 2 <= len(parts) <= 3:
        raise ValueError(
            f"scheme {spelling!r}: {len(parts)} parts; expected for example {parts[0]}:1x128, "
            f"{parts[0]}:1x128:log or {parts[0]}:deepep"
        )
    return width


def _rounding(spelling: str, parts: list[str]) -> Any:
    return pick(spelling, "rounding", parts[2], _ROUNDINGS) if len(parts) > 2 else _ROUNDINGS[0]
