"""Operations of golden vectors: the table of what there is, with which arguments and kinds of input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .._arrays import brief
from .._recipes import one_of
from . import casting, layers, products
from .inputs import CASES, Given
from .tensors import LAYOUTS, Tensors

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """Row of the table.

    Attributes
    ----------
    summary : str
        A line about it, for lists.
    defaults : mapping
        Arguments and their values where none are given.
    cases : tuple of str
        Kinds of input.
    make : callable
        Tensors of one case: ``make(arguments, given)``.
    shared : callable, optional
        Tensors that all cases share: ``shared(arguments, seed)``, the weights.
    """

    summary: str
    defaults: Mapping[str, Any]
    cases: tuple[str, ...]
    make: Callable[[Arguments, Given], Tensors]
    shared: Callable[[Arguments, int], Tensors] | None = None

    @property
    def has_model(self) -> bool:
        """Tell whether it is a part of a model, which real inputs come from."""
        return "model" in self.defaults


MOST = 1 << 31
"""Largest size in an argument."""
_MODEL = ("hidden", "outlier_channels", "zero_tokens", "repeated", "loud")
_GATES = ("gate_ties", "gate_bias", "gate_negative", "gate_saturated")
_FINITE = tuple(
    name for name, case in CASES.items() if case.finite and name not in (*_MODEL, *_GATES, "real")
)
_ALL = (*_FINITE, "specials")
_PRODUCTS = ("normal", "cancellation", "subnormals", "outlier", "zeros")
_SIZES = {"rows": 16, "columns": 512}
_QUANTIZE = {"fmt": "float8_e4m3fn", "scale": "float32", "rule": "deepgemm", "block": (1, 128)}
_TRAINING = {"recipe": "deepseek_v3", "n": 48, "k": 256}
_OF_MODEL = {"model": "tiny", "layer": 1, "recipe": "deepseek_v3"}
_ATTENTION = {
    **_OF_MODEL,
    "absorbed": False,
    "batch": 2,
    "tokens": 4,
    "past": 0,
    "record": "operations",
    "sums": False,
}

OPERATIONS: dict[str, Operation] = {
    "cast": Operation(
        "numbers to codes of a format",
        {"fmt": "float8_e4m3fn", "rounding": "nearest_even", **_SIZES},
        _ALL,
        casting.cast,
    ),
    "quantize": Operation(
        "numbers to codes with scales, by a rule, in a layout",
        {**_QUANTIZE, "layout": "row-major", **_SIZES},
        _ALL,
        casting.quantize,
    ),
    "logfmt": Operation(
        "numbers to logarithmic codes", {"bits": 8, "tile": 128, **_SIZES}, _FINITE, casting.logfmt
    ),
    "product": Operation(
        "products of codes as a matrix unit forms them, with all partial sums; grouped: contiguous, masked",
        {
            **_QUANTIZE,
            "b_block": (128, 128),
            "layout": "row-major",
            "unit": "hopper_fp8",
            "promote_every": 128,
            "output": "float32",
            "grouped": "none",
            "m": 16,
            "n": 24,
            "k": 512,
        },
        _PRODUCTS,
        products.product,
    ),
    "fprop": Operation(
        "training: y = x @ w.T, with all partial sums", {**_TRAINING, "tokens": 24}, _PRODUCTS, products.fprop
    ),
    "dgrad": Operation(
        "training: dx = dy @ w, with all partial sums", {**_TRAINING, "tokens": 24}, _PRODUCTS, products.dgrad
    ),
    "wgrad": Operation(
        "training: dw = dy.T @ x; several ks: grouped along tokens, an expert each",
        {**_TRAINING, "ks": (256,)},
        _PRODUCTS,
        products.wgrad,
    ),
    "gate": Operation(
        "experts of each token: logits, scores, groups, top-k, bias, weights",
        {**_OF_MODEL, "tokens": 16},
        (*_MODEL, *_GATES),
        layers.gate,
    ),
    "expert": Operation(
        "one expert: dispatch, gate, up, SwiGLU, down, combine",
        {**_OF_MODEL, "tokens": 8, "expert": 0, "sums": True},
        _MODEL,
        layers.expert,
        layers.expert_weights,
    ),
    "attention": Operation(
        "MLA, naive or absorbed; prefill, or decode over `past` cached tokens; with the indexer's choice",
        _ATTENTION,
        _MODEL,
        layers.attention,
        layers.attention_weights,
    ),
    "layer": Operation(
        "a whole layer, with every operation's result", _ATTENTION, _MODEL, layers.layer, layers.layer_weights
    ),
    "forward": Operation(
        "a whole model: logits and each layer's input, and a checkpoint to load where it is a random one",
        {
            "model": "tiny",
            "recipe": "deepseek_v3",
            "absorbed": False,
            "batch": 2,
            "tokens": 8,
            "record": "results",
        },
        ("hidden", "repeated"),
        layers.forward,
    ),
}
"""Operations by name."""

CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(LAYOUTS),
    "output": tuple(products.OUTPUTS),
    "grouped": ("none", "contiguous", "masked"),
    "record": layers.RECORDS,
}
"""Arguments that have a list of words."""


def checked(operation: str, arguments: Mapping[str, Any]) -> Arguments:
    """Return all arguments of an operation, of the kinds that its defaults are of.

    Raises
    ------
    ValueError, TypeError
        Unknown names or words; other kinds; sizes below one.

    Examples
    --------
    >>> checked("cast", {"rows": 2})["rows"]
    2
    """
    row = OPERATIONS[operation]
    for name, value in arguments.items():
        one_of(name, f"argument of {operation}", row.defaults)
        if name in CHOICES:
            one_of(value, name, CHOICES[name])
        elif isinstance(row.defaults[name], tuple):
            _check_sizes(name, value, len(row.defaults[name]) if "block" in name else None)
        elif isinstance(row.defaults[name], bool):
            if not isinstance(value, bool):
                raise TypeError(f"{name}: found {value!r}, expected true or false")
        elif isinstance(row.defaults[name], int) and not (name == "promote_every" and value is None):
            least = 0 if name in ("layer", "past", "expert") else 1
            if type(value) is not int:
                raise TypeError(f"{name}: found {value!r}, expected a whole number")
            if not least <= value <= MOST:
                raise ValueError(f"{name}: found {brief(value)}, expected {least} to {MOST}")
        elif isinstance(row.defaults[name], str) and not isinstance(value, str):
            raise TypeError(f"{name}: found {value!r}, expected a word")
    full = {**row.defaults, **arguments}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in full.items()}


def _check_sizes(name: str, value: Any, count: int | None) -> None:
    if not isinstance(value, (tuple, list)) or any(type(n) is not int for n in value):
        raise TypeError(f"{name}: found {value!r}, expected whole numbers")
    least = 0 if count is None else 1
    if not value or min(value) < least or max(value) > MOST or (count is not None and len(value) != count):
        wanted = f"{count} numbers" if count else "numbers"
        raise ValueError(f"{name}: found {brief(value)}, expected {wanted} of {least} to {MOST}")
