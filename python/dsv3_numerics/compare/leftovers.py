"""Differences that no hypothesis reproduces, classified by what each of them looks like.

Lives here: the order in which codes, tiles and scales are looked at, and the evidence that is kept. Every
difference is counted in one class; what fits none is "unexplained".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from ..number_formats import FormatInfo, decode
from .code_rows import neighbours, rounded, ties
from .scale_rows import Floats, cut_to_bfloat16, to_bfloat16, to_float16

if TYPE_CHECKING:
    from .quantization import _Case

_FEW = 4  # differing codes that may be flipped bits rather than a rule
_LISTED = 5
Mask = NDArray[np.bool_]


def classify(
    case: _Case,
    found: Array,
    own: Array,
    scales: Floats,
    own_scales: Floats,
    used: Floats,
    amax: Floats,
    quotient: str,
    info: FormatInfo,
    *,
    scales_known: bool,
) -> tuple[dict[str, int], dict[str, Any]]:
    """Put every difference between `found` and `own` codes and scales in a class.

    Returns
    -------
    classes, evidence
        Codes (and scales) in each class, "unexplained" last; places and factors by the class's name.
    """
    look = _Look(case, found, own, used, amax, quotient, info)
    if scales_known:
        look.tiles_by_their_scale(scales, own_scales)
    look.whole_tiles()
    look.moved_tiles()
    look.tiles_by_other_scales(used)
    look.codes()
    if scales_known:
        look.scales(scales, own_scales)
    else:
        look.add("scales of unknown making", scales.size)
    rest = int(look.left.sum())
    if rest:
        look.classes["unexplained"] = look.classes.get("unexplained", 0) + rest
        look.evidence["unexplained, first places"] = np.argwhere(look.left)[:_LISTED].tolist()
    return look.classes, look.evidence


class _Look:
    """State of a classification: `left` are the codes without a class."""

    def __init__(
        self,
        case: _Case,
        found: Array,
        own: Array,
        used: Floats,
        amax: Floats,
        quotient: str,
        info: FormatInfo,
    ) -> None:
        self.case, self.found, self.own, self.info, self.quotient = case, found, own, info, quotient
        self.left: Mask = found != own
        self.total = int(self.left.sum())
        self.used, self.amax = used, amax
        self.q = case.quotients(used, quotient, amax)
        self.classes: dict[str, int] = {}
        self.evidence: dict[str, Any] = {}
        self.settled: Mask = np.zeros(case.grid, np.bool_)

    def by(self, scales: Floats) -> Array:
        """Make codes by other scales."""
        with np.errstate(all="ignore"):
            amax = self.amax * (scales / self.used)
        return rounded(self.case.quotients(scales, self.quotient, amax), self.info)

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
        self.evidence[f"{name}: groups, first places"] = (
            f"{int(groups.sum())}, {np.argwhere(groups)[:_LISTED].tolist()}"
        )

    def whole_tiles(self) -> None:
        """Find groups of NaN, of zeros, of one code."""
        touched = self.touched()
        if not touched.any():
            return
        numbers = decode(self.found, fmt=self.info.name, dtype=np.float32)
        own = decode(self.own, fmt=self.info.name, dtype=np.float32)
        for name, mask, other in (
            ("tiles of NaN", np.isnan(numbers), np.isnan(own)),
            ("tiles of zeros", numbers == 0, own == 0),
        ):
            groups = self.every(mask) & ~self.every(other) & touched
            if groups.any() and self.take(name, self.group_mask(groups)):
                self.note(name, groups)

    def moved_tiles(self) -> None:
        """Find 1 x width tiles that stand elsewhere in the result that was to be."""
        m, k = self.found.shape
        width = min(self.case.block[1], 128)
        whole = k // width
        if whole * width == 0 or m * whole < 2:
            return
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
            if found[t].tobytes() in where and np.unique(found[t]).size > 1
        ]
        if not pairs:
            return
        mask = np.zeros(self.left.shape, np.bool_)
        for tile, _ in pairs:
            row, column = divmod(tile, whole)
            mask[row, column * width : (column + 1) * width] = True
        back = {b: a for a, b in pairs}
        swapped = all(dict(pairs).get(b) == a for a, b in pairs)
        name = "swapped tiles" if swapped and back else "tiles of another place"
        self.take(name, mask)
        self.evidence[f"{name}: tile found at, belongs at"] = [
            (divmod(a, whole), divmod(b, whole)) for a, b in pairs[:_LISTED]
        ]

    def tiles_by_other_scales(self, used: Floats) -> None:
        """Find groups whose codes follow another scale than the one stored with them."""
        others = {
            f"codes by a scale off by a power of two (2**{j})": used * np.float32(2.0**j)
            for j in (-3, -2, -1, 1, 2, 3)
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

    # --- Codes ----------------------------------------------------------------------------------------------

    def codes(self) -> None:
        """Classify single codes."""
        if not self.left.any():
            return
        numbers = decode(self.found, fmt=self.info.name, dtype=np.float64)
        own = decode(self.own, fmt=self.info.name, dtype=np.float64)
        self.take("signs of zero", (numbers == 0) & (own == 0))
        low, high = neighbours(self.q, self.info)
        beside = (numbers == low) | (numbers == high)
        self.take("ties only", ties(self.q, self.info) & beside)
        flips = self.left & (np.bitwise_count(self.found ^ self.own) == 1)
        if 0 < int(self.left.sum()) <= _FEW and flips.sum() == self.left.sum() and self.total <= _FEW:
            places = np.argwhere(flips)[:_LISTED]
            self.evidence["flipped bits: place, found, expected"] = [
                (p.tolist(), hex(int(self.found[tuple(p)])), hex(int(self.own[tuple(p)]))) for p in places
            ]
            self.take("one flipped bit" if len(places) == 1 else "flipped bits", flips)
        self.take("NaN", np.isnan(numbers) | np.isnan(own))
        for how, narrow in (("bfloat16", to_bfloat16), ("float16", to_float16)):
            self.take(f"double rounding by {how}", self.found == rounded(narrow(self.q), self.info))
        with np.errstate(invalid="ignore"):
            near = np.abs(self.q.astype(np.float64) - (low + high) / 2) <= 4 * np.spacing(np.abs(self.q))
        self.take("quotients within 4 ulps of a tie", near & beside)
        beyond = np.abs(self.q) > self.info.max
        self.take("overflow", beyond)
        self.take("the other neighbour (another or stochastic rounding)", beside)

    # --- Scales ---------------------------------------------------------------------------------------------

    def scales(self, found: Floats, own: Floats) -> None:
        """Classify scales that differ although their codes do not follow them."""
        left: Mask = (found != own) & ~(np.isnan(found) & np.isnan(own)) & ~self.settled
        if not left.any():
            return
        with np.errstate(all="ignore"):
            factor = found / own
            classes = {
                "scales missing (zero)": found == 0,
                "scales missing (NaN or infinite)": ~np.isfinite(found),
                "scales truncated to bfloat16": found == cut_to_bfloat16(own),
                "scales rounded to bfloat16": found == to_bfloat16(own),
                "scales off by one ulp": np.abs(found - own) <= np.spacing(np.abs(own)),
                "scales missing (one)": found == 1,
                "stale or swapped scales (of another group)": np.isin(found, own),
                "scales off by a power of two, their codes not": np.frexp(np.abs(factor))[0] == 0.5,
                "negative scales": found < 0,
                "unexplained scales": np.ones_like(left),
            }
        for name, mask in classes.items():
            taken = mask & left
            if taken.any():
                self.add("unexplained" if name == "unexplained scales" else name, int(taken.sum()))
                self.note(name, taken)
                left &= ~taken
