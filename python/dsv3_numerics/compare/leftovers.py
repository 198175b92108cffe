"""Differences that no hypothesis reproduces, classified by what each of them looks like.

Lives here: the order in which codes, tiles and scales are looked at, and the evidence that is kept. Every
difference is counted in one class; what fits none is "unexplained".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from .case import Case
from .code_rows import ROUNDINGS, neighbours, numbers_of, rounded, ties
from .scale_rows import Floats, cut_to_bfloat16, to_bfloat16, to_float16

_FEW = 4  # differing codes that may be flipped bits rather than a rule
_LISTED = 5
_MANY = 16  # codes that tell chance from a rule
Mask = NDArray[np.bool_]


def classify(
    case: Case,
    found: Array,
    own: Array,
    scales: Floats,
    own_scales: Floats,
    used: Floats,
    amax: Floats,
    quotient: str,
    rounding: str,
    *,
    scales_known: bool,
    scales_given: bool = True,
    origin: tuple[int, int] = (0, 0),
    total: int | None = None,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Put every difference between `found` and `own` codes and scales in a class.

    Parameters
    ----------
    origin : tuple of int
        The first row of codes, and of groups, in a whole of which these are some rows.
    total : int, optional
        Differing codes of that whole.

    Returns
    -------
    classes, evidence
        Codes (and scales) in each class, "unexplained" last; places and factors by the class's name.
    """
    look = _Look(case, found, own, used, amax, quotient, rounding, origin, total)
    if scales_known:
        look.tiles_by_their_scale(scales, own_scales)
    look.few_bits()
    look.padding()
    look.whole_tiles()
    look.moved_tiles()
    look.tiles_by_other_scales(used)
    look.zero_point()
    look.codes()
    if scales_known:
        look.scales(scales, own_scales)
    elif scales_given:
        look.add(look.unknown_scales(scales), scales.size)
    look.unlike_tiles()
    rest = int(look.left.sum())
    if rest:
        look.classes["unexplained"] = look.classes.get("unexplained", 0) + rest
        look.evidence["unexplained, first places"] = look.places(look.left)
    return look.classes, look.evidence


