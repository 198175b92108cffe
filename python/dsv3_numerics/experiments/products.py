"""Matrix products for the experiments on accumulation: their data, and how far off they are.

Operands are drawn, scaled per tensor to a largest magnitude, and cast to E4M3. The exact product is that of
the cast values, so that only the accumulation's error is seen; float64 holds it exactly for the sizes used
here. Accumulators that take no FP8 get the same values in float16 or bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..accumulator import accumulator_info
from ..gemm import matmul_nt
from ..number_formats import decode, encode
from .experiment import Row

Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]
Float64s = npt.NDArray[np.float64]

KINDS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform(-1, 1)": lambda rng, shape: rng.uniform(-1, 1, shape),
    "uniform(0, 1)": lambda rng, shape: rng.uniform(0, 1, shape),
}
"""How operands are drawn; products of the last have one sign."""

E4M3 = "float8_e4m3fn"
LARGEST = 448.0
LARGEST_F16 = 7.0
"""For float16 results, which overflow at 65504: the same numbers, 64 times smaller."""


class Operands(NamedTuple):
    """Both sides in E4M3, (m, k) and (n, k), and their exact product."""

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]
    exact: Float64s

    def corner(self, outputs: int) -> Operands:
        """Return the operands of a corner of the product, for units that are slow to emulate."""
        return Operands(self.a[:outputs], self.b[:outputs], self.exact[:outputs, :outputs])


def draw(
    rng: np.random.Generator, kind: str, outputs: int, k: int, largest: float = LARGEST
) -> tuple[Operands, float]:
    """Operands for an (outputs, outputs) product, and what the cast costs: its relative Frobenius error."""
    drawn = [KINDS[kind](rng, (outputs, k)) for _ in range(2)]
    wide = [x * (largest / np.abs(x).max()) for x in drawn]
    a, b = (encode(x, E4M3) for x in wide)
    left, right = (np.asarray(decode(x, dtype=np.float64)) for x in (a, b))
    exact = left @ right.T
    uncast = wide[0] @ wide[1].T
    return Operands(a, b, exact), float(np.linalg.norm(exact - uncast) / np.linalg.norm(uncast))


def largest_for(accumulator: str) -> float:
    """Return the magnitude to scale operands to."""
    return LARGEST_F16 if accumulator_info(accumulator).result == "float16" else LARGEST


def multiply(operands: Operands, accumulator: str, promote_every: int | None) -> npt.NDArray[np.float32]:
    """Return the product as an accumulator makes it; its inputs in E4M3 if it takes that."""
    inputs = accumulator_info(accumulator).inputs
    a, b = operands.a, operands.b
    if E4M3 not in inputs:
        a, b = (x.astype(np.dtype(inputs[0])) for x in (a, b))
    found: npt.NDArray[np.float32] = matmul_nt(a, b, accumulator=accumulator, promote_every=promote_every)
    return found


def errors(exact: Float64s, found: npt.NDArray[np.float32]) -> Row:
    """How far off a product is, in the ways that papers measure it.

    With x the exact outputs and e the errors: the largest ``abs(e)`` over the root mean square of x, and over
    the largest ``abs(x)``; the largest, mean and median ``abs(e / x)`` (the largest where ``abs(x)`` is at
    least the root mean square, since some x are next to 0); the relative Frobenius norm; and the drift, the
    sum of e in the direction of x over the sum of ``abs(x)``: negative where sums come out too small.
    """
    error = found.astype(np.float64) - exact
    size, magnitude = np.abs(error), np.abs(exact)
    rms = float(np.sqrt(np.mean(np.square(exact))))
    relative = np.divide(size, magnitude, out=np.zeros_like(size), where=magnitude > 0)
    return {
        "max_over_rms": float(size.max() / rms),
        "max_over_max": float(size.max() / magnitude.max()),
        "max_relative": float(relative[magnitude >= rms].max()),
        "mean_relative": float(relative.mean()),
        "median_relative": float(np.median(relative)),
        "frobenius": float(np.linalg.norm(error) / np.linalg.norm(exact)),
        "drift": float((error * np.sign(exact)).sum() / magnitude.sum()),
    }


def measure(operands: Operands, accumulator: str, promote_every: int | None) -> Row:
    """Return the errors of one product."""
    return errors(operands.exact, multiply(operands, accumulator, promote_every))


MEASURES = {
    "max_over_rms": "max e / rms(x)",
    "max_over_max": "max e / max x",
    "max_relative": "max e/x, x ≥ rms",
    "mean_relative": "mean e/x",
    "median_relative": "median e/x",
    "frobenius": "Frobenius",
    "drift": "drift",
}
"""Names of the columns of `errors` in tables; magnitudes are meant, but of the drift."""


def number(row: Row, column: str) -> float:
    """Return a figure of a row; NaN where there is none."""
    value = row[column]
    return float(value) if isinstance(value, int | float) else float("nan")


def cell(column: str) -> Callable[[Row], str]:
    """How a table writes a relative error: the text of a column."""
    return lambda row: percent(number(row, column))


def percent(value: float) -> str:
    """Return a relative error as text, to three digits however small.

    Examples
    --------
    >>> from dsv3_numerics.experiments.products import percent
    >>> percent(0.0186), percent(6e-8), percent(-0.075)
    ('1.86%', '6e-06%', '-7.5%')
    """
    return f"{100 * value:.3g}%"


def between(values: Iterable[float]) -> str:
    """Return the lowest and the highest as text, once if they read alike.

    Examples
    --------
    >>> from dsv3_numerics.experiments.products import between
    >>> between([0.02, 0.01, 0.03]), between([0.01, 0.0100001])
    ('1% to 3%', '1%')
    """
    found = sorted(values)
    return " to ".join(dict.fromkeys(map(percent, (found[0], found[-1]))))
