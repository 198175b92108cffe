"""Metrics: sums over elements, and the figures made of them.

Everything is held as a row of float64 sums (`FIELDS`), which add up over slabs and over tensors; a `Metrics`
is computed from a row at the end. Slabs are added in order, and so are the core's sums over a slab: element
i of each 65,536 goes to lane i % 8, the lanes are added up in order, and then the runs. A figure depends
neither on the number of threads nor on the instruction set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .. import _core
from ..schemes import CodedSlab

Row = npt.NDArray[np.float64]

SUMS = (
    "count",
    "sum_x2",
    "sum_e2",
    "sum_xy",
    "sum_y2",
    "sum_e",
    "sum_abs_x",
    "underflows",
    "saturated",
    "bits",
)
MAXIMA = ("max_abs_error", "max_rel_error")
FIELDS = SUMS + MAXIMA
_AT = {name: i for i, name in enumerate(FIELDS)}


def empty_row() -> Row:
    """Return the sums of no elements."""
    return np.zeros(len(FIELDS))


def add_into(total: Row, row: Row) -> None:
    """Add the sums of further elements to `total`, in place; rows of many schemes at once as well."""
    total[..., : len(SUMS)] += row[..., : len(SUMS)]
    largest = total[..., len(SUMS) :]
    np.maximum(largest, row[..., len(SUMS) :], out=largest)


def sums_of(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.float32],
    saturated: int | CodedSlab = 0,
    bits: float = 0,
) -> tuple[Row, npt.NDArray[np.float64]]:
    """Return the sums over one slab, and its errors by octave of |x|.

    Parameters
    ----------
    x : ndarray of float32 or float64
        What was quantized.
    y : ndarray of float32
        What was read back.
    saturated : int or CodedSlab
        Elements clipped, or the codes by which they are counted.
    bits : float
        What the slab takes, where a scheme counts it by slabs; the others know it per tensor only.

    Returns
    -------
    row : ndarray of float64, shape (12,)
        In the order of `FIELDS`.
    histogram : ndarray of float64, shape (256, 3)
        By exponent field of |x| as float32: count, sum of (e/x)^2, sum of e^2, with e = y - x.
    """
    coded = saturated if isinstance(saturated, CodedSlab) else None
    stats = _core.error_stats((x.reshape(-1), x.dtype.name), y.reshape(-1), coded)
    known = {"bits": bits} if isinstance(saturated, CodedSlab) else {"saturated": saturated, "bits": bits}
    row = np.array([known[name] if name in known else stats[name] for name in FIELDS], dtype=np.float64)
    return row, stats["histogram"]


@dataclass(frozen=True)
class Metrics:
    """The error of one scheme on one tensor (or on all together); e = y - x, where y is what x became.

    Attributes
    ----------
    count : int
        Elements.
    sqnr_db : float
        Signal to quantization noise, 10 log10(sum x^2 / sum e^2), in decibels; inf where nothing changed.
    relative_error : float
        Relative Frobenius error, sqrt(sum e^2 / sum x^2).
    max_abs_error, max_rel_error : float
        Largest abs(e), and largest abs(e / x) over x != 0 (1 means that some value became zero).
    mean_error : float
        Mean of e, with its sign.
    relative_bias : float
        sum e / sum abs(x): the signed drift as a fraction of the typical magnitude.
    cosine_distance : float
        1 - <x, y> / (abs(x) abs(y)), computed without cancellation; 1 where y is all zero and x is not.
    saturation_rate : float
        Fraction of the elements clipped by more than half a quantum beyond the format's largest value.
    underflow_rate : float
        Fraction of the elements that are not zero and became zero.
    bits_per_element : float
        Storage with scales.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.study import measure
    >>> m = measure(np.float32([[1.0, 2.0, 3.0, 4.0]]), "bf16")
    >>> m.sqnr_db, m.bits_per_element
    (inf, 16.0)
    """

    count: int
    sqnr_db: float
    relative_error: float
    max_abs_error: float
    max_rel_error: float
    mean_error: float
    relative_bias: float
    cosine_distance: float
    saturation_rate: float
    underflow_rate: float
    bits_per_element: float

    @classmethod
    def of(cls, row: Row) -> Metrics:
        """Return the figures of a row of sums."""
        s = {name: float(row[i]) for name, i in _AT.items()}
        n = max(s["count"], 1.0)
        return cls(
            count=int(s["count"]),
            sqnr_db=sqnr_db(s["sum_x2"], s["sum_e2"]),
            relative_error=_relative(s["sum_x2"], s["sum_e2"]),
            max_abs_error=s["max_abs_error"],
            max_rel_error=s["max_rel_error"],
            mean_error=s["sum_e"] / n,
            relative_bias=s["sum_e"] / s["sum_abs_x"] if s["sum_abs_x"] else 0.0,
            cosine_distance=_cosine_distance(s["sum_x2"], s["sum_y2"], s["sum_e2"], s["sum_xy"]),
            saturation_rate=s["saturated"] / n,
            underflow_rate=s["underflows"] / n,
            bits_per_element=s["bits"] / n,
        )


METRICS = tuple(field.name for field in fields(Metrics))
"""Names of the metrics, in the order of the columns of the CSV."""


def sqnr_db(x2: float, e2: float) -> float:
    """10 log10(x2 / e2); inf without an error, -inf for an error on a tensor of zeros."""
    if e2 == 0:
        return math.inf
    return 10 * (math.log10(x2) - math.log10(e2)) if x2 else -math.inf


def _relative(x2: float, e2: float) -> float:
    if e2 == 0:
        return 0.0
    return math.sqrt(e2 / x2) if x2 else math.inf


def _cosine_distance(x2: float, y2: float, e2: float, xy: float) -> float:
    """1 - cos without the cancellation: sin^2 / (1 + cos), with sin^2 from e = y - x, not from 1 - cos^2."""
    if e2 == 0 or (x2 == 0 and y2 == 0):
        return 0.0
    if x2 == 0 or y2 == 0:
        return 1.0
    cos = xy / math.sqrt(x2) / math.sqrt(y2)
    if cos < 0:
        return 1 - cos
    xe = xy - x2
    sin2 = (e2 / y2) * (1 - (xe / x2) * (xe / e2))
    return max(sin2, 0.0) / (1 + cos)
