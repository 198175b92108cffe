"""Values of a recipe's fields: schemes, by a predicate that gives its reason, and words out of a list.

Lives here: the predicates, how a value given for a field is read, and the spellings of older files. Which
fields go together is `recipe`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from .._arrays import brief
from ..accumulator import accumulators
from ..scale_rule import Rule, rules
from ..schemes import Cast, DeepEPLog, OwnScheme, Scaled, Scheme
from ..schemes.scheme import WHOLE, write_group

COMPUTE: Mapping[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bf16": np.dtype(np.float32),
}
"""Compute dtypes, and the dtype of the arrays that operations hand to each other."""

NONE = "none"
"""As it is: no scheme, no accumulator, and the compute dtype."""

GATES = (NONE, *COMPUTE)
ROTATIONS = ("hadamard", NONE)
MASK_VALUES: Mapping[str, float] = {"-inf": -np.inf, "0": 0.0}
RULES: tuple[str, ...] = tuple(
    name
    for name, rule in rules().items()
    if "none" not in (rule.scale_op, rule.pow2_op)
    and rule.max is None
    and (rule.least_exponent == -126 or rule.scale_op == "inverse")
)
"""Rules that make float32 scales and powers of two."""

ACCUMULATORS = (NONE, *(info.name for info in accumulators()))

Predicate = Callable[[Scheme], str | None]


def _of_rows(scheme: Scheme) -> str | None:
    if scheme.group is None or scheme.group[0] == 1 or scheme.group == WHOLE:
        return None
    return (
        f"groups of {write_group(scheme.group)} join tokens that have nothing to do with each other; "
        "expected groups within a row (1x128, row), or tensor"
    )


def _not_requantized(scheme: Scheme) -> str | None:
    asked = isinstance(scheme, Scaled) and scheme.requantize
    return "only a weight may be quantized already; leave 'requantized' out" if asked else None


def _not_sent(scheme: Scheme) -> str | None:
    if not isinstance(scheme, DeepEPLog):
        return None
    return f"deepep is how a transfer sends tokens; expected {scheme.format}:1x128"


def _token_by_token(scheme: Scheme) -> str | None:
    if isinstance(scheme, Scaled) and scheme.scale == "nvfp4" and scheme.group != WHOLE:
        if scheme.global_scale == "none" or scheme.given is not None:
            return None
        return (
            "its scale of scales is found in the numbers, but a cache grows token by token; expected none "
            "(nvfp4:none), or a static one (nvfp4=0.01)"
        )
    if scheme.group == WHOLE and not (isinstance(scheme, Scaled) and not scheme.joins_rows):
        return (
            "one scale for all tokens, but a cache grows token by token; expected scales within a row "
            "(1x128), or a static one (e4m3:tensor:f32=0.05)"
        )
    return None


def _without_seed(scheme: Scheme) -> str | None:
    if not scheme.is_random:
        return None
    return "it rounds at random, and a forward has no seed for that; expected another rounding"


def _in_bytes(scheme: Scheme) -> str | None:
    own = isinstance(scheme, OwnScheme)
    return "a cache holds bytes, and nobody knows those of a scheme of one's own" if own else None


_PREDICATES: Mapping[str, tuple[Predicate, ...]] = {
    "activations": (_not_requantized, _not_sent, _of_rows, _without_seed),
    "weights": (_not_sent, _without_seed),
    "cache": (_not_requantized, _not_sent, _in_bytes, _token_by_token, _of_rows, _without_seed),
    "indexer": (_not_requantized, _not_sent, _in_bytes, _token_by_token, _of_rows, _without_seed),
    "dispatch": (_not_requantized, _of_rows, _without_seed),
    "combine": (_not_requantized, _of_rows, _without_seed),
}

SCHEMES = tuple(_PREDICATES)
"""The fields that hold a scheme."""

_TOKENS = ("activations", "dispatch", "combine")
"""Fields whose rows are tokens: what one of them becomes may not depend on its batch mates."""

_NICKNAMES = {("cache", "fp8"): "flashmla"}

OLD_FIELDS: Mapping[str, str] = {"numbers": "compute", "masked": "group_mask_value"}
"""Fields of older files, and what they are called now."""

_OLD_WORDS = {
    ("weights", "stored"): NONE,
    **{(field, "numbers"): NONE for field in ("cache", "dispatch", "combine", "gate")},
}


@lru_cache(maxsize=1024)
def problem(field: str, scheme: Scheme) -> str | None:
    """Why a field of a recipe cannot be this scheme; None where it can.

    Examples
    --------
    >>> from dsv3_numerics import Scheme
    >>> problem("cache", Scheme.parse("e4m3:1x64:ue8m0")) is None
    True
    >>> problem("cache", Scheme.parse("nvfp4"))[:28]
    'its scale of scales is found'
    """
    found = next((reason for check in _PREDICATES[field] if (reason := check(scheme))), None)
    return found or scheme.problem()


def scheme_of(field: str, value: Any) -> Scheme:
    """Return the scheme that is given for a field.

    Raises
    ------
    TypeError, ValueError
        It is none, or one that makes no sense there: the message says why.
    """
    if isinstance(value, str):
        value = _NICKNAMES.get((field, value), value)
    try:
        scheme = Scheme.parse(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{field}: {str(error).removeprefix('scheme: ')}") from None
    if field in _TOKENS:
        scheme = scheme.per_token()
    reason = problem(field, scheme)
    if reason:
        raise ValueError(f"{field}: found '{scheme}': {reason}")
    return scheme


def rule_word(value: Any) -> str:
    """Read the rule of scales that name none: one of `RULES`, or one of the caller's own.

    Examples
    --------
    >>> rule_word("deepgemm(amax_floor=0)")
    'deepgemm(amax_floor=0)'
    """
    own = isinstance(value, Rule) or (isinstance(value, str) and "(" in value)
    if own:
        rule = Rule.parse(value)
        reason = problem("activations", Scaled("float8_e4m3fn", (1, 128), "float32", str(rule)))
        if reason:
            raise ValueError(f"rule: found '{rule}': {reason}")
        return str(rule)
    if value not in RULES:
        raise ValueError(
            f"rule: found {brief(value)}, expected one of {', '.join(RULES)}, or one of those with columns"
        )
    return str(value)


def modern(field: str, word: Any) -> Any:
    """Give the present name of a word in an older file."""
    return _OLD_WORDS.get((field, word), word) if isinstance(word, str) else word


def codes_of(scheme: Scheme, compute: str) -> str | None:
    """Return the format of the codes that a product takes of a scheme; None where there are none."""
    if scheme.is_identity:
        return "bfloat16" if compute == "bf16" else None
    if isinstance(scheme, Cast):
        return None if scheme.is_native else scheme.format
    return scheme.format if isinstance(scheme, Scaled) else None
