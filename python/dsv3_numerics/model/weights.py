"""Weights: which tensors a model has, and how an array, mapped or not, becomes a matrix of the core.

Lives here: `expected`, the table of names and shapes that a config implies, `check`, which lists everything
that is missing or of another shape at once, and `Weights`, which hands out matrices when they are used. FP8
weights stay FP8 in the mapped file; the core widens them panel by panel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from .. import _core
from .._arrays import SOURCES, Array, as_array, flat
from ..checkpoint import Checkpoint
from ..formats import format_info
from ..quantized import Quantized
from .config import Config

Given: TypeAlias = Any
"""An array of float32, float64, float16 or bfloat16, or a `Quantized` of blocks."""

_LISTED = 12  # problems that a message lists in full


def attention_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of an attention layer, by their names within it."""
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
    return query | {
        "kv_a_proj_with_mqa.weight": (config.cache_width, d),
        "kv_a_layernorm.weight": (rank,),
        "kv_b_proj.weight": (heads * (config.qk_nope_head_dim + config.v_head_dim), rank),
        "o_proj.weight": (d, heads * config.v_head_dim),
    }


def mlp_shapes(config: Config, inner: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one SwiGLU."""
    d = config.hidden_size
    return {"gate_proj.weight": (inner, d), "up_proj.weight": (inner, d), "down_proj.weight": (d, inner)}


def gate_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a gate."""
    experts = config.n_routed_experts
    return {"weight": (experts, config.hidden_size), "e_score_correction_bias": (experts,)}


def moe_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer of experts, its gate among them."""
    found = _under("gate.", gate_shapes(config))
    inner = config.moe_intermediate_size
    for expert in range(config.n_routed_experts):
        found |= _under(f"experts.{expert}.", mlp_shapes(config, inner))
    if config.n_shared_experts:
        found |= _under("shared_experts.", mlp_shapes(config, inner * config.n_shared_experts))
    return found


def block_shapes(config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer; layers beyond the last are those of multi-token prediction."""
    d = config.hidden_size
    mlp = moe_shapes(config) if config.is_moe(layer) else mlp_shapes(config, config.intermediate_size)
    return (
        {"input_layernorm.weight": (d,), "post_attention_layernorm.weight": (d,)}
        | _under("self_attn.", attention_shapes(config))
        | _under("mlp.", mlp)
    )


def mtp_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """What a layer of multi-token prediction has beside its block."""
    d = config.hidden_size
    norms: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (d,) for name in ("enorm", "hnorm", "shared_head.norm")
    }
    return norms | {"eh_proj.weight": (d, 2 * d)}


def expected(config: Config) -> dict[str, tuple[int, ...]]:
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


def _under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in shapes.items()}


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
        rounded: bool = False,
        prefix: str = "",
    ) -> None:
        self._found = found
        self._shapes = shapes
        self._rounded = rounded
        self._prefix = prefix
        self._made: dict[str, _core.Weight] = {}

    def under(self, prefix: str) -> Weights:
        """The tensors whose names begin with `prefix`."""
        part = Weights(self._found, self._shapes, rounded=self._rounded, prefix=self._prefix + prefix)
        part._made = self._made
        return part

    def __iter__(self) -> Iterator[str]:
        n = len(self._prefix)
        return (name[n:] for name in self._shapes if name.startswith(self._prefix))

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._shapes

    def __getitem__(self, name: str) -> _core.Weight:
        full = self._prefix + name
        made = self._made.get(full)
        if made is None:
            made = matrix(full, self._found[full], self._shapes[full], rounded=self._rounded)
            self._made[full] = made
        return made

    def raw(self, name: str) -> Given:
        """The tensor as it was given."""
        return self._found[self._prefix + name]

    def numbers(self, name: str, dtype: np.dtype[Any]) -> Array:
        """The tensor widened to `dtype`, as an array."""
        weight = self[name]
        out = np.empty(weight.shape, dtype)
        weight.numbers(out.reshape(-1), dtype.name)
        return out.reshape(self._shapes[self._prefix + name])

    def not_finite(self) -> list[str]:
        """Names of tensors that hold NaN or infinity; reads all of them."""
        names = []
        for name in self:
            if not np.isfinite(self.numbers(name, np.dtype(np.float32))).all():
                names.append(self._prefix + name)
        return names


class Stored(Mapping[str, Given]):
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
    >>> from dsv3_numerics.model import Config, MoE, Stored, random_checkpoint
    >>> config = Config.preset("tiny")
    >>> made = random_checkpoint("layer1", config, layers=[1])
    >>> experts = MoE(config, Stored(checkpoint.open("layer1"), "model.layers.1.mlp."))
    >>> experts(np.ones((3, 128), np.float32)).shape
    (3, 128)
    """

    def __init__(self, checkpoint: Checkpoint, prefix: str = "") -> None:
        self._checkpoint = checkpoint
        self._prefix = prefix

    def __getitem__(self, name: str) -> Given:
        full = self._prefix + name
        return self._checkpoint.quantized(full) if self._scaled(full) else self._checkpoint[full]

    def __iter__(self) -> Iterator[str]:
        n = len(self._prefix)
        return (name[n:] for name in self._checkpoint if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._prefix + name in self._checkpoint

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape, from the file's header."""
        return self._checkpoint.info(self._prefix + name).shape

    def _scaled(self, name: str) -> bool:
        return self._checkpoint.info(name).dtype.startswith("F8_E")


def matrix(name: str, given: Given, shape: tuple[int, ...], *, rounded: bool = False) -> _core.Weight:
    """A tensor as the core takes it; no copy of C-contiguous arrays.

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
        if given.axis is not None:
            raise ValueError(f"{name}: found tiles along axis {given.axis}, expected blocks")
        if format_info(given.format).bits > 8:
            raise TypeError(f"{name}: found {given.format} codes, expected a format of at most 8 bits")
        block = (given.block[0], given.block[1])
        scales = flat(given.weight_scale_inv())
        return _core.Weight(flat(given.codes), given.format, rows, cols, scales, block, rounded)
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
    """What is wrong with a tensor's shape."""
    return None if found == shape else f"{name}: found shape {found}, the config says {shape}"


def check(problems: list[str], what: str) -> None:
    """Raise ValueError that lists problems, if there are any."""
    if not problems:
        return
    more = len(problems) - _LISTED
    listed = problems[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
    raise ValueError(f"{what}: {len(problems)} problems:\n  " + "\n  ".join(listed))


def gathered(
    found: Mapping[str, Given], shapes: Mapping[str, tuple[int, ...]], what: str, *, rounded: bool = False
) -> Weights:
    """`Weights` whose names and shapes have been looked at, all of them, before the first is used."""
    problems = [
        f"{name}: missing, expected shape {shape}" for name, shape in shapes.items() if name not in found
    ]
    if not problems:
        shape_of = found.shape_of if isinstance(found, Stored) else lambda name: _shape(found[name])
        wrong = (mismatch(name, shape_of(name), shape) for name, shape in shapes.items())
        problems = [problem for problem in wrong if problem]
    check(problems, what)
    return Weights(found, shapes, rounded=rounded)
