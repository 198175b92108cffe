"""Weights: which tensors a model has, and how an array, mapped or not, becomes a matrix of the core.

Lives here: `expected_shapes`, the table of names and shapes that a config implies, `check`, which lists
everything that is missing or of another shape at once, and `Weights`, which hands out matrices when they are
used. FP8 weights stay FP8 in the mapped file; the core widens them panel by panel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from .. import _core
from .._arrays import SOURCES, Array, as_array, flat
from .._operands import side_of
from ..accumulator import accumulator_info
from ..checkpoint import Checkpoint
from ..checkpoint.dequantize import weight_named
from ..number_formats import encode, format_info
from ..quantized import Quantized
from ..schemes import Cast, Identity, Scaled, Scheme, quantize
from .config import Config
from .fields import NONE
from .fitting import as_stored, check_fit, fits_anything, is_quantized, unlike
from .projections import WeightUse
from .recipe import Recipe

Given: TypeAlias = Any
"""An array of float32, float64, float16 or bfloat16, or a `Quantized` of blocks."""

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Rows: TypeAlias = tuple[int, int] | None

_STORED, _BF16 = Identity(), Cast("bfloat16")
_WIDEST_CODE = 8  # bits of codes that the core widens in its products

_LISTED = 12  # problems that a message lists in full

PREPARED_BYTES = 1 << 30
"""Memory for weights that are laid out once for all products under an emulated unit."""


def indexer_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a lightning indexer, by their names within it; none without one."""
    heads, channels, rank = config.index_n_heads, config.index_head_dim, config.q_lora_rank
    if heads is None or channels is None or rank is None:
        return {}
    return {
        "wq_b.weight": (heads * channels, rank),
        "wk.weight": (channels, config.hidden_size),
        "k_norm.weight": (channels,),
        "k_norm.bias": (channels,),
        "weights_proj.weight": (heads, config.hidden_size),
    }


def attention_shapes(config: Config, *, indexer: bool | None = None) -> dict[str, tuple[int, ...]]:
    """Return the tensors of an attention layer, those of an indexer among them, by their names within it."""
    d, heads = config.hidden_size, config.num_attention_heads
    q = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    rank = config.kv_lora_rank
    query: dict[str, tuple[int, ...]] = {"q_proj.weight": (q, d)}
    if config.q_lora_rank is not None:
        query = {
            "q_a_proj.weight": (config.q_lora_rank, d),
            "q_a_layernorm.weight": (config.q_lora_rank,),
            "q_b_proj.weight": (q, config.q_lora_rank),
        }
    return (
        query
        | {
            "kv_a_proj_with_mqa.weight": (config.cache_width, d),
            "kv_a_layernorm.weight": (rank,),
            "kv_b_proj.weight": (heads * (config.qk_nope_head_dim + config.v_head_dim), rank),
            "o_proj.weight": (d, heads * config.v_head_dim),
        }
        | _under("indexer.", indexer_shapes(config) if indexer is None or indexer else {})
    )


def mlp_shapes(config: Config, inner: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one SwiGLU."""
    d = config.hidden_size
    return {"gate_proj.weight": (inner, d), "up_proj.weight": (inner, d), "down_proj.weight": (d, inner)}


def gate_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a gate."""
    experts = config.n_routed_experts
    bias: dict[str, tuple[int, ...]] = {"e_score_correction_bias": (experts,)} if config.has_gate_bias else {}
    return {"weight": (experts, config.hidden_size)} | bias


def moe_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer of experts, its gate among them."""
    found = _under("gate.", gate_shapes(config))
    inner = config.moe_intermediate_size
    for expert in range(config.n_routed_experts):
        found |= _under(f"experts.{expert}.", mlp_shapes(config, inner))
    if config.n_shared_experts:
        found |= _under("shared_experts.", mlp_shapes(config, inner * config.n_shared_experts))
    return found


def block_shapes(config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer; layers beyond the last are those of multi-token prediction."""
    d = config.hidden_size
    mlp = moe_shapes(config) if config.is_moe(layer) else mlp_shapes(config, config.intermediate_size)
    return (
        {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        | _under("self_attn.", attention_shapes(config, indexer=config.has_indexer(layer)))
        | _under("mlp.", mlp)
    )


def mtp_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """List the tensors of a layer of multi-token prediction beside its block."""
    d = config.hidden_size
    norms: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (d,) for name in ("enorm", "hnorm", "shared_head.norm")
    }
    return norms | {"eh_proj.weight": (d, 2 * d)}


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model and its shape, by the checkpoint's names."""
    d, vocab = config.hidden_size, config.vocab_size
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (vocab, d),
    }
    main = config.num_hidden_layers
    for layer in range(main + config.num_nextn_predict_layers):
        shapes = block_shapes(config, layer) | (mtp_shapes(config) if layer >= main else {})
        found |= _under(f"model.layers.{layer}.", shapes)
    return found


