"""Weights laid out once for the products of one matrix unit.

Lives here: the container. `prepare`, which makes it, is in `gemm`, beside the products that take it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from . import _core


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """The right operand of products, checked and laid out for one unit; `prepare` makes it.

    It holds copies: later changes of the weights do not reach it.

    Attributes
    ----------
    accumulator : str
        The unit that it is for.
    shape : tuple of two int
        Rows (columns of the products) and k.
    format : str
        The codes' format.
    nbytes : int
        Bytes of the layout, beside the codes and their scales; 0 where a unit gains nothing by one.

    Examples
    --------
    >>> import ml_dtypes, numpy as np
    >>> from dsv3_numerics import prepare
    >>> weights = prepare(np.ones((3, 64), ml_dtypes.bfloat16), accumulator="hopper_bf16")
    >>> weights.shape, weights.format, weights.nbytes
    ((3, 64), 'bfloat16', 0)
    """

    accumulator: str
    shape: tuple[int, int]
    format: str
    nbytes: int
    side: Any = field(repr=False)
    operand: _core.Operand = field(repr=False)
