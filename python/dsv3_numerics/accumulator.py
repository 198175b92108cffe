"""How matrix units add: the table of accumulators, as the core has it.

Lives here: names and limits. The sums themselves are in `gemm`, their definition in `reference.accumulators`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _core
from ._arrays import brief


@dataclass(frozen=True)
class AccumulatorInfo:
    """How a matrix unit adds.

    Attributes
    ----------
    name : str
        Generation, input and, where it is not float32, result.
    unit : str
        "tensor_core": products and accumulator are aligned to the largest exponent, cut, and added exactly.
        "software": FP8 on units that have float16 only, as the driver's compiler writes it. "scaled_groups":
        sums of sixteen products, each multiplied by its scales, take the place of products, and scales alone
        say how they are aligned. "matrix_core_fp8", "matrix_core": AMD's, which align products among
        themselves first. "exact": nothing is lost before one last rounding. "float32": float32 sums in the
        order of AMX. "bf16_dot": one fused float32 step for each product, the second of each two first, with
        subnormal numbers taken as zero.
    products : int
        What one step adds.
    interval : int
        `promote_every` is a multiple of this: whole steps, but half ones for "exact" and "float32".
    fraction : int
        Bits of each term that are kept below the largest exponent; 0 where nothing is cut.
    floor : int or None
        Least exponent that terms are aligned to, however small all of them are.
    keep : int or None
        Fraction bits of a result that is truncated toward zero; None where it is rounded to nearest even.
    result : {"float32", "float16"}
        What a step gives to the next.
    inputs : tuple of str
        Formats, see `formats`; the two sides may differ. "tf32" stands for float32 arrays, whose mantissas
        are cut to ten bits.
    scale : str or None
        Format of the scales that the unit takes with the codes: "float8_e8m0fnu", or "float8_e4m3fn" without
        its sign.
    blocks : tuple of int
        How many codes along k may share such a scale.
    evidence : {"hardware", "two models", "one model", "definition"}
        Ground of the row: results of the hardware that agree bit for bit, public models of the hardware, or
        no hardware at all.

    Examples
    --------
    >>> info = accumulator_info("hopper_fp8")
    >>> info.products, info.fraction, info.keep
    (32, 13, 13)
    """

    name: str
    unit: str
    products: int
    interval: int
    fraction: int
    floor: int | None
    keep: int | None
    result: str
    inputs: tuple[str, ...]
    scale: str | None
    blocks: tuple[int, ...]
    evidence: str

    def takes_scales(self, dtype: Any, group_k: int | None) -> bool:
        """Return True if the unit takes scales of a dtype, each for so many codes along k (None: for all).

        Examples
        --------
        >>> accumulator_info("blackwell_mxf8").takes_scales("float8_e8m0fnu", 128)
        True
        """
        fits = group_k is None or any(group_k % block == 0 for block in self.blocks)
        return self.scale is not None and str(dtype) == self.scale and fits


def _info(row: dict[str, Any]) -> AccumulatorInfo:
    return AccumulatorInfo(**{**row, "inputs": tuple(row["inputs"]), "blocks": tuple(row["blocks"])})


_ACCUMULATORS = {info.name: info for info in map(_info, _core.accumulators())}


def accumulators() -> tuple[AccumulatorInfo, ...]:
    """Every accumulator, in the order of the table.

    Examples
    --------
    >>> [info.name for info in accumulators() if "bfloat16" in info.inputs][:2]
    ['hopper_bf16', 'blackwell_bf16']
    """
    return tuple(_ACCUMULATORS.values())


def accumulator_info(name: str) -> AccumulatorInfo:
    """Return the accumulator of a name.

    Raises
    ------
    ValueError
        A name that is none of `accumulators`.

    Examples
    --------
    >>> accumulator_info("ada_fp8").products
    16
    """
    try:
        return _ACCUMULATORS[name]
    except (KeyError, TypeError):
        expected = ", ".join(_ACCUMULATORS)
        raise ValueError(f"accumulator: found {brief(name)}, expected one of {expected}") from None