_DUPLICATES = ("embed_tokens.weight", "shared_head.head.weight")  # in layers of multi-token prediction
_DERIVED = ("self_attn.rotary_emb.inv_freq",)  # of the config; older programs saved it


def unknown_tensors(names: Iterable[str], config: Config, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the tensors that no part of a model takes: the file holds another model than the config says.

    `shapes` are the `expected_shapes`. Layers beyond those of the config, which programs leave out together,
    are not among them.
    """
    last = config.num_hidden_layers + config.num_nextn_predict_layers
    unknown = []
    for name in names:
        match = _LAYER.match(name)
        layer = -1 if match is None else int(match[1])
        rest = name if match is None else name[match.end() :]
        spare = rest in _DERIVED or (layer >= config.num_hidden_layers and rest in _DUPLICATES)
        if name not in shapes and not spare and layer < last:
            unknown.append(name)
    return unknown


_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")


def layers_of(names: Iterable[str]) -> set[int]:
    """Return the layers of which there are tensors."""
    return {int(match[1]) for match in map(_LAYER.match, names) if match}


def ensure_layers(names: Iterable[str], config: Config) -> None:
    """Refuse, before any name is made of it, a number of layers that the tensors do not bear out.

    Raises
    ------
    ValueError
        Layers that the config has and of which there is no tensor at all.
    """
    there = layers_of(names)
    layers = config.num_hidden_layers + config.num_nextn_predict_layers
    absent = layers - sum(layer < layers for layer in there)
    if absent:
        first = list(islice((layer for layer in range(layers) if layer not in there), _LISTED))
        more = f" and {absent - len(first)} more" if absent > len(first) else ""
        raise ValueError(
            f"num_hidden_layers: found {config.num_hidden_layers} (num_nextn_predict_layers "
            f"{config.num_nextn_predict_layers}), but there is no tensor of layer "
            f"{', '.join(map(str, first))}{more}"
        )


def _under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in shapes.items()}


class Kept:
    """Things made of tensors once, shared by all parts of a model.

    Attributes
    ----------
    made : dict
        Matrices, operands and arrays by tensor and use.
    fitted : set
        Prefixes and choices of recipes that were held against them.
    once : set
        Keys of operands that were used once, and are laid out when they are used again.
    room : int
        Bytes that are left for that.
    """

    def __init__(self, room: int) -> None:
        self.made: dict[Any, Any] = {}
        self.fitted: set[tuple[Any, ...]] = set()
        self.once: set[Any] = set()
        self.room = room

    def prepare(self, key: Any, operand: _core.Operand, accumulator: str) -> None:
        """Lay out an operand, if there is room."""
        self.once.discard(key)
        rows, cols = operand.shape
        if 2 * rows * cols <= self.room:  # the most that it takes
            self.room -= operand.prepare(accumulator)


class Weights:
    """Named tensors of known shapes, turned into the core's matrices one by one, when they are used.

    Parameters
    ----------
    found : mapping of str to array, or to `Quantized`
        Under whatever names follow `prefix`. It may be an open checkpoint seen through `joined`.
    shapes : mapping of str to shape
        What has to be there.

    Raises
    ------
    ValueError
        Tensors are missing, or have other shapes: all of them, with both shapes.
    """

    def __init__(
        self,
        found: Mapping[str, Given],
        shapes: Mapping[str, tuple[int, ...]],
        *,
        weights_as_bf16: bool = False,
        prefix: str = "",
        kept: Kept | None = None,
    ) -> None:
        self._found = found
        self._shapes = shapes
        self._weights_as_bf16 = weights_as_bf16
        self._prefix = prefix
        self._kept = Kept(PREPARED_BYTES) if kept is None else kept
        self._made, self._fitted = self._kept.made, self._kept.fitted

    def under(self, prefix: str) -> Weights:
        """Return the tensors whose names begin with `prefix`."""
        return Weights(
            self._found,
            self._shapes,
            weights_as_bf16=self._weights_as_bf16,
            prefix=self._prefix + prefix,
            kept=self._kept,
        )

    def __iter__(self) -> Iterator[str]:
        n = len(self._prefix)
        return (name[n:] for name in self._shapes if name.startswith(self._prefix))

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._shapes

    def __getitem__(self, name: str) -> _core.Weight:
        return self.numbers_of(name)

    def numbers_of(self, name: str, *, bfloat16: bool = False) -> _core.Weight:
        """Return the numbers that a tensor means, as it is stored or rounded to bfloat16."""
        return self._matrix(name, _STORED, bfloat16)

    def right(self, name: str, use: WeightUse, rows: Rows = None) -> _core.Weight | _core.Operand:
        """Return a weight as products take it, numbers or codes; what is used again is laid out for it."""
        key = (self._prefix + name, use, rows)
        found: _core.Weight | _core.Operand | None = self._made.get(key)
        if found is None:
            if use.accumulator == NONE:
                found = self.matrix(name, use, rows=rows)
            else:
                unit, held = accumulator_info(use.accumulator), self.operand(name, use, rows=rows)
                found = _core.Operand(side_of(held, key[0], unit).argument(), *held.shape)
                if rows is None:
                    self._kept.once.add(key)
            self._made[key] = found
        elif key in self._kept.once and isinstance(found, _core.Operand):
            self._kept.prepare(key, found, use.accumulator)
        return found

    def matrix(self, name: str, use: WeightUse, *, rows: Rows = None) -> _core.Weight:
        """Return the numbers that a weight means in a recipe's scheme, for products of numbers."""
        scheme, bfloat16 = use.scheme, use.bfloat16
        if rows is None:
            return self._matrix(name, scheme, bfloat16)
        held = some_rows(self._numbers_in(name, scheme, bfloat16), rows)
        weights_as_bf16 = self._weights_as_bf16 or bfloat16 or scheme == _BF16
        return matrix(self._prefix + name, held, held.shape, weights_as_bf16=weights_as_bf16)

    def operand(self, name: str, use: WeightUse, *, rows: Rows = None) -> Given:
        """Return a weight in a recipe's scheme, for products of codes; some rows, in whole blocks."""
        scheme = use.scheme
        held = self._codes(name, scheme) if isinstance(scheme, Cast) else self._held(name, scheme)
        return held if rows is None else some_rows(held, rows)

    def block_rows(self, name: str, recipe: Recipe) -> int:
        """Rows of a weight that share scales in a recipe's scheme."""
        held = self._held(name, recipe.scheme("weights"))
        return held.block[0] if isinstance(held, Quantized) and held.axis is None else 1

    def _matrix(self, name: str, scheme: Scheme, bfloat16: bool) -> _core.Weight:
        full = self._prefix + name
        key = (full, scheme, bfloat16)
        made = self._made.get(key)
        if made is None:
            held = self._numbers_in(name, scheme, bfloat16)
            weights_as_bf16 = self._weights_as_bf16 or bfloat16 or scheme == _BF16
            self._made[key] = made = matrix(full, held, self._shapes[full], weights_as_bf16=weights_as_bf16)
        found: _core.Weight = made
        return found

    def _numbers_in(self, name: str, scheme: Scheme, bfloat16: bool) -> Given:
        """Source of a weight for `matrix`: codes that are to be bfloat16 stay codes, it rounds on the way."""
        plain = scheme == _BF16 or (bfloat16 and scheme.is_identity)
        held = self.given(name) if plain else self._held(name, scheme)
        if isinstance(held, Quantized) or not (plain or bfloat16):
            return held
        return self._bfloat16(self._prefix + name, held, scheme)

    def _held(self, name: str, scheme: Scheme) -> Given:
        """Return a weight in a scheme, made once and kept: codes, or an array of numbers."""
        key = (self._prefix + name, scheme)
        made = self._made.get(key)
        if made is None:
            self._made[key] = made = self._in_scheme(key[0], self.given(name), scheme)
        return made

    def _in_scheme(self, full: str, given: Given, scheme: Scheme) -> Given:
        problem = unlike(given, scheme)
        if problem:
            raise ValueError(f"{full}: found {problem}")
        if scheme.is_identity or as_stored(given, scheme):
            return given
        if scheme == _BF16:
            return self._bfloat16(full, given, scheme)
        numbers = given.dequantize() if isinstance(given, Quantized) else as_array(given, full)
        if not isinstance(scheme, Scaled):
            return scheme.read_back(numbers)
        made = quantize(numbers, scheme)
        return made if format_info(scheme.format).bits <= _WIDEST_CODE else made.dequantize()

    def _codes(self, name: str, scheme: Scheme) -> Array:
        """Return a weight cast to a format, as its codes."""
        held = self._held(name, scheme)
        array = held.dequantize() if isinstance(held, Quantized) else as_array(held, name)
        codes: Array = array if array.dtype == _BFLOAT16 and scheme == _BF16 else quantize(array, scheme)
        return codes

    def _bfloat16(self, full: str, given: Given, scheme: Scheme) -> Array:
        """Return a weight as bfloat16 numbers, made once and kept unless they are that already."""
        if not isinstance(given, Quantized) and as_array(given, full).dtype == _BFLOAT16:
            return as_array(given, full)
        key = (full, "bfloat16", scheme if not scheme.is_identity and scheme != _BF16 else None)
        made = self._made.get(key)
        if made is None:
            if isinstance(given, Quantized):
                made = given.dequantize(_BFLOAT16)
            else:
                made = encode(as_array(given, full), "bfloat16", overflow="nonfinite")
            self._made[key] = made
        return made

    def given(self, name: str) -> Given:
        """Return the tensor as it was given; a file is read, and codes are joined with scales, once."""
        key = (self._prefix + name, "given")
        found = self._made.get(key)
        if found is None:
            self._made[key] = found = self._found[key[0]]
        return found

    def check_fit(self, recipe: Recipe) -> None:
        """Raise ValueError unless the recipe fits every weight that it is about; remembered."""
        seen = (recipe.weights, recipe.accumulator, recipe.promote_every, recipe.compute)
        if fits_anything(recipe) or any(
            (self._prefix[:n], seen) in self._fitted for n in range(len(self._prefix) + 1)
        ):
            return
        check_fit(((self._prefix + name, self.given(name)) for name in self if is_quantized(name)), recipe)
        self._fitted.add((self._prefix, seen))

    @property
    def prefetches(self) -> bool:
        """Tell whether there are tensors in files that are large enough to ask for."""
        return isinstance(self._found, CheckpointWeights) and self._found.has_large

    def prefetch(self, names: Iterable[str], recipe: Recipe) -> None:
        """Ask the system to read what a recipe will use as it is stored; see `Checkpoint.prefetch`."""
        if not self.prefetches or not isinstance(self._found, CheckpointWeights):
            return
        scheme = recipe.scheme("weights")
        fulls = (self._prefix + name for name in names)
        self._found.prefetch([full for full in fulls if not self._replaced(full, scheme)])

    def _replaced(self, full: str, scheme: Scheme) -> bool:
        """Return True where something else is kept in memory and used instead of a tensor."""
        held = self._made.get((full, scheme))
        another = held is not None and held is not self._made.get((full, "given"))
        return another or (full, "bfloat16", None) in self._made

    def raw(self, name: str) -> Given:
        """Return the tensor as it is found, nothing kept of it."""
        return self._found[self._prefix + name]

    def numbers(self, name: str, dtype: np.dtype[Any]) -> Array:
        """Return the tensor widened to `dtype`, as an array."""
        weight = self[name]
        out = _core.empty(weight.shape, dtype)
        weight.numbers(out.reshape(-1))
        return out.reshape(self._shapes[self._prefix + name])

    def not_finite(self) -> list[str]:
        """Names of tensors that hold NaN or infinity; reads all of them."""
        names = []
        for name in self:
            if not np.isfinite(self.numbers(name, np.dtype(np.float32))).all():
                names.append(self._prefix + name)
        return names


class CheckpointWeights(Mapping[str, Given]):
    """The tensors of an open checkpoint; FP8 weights come joined with their scales, nothing is read early.

    Parameters
    ----------
    checkpoint : Checkpoint
    prefix : str
        Only tensors whose names begin so, under the rest of their names: what a layer of a model takes.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import checkpoint
    >>> from dsv3_numerics.model import Config, MoE, CheckpointWeights, random_checkpoint
    >>> config = Config.preset("tiny")
    >>> made = random_checkpoint("layer1", config, layers=[1])
    >>> experts = MoE(config, CheckpointWeights(checkpoint.open("layer1"), "model.layers.1.mlp."))
    >>> experts(np.ones((3, 128), np.float32)).shape
    (3, 128)
    """

    def __init__(self, checkpoint: Checkpoint, prefix: str = "") -> None:
        self._checkpoint = checkpoint
        self._prefix = prefix

    def __getitem__(self, name: str) -> Given:
        full = self._prefix + name
        contents = self._checkpoint.contents
        held = full in contents.weights or full in contents.problem_of  # which raises
        return self._checkpoint.quantized(full) if held else self._checkpoint[full]

    def __iter__(self) -> Iterator[str]:
        """Names of weights; tensors that belong to one, such as its scales, have none of their own."""
        n, contents = len(self._prefix), self._checkpoint.contents
        plain = (
            name for name in self._checkpoint if name not in contents.owner and name not in contents.markers
        )
        return (name[n:] for name in (*contents.weights, *plain) if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        full = self._prefix + name
        return full in self._checkpoint.weights or full in self._checkpoint

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape, from the file's header."""
        full = self._prefix + name
        held = self._checkpoint.weights.get(full)
        return self._checkpoint.info(full).shape if held is None else held.shape

    def ensure_understood(self, names: Iterable[str]) -> None:
        """Raise `CheckpointError` for the first of these weights that is not understood; reads none."""
        for name in names:
            weight_named(self._checkpoint, self._prefix + name)

    @cached_property
    def has_large(self) -> bool:
        """True: `prefetch` has something to ask for."""
        return self._checkpoint.has_large

    def prefetch(self, names: Iterable[str]) -> None:
        """Ask the system to read tensors that will be used soon."""
        fulls, held = [self._prefix + name for name in names], self._checkpoint.weights
        self._checkpoint.prefetch(held[full].codes.name if full in held else full for full in fulls)


def some_rows(given: Given, rows: tuple[int, int]) -> Given:
    """Rows of a weight, from the border of a block to one."""
    start, stop = rows
    if not isinstance(given, Quantized):
        return given[start:stop]
    size = given.block[0] if given.axis is None else 1
    scales = given.scales[start // size : -(-stop // size)]
    return replace(given, codes=given.codes[start:stop], scales=scales)


def matrix(name: str, given: Given, shape: tuple[int, ...], *, weights_as_bf16: bool = False) -> _core.Weight:
    """Return a tensor as the core takes it; no copy of C-contiguous arrays.

    Raises
    ------
    TypeError
        Another kind of array.
    ValueError
        Another shape.
    """
    problem = mismatch(name, _shape(given), shape)
    if problem:
        raise ValueError(problem)
    rows, cols = shape if len(shape) == 2 else (1, shape[0])
    if isinstance(given, Quantized):
        if given.axis not in (None, len(given.shape) - 1):
            raise ValueError(
                f"{name}: found tiles along axis {given.axis}, expected them along rows, or blocks"
            )
        if format_info(given.format).bits > 8:
            raise TypeError(f"{name}: found {given.format} codes, expected a format of at most 8 bits")
        block = (1, given.block[0]) if given.axis is not None else (given.block[0], given.block[1])
        scales = flat(given.weight_scale_inv())
        return _core.Weight(flat(given.codes), given.format, rows, cols, scales, block, weights_as_bf16)
    array = as_array(given, name)
    kind = SOURCES.get(array.dtype.newbyteorder("="))
    if kind is None:
        raise TypeError(
            f"{name}: found dtype {array.dtype}, expected {', '.join(SOURCES.values())} or a Quantized"
        )
    return _core.Weight(flat(array), kind, rows, cols)


def _shape(given: Given) -> tuple[int, ...]:
    return tuple(given.shape) if hasattr(given, "shape") else np.shape(given)


def mismatch(name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> str | None:
    """Say what is wrong with a tensor's shape."""
    return None if found == shape else f"{name}: found shape {found}, the config says {shape}"


def check(problems: list[str], what: str) -> None:
    """Raise ValueError that lists problems, if there are any."""
    if not problems:
        return
    more = len(problems) - _LISTED
    listed = problems[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
    raise ValueError(f"{what}: {len(problems)} problems:\n  " + "\n  ".join(listed))


def gathered(
    found: Mapping[str, Given],
    shapes: Mapping[str, tuple[int, ...]],
    what: str,
    *,
    weights_as_bf16: bool = False,
    prepared_bytes: int = PREPARED_BYTES,
) -> Weights:
    """`Weights` whose names and shapes have been looked at, all of them, before the first is used."""
    problems = [
        f"{name}: missing, expected shape {shape}" for name, shape in shapes.items() if name not in found
    ]
    if not problems:
        shape_of = (
            found.shape_of if isinstance(found, CheckpointWeights) else lambda name: _shape(found[name])
        )
        wrong = (mismatch(name, shape_of(name), shape) for name, shape in shapes.items())
        problems = [problem for problem in wrong if problem]
    check(problems, what)
    return Weights(found, shapes, weights_as_bf16=weights_as_bf16, kept=Kept(prepared_bytes))
