"""Layers of the model, each usable alone: an array goes in, an array comes out.

Lives here: `Block` and `MTP`. Each is built from a config and its own tensors, named as a checkpoint names
them within the layer. Without a recipe everything is done in the dtype of the input. Intermediates go into a
`Trace`, under the names that `model.trace` documents.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array
from .attention import MLA
from .cache import Cache
from .config import Config
from .experts import MLP, MoE
from .indexer import Selection
from .layer import NO_TRACE, Choice, Layer, Source, Trace
from .operations import Operations
from .records import Hook
from .weights import block_shapes, mtp_shapes


class Block(Layer):
    """A layer: attention and a feed-forward network, each on its normalised input and added to it.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``input_layernorm.weight``, ``self_attn.*``, ``post_attention_layernorm.weight``, ``mlp.*``.
    layer : int
        Its index: the first layers are dense, and each has its own part of a cache.
    """

    def __init__(
        self,
        config: Config,
        weights: Source,
        *,
        layer: int,
        group_mask_value: float = -np.inf,
    ) -> None:
        super().__init__(config, weights, block_shapes(config, layer), f"layer {layer}")
        self.layer = layer
        self.attention = MLA(config, self.weights.under("self_attn."), indexer=config.has_indexer(layer))
        mlp = self.weights.under("mlp.")
        self.ffn: MoE | MLP = (
            MoE(config, mlp, group_mask_value=group_mask_value) if config.is_moe(layer) else MLP(config, mlp)
        )

    def __call__(
        self,
        x: ArrayLike,
        cache: Cache | None = None,
        *,
        cache_layer: int | None = None,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        selection: Selection | None = None,
        trace: Trace = NO_TRACE,
        at: str = "",
    ) -> Array:
        """Apply it to (batch, tokens, hidden_size) or (tokens, hidden_size); see `MLA` for the arguments."""
        ops, array = self._enter(x, recipe, hook)
        if array.size == 0:
            return array.copy()
        trace.put(f"{at}input", array)
        y = self._norm(ops, at, "input_layernorm", array)
        trace.put(f"{at}attn_norm", y)
        place = self.layer if cache_layer is None else cache_layer
        out = self.attention(
            y, cache, layer=place, absorbed=absorbed, recipe=ops, selection=selection, trace=trace, at=at
        )
        trace.put(f"{at}attn_out", out)
        array = ops.add(f"{at}attention_add", array, out)
        y = self._norm(ops, at, "post_attention_layernorm", array)
        trace.put(f"{at}ffn_norm", y)
        out = self.ffn(y, recipe=ops, trace=trace, at=at)
        trace.put(f"{at}mlp_out", out)
        out = ops.add(f"{at}mlp_add", array, out)
        trace.put(f"{at}output", out)
        return out

    def _norm(self, ops: Operations, at: str, name: str, x: Array) -> Array:
        return ops.norm(f"{at}{name}", x, self.weights, f"{name}.weight", self.config.rms_norm_eps)


class MTP(Layer):
    """Multi-token prediction: what follows the next token (technical report, section 2.2).

    The halves of the projection's input stand as the released weights need them: the embedding first.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        ``enorm.weight``, ``hnorm.weight``, ``eh_proj.weight``, ``shared_head.norm.weight``, and those of a
        `Block`.
    """

    def __init__(self, config: Config, weights: Source, *, depth: int = 0) -> None:
        layer = config.num_hidden_layers + depth
        super().__init__(config, weights, block_shapes(config, layer) | mtp_shapes(config), f"layer {layer}")
        self.block = Block(config, self.weights, layer=layer)

    def __call__(
        self,
        hidden: ArrayLike,
        embedded: ArrayLike,
        cache: Cache | None = None,
        *,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        trace: Trace = NO_TRACE,
    ) -> Array:
        """Return the hidden state from which the model's head predicts token i + 2.

        Parameters
        ----------
        hidden : ndarray, shape (batch, tokens, hidden_size)
            The model's hidden states at i, after its final norm.
        embedded : ndarray, shape of `hidden`
            Embeddings of the tokens at i + 1.
        cache : Cache of one layer, optional
            MTP's own.
        absorbed, recipe, hook
            See `MLA`.

        Returns
        -------
        ndarray, shape of `hidden`
            After ``shared_head.norm``.
        """
        ops, h = self._enter(hidden, recipe, hook, "hidden")
        _, e = self._enter(embedded, recipe, None, "embedded")
        if h.shape != e.shape or h.dtype != e.dtype:
            raise ValueError(f"embedded: found {e.dtype} {e.shape}, expected {h.dtype} {h.shape}, as hidden")
        both = np.concatenate([self._norm(ops, "enorm", e), self._norm(ops, "hnorm", h)], axis=-1)
        x = ops.plain_linear("mtp.eh_proj", both, self.weights, "eh_proj.weight")
        x = self.block(x, cache, cache_layer=0, absorbed=absorbed, recipe=ops, trace=trace, at="mtp.")
        trace.put("mtp.hidden_prenorm", x)
        out = self._norm(ops, "shared_head.norm", x)
        trace.put("mtp.hidden", out)
        return out

    def _norm(self, ops: Operations, name: str, x: Array) -> Array:
        return ops.norm(f"mtp.{name}", x, self.weights, f"{name}.weight", self.config.rms_norm_eps)
