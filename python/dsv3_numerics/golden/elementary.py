"""Elementary functions and sums that are the same bits on every machine.

Lives here: exp, sine and cosine of float64 arrays, made of additions and multiplications alone; angles and
scales of rotary embeddings, by decimal arithmetic; products and sums in the order of k. Nothing here asks the
system's mathematical library, BLAS, or NumPy's own sums, whose order depends on the processor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array

Doubles = NDArray[np.float64]

_CONTEXT = Context(prec=40)
# ln 2 and pi / 2 in parts whose products with small integers are exact (Cody and Waite).
_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624871116645580e-21)
_PI = Decimal("3.14159265358979323846264338327950288419716939937510")
_EXP_TERMS, _TURN_TERMS = 14, 20
_LEAST, _LARGEST = -746.0, 710.0  # exp is 0 below, infinite above


def exp(x: Array) -> Doubles:
    """Return e to the power of each number, within an ulp of float64.

    Examples
    --------
    >>> import numpy as np
    >>> exp(np.array([0.0, -1.0, -np.inf])).round(12).tolist()
    [1.0, 0.367879441171, 0.0]
    """
    wide = np.asarray(x, np.float64)
    held = np.clip(wide, _LEAST, _LARGEST)
    times = np.rint(held * 1.4426950408889634)
    rest = (held - times * _LN2[0]) - times * _LN2[1]
    total = np.zeros_like(rest)
    for n in range(_EXP_TERMS, -1, -1):
        total = total * rest + 1.0 / math.factorial(n)
    half = np.floor(times / 2)  # 2**1024 has no float64, though its product may
    with np.errstate(over="ignore", under="ignore"):
        found = np.ldexp(np.ldexp(total, half.astype(np.intc)), (times - half).astype(np.intc))
    return np.where(wide < _LEAST, 0.0, np.where(wide > _LARGEST, np.inf, found))


def sin_cos(angle: Doubles) -> tuple[Doubles, Doubles]:
    """Return sine and cosine of angles below 2**20.

    Examples
    --------
    >>> import numpy as np
    >>> [float(part[0]) for part in sin_cos(np.array([0.0]))]
    [0.0, 1.0]
    """
    quarter = np.rint(angle * 0.6366197723675814)
    rest = ((angle - quarter * _HALF_PI[0]) - quarter * _HALF_PI[1]) - quarter * _HALF_PI[2]
    square = rest * rest
    sine, cosine = np.zeros_like(rest), np.zeros_like(rest)
    for n in range(_TURN_TERMS, -1, -2):  # alternating terms, the smallest first
        sign = 1.0 if n % 4 == 0 else -1.0
        cosine = cosine * square + sign / math.factorial(n)
        sine = sine * square + sign / math.factorial(n + 1)
    sine = sine * rest
    which = quarter.astype(np.int64) % 4
    pairs = (sine, cosine, -sine, -cosine)
    return np.choose(which, pairs), np.choose(which, (*pairs[1:], pairs[0]))


def sigmoid(x: Array) -> Doubles:
    """Return ``1 / (1 + exp(-x))`` in float64.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.float32([0])).tolist()
    [0.5]
    """
    e = exp(-np.abs(np.asarray(x, np.float64)))
    return np.where(np.asarray(x) >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def product(a: Array, b: Array) -> Doubles:
    """Return ``a @ b.T`` of matrices (m, k) and (n, k): float64 sums in the order of k.

    Examples
    --------
    >>> import numpy as np
    >>> product(np.float32([[1, 2]]), np.float32([[3, 4], [0, 1]])).tolist()
    [[11.0, 2.0]]
    """
    left, right = (np.ascontiguousarray(np.asarray(x, np.float64).T) for x in (a, b))
    out = np.zeros((left.shape[1], right.shape[1]))
    term = np.empty_like(out)
    for x, y in zip(left, right, strict=True):
        np.multiply(x[:, None], y, out=term)
        out += term
    return out


def total(x: Array) -> Doubles:
    """Return the float64 sums of the last axis, in order.

    Examples
    --------
    >>> import numpy as np
    >>> total(np.float32([[1, 2, 3]])).tolist()
    [6.0]
    """
    wide = np.asarray(x, np.float64)
    if not wide.shape[-1]:
        return np.zeros(wide.shape[:-1])
    sums: Doubles = np.add.accumulate(wide, axis=-1)[..., -1]
    return sums


def rope_angles(settings: Mapping[str, Any], positions: NDArray[np.int64]) -> tuple[Doubles, float]:
    """Return the angles of each position's pairs (positions, pairs), and the factor of cosine and sine.

    Parameters
    ----------
    settings : mapping
        ``dim``, ``theta`` and ``yarn`` of a rotary embedding, as layers of the model have them.
    positions : ndarray of int64

    Examples
    --------
    >>> import numpy as np
    >>> angles, factor = rope_angles({"dim": 4, "theta": 10000.0, "yarn": None}, np.array([2]))
    >>> angles.tolist(), factor
    ([[2.0, 0.02]], 1.0)
    """
    dim, yarn = settings["dim"], settings["yarn"]
    log = _CONTEXT.ln(Decimal(settings["theta"]))
    plain = [float(_CONTEXT.exp(_CONTEXT.divide(-log * (2 * j), Decimal(dim)))) for j in range(dim // 2)]
    if yarn is None:
        return positions.astype(np.float64)[:, None] * np.array(plain), 1.0
    factor, fast, slow, mscale, mscale_all_dim, original = yarn

    def pair_that_turns(times: float) -> float:
        whole = _CONTEXT.divide(Decimal(original), 2 * _PI * Decimal(times))
        return float(_CONTEXT.divide(dim * _CONTEXT.ln(whole), 2 * log))

    low = max(math.floor(pair_that_turns(fast)), 0)
    high = min(math.ceil(pair_that_turns(slow)), dim - 1)
    width = 0.001 if high == low else float(high - low)
    found = []
    for j, frequency in enumerate(plain):
        ramp = min(max((j - low) / width, 0.0), 1.0)
        found.append(frequency * (1.0 - ramp) + frequency / factor * ramp)
    amplitude = magnitude(factor, mscale) / magnitude(factor, mscale_all_dim)
    return positions.astype(np.float64)[:, None] * np.array(found), amplitude


def magnitude(factor: float, mscale: float) -> float:
    """Return YaRN's ``0.1 mscale ln(factor) + 1``, or 1 where nothing is extended.

    Examples
    --------
    >>> magnitude(1.0, 1.0)
    1.0
    """
    return 0.1 * mscale * float(_CONTEXT.ln(Decimal(factor))) + 1.0 if factor > 1 else 1.0


def softmax_scale(channels: int, rope: Mapping[str, Any]) -> float:
    """Return the factor of attention logits: ``1 / sqrt(channels)``, times YaRN's magnitude squared.

    Examples
    --------
    >>> softmax_scale(64, {"yarn": None})
    0.125
    """
    yarn = rope["yarn"]
    warm = 1.0 if yarn is None else magnitude(yarn[0], yarn[4])
    return 1.0 / math.sqrt(channels) * (warm * warm)
