"""Operations: the steps of the forward, each done as a recipe says, one at a time.

Lives here: `Operations`, which layers are compositions of. The reference forward is the recipe that leaves
everything in float32 or float64. Arithmetic is the core's, what a hook is told is in `records`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_array
from ..gemm import matmul_nt
from ..schemes import Cast, Scheme, quantize
from . import descriptions
from .activations import Activations, as_numbers, to_bfloat16
from .cache import Cache
from .cache_formats import CacheFormat
from .fields import COMPUTE, MASK_VALUES, NONE
from .projections import PLAIN, products_of
from .recipe import Recipe
from .records import Hook, Operation, OpRecord, Routing
from .weights import Weights

Result = TypeVar("Result")
# Rows up to which the core adds products in another order.
_FEW = 8
_BF16 = Cast("bfloat16")
_PLAIN = {compute: Recipe(compute=compute) for compute in COMPUTE}


class Attended(NamedTuple):
    """Arguments of `Operations.attend`, without the name."""

    q: Array
    cached: Sequence[Array]
    settings: dict[str, Any]
    weights: Weights
    absorbed: bool
    expanded: Sequence[Array] | None
    probs: Array | None
    selected: Sequence[NDArray[np.bool_]] | None


class Operations:
    """The operations of a recipe.

    Parameters
    ----------
    recipe : Recipe or str
    hook : callable, optional
        Told of every operation.
    named : bool
        Whether a user named the recipe, so that it also decides what a cache has to be and how groups are
        masked; otherwise those are as they are given.
    foreign : bool
        Whether arrays come from another recipe and have to be brought to this one's numbers.
    """

    def __init__(
        self, recipe: Recipe | str, hook: Hook | None = None, *, named: bool = True, foreign: bool = False
    ) -> None:
        self.recipe, self.hook, self.named, self._foreign = Recipe.of(recipe), hook, named, foreign
        self.bfloat16, self._products = self.recipe.bfloat16, products_of(self.recipe)
        whole = hook is None and not foreign
        self._usual = self._products.usual if whole else None
        self._first = self._products.first if whole else None

    @classmethod
    def of(
        cls, recipe: Recipe | str | Operations | None, dtype: np.dtype[Any], hook: Hook | None = None
    ) -> Operations:
        """Make the operations of a recipe, of a preset's name, or of the reference in a dtype."""
        if isinstance(recipe, Operations):
            return recipe
        if recipe is None:
            return cls(_PLAIN["float32" if dtype.itemsize == 4 else "float64"], hook, named=False)
        return cls(recipe, hook)

    # --- Watching -------------------------------------------------------------------------------------------

    def _do(
        self,
        name: str,
        kind: str,
        inputs: Callable[[], Sequence[Array]],
        run: Callable[[Operations], Result],
        describe: Callable[[Recipe], str],
        shown: Callable[[Result, Recipe], Array] = lambda out, _: out,  # type: ignore[assignment, return-value]
    ) -> Result:
        """Run an operation; if there is a hook, call it with a record and a way to run it again."""
        if self.hook is None:
            return run(self)
        before = tuple(map(_locked, inputs()))
        out = run(self)

        def replay(recipe: Recipe | str) -> Array:
            other = Recipe.of(recipe)
            return shown(run(Operations(other, foreign=True)), other)

        operation = Operation(name, kind, describe(self.recipe))
        self.hook(OpRecord(operation, before, _locked(shown(out, self.recipe)), replay))
        return out

    def _take(self, x: Array) -> Array:
        """Return an input in this recipe's numbers."""
        return as_numbers(x, self.recipe) if self._foreign else x

    def _through(self, scheme: Scheme, x: Array) -> Array:
        """Return what is left of numbers that have been in a scheme."""
        lossless = scheme.is_identity or (self.bfloat16 and scheme == _BF16)
        return x if lossless else scheme.read_back(x)

    @property
    def _alone(self) -> bool:
        """Tell whether inputs may be written to."""
        return self.hook is None and not self._foreign

    @property
    def codes_on_arrival(self) -> bool:
        """Tell whether experts' first products make the codes of dispatch themselves, each row's alone."""
        return self._first is not None and self.recipe.dispatch.is_quantized

    # --- Linear layers --------------------------------------------------------------------------------------

    def activations(self, x: Array) -> Activations:
        """Numbers as the left operand of the linear layers that take them."""
        return Activations(x, self.recipe.compute)

    def linear(
        self,
        name: str,
        x: Activations,
        weights: Weights,
        key: str,
        *,
        dispatched: bool = False,
        rows: tuple[int, int] | None = None,
        as_many_rows: bool = False,
    ) -> Array:
        """``x @ w.T`` of a layer that the release quantizes, or of some rows of its weight.

        `dispatched` are experts' first products, whose activations are what dispatch made of them.
        `as_many_rows` adds numbers in the order of many rows however few there are, as the core does for keys
        and values.
        """
        how = self._first if dispatched else self._usual
        if how is not None and x.plain is not None:
            weight = weights.right(key, self._products.use, rows)
            with suppress(ValueError):  # step by step it is said where
                return _projected(x.plain, weight, how)
        return self._do(
            name,
            "linear",
            x.arrays,
            lambda ops: ops._product(x.of(ops.recipe), weights, key, dispatched, rows, as_many_rows),
            lambda recipe: descriptions.product(recipe, dispatched),
        )

    def _product(
        self,
        x: Activations,
        weights: Weights,
        key: str,
        dispatched: bool,
        rows: tuple[int, int] | None,
        as_many_rows: bool,
    ) -> Array:
        recipe, use = self.recipe, self._products.use
        scheme = recipe.activation_scheme(dispatched=dispatched)
        if recipe.accumulator == NONE:
            numbers, matrix = x.numbers(recipe, scheme), weights.matrix(key, use, rows=rows)
            return self._product_of_numbers(numbers, matrix, as_many_rows)
        if scheme.is_identity:
            a: Any = x.numbers(recipe).reshape(-1, x.shape[-1]).astype(ml_dtypes.bfloat16)
        else:
            a = x.codes(scheme)
        out = matmul_nt(
            a,
            weights.operand(key, use, rows=rows),
            accumulator=recipe.accumulator,
            promote_every=recipe.promote_every,
            dtype=ml_dtypes.bfloat16 if self.bfloat16 else np.float32,  # rounded where the sum ends
        )
        return out.reshape(*x.shape[:-1], out.shape[-1]).astype(recipe.dtype, copy=False)

    def _product_of_numbers(self, x: Array, w: _core.Weight, as_many_rows: bool) -> Array:
        missing = _FEW + 1 - len(x) if as_many_rows else 0
        if missing <= 0:
            return _projected(x, w, PLAIN[self.bfloat16])
        padded = np.pad(x, ((0, missing), (0, 0)))
        return _projected(padded, w, PLAIN[self.bfloat16])[: len(x)]

    def swiglu(
        self, x: Activations, weights: Weights, under: str, *, dispatched: bool, out: Array | None = None
    ) -> Array | None:
        """``down(silu(gate(x)) * up(x))`` in one crossing, or None where that is not possible.

        Hooks see it step by step, and so does whoever asks for what is wrong.
        """
        first, last, use = self._first if dispatched else self._usual, self._usual, self._products.use
        numbers = x.plain
        if first is None or last is None or numbers is None:
            return None
        found = tuple(weights.right(f"{under}{name}_proj.weight", use) for name in ("gate", "up", "down"))
        if out is None:
            out = _core.empty((*numbers.shape[:-1], found[2].shape[0]), numbers.dtype)
        rows = numbers.size // numbers.shape[-1]
        try:
            _core.swiglu(numbers.reshape(-1), rows, found, (first, last), out.reshape(-1))
        except ValueError:
            return None
        return out

    def plain_linear(self, name: str, x: Array, weights: Weights, key: str, kind: str = "linear") -> Array:
        """``x @ w.T`` of a layer that stays in numbers, as head and MTP's projection do."""

        def run(ops: Operations) -> Array:
            matrix = weights.numbers_of(key, bfloat16=ops.bfloat16)
            return _projected(ops._take(x), matrix, PLAIN[ops.bfloat16])

        return self._do(name, kind, lambda: (x,), run, descriptions.numbers)

    def precise_linear(self, name: str, x: Activations, weights: Weights, key: str) -> Array:
        """``x @ w.T`` of a layer that is computed in float32 where the others hand over bfloat16."""

        def run(ops: Operations) -> Array:
            numbers = x.of(ops.recipe).numbers(ops.recipe)
            matrix = weights.numbers_of(key, bfloat16=ops.bfloat16)
            return _projected(numbers, matrix, PLAIN[False])

        return self._do(name, "linear", x.arrays, run, descriptions.numbers)

    # --- Single numbers -------------------------------------------------------------------------------------

    def embed(self, name: str, ids: NDArray[np.int64], table: Array) -> Array:
        """Rows of a table of embeddings."""

        def run(ops: Operations) -> Array:
            return as_numbers(table[ids], ops.recipe)

        return self._do(name, "embed", lambda: (ids,), run, descriptions.numbers)

    def norm(self, name: str, x: Array, weights: Weights, key: str, eps: float) -> Array:
        """RMSNorm over the last axis; under bfloat16 rounded once, after the weight."""

        def run(ops: Operations) -> Array:
            given = ops._take(x)
            out = _core.empty(given.shape, given.dtype)
            w = weights.numbers_of(key, bfloat16=ops.bfloat16)
            _core.rms_norm(given.reshape(-1), w, eps, ops.bfloat16, out.reshape(-1))
            return out

        return self._do(name, "norm", lambda: (x,), run, descriptions.numbers)

    def layer_norm(self, name: str, x: Array, weights: Weights, under: str, eps: float) -> Array:
        """Layer norm over the last axis, with weight and bias; under bfloat16 rounded once, at the end."""

        def run(ops: Operations) -> Array:
            given = ops._take(x)
            out = _core.empty(given.shape, given.dtype)
            w, b = (weights.numbers_of(f"{under}.{part}") for part in ("weight", "bias"))
            _core.layer_norm(given.reshape(-1), w, b, eps, ops.bfloat16, out.reshape(-1))
            return out

        return self._do(name, "norm", lambda: (x,), run, descriptions.numbers)

    def silu(self, name: str, a: Array, b: Array) -> Array:
        """``silu(a) * b``; under bfloat16 rounded after each."""

        def run(ops: Operations) -> Array:
            left, right = ops._take(a), ops._take(b)
            out = _core.empty(left.shape, left.dtype)
            _core.silu_product(left.reshape(-1), right.reshape(-1), ops.bfloat16, out.reshape(-1))
            return out

        return self._do(name, "silu", lambda: (a, b), run, descriptions.numbers)

    def add(self, name: str, a: Array, b: Array) -> Array:
        """Return a residual connection."""

        def run(ops: Operations) -> Array:
            return ops._sum(ops._take(a), ops._take(b))

        return self._do(name, "add", lambda: (a, b), run, descriptions.numbers)

    def _sum(self, a: Array, b: Array) -> Array:
        if not self.bfloat16:
            return a + b
        out = _core.empty(a.shape, a.dtype)
        _core.add(a.reshape(-1), b.reshape(-1), True, out.reshape(-1))
        return out

    # --- Attention ------------------------------------------------------------------------------------------

    def rotate(
        self, name: str, x: Array, settings: dict[str, Any], positions: NDArray[np.int64], heads: int
    ) -> Array:
        """Rotate the last channels of every head by its token's position; in place without a hook."""

        def run(ops: Operations) -> Array:
            turned = ops._take(x)
            if not ops._alone:
                turned = turned.copy()
            width = turned.size // (heads * len(positions))
            flat = turned.reshape(-1)
            _core.rotate(flat, settings, positions, heads, width, ops.bfloat16)
            return turned

        return self._do(name, "rotate", lambda: (x,), run, descriptions.numbers)

    def cache(self, name: str, x: Array, cache: Cache, layer: int) -> list[Array]:
        """Put new tokens (batch, new, channels) into a cache; what is then read of each sequence."""
        recipe, new = self.recipe, x.shape[1]
        cache.append(layer, x)
        cached = cache.cached_latents(layer, new, recipe.dtype)
        if recipe.bfloat16 and not cache.format.keeps_bfloat16:
            cached = [to_bfloat16(tokens) for tokens in cached]
        if self.hook is not None:

            def replay(other: Recipe | str) -> Array:
                ops = Operations(Recipe.of(other), foreign=True)
                kept = CacheFormat.of(ops.recipe.cache_scheme, cache.format.rank, cache.format.rope)
                flat_x = ops._take(x).reshape(-1, x.shape[-1])
                read = kept.read(kept.write(flat_x), ops.recipe.dtype).reshape(x.shape)
                return read if kept.keeps_bfloat16 else as_numbers(read, ops.recipe)

            operation = Operation(name, "cache", f"{cache.format.name} -> {recipe.compute}")
            fresh = np.stack([tokens[-new:] for tokens in cached])
            self.hook(OpRecord(operation, (_locked(x),), _locked(fresh), replay))
        return cached

    @property
    def splits(self) -> bool:
        """Tell whether naive attention has its keys and values made by a linear layer of their own."""
        return (
            self.hook is not None
            or not self.recipe.activations.is_identity
            or self.recipe.accumulator != NONE
        )

    def attend(
        self,
        name: str,
        q: Array,
        cached: Sequence[Array],
        settings: dict[str, Any],
        weights: Weights,
        *,
        absorbed: bool,
        expanded: Sequence[Array] | None = None,
        probs: Array | None = None,
        selected: Sequence[NDArray[np.bool_]] | None = None,
    ) -> Array:
        """Heads' results (batch, new, heads * v), each sequence for itself.

        Parameters
        ----------
        q : ndarray, shape (batch, new, heads * (nope + rope))
        cached : arrays of shape (past + new, rank + rope)
        expanded : arrays of shape (past + new, heads * (nope + v)), optional
            Keys and values, where `kv_b_proj` has been applied. Otherwise its numbers are: to the latents, or
            `absorbed` to queries and results.
        probs : ndarray, shape (batch, new, heads, positions), optional
            Filled, where given.
        selected : arrays of bool, shape (new, past + new), optional
            The positions that each token attends to, of those that it sees.
        """
        given = Attended(q, cached, settings, weights, absorbed, expanded, probs, selected)
        return self._do(
            name,
            "attend",
            lambda: (q, *cached, *(expanded or ())),
            lambda ops: self._attend(ops, given),
            lambda recipe: descriptions.attend(recipe, absorbed),
        )

    def _attend(self, ops: Operations, given: Attended) -> Array:
        """Run `attend` by the recipe of some operations."""
        q, cached, settings, weights, absorbed, expanded, probs, selected = given
        batch, new, _ = q.shape
        queries, heads = ops._take(q), settings["heads"]
        use = ops._products.use
        matrix = None if expanded is not None else weights.matrix("kv_b_proj.weight", use)
        out = _core.empty((batch, new, heads * settings["v"]), queries.dtype)
        for b, tokens in enumerate(map(ops._take, cached)):
            shares = None
            if probs is not None and not ops._foreign:
                shares = np.empty((new, heads, len(tokens)), queries.dtype)
            _core.attend(
                queries[b].reshape(-1),
                tokens.reshape(-1),
                settings,
                len(tokens) - new,
                absorbed,
                matrix,
                None if expanded is None else ops._take(expanded[b]).reshape(-1),
                ops.bfloat16,
                out[b].reshape(-1),
                None if shares is None else shares.reshape(-1),
                None if selected is None else selected[b].reshape(-1),
            )
            if probs is not None and shares is not None:
                probs[b, :, :, : len(tokens)] = shares
        return out

    # --- Experts --------------------------------------------------------------------------------------------

    def group_mask(self, settings: Mapping[str, Any]) -> float:
        """Score of groups that a router leaves out: the recipe's if a user named one, else the model's."""
        own = not self.named or settings["own_mask"]
        return float(settings["masked"] if own else MASK_VALUES[self.recipe.group_mask_value])

    def gate(self, name: str, x: Array, weights: Weights, settings: dict[str, Any]) -> Routing:
        """Which experts tokens go to."""

        def run(ops: Operations) -> Routing:
            return self._route(ops, x, weights, settings)

        return self._do(name, "gate", lambda: (x,), run, descriptions.gate, _dense)

    def _route(self, ops: Operations, x: Array, weights: Weights, settings: dict[str, Any]) -> Routing:
        """Run `gate` by the recipe of some operations."""
        recipe = ops.recipe
        own = recipe.compute if recipe.gate == NONE else recipe.gate
        inner = _PLAIN[own]
        matrix = weights.numbers_of("weight", bfloat16=recipe.bfloat16 or inner.bfloat16)
        given = ops._take(x)
        if own != recipe.compute:
            given = as_numbers(given, inner)
        logits = _projected(given, matrix, PLAIN[inner.bfloat16])
        shape = (*x.shape[:-1], settings["top"])
        indices = np.empty(shape, np.int64)
        found, gap = np.empty(shape, logits.dtype), np.empty(x.shape[:-1], logits.dtype)
        masked = ops.group_mask(settings)
        biased = "e_score_correction_bias" in weights
        _core.gate(
            logits.reshape(-1),
            weights.numbers_of("e_score_correction_bias") if biased else None,
            {**settings, "masked": masked, "bfloat16": inner.bfloat16},
            indices.reshape(-1),
            found.reshape(-1),
            gap.reshape(-1),
        )
        return Routing(indices, found, gap, logits)

    def dispatch(self, name: str, x: Array) -> Activations:
        """Tokens (tokens, channels) as experts get them."""

        def run(ops: Operations) -> Activations:
            recipe, given = ops.recipe, ops._take(x)
            scheme = recipe.scheme("dispatch")
            if scheme.is_quantized:
                return Activations.arrived(quantize(given, scheme), scheme, recipe.compute)
            read = ops._through(scheme, given)
            return Activations(read if read is given else as_numbers(read, recipe), recipe.compute)

        def shown(out: Activations, recipe: Recipe) -> Array:
            return out.numbers(recipe)

        return self._do(name, "dispatch", lambda: (x,), run, descriptions.dispatch, shown)

    def combine(
        self, name: str, parts: Array, indices: NDArray[np.int64], shares: Array, shared: Array | None
    ) -> Array:
        """Return the weighted sum of what experts send back, and the shared expert's output.

        Parameters
        ----------
        parts : ndarray, shape (tokens * top, channels)
            Outputs, expert by expert in ascending order, tokens of one expert in order.
        indices, shares : ndarray, shape (tokens, top)
            Experts and their weights.
        shared : ndarray, shape (tokens, channels), or None
        """

        def run(ops: Operations) -> Array:
            recipe, given = ops.recipe, ops._take(parts)
            extra = None if shared is None else ops._take(shared)
            if recipe.combine.is_identity:
                return _combined(given, indices, shares, extra, ascending=True, bfloat16=ops.bfloat16)
            received = ops._through(recipe.scheme("combine"), given).astype(np.float32, copy=False)
            if recipe.dtype == np.float32:
                return _combined(received, indices, shares, extra, ascending=False, bfloat16=ops.bfloat16)
            out = _combined(received, indices, shares, None, ascending=False, bfloat16=False)
            wide: Array = out.astype(recipe.dtype)
            return wide if extra is None else wide + extra

        inputs = (parts, indices, shares) if shared is None else (parts, indices, shares, shared)
        return self._do(name, "combine", lambda: inputs, run, descriptions.combine)


