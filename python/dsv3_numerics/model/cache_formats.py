"""Layout of a token in the cache: where the bytes of a latent and of its rotary key go.

Lives here: the layout of a scheme's codes and scales, there and back, for a token and for a page. Room and
lengths are `cache`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .._arrays import Array, as_array, positive
from ..logfmt import LogFmt, logfmt_pack, logfmt_unpack
from ..number_formats import FormatInfo, decode, encode, format_info, pack, unpack
from ..quantized import SCALE_DTYPES, Quantized
from ..schemes import Cast, LogTiles, Scaled, Scheme, quantize
from ..schemes.scheme import WHOLE
from .fields import scheme_of

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BYTES = np.dtype(np.uint8)
_PLAIN = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
_PACKED_BITS = (4, 6, 12)


class RecordLayout(NamedTuple):
    """Order of a token's bytes.

    Attributes
    ----------
    codes_rotary : bool
        True: the rotary key is in codes too, behind the latent; otherwise it stays in bfloat16.
    scales_last : bool
        True: what belongs to tiles lies behind the rotary key, and in a page behind all tokens.
    scale_bytes : int
        Bytes of scales of a token are filled up with zeros to a multiple of this.
    page_bytes : int
        Bytes of a page are filled up to a multiple of this.
    """

    codes_rotary: bool = False
    scales_last: bool = False
    scale_bytes: int = 1
    page_bytes: int = 1


_LAYOUTS: dict[Scheme, RecordLayout] = {
    Scheme.parse("model1"): RecordLayout(scales_last=True, scale_bytes=8, page_bytes=576),
    Scheme.parse("flashmla_v41"): RecordLayout(codes_rotary=True),
    Scheme.parse("flashmla_v41_fp4"): RecordLayout(codes_rotary=True),
}
"""Layouts of kernels that differ from FlashMLA's first, by the scheme that their codes are in."""

_FIRST, _FLAT = RecordLayout(), RecordLayout(codes_rotary=True)


