"""Scale rules: whose bits a quantizer makes, as rows of columns.

Lives here: the `Rule`, its spelling, and the named rows, which are read from the core's table. Quantizers
that take them are in `quant`; `docs/rules.md` says which project and version each row is.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np

from . import _core
from ._arrays import brief

Scale = Literal["float32", "ue8m0", "mx", "nvfp4"]

# The row that a kind of scale follows where none is asked for.
DEFAULT_RULES: dict[str, str] = {
    "float32": "deepseek_v3",
    "ue8m0": "deepseek_v3",
    "mx": "floor",
    "nvfp4": "nvfp4",
}


@dataclass(frozen=True)
class Rule:
    """A scale rule: how to get from a block's largest magnitude `a` to its scale `s` and to codes.

    All arithmetic is float32, one rounding for each operation. ``max`` below is the format's largest number.

    Attributes
    ----------
    amax_nan : {"keep", "skip"}
        NaN in a block is its amax and spoils it, or is passed over, as CUDA's fmaxf does. Both only matter
        under ``nonfinite="propagate"``.
    amax_floor : float
        The least amax.
    max : float or None
        What amax is brought to, and quotients are clipped to, instead of the format's largest number (224 on
        AMD's float8_e4m3fnuz).
    scale_op : {"divide", "multiply", "inverse", "none"}
        ``a / max``; ``a * (1 / max)``; ``1 / min(max / a, FLT_MAX)``; or no float32 scale.
    scale_floor, pow2_floor : float
        The least `s` (of NVFP4 the least block scale), and the least `s` of which a power of two is made.
    pow2_op : {"bit", "float_log2", "ratio", "floor", "ceil", "even", "none"}
        The exponent of power-of-two scales: of `s`, plus one if it has a mantissa; ``ceil(log2(s))`` with
        the logarithm
        rounded to float32; the negative exponent of ``max / a``; the exponent of `a` (rounded down, up, or
        to the format's mantissa) less that of ``max``; or no power of two.
    least_exponent : {-126, -127}
        The least exponent of a power of two. -126 also keeps `a` at ``max * 2**-126`` or more, so that no
        scale is subnormal.
    apply_op : {"divide", "multiply_inverse", "multiply_ratio"}
        Quotients by a float32 scale: ``x / s``, ``x * (1 / s)``, ``x * min(max / a, FLT_MAX)``. NVFP4 has the
        first two, by the block scale times the global one.
    byte0 : {"scale", "normal", "one"}
        What elements are divided by under a power of two of ``2**-127``: that scale, ``2**-126``, or 1.
    zero_tile : {"floor", "one"}
        The scale of zeros: that of the least amax, or 1.
    rounding : str
        How quotients become codes where the caller does not say: any mode of `encode` but those at random.
    negative_zero : bool
        False: what rounds to zero loses its sign.
    block_max : float
        NVFP4: the block scale that the tensor's amax gets.
    candidates : tuple of float
        NVFP4: what a block's amax may become. Of several, the one with the least squared error is taken.
    zero_scale : {"max", "zero"}
        NVFP4: what elements are multiplied by where the block scale is 0: FLT_MAX (codes saturate) or 0.
    block_op : {"divide", "multiply", "multiply_global"}
        NVFP4's block scale, with g the scale of scales: ``(a / target) * g``, ``(a * (1 / target)) * g``, or
        ``a * (g * (1 / target))``.
    subnormals : {"nearest", "float32_tail"}
        What rounds quotients below e5m6's normal numbers: the bits that are cut, or the low 17 bits of the
        float32, as in TileKernels' cast (which so rounds some up and some down that it should not). Other
        formats and roundings do not look at it.

    Raises
    ------
    ValueError
        A column with a value that it does not have. Columns that do not go together are refused by the
        quantizer, which knows the format and the kind of scale.

    Examples
    --------
    >>> from dsv3_numerics import Rule
    >>> Rule.parse("vllm_triton")
    Rule(amax_floor=1e-10, scale_op='multiply', pow2_op='float_log2')
    >>> str(Rule(amax_floor=1e-10, scale_op="multiply", pow2_op="float_log2"))
    'vllm_triton'
    >>> str(Rule.parse("deepgemm").replace(amax_floor=0))
    'deepgemm(amax_floor=0)'
    """

    amax_nan: str = "keep"
    amax_floor: float = 0.0
    max: float | None = None
    scale_op: str = "divide"
    scale_floor: float = 0.0
    pow2_floor: float = 0.0
    pow2_op: str = "bit"
    least_exponent: int = -126
    apply_op: str = "divide"
    byte0: str = "scale"
    zero_tile: str = "floor"
    rounding: str = "nearest_even"
    negative_zero: bool = True
    block_max: float = 448.0
    candidates: tuple[float, ...] = (6.0,)
    zero_scale: str = "max"
    block_op: str = "divide"
    subnormals: str = "nearest"

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if kind == "words":
                if value not in _WORDS[name]:
                    raise ValueError(
                        f"{name}: found {brief(value)}, expected one of {', '.join(_WORDS[name])}"
                    )
            elif kind == "numbers":
                object.__setattr__(self, name, tuple(_number(v, name) for v in _several(value, name)))
            elif kind == "flag":
                if not isinstance(value, (bool, np.bool_)):
                    raise TypeError(f"{name}: found {brief(value)}, expected True or False")
            elif value is not None or name != "max":
                object.__setattr__(self, name, _number(value, name))
        if self.least_exponent not in (-127, -126):
            raise ValueError(f"least_exponent: found {self.least_exponent}, expected -127 or -126")
        object.__setattr__(self, "least_exponent", int(self.least_exponent))

    def replace(self, **columns: Any) -> Rule:
        """Return the rule with other values in some columns."""
        return dataclasses.replace(self, **columns)

    def columns(self) -> dict[str, Any]:
        """Every column by its name, as the core takes them."""
        return dict(vars(self))

    @classmethod
    def parse(cls, rule: str | Rule) -> Rule:
        """Read a rule.

        Parameters
        ----------
        rule : str or Rule
            A name of `rules`, alone or with columns that differ: ``deepgemm(amax_floor=0)``. A Rule is
            returned as it is.

        Raises
        ------
        ValueError
            An unknown name, column or value; the message lists what there is.
        TypeError
            Anything else.
        """
        if isinstance(rule, Rule):
            return rule
        if not isinstance(rule, str):
            raise TypeError(f"rule: found {brief(rule)}, expected a name or a Rule")
        name, _, rest = rule.partition("(")
        if name not in _NAMED:
            raise ValueError(f"rule: found {brief(rule)}, expected one of {', '.join(_NAMED)}")
        if not rest:
            if "(" in rule:
                raise ValueError(
                    f"rule: found {brief(rule)}, expected columns in brackets, as in {name}(amax_floor=0)"
                )
            return _NAMED[name]
        if not rest.endswith(")"):
            raise ValueError(f"rule: found {brief(rule)}, expected a closing bracket")
        changes: dict[str, Any] = {}
        for part in filter(None, re.split(r"\s*,\s*", rest[:-1].strip())):
            column, given, text = (piece.strip() for piece in part.partition("="))
            if not given or column not in _KINDS or column in changes:
                raise ValueError(
                    f"rule: found {brief(part)} in {rule!r}, expected column=value with a column of "
                    f"{', '.join(_KINDS)}"
                )
            changes[column] = _read(column, text, rule)
        return _NAMED[name].replace(**changes)

    def __str__(self) -> str:
        """Spell the rule as `parse` reads it: its name, or the nearest name and the columns that differ."""
        return _spelled(self)

    def __repr__(self) -> str:
        plain = _PLAIN.columns()
        other = [f"{k}={_shown(v)}" for k, v in self.columns().items() if v != plain[k]]
        return f"Rule({', '.join(other)})"

    @classmethod
    def _of_row(cls, row: dict[str, Any]) -> Self:
        return cls(**{name: value for name, value in row.items() if name != "name"})


_WORDS: dict[str, tuple[str, ...]] = {
    "amax_nan": ("keep", "skip"),
    "scale_op": ("divide", "multiply", "inverse", "none"),
    "pow2_op": ("bit", "float_log2", "ratio", "floor", "ceil", "even", "none"),
    "apply_op": ("divide", "multiply_inverse", "multiply_ratio"),
    "byte0": ("scale", "normal", "one"),
    "zero_tile": ("floor", "one"),
    "rounding": ("nearest_even", "toward_zero", "up", "down", "nearest_away", "nearest_toward_zero"),
    "zero_scale": ("max", "zero"),
    "block_op": ("divide", "multiply", "multiply_global"),
    "subnormals": ("nearest", "float32_tail"),
}
_KINDS = {
    field.name: (
        "words"
        if field.name in _WORDS
        else {"candidates": "numbers", "negative_zero": "flag"}.get(field.name, "number")
    )
    for field in dataclasses.fields(Rule)
}


def _number(value: Any, name: str) -> float:
    """Round to a finite float32."""
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value):
        raise TypeError(f"{name}: found {brief(value)}, expected a number")
    with np.errstate(over="ignore"):
        number = float(np.float32(value))
    if not np.isfinite(number):
        raise ValueError(f"{name}: found {brief(value)}, expected a finite number")
    return number


def _several(value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)) or not value:
        raise TypeError(f"{name}: found {brief(value)}, expected a tuple of one number or more")
    return tuple(value)


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_write, value))
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 1e6 else str(np.float32(value))
    return str(value)


def _shown(value: Any) -> str:
    return _write(value) if isinstance(value, float) else repr(value)


def _read(column: str, text: str, rule: str) -> Any:
    kind = _KINDS[column]
    try:
        if kind == "flag":
            return {"true": True, "false": False}[text.lower()]
        if kind == "numbers":
            return tuple(float(part) for part in text.split("/"))
        if kind == "number" and not (column == "max" and text.lower() == "none"):
            return float(text)
    except (ValueError, KeyError):
        raise ValueError(f"rule: found {column}={text} in {rule!r}, expected another value") from None
    return None if text.lower() == "none" and column == "max" else text


@lru_cache(maxsize=1024)
def _spelled(rule: Rule) -> str:
    """Compare a rule with every row once: quantizers write the name into each result."""
    mine = rule.columns()
    best = min(_NAMED, key=lambda name: sum(v != mine[k] for k, v in _NAMED[name].columns().items()))
    theirs = _NAMED[best].columns()
    other = [f"{name}={_write(value)}" for name, value in mine.items() if value != theirs[name]]
    return f"{best}({','.join(other)})" if other else best


_PLAIN = Rule()
_NAMED = {row["name"]: Rule._of_row(row) for row in _core.scale_rules()}


def rules() -> dict[str, Rule]:
    """Every named rule, in the order of the table.

    Examples
    --------
    >>> from dsv3_numerics import rules
    >>> rules()["deepep"].apply_op
    'multiply_ratio'
    """
    return dict(_NAMED)