class _Look:
    """State of a classification: `left` are the codes without a class."""

    def __init__(
        self,
        case: Case,
        found: Array,
        own: Array,
        used: Floats,
        amax: Floats,
        quotient: str,
        rounding: str,
        origin: tuple[int, int],
        total: int | None,
    ) -> None:
        self.case, self.found, self.own, self.info, self.quotient = case, found, own, case.info, quotient
        self.round = ROUNDINGS[rounding][1]
        self.nearest = rounding.startswith("nearest")
        self.left: Mask = found != own
        self.total = int(self.left.sum()) if total is None else total
        self.origin = origin
        self.used, self.amax = used, amax
        self.q = case.quotients(used, quotient, amax)
        self.classes: dict[str, int] = {}
        self.evidence: dict[str, Any] = {}
        self.settled: Mask = np.zeros(case.grid, np.bool_)

    def by(self, scales: Floats) -> Array:
        """Make codes by other scales."""
        with np.errstate(all="ignore"):
            amax = self.amax * (scales / self.used)
        return self.round(self.case.quotients(scales, self.quotient, amax), self.info)

    def add(self, name: str, count: int) -> None:
        if count:
            self.classes[name] = self.classes.get(name, 0) + count

    def take(self, name: str, mask: Mask) -> int:
        """Move codes without a class into one."""
        mask = mask & self.left
        count = int(mask.sum())
        self.add(name, count)
        self.left &= ~mask
        return count

    def group_mask(self, groups: Mask) -> Mask:
        """Spread a mask of groups over their codes."""
        return self.case.spread(groups.astype(np.float32)) > 0

    def every(self, good: Mask) -> Mask:
        """Return groups all of whose codes are good."""
        for axis, length in enumerate(self.case.block):
            good = np.logical_and.reduceat(good, np.arange(0, good.shape[axis], length), axis=axis)
        return good

    def touched(self) -> Mask:
        """Return groups with codes that are left."""
        return ~self.every(~self.left)

    def numbers(self, codes: Array) -> NDArray[np.float64]:
        return numbers_of(codes, self.info)

    # --- Groups ---------------------------------------------------------------------------------------------

    def tiles_by_their_scale(self, scales: Floats, own: Floats) -> None:
        """Find groups whose scale is another, and whose codes follow it."""
        other = (scales != own) & np.isfinite(scales) & (scales > 0) & self.touched()
        if not other.any():
            return
        follow = self.every(self.found == self.by(scales)) & other
        factor = scales / np.where(own > 0, own, 1)
        power = follow & (np.frexp(factor)[0] == 0.5)
        for name, mask in (
            ("scale off by a power of two, and its codes follow it", power),
            ("another scale, and its codes follow it", follow & ~power),
        ):
            if mask.any():
                self.take(name, self.group_mask(mask))
                self.add(name, int(mask.sum()))
                self.note(name, mask)
                if mask is power:
                    self.evidence["factors"] = np.unique(factor[mask])[:_LISTED].tolist()
        self.settled |= follow

    def note(self, name: str, groups: Mask) -> None:
        self.evidence[f"{name}: groups, first places"] = f"{int(groups.sum())}, {self.places(groups, 1)}"

    def places(self, mask: Mask, kind: int = 0) -> list[list[int]]:
        """Return the first places of codes (or of groups: 1) in the whole."""
        found: list[list[int]] = (np.argwhere(mask)[:_LISTED] + np.array([self.origin[kind], 0])).tolist()
        return found

    def few_bits(self) -> None:
        """Find few codes that differ by one bit each and are no ties."""
        if not 0 < self.total <= _FEW:
            return
        flips = self.left & (np.bitwise_count(self.found ^ self.own) == 1)
        numbers, own = self.numbers(self.found), self.numbers(self.own)
        low, high = neighbours(self.q, self.info)
        with np.errstate(invalid="ignore"):
            zero = (numbers == 0) & (own == 0)
            flips &= ~zero & ~(ties(self.q, self.info) & ((numbers == low) | (numbers == high)))
        self._flipped(flips)

    def _flipped(self, flips: Mask) -> None:
        places = np.argwhere(flips)
        if not len(places):
            return
        self.evidence["flipped bits: place, found, expected"] = [
            (told, hex(int(self.found[tuple(p)])), hex(int(self.own[tuple(p)])))
            for told, p in zip(self.places(flips), places, strict=False)
        ]
        self.take("one flipped bit" if len(places) == 1 else "flipped bits", flips)

    def whole_tiles(self) -> None:
        """Find groups of NaN, of zeros, of one code."""
        touched = self.touched()
        if not touched.any():
            return
        numbers, own = self.numbers(self.found), self.numbers(self.own)
        first = self.found[:: self.case.block[0], :: self.case.block[1]]
        with np.errstate(invalid="ignore"):
            stuck = self.found == self.case.spread(first.astype(np.float32)).astype(self.found.dtype)
        several = ~self.every(self.own == self.own.reshape(-1)[0])
        for name, mask, other in (
            ("tiles of NaN", np.isnan(numbers), np.isnan(own)),
            ("tiles of zeros", numbers == 0, own == 0),
            ("tiles of one code", stuck, (numbers == 0) & (own == 0)),
        ):
            groups = self.every(mask) & ~self.every(other) & touched & several
            if groups.any() and self.case.block != (1, 1) and self.take(name, self.group_mask(groups)):
                self.note(name, groups)

    def padding(self) -> None:
        """Find rows that hold codes although their input is zero, and NaN of other bits."""
        self.take("NaN of other bits", np.isnan(self.numbers(self.found)) & np.isnan(self.numbers(self.own)))
        rows = (self.case.x == 0).all(axis=1) & (self.left.sum(axis=1) * 2 > self.left.shape[1])
        rows &= (self.numbers(self.found) != 0).any(axis=1)
        if rows.any() and not rows.all():
            mask = np.broadcast_to(rows[:, None], self.left.shape)
            self.evidence["rows of zeros in x, first places"] = self.places(rows[:, None] & self.left)
            self.take("codes where rows of x are zero (padding that was not written)", mask)

    def unlike_tiles(self) -> None:
        """Find groups most of whose codes have nothing to do with their input, beside others that fit."""
        wrong = self.left.astype(np.float32)
        for axis, length in enumerate(self.case.block):
            wrong = np.add.reduceat(wrong, np.arange(0, wrong.shape[axis], length), axis=axis)
        size = self.case.groups_of(np.ones_like(self.case.x), np.add)
        groups = (wrong * 4 > size * 3) & (size >= 8)
        if groups.any() and groups.sum() * 2 <= groups.size:
            mask = self.group_mask(groups)
            self.note("tiles that do not follow their input", groups)
            self.take("tiles that do not follow their input", mask)

    def moved_tiles(self) -> None:
        """Find rows, and 1 x width tiles, that stand elsewhere in the result that was to be."""
        m, k = self.found.shape
        for width in dict.fromkeys((k, min(self.case.block[1], 128), 32)):
            whole = k // width
            if width < 8 or m * whole < 2 or not self.left.any():
                continue
            self._moved(width, whole)

    def _moved(self, width: int, whole: int) -> None:
        m = len(self.found)
        own, found, left = (
            np.ascontiguousarray(a[:, : whole * width]).reshape(m * whole, width)
            for a in (self.own, self.found, self.left)
        )
        touched = np.flatnonzero(left.any(axis=1))
        if not touched.size:
            return
        where: dict[bytes, int] = {}
        for index in range(len(own)):
            where.setdefault(own[index].tobytes(), index)
        pairs = [
            (int(t), where[found[t].tobytes()])
            for t in touched
            if found[t].tobytes() in where and np.unique(found[t]).size > 2
        ]
        if not pairs:
            return
        mask = np.zeros(self.left.shape, np.bool_)
        for tile, _ in pairs:
            row, column = divmod(tile, whole)
            mask[row, column * width : (column + 1) * width] = True
        there = dict(pairs)
        swapped = all(there.get(b) == a for a, b in pairs)
        what = "rows" if whole == 1 else "tiles"
        name = f"swapped {what}" if swapped else f"{what} of another place"
        steps = {b - a for a, b in pairs}
        if not swapped and len(steps) == 1 and len(pairs) > 1:
            self.evidence[f"{name}: all from the same distance"] = f"{steps.pop()} {what}"
        self.take(name, mask)
        top = self.origin[0] * whole
        self.evidence[f"{name}: found at, belongs at"] = [
            (divmod(a + top, whole), divmod(b + top, whole)) if whole > 1 else (a + top, b + top)
            for a, b in pairs[:_LISTED]
        ]

    def tiles_by_other_scales(self, used: Floats) -> None:
        """Find groups whose codes follow another scale than the one stored with them."""
        others = {
            f"codes by a scale off by a power of two (2**{j})": used * np.float32(2.0**j)
            for j in (-4, -3, -2, -1, 1, 2, 3, 4)
        }
        for axis, what in ((1, "group"), (0, "row of groups")):
            for by in (1, -1):
                if used.shape[axis] > 1:
                    told = "before" if by == 1 else "after"
                    others[f"codes by a stale scale (that of the {what} {told})"] = np.roll(used, by, axis)
        for name, scale in others.items():
            touched = self.touched()
            if not touched.any():
                return
            groups = self.every(self.by(scale) == self.found) & touched
            if groups.any():
                self.take(name, self.group_mask(groups))
                self.note(name, groups)

    def zero_point(self) -> None:
        """Find integers that are all off by the same."""
        if not self.info.is_integer or int(self.left.sum()) < 8:
            return
        edge = self.info.max
        found, own = self.numbers(self.found), self.numbers(self.own)
        inside = (np.abs(found) < edge) & (np.abs(own) < edge)
        if not (self.left & inside).any():
            return
        away = (found - own)[self.left & inside]
        values, counts = np.unique(away, return_counts=True)
        point = float(values[counts.argmax()])
        with np.errstate(all="ignore"):
            moved = rounded((np.rint(self.q.astype(np.float64)) + point).astype(np.float32), self.info)
        fits = (self.found == moved) | (found - own == point)
        if int((fits & self.left).sum()) * 2 > int(self.left.sum()):
            self.evidence["zero-point"] = point
            self.take("zero-point (the same number added to codes)", fits)

    # --- Codes ----------------------------------------------------------------------------------------------

    def codes(self) -> None:
        """Classify single codes."""
        if not self.left.any():
            return
        numbers, own = self.numbers(self.found), self.numbers(self.own)
        self.take("signs of zero", (numbers == 0) & (own == 0))
        low, high = neighbours(self.q, self.info)
        beside = (numbers == low) | (numbers == high)
        if self.nearest:
            self._by_chance(low, high, beside)
        self._same_bit(beside)
        self.take("ties only", ties(self.q, self.info) & beside)
        self._stuck_bit(beside)
        self.take("NaN", np.isnan(numbers) | np.isnan(own))
        self.take("sign turned", (numbers == -own) & (own != 0))
        for how, narrow in (("bfloat16", to_bfloat16), ("float16", to_float16)):
            self.take(f"double rounding by {how}", self.found == rounded(narrow(self.q), self.info))
        with np.errstate(invalid="ignore"):
            near = np.abs(self.q.astype(np.float64) - (low + high) / 2) <= 4 * np.spacing(np.abs(self.q))
        self.take("quotients within 4 ulps of a tie", near & beside)
        beyond = np.abs(self.q) > self.info.max
        self.take("overflow", beyond)
        self.take("the other neighbour (another rounding)", beside)
        one_bit = self.left & (np.bitwise_count(self.found ^ self.own) == 1)
        if one_bit.sum() == self.left.sum():
            self._flipped(one_bit)

    def _by_chance(self, low: NDArray[np.float64], high: NDArray[np.float64], beside: Mask) -> None:
        """Find codes that are the other neighbour as often as stochastic rounding has it."""
        count = int((beside & self.left).sum())
        between = (low < high) & np.isfinite(low) & np.isfinite(high)
        with np.errstate(all="ignore"):
            fraction = np.where(between, (self.q - low) / (high - low), 0.0)
        least = np.minimum(fraction, 1 - fraction)[between]
        expected, variance = float(least.sum()), float((least * (1 - least)).sum())
        if count > _MANY and abs(count - expected) <= 5 * np.sqrt(variance):
            self.evidence["codes that are not the nearest"] = (
                f"{count}; {expected:.1f} of stochastic rounding"
            )
            self.take("stochastic rounding (the other neighbour, as often as chance has it)", beside)

    def _same_bit(self, beside: Mask) -> None:
        """Find one bit that is turned in all codes that differ, most of which no rounding would give."""
        count = int(self.left.sum())
        if count < _MANY:
            return
        values, counts = np.unique((self.found ^ self.own)[self.left], return_counts=True)
        most = values[counts.argmax()]
        if counts.max() * 20 < count * 19 or int(most).bit_count() != 1:
            return
        held = self.found & most
        if (held == held.reshape(-1)[0]).all():
            return  # stuck
        mask = (self.found ^ self.own) == most
        if int((mask & self.left & ~beside).sum()) * 4 >= count:
            self.take(f"bit {int(most).bit_length() - 1} turned", mask)

    def _stuck_bit(self, beside: Mask) -> None:
        """Find a bit that is the same in all codes although it should not be."""
        if int(self.left.sum()) <= _FEW:
            return
        changed = self.found ^ self.own
        for bit in range(self.info.bits):
            mask = self.found.dtype.type(1 << bit)
            found = self.found & mask
            if (found == found.reshape(-1)[0]).all() and (changed & mask).any():
                value = int(found.reshape(-1)[0] != 0)
                self.take(f"bit {bit} stuck at {value}", changed == mask)

    # --- Scales ---------------------------------------------------------------------------------------------

    def scales(self, found: Floats, own: Floats) -> None:
        """Classify scales that differ although their codes do not follow them."""
        left: Mask = (found != own) & ~(np.isnan(found) & np.isnan(own)) & ~self.settled
        if not left.any():
            return
        with np.errstate(all="ignore"):
            factor = found / own
            bits = np.bitwise_count(found.view(np.uint32) ^ own.view(np.uint32)) == 1
            finite = np.isfinite(found) & np.isfinite(own)
            ratio = np.median(factor[left & finite]) if (left & finite).any() else np.nan
            alike = np.abs(factor / ratio - 1) < 1e-6
            classes = {
                "scales missing (zero)": found == 0,
                "scales missing (NaN or infinite)": ~np.isfinite(found),
                "scales truncated to bfloat16": found == cut_to_bfloat16(own),
                "scales rounded to bfloat16": found == to_bfloat16(own),
                "scales in another order (the same numbers elsewhere)": np.full(
                    left.shape,
                    int(left.sum()) > 1 and np.array_equal(np.sort(found, None), np.sort(own, None)),
                ),
                "scales off by one ulp": np.abs(found - own) <= np.spacing(np.abs(own)),
                "scales missing (one)": found == 1,
                "stale or swapped scales (of another group)": np.isin(found, own),
                "scales off by a power of two, their codes not": (np.frexp(np.abs(factor))[0] == 0.5)
                & (factor > 0),
                "negative scales": found < 0,
                "flipped bits of scales": bits & (int(left.sum()) <= _FEW),
                "scales off by one factor": alike & (int(left.sum()) > _FEW),
            }
            permuted = classes["scales in another order (the same numbers elsewhere)"].any()
            if int(left.sum()) * 2 > left.size and not permuted and self._unrelated(found, own):
                classes = {"scales of another tensor (unrelated to this input)": np.ones_like(left)}
            classes["unexplained scales"] = np.ones_like(left)
        for name, mask in classes.items():
            taken = mask & left
            if taken.any():
                self.add("unexplained" if name == "unexplained scales" else name, int(taken.sum()))
                self.note(name, taken)
                if name == "scales off by one factor":
                    self.evidence["factor of scales"] = float(ratio)
                left &= ~taken

    def _unrelated(self, found: Floats, own: Floats) -> bool:
        """Tell whether scales do not go with the input, and note the correlation of their logarithms."""
        good = (found > 0) & (own > 0) & np.isfinite(found) & np.isfinite(own)
        if good.sum() < 4:
            return False
        a, b = np.log2(found[good].astype(np.float64)), np.log2(own[good].astype(np.float64))
        if a.std() == 0 or b.std() == 0:
            return bool(a.std() != b.std())
        first, second = (np.argsort(np.argsort(v)).astype(np.float64) for v in (a, b))
        correlation = float(np.corrcoef(first, second)[0, 1])
        self.evidence["correlation of scales with those expected (ranks)"] = round(correlation, 3)
        return abs(correlation) < 0.5

    def unknown_scales(self, found: Floats) -> str:
        """Name scales of unknown making, and note how they lie to those of the plainest rule."""
        with np.errstate(all="ignore"):
            factor = found.astype(np.float64) / (self.case.amax / self.case.limit)
        factor = factor[np.isfinite(factor)]
        if factor.size:
            told = [float(np.round(v, 4)) for v in (factor.min(), np.median(factor), factor.max())]
            self.evidence["scales over amax / max: least, median, largest"] = told
        if found.size > _FEW and (found == found.reshape(-1)[0]).all():
            return "one scale everywhere, of unknown making (static)"
        if found.size > _FEW and factor.size and np.ptp(factor) <= 1e-6 * np.abs(factor).max():
            return "scales of amax / max times one factor"
        return "scales of unknown making"
