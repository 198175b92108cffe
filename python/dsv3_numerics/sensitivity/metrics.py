"""Figures of a variant beside the float64 reference: token by token first, summarized after.

Everything is computed in float64. A row is the last axis of an array: a token, or what an operation makes of
one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_ROWS = 64  # of logits at a time: a vocabulary of 129 280 takes 66 MB of float64 then


class Spread(NamedTuple):
    """How values are distributed: their number, three percentiles, and the largest.

    Percentiles are values that occur (the least one that reaches the share), so that infinity among them
    spoils nothing.

    Examples
    --------
    >>> from dsv3_numerics.sensitivity import Spread
    >>> Spread.of([1.0, 2.0, 3.0, 4.0])
    Spread(n=4, p5=1.0, median=2.0, p95=4.0, worst=4.0)
    """

    n: int
    p5: float
    median: float
    p95: float
    worst: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Spread:
        """Return the spread of values of which the largest is the worst.

        Raises
        ------
        ValueError
            There are none.
        """
        ordered = np.sort(np.asarray(values, np.float64).ravel())
        if not ordered.size:
            raise ValueError("values: found none, expected at least one")
        n = len(ordered)
        p5, median, p95 = (float(ordered[max(math.ceil(q * n) - 1, 0)]) for q in (0.05, 0.5, 0.95))
        return cls(n, p5, median, p95, float(ordered[-1]))


class Errors(NamedTuple):
    """Errors of rows: each relative to its own size, and the sums over all elements.

    Attributes
    ----------
    relative : ndarray of float64, shape (rows,)
        The norm of what is wrong over the norm of the reference; 0 where nothing is wrong, infinity where the
        reference is all zeros or the values are not finite.
    sum_x2, sum_e2 : float
        Squares of the reference and of the errors.
    """

    relative: Floats
    sum_x2: float
    sum_e2: float


def row_errors(reference: npt.ArrayLike, values: npt.ArrayLike) -> Errors:
    """Compare arrays of one shape row by row.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> from dsv3_numerics.sensitivity import row_errors
    >>> row_errors([[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.5], [1.0, 0.0]]).relative
    array([0.1, 0. ])
    """
    x, y = np.asarray(reference), np.asarray(values)
    if x.shape != y.shape:
        raise ValueError(f"values: found shape {y.shape}, expected {x.shape}, as the reference")
    x, y = (a.reshape(-1, a.shape[-1] if a.ndim else 1) for a in (x, y))
    e2, x2 = np.empty(len(x)), np.empty(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(x), _ROWS):
            at = slice(start, start + _ROWS)
            a, b = x[at].astype(np.float64), y[at].astype(np.float64)
            e2[at], x2[at] = np.square(b - a).sum(axis=1), np.square(a).sum(axis=1)
    e2[~np.isfinite(e2)] = np.inf
    relative = np.where(e2 == 0, 0.0, np.inf)
    np.divide(e2, x2, out=relative, where=(x2 > 0) & (e2 > 0) & np.isfinite(e2))
    return Errors(np.sqrt(relative), float(x2.sum()), float(e2.sum()))


def pooled(sum_x2: float, sum_e2: float) -> float:
    """Return the relative error of all elements together, sqrt(sum e^2 / sum x^2)."""
    if sum_e2 == 0:
        return 0.0
    return math.sqrt(sum_e2 / sum_x2) if sum_x2 else math.inf


def decibels(relative: float) -> float:
    """Signal to noise of a relative error, -20 log10, in dB; infinity where nothing is wrong."""
    return -20 * math.log10(relative) if relative else math.inf


def log_softmax(logits: npt.ArrayLike) -> Floats:
    """Logarithms of the probabilities over the last axis, in float64."""
    x = np.asarray(logits, np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    found: Floats = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return found


def divergence(reference: npt.ArrayLike, logits: npt.ArrayLike) -> Floats:
    """Kullback-Leibler divergence of each row, KL(reference || logits), in nats.

    With p and q the probabilities and d = log p - log q, it is the sum of p d - p + q: the textbook's sum of
    p d, and what adds up to nothing. No term is negative, and where d is small it is p (d + exp(-d) - 1), so
    that divergences of 1e-20 come out as well as those of 1.

    Parameters
    ----------
    reference, logits : array_like, shape (..., vocabulary)

    Returns
    -------
    ndarray of float64, shape (rows,)

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics.sensitivity import divergence
    >>> divergence(np.log([[0.5, 0.5]]), np.log([[0.75, 0.25]])).round(6)
    array([0.143841])
    """
    a, b = (np.asarray(x) for x in (reference, logits))
    if a.shape != b.shape:
        raise ValueError(f"logits: found shape {b.shape}, expected {a.shape}, as the reference")
    a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    found = np.empty(len(a))
    for start in range(0, len(a), _ROWS):
        p, q = (log_softmax(x[start : start + _ROWS]) for x in (a, b))
        d, p, q = p - q, np.exp(p), np.exp(q)
        near = np.abs(d) < 1
        terms = np.where(near, p * (d + np.expm1(np.where(near, -d, 0))), p * d - p + q)
        found[start : start + _ROWS] = np.maximum(terms, 0).sum(axis=1)
    return found


def same_top(reference: npt.ArrayLike, logits: npt.ArrayLike) -> Bools:
    """Tell where the likeliest token of a row is the same; of equal ones the first counts."""
    a, b = (np.asarray(x) for x in (reference, logits))
    found: Bools = (a.argmax(axis=-1) == b.argmax(axis=-1)).ravel()
    return found


def other_experts(reference: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> Bools:
    """Tell where the set of experts of a row is another one, whatever the order.

    Parameters
    ----------
    reference, chosen : ndarray of int64, shape (..., experts per token)
    """
    a, b = (np.sort(x.reshape(-1, x.shape[-1]), axis=1) for x in (reference, chosen))
    found: Bools = (a != b).any(axis=1)
    return found


def spread_record(values: npt.ArrayLike) -> dict[str, Any]:
    """Return a spread as part of a record."""
    return Spread.of(values)._asdict()


_STUDENT = (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250)
"""Two-sided 99 % quantiles of Student's t, by degrees of freedom from 1."""


def prediction_interval(values: npt.ArrayLike) -> float:
    """How far from the mean of runs one more falls, 99 times in 100: half of a prediction interval.

    Of n runs that differ by chance alone, t s sqrt(1 + 1/n), with s their standard deviation and t Student's
    quantile for n - 1 degrees of freedom (normal runs; from 11 on, t of 9 degrees is used, which is wider).

    Examples
    --------
    >>> from dsv3_numerics.sensitivity.metrics import prediction_interval
    >>> round(prediction_interval([1.0, 2.0, 3.0]), 3)
    11.46
    """
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return math.inf
    t = _STUDENT[min(len(x) - 1, len(_STUDENT)) - 1]
    return float(t * x.std(ddof=1) * math.sqrt(1 + 1 / len(x)))
