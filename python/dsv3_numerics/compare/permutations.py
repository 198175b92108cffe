"""Rows, and blocks of rows, that stand in another order, as those of experts may.

Lives here: the search for a rule whose codes are all there, elsewhere. It holds a whole input in memory.
"""

from __future__ import annotations

import numpy as np

from .cases import Cases
from .code_rows import PLAIN_ROUNDING
from .explanation import Fit
from .hypotheses import OWN, Hypothesis, View, columns_of
from .scale_rows import AS_STORED, same_scales

_LISTED = 6


def permuted_rows(cases: Cases, blocks: list[tuple[int, int]]) -> list[Fit]:
    """Return the rules whose codes are those found, bit for bit, in another order of rows."""
    given = cases.given
    if given.codes.shape != given.x.shape:
        return []
    everything = np.arange(len(given.x))
    x = given.rows(everything)
    return [fit for block in blocks for fit in _of_block(cases, block, everything, x)]


def _of_block(cases: Cases, block: tuple[int, int], everything: np.ndarray, x: np.ndarray) -> list[Fit]:
    high, count = block[0], len(x) // block[0]
    if count < 2 or len(x) % high:
        return []
    groups, fits = np.arange(count), []
    view = View(block)
    found = [part.tobytes() for part in cases.given.codes.reshape(count, high, -1)]
    for rule, (own, scales) in cases.case(view, everything, groups, x).named_rules():
        where: dict[bytes, int] = {}
        for i, part in enumerate(own.reshape(count, high, -1)):
            where.setdefault(part.tobytes(), i)
        order = np.array([where.get(part, -1) for part in found])
        if (order < 0).any() or np.unique(order).size < count:
            continue
        moved = [(int(i), int(order[i])) for i in np.flatnonzero(order != groups)[:_LISTED]]
        what = "rows" if high == 1 else f"blocks of {high} rows"
        for reading in cases.readings_of(block):
            values = reading.of(groups)
            for told, wanted in (("and their scales", scales[order]), ("but not their scales", scales)):
                if not values.size or not same_scales(values, wanted).all():
                    continue
                total = 1 + reading.assumptions
                h = Hypothesis(
                    view, reading, "as given", rule[0], AS_STORED, OWN, PLAIN_ROUNDING, total, rule
                )
                columns = columns_of(h, rule[1], cases.info)
                columns["order"] = f"{what} in another order, {told}: found at, belongs at {moved}"
                fits.append(Fit(columns, total, own.size, own.size, values.size, values.size))
    return fits
