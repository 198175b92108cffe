"""What the cache keeps of a token: where the bytes of a latent and of its rotary key go.

Lives here: the layouts of the rows of `forms.CACHES`, there and back. Room and lengths are `cache`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from .._arrays import Array
from ..logfmt import LogFmt, logfmt_pack, logfmt_unpack
from ..number_formats import decode, encode
from ..quantized import Quantized
from .forms import CACHES, Form

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BYTES = np.dtype(np.uint8)
_TILE = 128
# FlashMLA's scales are powers of two by a float32 logarithm. They are at least 1e-4: amax at least 448 times
# that.
_RULE, _FLOOR = "vllm", 448e-4


@dataclass(frozen=True)
class CacheFormat:
    """How a token of `rank` latent and `rope` rotary channels is kept.

    float32, float64 and bfloat16 keep the channels side by side. The others are bytes, as FlashMLA keeps
    them: the latent's codes in tiles of 128, what belongs to the tiles, then the rotary key in bfloat16.

    =============== =================================== ======================= ===========================
    format          codes                               for each tile           bytes in DeepSeek-V3
    =============== =================================== ======================= ===========================
    fp8             E4M3                                a float32 power of two  512 + 16 + 128 = 656
    logfmt8         8 bits                              float32 least, largest  512 + 32 + 128 = 672
    logfmt10        10 bits, from the low bit up        float32 least, largest  640 + 32 + 128 = 800
    =============== =================================== ======================= ===========================
    """

    form: Form
    rank: int
    rope: int

    @classmethod
    def of(cls, dtype: DTypeLike | str, rank: int, rope: int) -> CacheFormat:
        """The format of a name, or of a dtype.

        Raises
        ------
        TypeError
            There is none such.
        """
        name = dtype if isinstance(dtype, str) and dtype in CACHES else _name(dtype)
        if name not in CACHES or name == "numbers":
            expected = ", ".join(word for word in CACHES if word != "numbers")
            raise TypeError(f"dtype: found {name}, expected one of {expected}")
        return cls(CACHES[name], rank, rope)

    @property
    def name(self) -> str:
        """The row's."""
        return self.form.spelling

    @property
    def packed(self) -> bool:
        """Whether tokens are bytes."""
        return self.form.coded or self.form.bits is not None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the cache's array."""
        if self.packed:
            return _BYTES
        return np.dtype(self.name) if self.form.format is None else _BFLOAT16

    @property
    def _parts(self) -> tuple[int, int]:
        """Bytes of codes, and of all tiles."""
        tiles = -(-self.rank // _TILE)
        if self.form.bits is None:
            return self.rank, 4 * tiles
        return -(-self.rank * self.form.bits // 8), 8 * tiles

    @property
    def width(self) -> int:
        """Elements of the cache's array that a token takes."""
        return sum(self._parts) + 2 * self.rope if self.packed else self.rank + self.rope

    def write(self, x: Array) -> Array:
        """Tokens (n, rank + rope) as records (n, width)."""
        if not self.packed:
            return _bfloat16(x) if self.dtype == _BFLOAT16 else x.astype(self.dtype, copy=False)
        latent, key = np.ascontiguousarray(x[:, : self.rank]), np.ascontiguousarray(x[:, self.rank :])
        tiles: tuple[Array, ...]
        if self.form.bits is None:
            q = self.form.codes(latent, _RULE, floor=_FLOOR)
            codes, tiles = q.codes.view(_BYTES), (q.weight_scale_inv(),)
        else:
            log = self.form.logarithms(latent)
            codes, tiles = logfmt_pack(log.codes, bits=self.form.bits), (log.amin, log.amax)
        parts = [codes, *(part.view(_BYTES) for part in tiles), _bfloat16(key).view(_BYTES)]
        return np.concatenate(parts, axis=1)

    def read(self, records: Array, dtype: np.dtype[Any]) -> Array:
        """Records (n, width) as tokens (n, rank + rope) of `dtype`; no copy of what is that already."""
        if records.dtype == dtype:
            return records
        if not self.packed:
            return (
                decode(records, dtype=dtype) if self.dtype == _BFLOAT16 else records.astype(dtype, copy=False)
            )
        codes, tiles = self._parts
        q = self._latent(
            np.ascontiguousarray(records[:, :codes]),
            np.ascontiguousarray(records[:, codes : codes + tiles]).view(np.float32),
        )
        out = np.empty((len(records), self.rank + self.rope), dtype)
        out[:, : self.rank] = q.dequantize(dtype)
        out[:, self.rank :] = decode(
            np.ascontiguousarray(records[:, codes + tiles :]).view(_BFLOAT16), dtype=dtype
        )
        return out

    def _latent(self, codes: Array, tiles: Array) -> Quantized | LogFmt:
        if self.form.bits is None:
            kept = codes.view(ml_dtypes.float8_e4m3fn)
            return Quantized(kept, tiles, str(self.form.format), (_TILE,), axis=1)
        half = tiles.shape[1] // 2
        amin, amax = (np.ascontiguousarray(part) for part in (tiles[:, :half], tiles[:, half:]))
        unpacked = logfmt_unpack(codes, bits=self.form.bits, size=self.rank)
        return LogFmt(unpacked, amin, amax, self.form.bits, _TILE, 1)


def _bfloat16(x: Array) -> Array:
    return encode(x, "bfloat16", overflow="nonfinite")


def _name(dtype: Any) -> str:
    """NumPy's name of a dtype, or what was given."""
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return str(dtype)
