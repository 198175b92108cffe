"""Multi-head latent attention, usable alone: an array goes in, an array comes out.

Lives here: `MLA`, as a composition of `Operations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .._arrays import Array
from .activations import Activations
from .cache import Cache
from .config import Config
from .indexer import Flags, Indexer, Selection
from .layer import NO_TRACE, Choice, Layer, Source, Trace, check_cache
from .operations import Operations
from .records import Hook
from .weights import attention_shapes

_EXPANDED = 64 << 20  # bytes of keys and values that are made of codes at a time


class MLA(Layer):
    """Multi-head latent attention (technical report, section 2.1.1).

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``q_a_proj.weight`` and so on; `dsv3_numerics.model.attention_shapes` lists them.

    Raises
    ------
    ValueError
        Tensors are missing or of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import MLA, Config, random_weights
    >>> config = Config.preset("tiny")
    >>> attention = MLA(config, random_weights(config, "model.layers.0.self_attn."))
    >>> x = np.random.default_rng(0).normal(size=(2, 5, config.hidden_size))
    >>> naive, absorbed = attention(x), attention(x, absorbed=True)
    >>> bool(np.abs(naive - absorbed).max() < 1e-12)
    True
    """

    def __init__(self, config: Config, weights: Source, *, indexer: bool | None = None) -> None:
        super().__init__(config, weights, attention_shapes(config, indexer=indexer), "MLA")
        yarn = config.rope_scaling
        self._settings: dict[str, Any] = {
            "heads": config.num_attention_heads,
            "rank": config.kv_lora_rank,
            "nope": config.qk_nope_head_dim,
            "v": config.v_head_dim,
            "rope": {
                "dim": config.qk_rope_head_dim,
                "theta": config.rope_theta,
                "interleaved": config.rope_interleave,
                "yarn": yarn
                and (
                    yarn.factor,
                    yarn.beta_fast,
                    yarn.beta_slow,
                    yarn.mscale,
                    yarn.mscale_all_dim,
                    float(yarn.original_max_position_embeddings),
                ),
            },
        }
        self.indexer: Indexer | None = None
        if "indexer.wk.weight" in self.weights:
            self.indexer = Indexer(config, self.weights.under("indexer."), self._settings["rope"])

    def __call__(
        self,
        x: ArrayLike,
        cache: Cache | None = None,
        *,
        layer: int = 0,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        selection: Selection | None = None,
        trace: Trace = NO_TRACE,
        at: str = "",
    ) -> Array:
        """Attention of new tokens to the cached ones and, causally, to each other.

        Parameters
        ----------
        x : ndarray of float32 or float64, shape (batch, tokens, hidden_size) or (tokens, hidden_size)
            Normalised.
        cache : Cache, optional
            Latents of the new tokens are written behind those it holds; its `lengths` are left for the caller
            to advance (`Block` and `Model` do), as all layers share them.
        layer : int
            Which layer of the cache is this one's.
        absorbed : bool, optional
            False expands the latents into keys and values, True applies the up-projections to queries and
            results instead. By default whichever takes fewer operations. Equal but for rounding; in codes
            they are different computations, as only the naive form quantizes latents.
        recipe : Recipe or str, optional
            What runs in which format: a recipe, or a preset's name. By default everything in the dtype of
            `x`.
        hook : callable, optional
            Told of each operation, see `OpRecord`.

        selection : Selection, optional
            Positions that an earlier layer's indexer has selected, where this one has none.

        Returns
        -------
        ndarray, shape of `x`, dtype of `x` or of the recipe's numbers

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; no room in the cache; a recipe that does not fit weights or cache.
        """
        config = self.config
        ops, array = self._enter(x, recipe, hook)
        if array.ndim not in (2, 3):
            raise ValueError(f"x: found shape {array.shape}, expected (batch, tokens, {config.hidden_size})")
        batch, new = (1, *array.shape[:-1])[-2:]
        check_cache(cache, ops)
        self.weights.prefetch(self.weights, ops.recipe)
        if cache is None:
            kept = ops.recipe.cache_scheme, ops.recipe.index_scheme
            cache = Cache(config, max(batch, 1), max(new, 1), dtype=kept[0], index_dtype=kept[1], layers=1)
            layer = 0
        if array.size == 0:
            return np.empty_like(array)
        cache.reserve(new, batch)
        positions = (cache.lengths[:, None] + np.arange(new)).reshape(-1)
        longest = int(cache.lengths.max()) + new
        left, rank, heads = ops.activations(array), config.kv_lora_rank, config.num_attention_heads
        rope = self._settings["rope"]
        q, narrow = self._queries(ops, left, at)
        q = q.reshape(batch, new, -1)
        selected = self._selected(ops, left, narrow, positions, cache, layer, selection, trace, at)
        q = ops.rotate(f"{at}rotate_q", q, rope, positions, heads)
        joint = ops.linear(f"{at}kv_a_proj_with_mqa", left, self.weights, "kv_a_proj_with_mqa.weight")
        joint = joint.reshape(batch, new, -1)
        latent = np.ascontiguousarray(joint[..., :rank])
        latent = self._norm(ops, f"{at}kv_a_layernorm", latent, "kv_a_layernorm.weight")
        key = ops.rotate(f"{at}rotate_k", np.ascontiguousarray(joint[..., rank:]), rope, positions, 1)
        cached = ops.cache(f"{at}cache", np.concatenate([latent, key], axis=-1), cache, layer)
        probs = None
        if trace.wants(f"{at}probs"):
            probs = np.zeros((batch, new, heads, longest), array.dtype)
        if self.prefers_absorbed(new, longest) if absorbed is None else absorbed:
            out = ops.attend(
                f"{at}attend",
                q,
                cached,
                self._settings,
                self.weights,
                absorbed=True,
                probs=probs,
                selected=selected,
            )
        else:
            out = self._naive(ops, q, cached, probs, selected, at)
        if trace is not NO_TRACE:
            fresh = np.stack([tokens[-new:] for tokens in cached])
            trace.put(f"{at}heads", out)
            trace.put(f"{at}c_kv", fresh[..., :rank])
            trace.put(f"{at}k_pe", fresh[..., rank:])
            if probs is not None:
                trace.put(f"{at}probs", probs.swapaxes(1, 2))
        heads_out = ops.activations(out.reshape(*array.shape[:-1], -1))
        return ops.linear(f"{at}o_proj", heads_out, self.weights, "o_proj.weight")

    def _norm(self, ops: Operations, name: str, x: Array, key: str) -> Array:
        return ops.norm(name, x, self.weights, key, self.config.latent_norm_eps)

    def _queries(self, ops: Operations, x: Activations, at: str) -> tuple[Array, Array | None]:
        """Return queries of all heads, not yet rotated, and the normalised latent that they are made of."""
        if "q_proj.weight" in self.weights:
            return ops.linear(f"{at}q_proj", x, self.weights, "q_proj.weight"), None
        narrow = ops.linear(f"{at}q_a_proj", x, self.weights, "q_a_proj.weight")
        normed = self._norm(ops, f"{at}q_a_layernorm", narrow, "q_a_layernorm.weight")
        return ops.linear(f"{at}q_b_proj", ops.activations(normed), self.weights, "q_b_proj.weight"), normed

    def _selected(
        self,
        ops: Operations,
        x: Activations,
        narrow: Array | None,
        positions: NDArray[np.int64],
        cache: Cache,
        layer: int,
        selection: Selection | None,
        trace: Trace,
        at: str,
    ) -> list[Flags] | None:
        """Return the positions to attend to, by this layer's indexer or an earlier one's; None: all."""
        if not self.config.is_sparse:
            return None
        selection = Selection() if selection is None else selection
        if self.indexer is not None and narrow is not None:
            narrow = narrow.reshape(cache.batch, -1, narrow.shape[-1])
            selection.flags = self.indexer(ops, x, narrow, positions, cache, layer, trace, at)
            selection.made = True
        if not selection.made:
            raise ValueError("selection: missing, expected that of an earlier layer: this one has no indexer")
        return selection.flags

    def _naive(
        self,
        ops: Operations,
        q: Array,
        cached: Sequence[Array],
        probs: Array | None,
        selected: list[Flags] | None,
        at: str,
    ) -> Array:
        """Attention over keys and values: by the core, or made of codes, some heads at a time."""
        name, key = f"{at}attend", "kv_b_proj.weight"
        if not ops.splits:
            return ops.attend(
                name, q, cached, self._settings, self.weights, absorbed=False, probs=probs, selected=selected
            )
        c, (batch, new, _) = self.config, q.shape
        latents = ops.activations(np.concatenate([tokens[:, : c.kv_lora_rank] for tokens in cached]))
        ends = np.cumsum([len(tokens) for tokens in cached])[:-1]
        up, v = c.qk_nope_head_dim + c.v_head_dim, c.v_head_dim
        out = _core.empty((batch, new, c.num_attention_heads * v), q.dtype)
        queries = q.reshape(batch, new, c.num_attention_heads, -1)
        for start, stop in self._groups(ops, latents.shape[0] * up * q.itemsize):
            whole = stop - start == c.num_attention_heads
            rows = None if whole else (start * up, stop * up)
            expanded = ops.linear(f"{at}kv_b_proj", latents, self.weights, key, rows=rows, as_many_rows=True)
            out[..., start * v : stop * v] = ops.attend(
                name,
                np.ascontiguousarray(queries[:, :, start:stop]).reshape(batch, new, -1),
                cached,
                {**self._settings, "heads": stop - start},
                self.weights,
                absorbed=False,
                expanded=np.split(expanded, ends),
                probs=None if probs is None else probs[:, :, start:stop],
                selected=selected,
            )
        return out

    def _groups(self, ops: Operations, nbytes: int) -> Iterator[tuple[int, int]]:
        """Heads from and to, whose keys and values take little memory; all of them for a hook to see."""
        heads, size = self.config.num_attention_heads, self.config.num_attention_heads
        if ops.hook is None:
            up = self.config.qk_nope_head_dim + self.config.v_head_dim
            block = self.weights.block_rows("kv_b_proj.weight", ops.recipe)
            least = block // math.gcd(block, up)  # heads whose rows end where a block does
            size = min(heads, max(_EXPANDED // max(nbytes, 1) // least, 1) * least)
        for start in range(0, heads, size):
            yield start, min(start + size, heads)

    def prefers_absorbed(self, new: int, positions: int) -> bool:
        """Tell whether the absorbed form takes fewer multiplications, for new tokens among positions."""
        c = self.config
        up, rope = c.qk_nope_head_dim + c.v_head_dim, c.qk_rope_head_dim
        naive = positions * c.kv_lora_rank * up + new * positions * (up + rope)
        return new * c.kv_lora_rank * up + new * positions * (2 * c.kv_lora_rank + rope) < naive
