"""The latent cache: what attention keeps of the tokens it has seen.

Lives here: `Cache`, one array for all layers. For each token and layer it holds the normalised latent and the
rotated key that all heads share, side by side: 576 numbers in DeepSeek-V3, against 40 960 for keys and
values. How they are written down is `cache_formats`'.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .._arrays import positive
from ..quantized import Quantized
from .cache_formats import CacheFormat
from .config import Config

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Cache:
    """Room for a batch of sequences, which may differ in length.

    Parameters
    ----------
    config : Config
    batch : int
        Sequences.
    capacity : int
        Tokens of a sequence that there is room for.
    dtype : dtype, str or Scheme
        How latents are kept: float32 and float64 as they are computed, bfloat16 and float16 rounded to
        nearest even, any other scheme in codes (see `CacheFormat`).
    index_dtype : dtype, str or Scheme, optional
        How keys of a lightning indexer are kept; by default of `dtype`, or bfloat16 beside latents in codes.
    layers : int, optional
        Layers; the model's by default.

    Attributes
    ----------
    data : ndarray, shape (layers, batch, capacity, kv_lora_rank + qk_rope_head_dim)
        Of `dtype`; uint8 for codes, whose last axis is the bytes of a token.
    format, index_format : CacheFormat
        Of latents, and of index keys (the same where there are none).
    index_keys : ndarray, shape (layers, batch, capacity, index_head_dim), or None
        Keys of the lightning indexer, where there is one; the last axis is bytes where they are codes.
    lengths : ndarray of int64, shape (batch,)
        Tokens of each sequence that are held.

    Raises
    ------
    TypeError, ValueError
        Another dtype; sizes below 1.

    Examples
    --------
    >>> from dsv3_numerics.model import Cache, Config
    >>> cache = Cache(Config.preset("deepseek_v3"), batch=1, capacity=4096, dtype="bfloat16")
    >>> cache.bytes_per_token                      # the paper's 70 KB (table 1)
    70272
    >>> Cache(Config.preset("deepseek_v3"), capacity=1, dtype="flashmla", layers=1).bytes_per_token
    656
    """

    def __init__(
        self,
        config: Config,
        batch: int = 1,
        capacity: int = 1024,
        *,
        dtype: Any = np.float32,
        index_dtype: Any = None,
        layers: int | None = None,
    ) -> None:
        self.format = CacheFormat.of(dtype, config.kv_lora_rank, config.qk_rope_head_dim)
        if index_dtype is None:
            index_dtype = _BFLOAT16 if self.format.packed else dtype
        self.index_format = self.format
        if config.index_head_dim is not None:
            self.index_format = CacheFormat.of(index_dtype, config.index_head_dim, 0)
        count = config.num_hidden_layers if layers is None else positive(layers, "layers")
        shape = (count, positive(batch, "batch"), positive(capacity, "capacity"), self.format.width)
        self.data: NDArray[Any] = np.zeros(shape, self.format.dtype)
        self.index_keys: NDArray[Any] | None = None
        if config.index_head_dim is not None:
            kept = self.index_format
            self.index_keys = np.zeros((*shape[:3], kept.width), kept.dtype)
        self.lengths: NDArray[np.int64] = np.zeros(batch, np.int64)

    @property
    def batch(self) -> int:
        """Sequences."""
        return int(self.data.shape[1])

    @property
    def capacity(self) -> int:
        """Tokens of a sequence that there is room for."""
        return int(self.data.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Bytes of the array."""
        return self.data.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of room."""
        return self.data.nbytes + (0 if self.index_keys is None else self.index_keys.nbytes)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token takes in all layers."""
        return self.nbytes // (self.batch * self.capacity)

    def append(self, layer: int, tokens: NDArray[Any]) -> None:
        """Write new tokens (batch, new, channels) behind those that are held, which stay as many."""
        new = tokens.shape[1]
        for row, past, fresh in zip(self.data[layer], self.lengths.tolist(), tokens, strict=True):
            row[past : past + new] = self.format.write(fresh)

    def cached_latents(self, layer: int, new: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        """Return each sequence's latents and the `new` behind them, (tokens, channels)."""
        held = zip(self.data[layer], self.lengths.tolist(), strict=True)
        return [self.format.read(row[: past + new], dtype) for row, past in held]

    def append_index_keys(self, layer: int, keys: NDArray[Any], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
        """Write the index keys of new tokens (batch, new, channels), and return all of each sequence."""
        self._write_index_keys(layer, keys)
        return [self.index_format.read(rows, dtype) for rows in self._held_index_keys(layer, keys.shape[1])]

    def append_index_codes(self, layer: int, keys: NDArray[Any]) -> list[Quantized]:
        """Write index keys as `append_index_keys`, and return all of each sequence as codes and scales."""
        self._write_index_keys(layer, keys)
        return [self.index_format.codes(rows) for rows in self._held_index_keys(layer, keys.shape[1])]

    def _write_index_keys(self, layer: int, keys: NDArray[Any]) -> None:
        assert self.index_keys is not None
        for row, past, fresh in zip(self.index_keys[layer], self.lengths.tolist(), keys, strict=True):
            row[past : past + len(fresh)] = self.index_format.write(fresh)

    def _held_index_keys(self, layer: int, new: int) -> list[NDArray[Any]]:
        assert self.index_keys is not None
        held = zip(self.index_keys[layer], self.lengths.tolist(), strict=True)
        return [row[: past + new] for row, past in held]

    def reserve(self, new: int, batch: int) -> None:
        """Raise ValueError unless `new` more tokens of `batch` sequences fit."""
        if batch != self.batch:
            raise ValueError(f"cache: found one for {self.batch} sequences, expected {batch}, as ids has")
        longest = int(self.lengths.max())
        if longest + new > self.capacity:
            raise ValueError(
                f"cache: found room for {self.capacity} tokens, expected at least {longest + new} "
                f"({longest} held and {new} new)"
            )

    def truncate(self, lengths: NDArray[np.int64] | list[int]) -> None:
        """Forget all but the first tokens of each sequence (what speculation got wrong, say)."""
        wanted = np.asarray(lengths, np.int64)
        if wanted.shape != self.lengths.shape or (wanted < 0).any() or (wanted > self.lengths).any():
            raise ValueError(f"lengths: found {wanted.tolist()}, expected at most {self.lengths.tolist()}")
        self.lengths[:] = wanted

    def __repr__(self) -> str:
        layers, batch, capacity, width = self.data.shape
        kept = f"bytes of {self.format.name}" if self.format.packed else self.format.name
        held = ", ".join(map(str, self.lengths[:4])) + (", ..." if batch > 4 else "")
        return f"Cache({layers} layers, {batch} x {capacity} tokens of {width} {kept}, holds {held})"
