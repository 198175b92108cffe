"""Layout of a token in the cache: where the bytes of a latent and of its rotary key go.

Lives here: the layout of a scheme's codes and scales, there and back. Room and lengths are `cache`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from .._arrays import Array
from ..logfmt import LogFmt, logfmt_pack, logfmt_unpack
from ..number_formats import FormatInfo, decode, encode, format_info, pack, unpack
from ..quantized import SCALE_DTYPES, Quantized
from ..schemes import Cast, LogTiles, Scaled, Scheme, quantize
from .fields import scheme_of

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BYTES = np.dtype(np.uint8)
_PLAIN = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
_PACKED_BITS = (4, 6, 12)


@dataclass(frozen=True)
class CacheFormat:
    """How a token of `rank` latent and `rope` rotary channels is kept.

    Casts to float32, float64, bf16 and f16 keep the channels side by side. Other schemes are bytes, in the
    order in which FlashMLA keeps them: the latent's codes, densely packed, what belongs to its tiles, then
    the rotary key in bfloat16.

    =================== =================================== ======================= =======================
    scheme              codes                               for each tile           bytes in DeepSeek-V3
    =================== =================================== ======================= =======================
    flashmla            E4M3                                a float32 power of two  512 + 16 + 128 = 656
    fp8_ds_mla          E4M3                                a float32, amax / 448   512 + 16 + 128 = 656
    mxfp8               E4M3, tiles of 32                   a power of two, a byte  512 + 16 + 128 = 656
    e4m3:1x64:ue8m0     E4M3                                a power of two, a byte  512 + 8 + 128 = 648
    mxfp4               E2M1, low half first                a power of two, a byte  256 + 16 + 128 = 400
    logfmt8             8 bits                              float32 least, largest  512 + 32 + 128 = 672
    logfmt10            10 bits, from the low bit up        float32 least, largest  640 + 32 + 128 = 800
    =================== =================================== ======================= =======================
    """

    scheme: Scheme
    rank: int
    rope: int

    @classmethod
    def of(cls, scheme: Any, rank: int, rope: int) -> CacheFormat:
        """Return the format of a scheme, or of anything that `Scheme.parse` takes.

        Raises
        ------
        TypeError, ValueError
            There is none such, or a cache cannot be it.
        """
        found = scheme_of("cache", scheme)
        if found.is_identity:
            raise ValueError(f"cache: found '{found}', expected a scheme such as float32, bf16 or flashmla")
        return cls(found, rank, rope)

    @property
    def name(self) -> str:
        """The scheme's."""
        return str(self.scheme)

    @cached_property
    def packed(self) -> bool:
        """True: tokens are bytes."""
        return not (isinstance(self.scheme, Cast) and self.scheme.format in _PLAIN)

    @property
    def keeps_bfloat16(self) -> bool:
        """True: bfloat16 numbers come back as they are."""
        return not self.packed and not (isinstance(self.scheme, Cast) and self.scheme.format == "float16")

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the cache's array."""
        if isinstance(self.scheme, Cast) and not self.packed:
            return np.dtype(self.scheme.format) if self.scheme.is_native else self._info.dtype
        return _BYTES

    @property
    def _info(self) -> FormatInfo:
        assert isinstance(self.scheme, Cast | Scaled)
        return format_info(self.scheme.format)

    @property
    def _tile(self) -> int:
        return self.scheme.group_k or self.rank

    @property
    def _parts(self) -> tuple[int, int]:
        """Bytes of codes, and of all tiles."""
        tiles = -(-self.rank // self._tile)
        if isinstance(self.scheme, LogTiles):
            return -(-self.rank * self.scheme.width // 8), 8 * tiles
        codes = _dense(np.zeros((1, self.rank), self._info.dtype), self._info).shape[1]
        size = SCALE_DTYPES[self.scheme.scale].itemsize if isinstance(self.scheme, Scaled) else 0
        return codes, size * tiles

    @property
    def width(self) -> int:
        """Elements of the cache's array that a token takes."""
        return sum(self._parts) + 2 * self.rope if self.packed else self.rank + self.rope

    def write(self, x: Array) -> Array:
        """Tokens (n, rank + rope) as records (n, width)."""
        if not self.packed:
            if self.dtype == _BFLOAT16 and x.dtype == np.float32:
                with np.errstate(over="ignore"):
                    return x.astype(_BFLOAT16)
            records: Array = x if x.dtype == self.dtype else quantize(x, self.scheme)
            return records
        latent, key = np.ascontiguousarray(x[:, : self.rank]), np.ascontiguousarray(x[:, self.rank :])
        q = quantize(latent, self.scheme)
        if isinstance(q, Quantized):
            parts = [_dense(q.codes, self._info), q.scales]
        elif isinstance(q, LogFmt):
            parts = [logfmt_pack(q.codes, bits=q.bits), q.amin, q.amax]
        else:
            parts = [_dense(q, self._info)]
        parts.append(encode(key, "bfloat16", overflow="nonfinite"))
        return np.concatenate([np.ascontiguousarray(part).view(_BYTES) for part in parts], axis=1)

    def read(self, records: Array, dtype: np.dtype[Any]) -> Array:
        """Return records (n, width) as tokens (n, rank + rope) of `dtype`; no copy where they are that."""
        if records.dtype == dtype:
            return records
        if not self.packed:
            with np.errstate(over="ignore"):
                return records.astype(dtype)
        codes, tiles = self._parts
        q = self._latent(
            np.ascontiguousarray(records[:, :codes]),
            np.ascontiguousarray(records[:, codes : codes + tiles]),
        )
        out = np.empty((len(records), self.rank + self.rope), dtype)
        out[:, : self.rank] = self.scheme.decode(q, dtype)
        out[:, self.rank :] = decode(
            np.ascontiguousarray(records[:, codes + tiles :]).view(_BFLOAT16), dtype=dtype
        )
        return out

    def codes(self, records: Array) -> Quantized:
        """Return records (n, width) of a scheme with scales as its value; the rotary key is left out."""
        codes, tiles = self._parts
        found = self._latent(
            np.ascontiguousarray(records[:, :codes]),
            np.ascontiguousarray(records[:, codes : codes + tiles]),
        )
        assert isinstance(found, Quantized)
        return found

    def _latent(self, codes: Array, tiles: Array) -> Quantized | LogFmt | Array:
        if isinstance(self.scheme, LogTiles):
            ranges = tiles.view(np.float32)
            half = ranges.shape[1] // 2
            amin, amax = (np.ascontiguousarray(part) for part in (ranges[:, :half], ranges[:, half:]))
            width = self.scheme.width
            unpacked = logfmt_unpack(codes, bits=width, size=self.rank)
            return LogFmt(unpacked, amin, amax, width, self._tile, 1)
        kept = _loose(codes, self._info, self.rank)
        if not isinstance(self.scheme, Scaled):
            return kept
        kind = self.scheme.scale
        scales = tiles.view(SCALE_DTYPES[kind])
        return Quantized(kept, scales, self.scheme.format, (self._tile,), axis=1, scale_kind=kind)


def _dense(codes: Array, info: FormatInfo) -> Array:
    """Codes (n, rank) as bytes, without unused bits where a format can be packed."""
    packed = pack(codes, fmt=info.name) if info.bits in _PACKED_BITS else codes
    return np.ascontiguousarray(packed).view(_BYTES)


def _loose(codes: Array, info: FormatInfo, size: int) -> Array:
    """Bytes (n, ...) as codes (n, size)."""
    if info.bits not in _PACKED_BITS:
        return codes.view(info.dtype)
    packed = codes.view(np.uint32 if info.bits > 8 else np.uint8)
    return unpack(packed, fmt=info.name, size=size)