def _projected(x: Array, w: _core.Weight | _core.Operand, how: _core.Projection) -> Array:
    """``x @ w.T``, with activations put into codes and results rounded as a projection says."""
    out = _core.empty((*x.shape[:-1], w.shape[0]), x.dtype)
    _core.linear(x.reshape(-1), x.size // x.shape[-1] if x.size else 0, w, how, out.reshape(-1))
    return out


def _combined(
    parts: Array,
    indices: NDArray[np.int64],
    shares: Array,
    shared: Array | None,
    *,
    ascending: bool,
    bfloat16: bool,
) -> Array:
    """Sum over each token's experts in the dtype of `parts`: in ascending order, or as `indices` has them."""
    (tokens, top), channels = indices.shape, parts.shape[1]
    out = _core.empty((tokens, channels), parts.dtype)
    _core.combine(
        parts.reshape(-1),
        indices.reshape(-1),
        shares.astype(parts.dtype, copy=False).reshape(-1),
        None if shared is None else shared.reshape(-1),
        top,
        channels,
        ascending,
        bfloat16,
        out.reshape(-1),
    )
    return out


def _dense(routing: Routing, _: Recipe) -> Array:
    """Weights by expert, zero for those that were not chosen."""
    out = np.zeros(routing.logits.shape, routing.weights.dtype)
    np.put_along_axis(out, routing.indices, routing.weights, axis=-1)
    return out


def _locked(x: Array) -> Array:
    view = as_array(x, "array").view()
    view.flags.writeable = False
    return view
