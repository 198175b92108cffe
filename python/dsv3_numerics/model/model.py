"""The model: layers put together, with a cache, traces and generation on top.

Lives here: `Model`. It is a loop over `Block`, in Python, so that it can be interrupted, hooked and traced
after every layer; what a layer does is in `layers`, how tokens are chosen in `generate`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _core
from .. import checkpoint as checkpoints
from .._arrays import Array, as_array, positive
from .._progress import Progress
from ..schemes import NotFiniteError
from .activations import as_numbers
from .block import MTP, Block
from .cache import Cache
from .config import Config
from .generation import Generation, generate
from .indexer import TRACED, Selection
from .layer import NO_TRACE, Choice, Trace, check_cache, floats
from .operations import Operations
from .recipe import Recipe
from .records import Hook, Operation
from .weights import (
    PREPARED_BYTES,
    CheckpointWeights,
    Given,
    check,
    ensure_layers,
    expected_shapes,
    gathered,
    layers_of,
    unknown_tensors,
)

_CHUNK = 512


class Model:
    """DeepSeek-V3's forward: in float32 or float64, nothing narrower in between, or as a recipe says.

    Parameters
    ----------
    config : Config
    weights : mapping of str to array or `Quantized`
        Under the checkpoint's names. They stay as they are and are widened when they are used.
    dtype : {float32, float64}
        What everything is computed in where no recipe is given.
    weights_as_bf16 : bool
        Whether FP8 weights count as their bfloat16 roundings, which is what a converted checkpoint holds;
        otherwise they are the exact float32 products of code and scale. Products on codes are the same.
    group_mask_value : float
        See `Gate`; recipes have their own.
    prepared_bytes : int
        Memory for FP8 weights that are laid out, when they are used a second time, for products under an
        emulated unit: one or two bytes each. Nothing but the time changes; 0 for none.

    Raises
    ------
    ValueError
        Tensors are missing, or contradict the config: all of them listed with both shapes.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.model import Config, Model, random_weights
    >>> config = Config.preset("tiny")
    >>> model = Model(config, random_weights(config), dtype=np.float64)
    >>> ids = np.array([[3, 1, 4, 1, 5]])
    >>> model.forward(ids).shape
    (1, 5, 192)
    >>> cache = model.new_cache(capacity=8)
    >>> first, rest = model.forward(ids[:, :3], cache=cache), model.forward(ids[:, 3:], cache=cache)
    >>> bool(np.abs(np.concatenate([first, rest], axis=1) - model.forward(ids)).max() < 1e-12)
    True
    """

    def __init__(
        self,
        config: Config,
        weights: Mapping[str, Given],
        *,
        dtype: DTypeLike = np.float32,
        weights_as_bf16: bool = False,
        group_mask_value: float = -np.inf,
        prepared_bytes: int = PREPARED_BYTES,
    ) -> None:
        self.config = config
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype: found {self.dtype}, expected float32 or float64")
        ensure_layers(weights, config)
        shapes = expected_shapes(config)
        self.weights = gathered(
            weights, shapes, "weights", weights_as_bf16=weights_as_bf16, prepared_bytes=prepared_bytes
        )
        unknown = unknown_tensors(weights, config, shapes)
        check([f"{name}: not a tensor of {config.model_type}" for name in unknown], "weights")
        layers = range(config.num_hidden_layers)
        self.layers = tuple(
            Block(config, self._layer(i), layer=i, group_mask_value=group_mask_value) for i in layers
        )
        depths = range(config.num_nextn_predict_layers)
        self.mtp_layers = tuple(
            MTP(config, self._layer(config.num_hidden_layers + i), depth=i) for i in depths
        )
        self._checkpoint: checkpoints.Checkpoint | None = None

    def _layer(self, index: int) -> Any:
        return self.weights.under(f"model.layers.{index}.")

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: DTypeLike = np.float32,
        config: Config | None = None,
        weights_as_bf16: bool = False,
        **settings: Any,
    ) -> Self:
        """Open a checkpoint folder: FP8, bfloat16, float16 or float32, mapped and never copied whole.

        Parameters
        ----------
        path : path
            With ``config.json`` and safetensors files; see `dsv3_numerics.checkpoint.open`.
        dtype, weights_as_bf16, **settings
            As for the class.
        config : Config, optional
            Instead of the folder's.

        Raises
        ------
        CheckpointError
            The files are not what they should be, or a weight of the model is not understood.
        ValueError
            The config is unknown or contradicts the tensors.
        """
        opened = checkpoints.open(path)
        try:
            if config is None:
                if opened.config is None:
                    raise ValueError(f"{opened.folder}: no config.json, expected one (or config=)")
                config = Config.from_json(opened.config)
            stored = CheckpointWeights(opened)
            model = cls(
                _fitting(config, stored), stored, dtype=dtype, weights_as_bf16=weights_as_bf16, **settings
            )
            stored.ensure_understood(model.weights)
        except BaseException:
            opened.close()
            raise
        model._checkpoint = opened
        return model

    # --- Forward --------------------------------------------------------------------------------------------

    def new_cache(
        self,
        batch: int = 1,
        capacity: int = 1024,
        *,
        dtype: Any = None,
        recipe: Recipe | str | None = None,
    ) -> Cache:
        """Return an empty cache for `forward` and `decode`: as a recipe keeps it, or in the model's dtype.

        `dtype` may be any that `Cache` takes; a forward by a recipe wants the recipe's own.
        """
        index_dtype = None
        if recipe is not None and dtype is None:
            chosen = Recipe.of(recipe)
            dtype, index_dtype = chosen.cache_scheme, chosen.index_scheme
        dtype = self.dtype if dtype is None else dtype
        return Cache(self.config, batch, capacity, dtype=dtype, index_dtype=index_dtype)

    def _operations(self, recipe: Choice, hook: Hook | None) -> Operations:
        """Make the operations of a recipe, which is held against all weights first."""
        ops = Operations.of(recipe, self.dtype, hook)
        if ops.named and ops is not recipe:
            self.weights.check_fit(ops.recipe)
        return ops

    def forward(
        self,
        ids: ArrayLike,
        *,
        cache: Cache | None = None,
        lengths: ArrayLike | None = None,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        chunk: int = _CHUNK,
        last: bool = False,
        progress: Progress | None = None,
    ) -> Array:
        """Logits of the next token after each token.

        Parameters
        ----------
        ids : array_like of int, shape (batch, tokens) or (tokens,)
        cache : Cache, optional
            The tokens continue the sequences it holds, and are added to them.
        lengths : array_like of int, shape (batch,), optional
            How many of each sequence's tokens count; those behind are padding, whose logits mean nothing.
        absorbed : bool, optional
            See `MLA`.
        recipe : Recipe or str, optional
            What runs in which format: a recipe, or a preset's name. By default everything in the model's
            dtype.
        hook : callable, optional
            Told of each operation, with a way to do it again under another recipe: see `OpRecord`.
        chunk : int
            Tokens that go through the layers at a time: bounds memory on long prompts, changes nothing else.
        last : bool
            Only the logits after each sequence's last token, shape (batch, vocab_size).
        progress : callable, optional
            Called as ``progress(layer, done, total)``, in layers.

        Returns
        -------
        ndarray of the model's dtype, or of the recipe's numbers, shape (batch, tokens, vocab_size); without
        batch if `ids` has none

        Raises
        ------
        TypeError, ValueError
            Ids that are no integers or out of range; no room in the cache; lengths that do not fit; weights
            that hold NaN or infinity, found by what comes out of a layer; a recipe that does not fit the
            weights, with all that is wrong and what is possible, or not the cache.
        """
        array, batched = self._ids(ids)
        ops = self._operations(recipe, hook)
        hidden = self.hidden(
            array,
            cache=cache,
            lengths=lengths,
            absorbed=absorbed,
            recipe=ops,
            chunk=chunk,
            progress=progress,
        )
        if last:
            ends = np.full(len(array), array.shape[1]) if lengths is None else np.asarray(lengths)
            hidden = hidden[np.arange(len(array)), ends - 1]
        logits = self.head(hidden, recipe=ops)
        return logits if batched else logits[0]

    def hidden(
        self,
        ids: ArrayLike,
        *,
        cache: Cache | None = None,
        lengths: ArrayLike | None = None,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        chunk: int = _CHUNK,
        progress: Progress | None = None,
        trace: Trace = NO_TRACE,
    ) -> Array:
        """Hidden states after the final norm, (batch, tokens, hidden_size): what `head` and MTP take."""
        array, _ = self._ids(ids)
        ops = self._operations(recipe, hook)
        check_cache(cache, ops)
        batch, tokens = array.shape
        counts = self._lengths(lengths, batch, tokens)
        if cache is None and tokens > positive(chunk, "chunk"):
            cache = self.new_cache(batch, tokens, recipe=ops.recipe)
        out = _core.empty((batch, tokens, self.config.hidden_size), ops.recipe.dtype)
        if not array.size:
            return out
        before = None if cache is None else cache.lengths.copy()
        if cache is not None:
            cache.reserve(tokens, batch)
        parts = (
            [(i, min(i + chunk, tokens)) for i in range(0, tokens, chunk)]
            if cache is not None
            else [(0, tokens)]
        )
        total = len(parts) * len(self.layers)
        try:
            for done, (start, end) in enumerate(parts):
                x = self.embed(array[:, start:end], recipe=ops)
                selection = Selection()
                for i, layer in enumerate(self.layers):
                    x = self._through(layer, x, cache, absorbed, ops, selection, trace)
                    if progress is not None:
                        progress(f"layer {i}", done * len(self.layers) + i + 1, total)
                out[:, start:end] = self.norm(x, recipe=ops)
                if cache is not None:
                    cache.lengths += end - start
        except BaseException:
            if cache is not None and before is not None:
                cache.lengths[:] = before
            raise
        if cache is not None and before is not None:
            cache.lengths[:] = before + counts
        trace.put("final_norm", out)
        return out

    def embed(self, ids: NDArray[np.int64], *, recipe: Choice = None, hook: Hook | None = None) -> Array:
        """Embeddings of ids."""
        return self._operations(recipe, hook).embed("embed_tokens", ids, self._embeddings)

    @cached_property
    def _embeddings(self) -> Array:
        """Table of embeddings as it is stored; of a checkpoint, a view of the file."""
        return as_array(self.weights.raw("model.embed_tokens.weight"), "model.embed_tokens.weight")

    def norm(self, x: Array, *, recipe: Choice = None, hook: Hook | None = None) -> Array:
        """Return the final norm of what comes out of the last layer."""
        eps = self.config.rms_norm_eps
        ops, x = self._entered(x, recipe, hook)
        return ops.norm("norm", x, self.weights, "model.norm.weight", eps)

    def head(self, hidden: Array, *, recipe: Choice = None, hook: Hook | None = None) -> Array:
        """Logits of hidden states."""
        ops, hidden = self._entered(hidden, recipe, hook)
        self.weights.prefetch(["lm_head.weight"], ops.recipe)
        return ops.plain_linear("lm_head", hidden, self.weights, "lm_head.weight", "head")

    def _entered(self, x: Array, recipe: Choice, hook: Hook | None) -> tuple[Operations, Array]:
        x = floats(x, self.config.hidden_size)
        ops = self._operations(recipe, hook)
        if isinstance(recipe, Operations):
            return ops, x
        return (ops, as_numbers(x, ops.recipe)) if ops.named else (Operations.of(None, x.dtype, hook), x)

    def decode(
        self,
        ids: ArrayLike,
        cache: Cache,
        *,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
    ) -> Array:
        """Logits after one more token of each sequence.

        Parameters
        ----------
        ids : array_like of int, shape (batch,)
        cache : Cache
        absorbed, recipe, hook
            As for `forward`.

        Returns
        -------
        ndarray of the model's dtype, or of the recipe's numbers, shape (batch, vocab_size)
        """
        array = as_array(ids, "ids")
        if array.ndim != 1:
            raise ValueError(f"ids: found shape {array.shape}, expected (batch,)")
        settings: Any = {"absorbed": absorbed, "recipe": recipe, "hook": hook}
        return self.forward(array[:, None], cache=cache, **settings)[:, 0]

    def mtp(
        self,
        hidden: ArrayLike,
        next_ids: ArrayLike,
        *,
        cache: Cache | None = None,
        depth: int = 0,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
    ) -> Array:
        """Logits of the token after the next, by multi-token prediction.

        Parameters
        ----------
        hidden : ndarray, shape (batch, tokens, hidden_size)
            From `hidden`, at positions i.
        next_ids : array_like of int, shape (batch, tokens)
            The tokens at i + 1.
        cache : Cache of one layer, optional
            MTP's own, which it advances.
        absorbed, recipe, hook
            As for `forward`.

        Returns
        -------
        ndarray of the model's dtype, or of the recipe's numbers, shape (batch, tokens, vocab_size): for the
        tokens at i + 2
        """
        ops = self._operations(recipe, hook)
        out = self.mtp_hidden(hidden, next_ids, cache=cache, depth=depth, absorbed=absorbed, recipe=ops)
        return self.head(out, recipe=ops)

    def mtp_hidden(
        self,
        hidden: ArrayLike,
        next_ids: ArrayLike,
        *,
        cache: Cache | None = None,
        depth: int = 0,
        absorbed: bool | None = None,
        recipe: Choice = None,
        hook: Hook | None = None,
        trace: Trace = NO_TRACE,
    ) -> Array:
        """Return what `mtp` puts through the head."""
        if not 0 <= depth < len(self.mtp_layers):
            raise ValueError(f"depth: found {depth}, but the model has {len(self.mtp_layers)} layers of MTP")
        ids, _ = self._ids(next_ids)
        ops = self._operations(recipe, hook)
        embedded = self.embed(ids, recipe=ops)
        hidden = floats(hidden, self.config.hidden_size, "hidden")
        if ops is not recipe and ops.named:
            hidden = as_numbers(hidden, ops.recipe)
        out = self.mtp_layers[depth](hidden, embedded, cache, absorbed=absorbed, recipe=ops, trace=trace)
        if cache is not None:
            cache.lengths += ids.shape[1]
        return out

    # --- Traces ---------------------------------------------------------------------------------------------

    def trace(self, ids: ArrayLike, names: Iterable[str] | None = None, **settings: Any) -> dict[str, Array]:
        """Return a forward's intermediates, by name: what to compare a kernel with.

        Parameters
        ----------
        ids : array_like of int, shape (batch, tokens) or (tokens,)
        names : iterable of str, optional
            Which; all but the attention probabilities by default. `trace_names` lists what there is.
        **settings
            As for `forward` (cache, absorbed, recipe, hook).

        Returns
        -------
        dict of str to ndarray
            Attention: (batch, tokens, ...); ``probs`` (batch, heads, tokens, positions). Rotary keys are in
            the weights' own order.

        Raises
        ------
        ValueError
            Unknown names.
        """
        wanted = None if names is None else frozenset([names] if isinstance(names, str) else names)
        known = self.trace_names()
        unknown = sorted((wanted or set()) - set(known))
        if unknown:
            raise ValueError(f"names: found {', '.join(unknown)}; expected some of {', '.join(known)}")
        trace, (array, _) = Trace(wanted), self._ids(ids)
        ops = self._operations(settings.pop("recipe", None), settings.pop("hook", None))
        hidden = self.hidden(array, chunk=max(array.shape[1], 1), trace=trace, recipe=ops, **settings)
        if trace.wants("logits"):
            trace.put("logits", self.head(hidden, recipe=ops))
        if (
            self.mtp_layers
            and array.shape[1] > 1
            and any(trace.wants(n) for n in known if n.startswith("mtp."))
        ):
            absorbed = settings.get("absorbed")
            out = self.mtp_hidden(hidden[:, :-1], array[:, 1:], absorbed=absorbed, trace=trace, recipe=ops)
            if trace.wants("mtp.logits"):
                trace.put("mtp.logits", self.head(out, recipe=ops))
        return trace.found

    def trace_names(self) -> tuple[str, ...]:
        """List the names that `trace` can return."""
        names: list[str] = []
        for i in range(len(self.layers)):
            names += [f"layer{i}.{name}" for name in _layer_names(self.config, i)]
        names += ["final_norm", "logits"]
        if self.mtp_layers:
            names += [
                f"mtp.{name}"
                for name in (
                    *_layer_names(self.config, len(self.layers)),
                    "hidden_prenorm",
                    "hidden",
                    "logits",
                )
            ]
        return tuple(names)

    def operations(
        self, recipe: Recipe | str | None = None, ids: ArrayLike = (0,), **settings: Any
    ) -> list[Operation]:
        """List the operations of a forward of some ids, in order, and what a recipe makes of each operation.

        Which experts there are depends on the ids. For the settings see `forward`.
        """
        found: list[Operation] = []
        self.forward(ids, recipe=recipe, hook=lambda done: found.append(done.operation), **settings)
        return found

    # --- Generation -----------------------------------------------------------------------------------------

    def generate(self, ids: ArrayLike, **settings: Any) -> Generation:
        """Continue a sequence of tokens; see `dsv3_numerics.model.generate` for the settings."""
        return generate(self, ids, **settings)

    # --- Checks ---------------------------------------------------------------------------------------------

    def _ids(self, ids: ArrayLike) -> tuple[NDArray[np.int64], bool]:
        array = as_array(ids, "ids")
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"ids: found dtype {array.dtype}, expected integers")
        if array.ndim not in (1, 2):
            raise ValueError(f"ids: found shape {array.shape}, expected (batch, tokens) or (tokens,)")
        if array.size and not (array.min() >= 0 and array.max() < self.config.vocab_size):
            raise ValueError(
                f"ids: found {array.min()} to {array.max()}, expected 0 to {self.config.vocab_size - 1}"
            )
        return np.atleast_2d(array).astype(np.int64), array.ndim == 2

    def _lengths(self, lengths: ArrayLike | None, batch: int, tokens: int) -> NDArray[np.int64]:
        if lengths is None:
            return np.full(batch, tokens, np.int64)
        counts = as_array(lengths, "lengths")
        if counts.dtype.kind not in "iu" or counts.shape != (batch,):
            raise ValueError(f"lengths: found {counts.dtype} {counts.shape}, expected integers, ({batch},)")
        if batch and not (counts.min() >= 1 and counts.max() <= tokens):
            raise ValueError(f"lengths: found {counts.min()} to {counts.max()}, expected 1 to {tokens}")
        return counts.astype(np.int64)

    def _through(
        self,
        layer: Block,
        x: Array,
        cache: Cache | None,
        absorbed: bool | None,
        ops: Operations,
        selection: Selection,
        trace: Trace,
    ) -> Array:
        """One layer; numbers that are not finite are traced back to the weights that hold such."""
        why: ValueError | None = None
        try:
            at = f"layer{layer.layer}."
            out = layer(x, cache, absorbed=absorbed, recipe=ops, selection=selection, trace=trace, at=at)
        except ValueError as error:
            why = error
        if why is None and np.isfinite(out).all():
            return out
        bad = self.weights.under("model.embed_tokens.").not_finite() or layer.weights.not_finite()
        if not bad and why is not None and not isinstance(why, NotFiniteError):
            raise why
        room = f"formats or accumulator of recipe {ops.recipe.name!r}" if ops.named else "the model's dtype"
        source = f"NaN or infinity in {', '.join(bad[:4])}" if bad else f"its numbers overflow {room}"
        raise ValueError(f"layer {layer.layer}: its output is not finite: {source}") from why

    def __repr__(self) -> str:
        c = self.config
        sizes = f"{c.num_hidden_layers} layers, {c.hidden_size} channels, {c.n_routed_experts} experts"
        return f"Model({sizes}, {self.dtype})"


def _fitting(config: Config, names: Iterable[str]) -> Config:
    """Return the config, without multi-token prediction where a file has none; warn of what is left out."""
    main, there = config.num_hidden_layers, layers_of(names)
    if config.num_nextn_predict_layers and not any(layer >= main for layer in there):
        warnings.warn(
            f"no tensors of multi-token prediction (layer {main} on), though the config has "
            f"num_nextn_predict_layers {config.num_nextn_predict_layers}: running without it",
            stacklevel=3,
        )
        return config.replace(num_nextn_predict_layers=0)
    beyond = [layer for layer in there if layer >= main + config.num_nextn_predict_layers]
    if beyond:
        some = ", ".join(map(str, sorted(beyond)[:8]))
        warnings.warn(f"{len(beyond)} layers beyond the config's are left out: {some}", stacklevel=3)
    return config


def _layer_names(config: Config, layer: int) -> tuple[str, ...]:
    moe, indexer = config.is_moe(layer), TRACED if config.has_indexer(layer) else ()
    attention = ("input", "attn_norm", *indexer, "c_kv", "k_pe", "probs", "heads", "attn_out", "ffn_norm")
    gate = ("router_logits", "topk_idx", "topk_weight", "routing_gap", "shared") if moe else ()
    return (*attention, *gate, "mlp_out", "output")
