"""Schemes of LogFMT: logarithmic codes between each tile's least and largest magnitude."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._arrays import Array, brief
from ..logfmt import LogFmt, logfmt_encode
from ..logfmt_packing import LEAST_BITS, MOST_BITS
from ..number_formats import decode, encode
from .scheme import Approximation, Floats, Group, Scheme, check_seed, pick, read_group, refuse_settings

_NAME = re.compile(r"logfmt(\d{1,9})")
_ROUNDINGS = ["linear", "log", "stochastic"]
_RANGE_BITS = 64  # two float32
_DEEPEP = "deepep"
_ROW = 512  # DeepEP's kernel takes rows that are multiples of it
_CHUNK = 1024
_TILE = 128

Rounding = Literal["linear", "log", "stochastic"]


@dataclass(frozen=True)
class _Logarithmic(Scheme):
    width: int  # and, last of the fields, the rounding

    @property
    def format(self) -> str:
        """As the scheme spells it."""
        return f"logfmt{self.width}"

    def with_rounding(self, rounding: str) -> Scheme:
        last: dict[str, Any] = {"rounding": _checked_rounding(rounding)}
        return replace(self, **last)


@dataclass(frozen=True)
class LogTiles(_Logarithmic):
    """LogFMT in tiles along the rows (``logfmt8:1x128``, ``logfmt10:1x64:log``); by default of 128.

    Each tile's range is stored as two float32. Rounding is to the nearest code in linear space, or with
    ``log`` in the logarithm.
    """

    tile: int = _TILE
    rounding: Rounding = "linear"

    @property
    def group(self) -> Group | None:
        return 1, self.tile

    @property
    def scales(self) -> str:
        """The tiles and what is kept of them, for people."""
        return f"1x{self.tile}, least and largest"

    def bits(self, rows: int, cols: int) -> int | None:
        return rows * cols * self.width + rows * -(-cols // self.tile) * _RANGE_BITS

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        return Approximation(self.encode(slab).dequantize())

    def encode(self, x: Array, *, seed: int | None = None, out: Any = None, **settings: Any) -> LogFmt:
        """Logarithmic codes with each tile's range."""
        refuse_settings(self, settings)
        check_seed(self, self.rounding, seed)
        return logfmt_encode(x, bits=self.width, tile=self.tile, rounding=self.rounding, seed=seed, out=out)

    def __str__(self) -> str:
        return _spell(self.format, f"1x{self.tile}", self.rounding)

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        return _NAME.fullmatch(parts[0]) is not None and parts[1:2] != [_DEEPEP]

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        width, rounding = _width(spelling, parts), _rounding(spelling, parts)
        if len(parts) == 1:
            return cls(width)
        rows, tile = read_group(spelling, parts[1])
        if rows != 1 or tile is None:
            raise ValueError(f"scheme {spelling!r}: group {parts[1]}; expected tiles of a row, such as 1x128")
        return cls(width, tile, rounding)


@dataclass(frozen=True)
class DeepEPLog(_Logarithmic):
    """LogFMT as DeepEP's combine sends it (``logfmt10:deepep``): tiles of 128, and what does not fit as BF16.

    How many bits that takes depends on the values: a chunk of 1024 channels (or 512) with a magnitude of 1 or
    more is sent as BF16, and so are rows that are no multiple of 512, which the kernel does not take. A row
    too long for a slab is taken as the pieces that it is read in.
    """

    rounding: Rounding = "linear"

    @property
    def group(self) -> Group | None:
        return 1, _CHUNK

    @property
    def scales(self) -> str:
        """The tiles and what is kept of them, for people."""
        return f"1x{_TILE}, least and largest in bfloat16"

    def bits(self, rows: int, cols: int) -> int | None:
        return None

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        sent = self.encode(slab)
        if isinstance(sent, LogFmt):
            return Approximation(sent.dequantize(), bits=sent.nbits)
        return Approximation(decode(sent), bits=slab.size * 16)

    def encode(
        self, x: Array, *, seed: int | None = None, out: Any = None, **settings: Any
    ) -> LogFmt | Array:
        """Logarithmic codes; an array of bfloat16 where the kernel does not take the rows."""
        refuse_settings(self, settings)
        check_seed(self, self.rounding, seed)
        sent = encode(x, "bfloat16")
        if not x.ndim or x.shape[-1] % _ROW:
            if out is not None:
                refuse_settings(self, {"out": out})
            return sent
        return logfmt_encode(sent, bits=self.width, mode="deepep", rounding=self.rounding, seed=seed, out=out)

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
    if len(parts) > 3:
        raise ValueError(
            f"scheme {spelling!r}: {len(parts)} parts; expected for example {parts[0]}:1x128, "
            f"{parts[0]}:1x128:log or {parts[0]}:deepep"
        )
    return width


def _rounding(spelling: str, parts: list[str]) -> Any:
    return pick(spelling, "rounding", parts[2], _ROUNDINGS) if len(parts) > 2 else _ROUNDINGS[0]


def _checked_rounding(rounding: str) -> Any:
    if rounding not in _ROUNDINGS:
        raise ValueError(f"rounding: found {brief(rounding)}, expected one of {', '.join(_ROUNDINGS)}")
    return rounding