@dataclass(frozen=True)
class CacheFormat:
    """How a token of `rank` latent and `rope` rotary channels is kept.

    Casts to float32, float64, bf16 and f16 keep the channels side by side. Other schemes are bytes, in the
    order in which FlashMLA keeps them: the latent's codes, densely packed, what belongs to its tiles, then
    the rotary key in bfloat16. Kernels with another order have a name.

    =================== =================================== ======================= =======================
    scheme              codes                               for each tile           bytes in DeepSeek-V3
    =================== =================================== ======================= =======================
    flashmla            E4M3                                a float32 power of two  512 + 16 + 128 = 656
    fp8_ds_mla          E4M3                                a float32, amax / 448   512 + 16 + 128 = 656
    fp8_static=0.05     E4M3, the rotary key's too          none: a static scale    512 + 64 = 576
    model1              E4M3, tiles of 64; scales last      a power of two, a byte  512 + 128 + 8 = 648
    flashmla_v41        E4M3, tiles of 32, rotary too       a power of two, a byte  576 + 18 = 594
    flashmla_v41_fp4    E2M1, tiles of 16, rotary too       an E4M3 number, a byte  288 + 36 = 324
    mxfp8               E4M3, tiles of 32                   a power of two, a byte  512 + 16 + 128 = 656
    e4m3:1x64:ue8m0     E4M3                                a power of two, a byte  512 + 8 + 128 = 648
    mxfp4               E2M1, low half first                a power of two, a byte  256 + 16 + 128 = 400
    nvfp4:none          E2M1, tiles of 16                   an E4M3 number, a byte  256 + 32 + 128 = 416
    logfmt8             8 bits                              float32 least, largest  512 + 32 + 128 = 672
    logfmt10            10 bits, from the low bit up        float32 least, largest  640 + 32 + 128 = 800
    =================== =================================== ======================= =======================

    With the 448 latent channels of the model that it is for, a token of ``model1`` has 448 + 128 + 8 = 584
    bytes, and tokens of 512 channels in ``flashmla_v41`` and ``flashmla_v41_fp4`` have 528 and 288.

    Sources: FlashMLA, ``tests/quant.py`` (V32_FP8Sparse, MODEL1_FP8Sparse, V41_FP8Sparse, V41_FP4Sparse);
    vLLM, ``csrc/cache_kernels.cu`` (``concat_and_cache_ds_mla``; ``fp8_static`` is ``concat_and_cache_mla``
    with an FP8 cache and its ``scale``).
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
    def layout(self) -> RecordLayout:
        """Order of a token's bytes."""
        if isinstance(self.scheme, Scaled) and self.scheme.block == WHOLE:
            return _FLAT  # one static scale, which belongs to no token
        return _LAYOUTS.get(self.scheme, _FIRST)

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
    def _coded(self) -> int:
        """Channels in codes."""
        return self.rank + self.rope if self.layout.codes_rotary else self.rank

    @property
    def _tile(self) -> int:
        return self.scheme.group_k or self._coded

    @property
    def _parts(self) -> tuple[int, int]:
        """Bytes of codes, and of all tiles without what fills them up."""
        tiles = -(-self._coded // self._tile)
        if isinstance(self.scheme, LogTiles):
            return -(-self._coded * self.scheme.width // 8), 8 * tiles
        codes = _dense(np.zeros((1, self._coded), self._info.dtype), self._info).shape[1]
        stored = isinstance(self.scheme, Scaled) and self.scheme.block != WHOLE
        size = SCALE_DTYPES[self.scheme.scale].itemsize if stored else 0  # type: ignore[attr-defined]
        return codes, size * tiles

    @property
    def _room(self) -> tuple[int, int, int]:
        """Bytes of codes, of tiles, and of the rotary key beside codes."""
        codes, tiles = self._parts
        rotary = 0 if self.layout.codes_rotary else 2 * self.rope
        return codes, -(-tiles // self.layout.scale_bytes) * self.layout.scale_bytes, rotary

    @property
    def width(self) -> int:
        """Elements of the cache's array that a token takes."""
        return sum(self._room) if self.packed else self.rank + self.rope

    def write(self, x: Array) -> Array:
        """Tokens (n, rank + rope) as records (n, width)."""
        if not self.packed:
            if self.dtype == _BFLOAT16 and x.dtype == np.float32:
                with np.errstate(over="ignore"):
                    return x.astype(_BFLOAT16)
            records: Array = x if x.dtype == self.dtype else quantize(x, self.scheme)
            return records
        q = quantize(np.ascontiguousarray(x[:, : self._coded]), self.scheme)
        if isinstance(q, Quantized):
            stored = q.scales if self._parts[1] else np.zeros((len(x), 0), _BYTES)
            parts = [_dense(q.codes, self._info), stored]
        elif isinstance(q, LogFmt):
            parts = [logfmt_pack(q.codes, bits=q.bits), np.concatenate([q.amin, q.amax], axis=1)]
        else:
            parts = [_dense(q, self._info), np.zeros((len(x), 0), _BYTES)]
        rotary = encode(np.ascontiguousarray(x[:, self._coded :]), "bfloat16", overflow="nonfinite")
        codes, tiles, key = (np.ascontiguousarray(part).view(_BYTES) for part in (*parts, rotary))
        tiles = np.pad(tiles, ((0, 0), (0, self._room[1] - tiles.shape[1])))
        ordered = (codes, key, tiles) if self.layout.scales_last else (codes, tiles, key)
        return np.concatenate(ordered, axis=1)

    def _split(self, records: Array) -> tuple[Array, Array, Array]:
        """Codes, tiles and rotary key of records."""
        codes, tiles, key = self._room
        ends = (codes, codes + key) if self.layout.scales_last else (codes, codes + tiles)
        first, second, third = (np.ascontiguousarray(part) for part in np.split(records, ends, axis=1))
        tiles_of, key_of = (third, second) if self.layout.scales_last else (second, third)
        return first, np.ascontiguousarray(tiles_of[:, : self._parts[1]]), key_of

    def read(self, records: Array, dtype: np.dtype[Any]) -> Array:
        """Return records (n, width) as tokens (n, rank + rope) of `dtype`; no copy where they are already."""
        if records.dtype == dtype:
            return records
        if not self.packed:
            with np.errstate(over="ignore"):
                return records.astype(dtype)
        codes, tiles, key = self._split(records)
        out = np.empty((len(records), self.rank + self.rope), dtype)
        out[:, : self._coded] = self.scheme.decode(self._latent(codes, tiles), dtype)
        if key.size:
            out[:, self._coded :] = decode(key.view(_BFLOAT16), dtype=dtype)
        return out

    def codes(self, records: Array) -> Quantized:
        """Return records (n, width) of a scheme with scales as its value; the rotary key is left out."""
        codes, tiles, _ = self._split(records)
        found = self._latent(codes, tiles)
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
        kept = _loose(codes, self._info, self._coded)
        if not isinstance(self.scheme, Scaled):
            return kept
        kind, given = self.scheme.scale, self.scheme.given
        if self.scheme.block == WHOLE:
            assert given is not None
            numbers = np.full((len(codes), 1), given, np.float32)
            scales = numbers if kind == "float32" else encode(numbers, SCALE_DTYPES[kind])
        else:
            scales = tiles.view(SCALE_DTYPES[kind])
        outer = np.float32(given) if kind == "nvfp4" and given is not None else None
        return Quantized(
            kept, scales, self.scheme.format, (self._tile,), axis=1, scale_kind=kind, global_scale=outer
        )

    # --- Pages ----------------------------------------------------------------------------------------------

    def page_bytes(self, tokens: int) -> int:
        """Bytes of a page of so many tokens."""
        count = positive(tokens, "tokens") * self._width_of_bytes
        return -(-count // self.layout.page_bytes) * self.layout.page_bytes

    @property
    def _width_of_bytes(self) -> int:
        if not self.packed:
            raise ValueError(f"cache: found '{self.scheme}', whose tokens are numbers, expected one of bytes")
        return self.width

    def to_pages(self, records: Array, tokens: int) -> Array:
        """Lay records out in pages as kernels hold them.

        Where scales come last, a page has all tokens' codes and keys first, and then all their scales. The
        last page is filled up with zeros.

        Parameters
        ----------
        records : ndarray of uint8, shape (n, width)
        tokens : int
            Tokens of a page (64 in FlashMLA).

        Returns
        -------
        ndarray of uint8, shape (ceil(n / tokens), `page_bytes(tokens)`)

        Raises
        ------
        TypeError, ValueError
            Other arrays; a scheme whose tokens are no bytes.

        Examples
        --------
        >>> import numpy as np
        >>> cache = CacheFormat.of("model1", 448, 64)
        >>> cache.width, cache.page_bytes(64)
        (584, 37440)
        >>> pages = cache.to_pages(cache.write(np.ones((100, 512), np.float32)), 64)
        >>> pages.shape, cache.from_pages(pages, 64).shape
        ((2, 37440), (128, 584))
        """
        size = self.page_bytes(tokens)
        array = self._bytes(records, "records", self.width)
        count = -(-len(array) // tokens)
        padded = np.pad(array, ((0, count * tokens - len(array)), (0, 0)))
        padded = padded.reshape(count, tokens, self.width)
        first = self._first_bytes
        pages = np.zeros((count, size), _BYTES)
        pages[:, : tokens * first] = padded[:, :, :first].reshape(count, tokens * first)
        pages[:, tokens * first : tokens * self.width] = padded[:, :, first:].reshape(
            count, tokens * (self.width - first)
        )
        return pages

    def from_pages(self, pages: Array, tokens: int) -> Array:
        """Return the records of pages, (pages * tokens, width).

        Raises
        ------
        TypeError, ValueError
            Other arrays; a scheme whose tokens are no bytes.
        """
        array = self._bytes(pages, "pages", self.page_bytes(tokens))
        first = self._first_bytes
        head = array[:, : tokens * first].reshape(-1, first)
        tail = array[:, tokens * first : tokens * self.width].reshape(-1, self.width - first)
        return np.concatenate([head, tail], axis=1)

    @property
    def _first_bytes(self) -> int:
        """Bytes of a token that lie together in a page."""
        codes, _, key = self._room
        return codes + key if self.layout.scales_last else self.width

    @staticmethod
    def _bytes(x: Any, name: str, width: int) -> Array:
        array = as_array(x, name)
        if array.dtype != _BYTES:
            raise TypeError(f"{name}: found dtype {array.dtype}, expected uint8")
        if array.ndim != 2 or array.shape[1] != width:
            raise ValueError(f"{name}: found shape {array.shape}, expected (n, {width})")
        return array


def _dense(codes: Array, info: FormatInfo) -> Array:
    """Codes (n, channels) as bytes, without unused bits where a format can be packed."""
    packed = pack(codes, fmt=info.name) if info.bits in _PACKED_BITS else codes
    return np.ascontiguousarray(packed).view(_BYTES)


def _loose(codes: Array, info: FormatInfo, size: int) -> Array:
    """Bytes (n, ...) as codes (n, size)."""
    if info.bits not in _PACKED_BITS:
        return codes.view(info.dtype)
    packed = codes.view(np.uint32 if info.bits > 8 else np.uint8)
    return unpack(packed, fmt=info.name, size=size)
