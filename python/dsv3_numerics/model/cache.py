"""The latent cache: what attention keeps of the tokens it has seen.

Lives here: `Cache`, one array for all layers. For each token and layer it holds the normalised latent and the
rotated key that all heads share, side by side: 576 numbers in DeepSeek-V3, against 40 960 for keys and
values.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from .._arrays import positive
from .config import Config

DTYPES = tuple(np.dtype(t) for t in (np.float32, np.float64, ml_dtypes.bfloat16))


class Cache:
    """Room for a batch of sequences, which may differ in length.

    Parameters
    ----------
    config : Config
    batch : int
        Sequences.
    capacity : int
        Tokens of a sequence that there is room for.
    dtype : {float32, float64, bfloat16}
        How latents are kept. float32 and float64 as they are computed, bfloat16 rounded to nearest even.
    layers : int, optional
        Layers; the model's by default.

    Attributes
    ----------
    data : ndarray of `dtype`, shape (layers, batch, capacity, kv_lora_rank + qk_rope_head_dim)
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
    """

    def __init__(
        self,
        config: Config,
        batch: int = 1,
        capacity: int = 1024,
        *,
        dtype: DTypeLike = np.float32,
        layers: int | None = None,
    ) -> None:
        kind = (
            np.dtype(ml_dtypes.bfloat16)
            if isinstance(dtype, str) and dtype == "bfloat16"
            else np.dtype(dtype)
        )
        if kind not in DTYPES:
            raise TypeError(f"dtype: found {kind}, expected float32, float64 or bfloat16")
        count = config.num_hidden_layers if layers is None else positive(layers, "layers")
        shape = (count, positive(batch, "batch"), positive(capacity, "capacity"), config.cache_width)
        self.data: NDArray[Any] = np.zeros(shape, kind)
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
        """How latents are kept."""
        return self.data.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of room."""
        return self.data.nbytes

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token takes in all layers."""
        layers, _, _, width = self.data.shape
        return int(layers * width * self.data.itemsize)

    def room(self, new: int, batch: int) -> None:
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
        held = ", ".join(map(str, self.lengths[:4])) + (", ..." if batch > 4 else "")
        return f"Cache({layers} layers, {batch} x {capacity} tokens of {width} {self.dtype}, holds {held})"
