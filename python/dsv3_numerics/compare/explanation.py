"""Explanations: hypotheses that were tried, those that fit, and what remains of the nearest.

Lives here: the result of every explanation and how it is worded. Not here: any hypothesis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_SHOWN = 8
_DAMAGE = (
    "one flipped bit",
    "flipped bits",
    "bit ",
    "tiles of",
    "rows of",
    "swapped",
    "stale",
    "codes by a stale scale",
    "scale off by a power of two",
    "scales off by a power of two",
    "scales missing",
    "zero-point",
)
"""Beginnings of classes that tell of places rather than of arithmetic."""


@dataclass(frozen=True)
class Fit:
    """A hypothesis and how much of B it reproduces.

    Attributes
    ----------
    columns : dict of str to str
        The choices that it is made of: rule, quotient, rounding, scale layout, unit, and so on.
    assumptions : int
        How many of them depart from the plainest reading: 0 is an operation of ours as it is.
    matching, elements : int
        Codes (or outputs) that agree bit for bit, of all.
    scales_matching, scales : int
        The same for scales; 0 of 0 where there are none.
    """

    columns: dict[str, str]
    assumptions: int
    matching: int
    elements: int
    scales_matching: int = 0
    scales: int = 0

    @property
    def exact(self) -> bool:
        """True: B is reproduced bit for bit."""
        return self.matching == self.elements and self.scales_matching == self.scales

    @property
    def name(self) -> str:
        """The choices in one line."""
        return "; ".join(f"{key}: {value}" for key, value in self.columns.items())

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {**vars(self), "exact": self.exact, "name": self.name}


@dataclass
class Explanation:
    """Verdict on B, with its evidence.

    Attributes
    ----------
    verdict : str
        One sentence.
    cause : str
        Word of the verdict: "equal" (an operation of ours as it is), "reproduced" (a variant, named in
        `fits`), a class of `classes` that covers every difference, "several" (more than one class),
        "garbage", or "unexplained".
    fits : list of Fit
        All hypotheses that reproduce B bit for bit, the fewest assumptions first.
    nearest : Fit or None
        Where none does: the one that leaves least.
    classes : dict of str to int
        Differences from the nearest, by what they look like; "unexplained" is the rest.
    evidence : dict of str to Any
        Figures behind the classes: places, pairs of tiles, factors.
    tried : int
        Hypotheses tried on a sample; those that fit it were confirmed on everything.
    """

    verdict: str
    cause: str
    fits: list[Fit] = field(default_factory=list)
    nearest: Fit | None = None
    classes: dict[str, int] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    tried: int = 0

    @property
    def conclusive(self) -> bool:
        """True: what remains of the nearest is damage of places, which no other arithmetic would explain."""
        return bool(self.classes) and all(name.startswith(_DAMAGE) for name in self.classes)

    @property
    def exact(self) -> bool:
        """True: something reproduces B bit for bit."""
        return bool(self.fits)

    @property
    def plainest(self) -> list[Fit]:
        """Fits with the fewest assumptions: the inputs do not tell these apart."""
        return [fit for fit in self.fits if fit.assumptions == self.fits[0].assumptions]

    def column(self, name: str) -> list[str]:
        """Return the values of a column among the plainest fits, or of the nearest."""
        found = self.plainest or ([self.nearest] if self.nearest else [])
        return list(dict.fromkeys(fit.columns[name] for fit in found if name in fit.columns))

    def lines(self) -> list[str]:
        """Return the explanation as text."""
        out = [self.verdict]
        if self.fits:
            out += [f"  fits: {fit.name}" for fit in self.plainest[:_SHOWN]]
            more = len(self.fits) - min(len(self.plainest), _SHOWN)
            if more:
                out.append(f"  {more} more hypotheses fit, most with more assumptions (all in --json)")
        elif self.nearest is not None:
            near = self.nearest
            scales = f", {near.scales_matching} of {near.scales} scales" if near.scales else ""
            out.append(f"  nearest: {near.name}")
            out.append(f"  it reproduces {near.matching} of {near.elements} elements{scales}; the rest:")
            out += [f"    {count:>10}  {name}" for name, count in self.classes.items()]
        out += [f"  {key}: {value}" for key, value in self.evidence.items()]
        out.append(f"  {self.tried} hypotheses tried on a sample")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "verdict": self.verdict,
            "cause": self.cause,
            "exact": self.exact,
            "fits": [fit.to_dict() for fit in self.fits],
            "nearest": self.nearest.to_dict() if self.nearest else None,
            "classes": self.classes,
            "evidence": self.evidence,
            "tried": self.tried,
        }


def of_fits(fits: list[Fit], tried: int, what: str) -> Explanation:
    """Word the explanation of hypotheses that all reproduce B."""
    ordered = sorted(fits, key=lambda fit: fit.assumptions)
    least = [fit for fit in ordered if fit.assumptions == ordered[0].assumptions]
    merged: dict[str, list[str]] = {}
    for fit in least:
        for key, value in fit.columns.items():
            merged.setdefault(key, [])
            if value not in merged[key]:
                merged[key].append(value)
    told = "; ".join(f"{key}: {' or '.join(values)}" for key, values in merged.items())
    same = ordered[0].assumptions == 0
    lead = "B is this operation, bit for bit" if same else "B is reproduced bit for bit by a variant"
    choice = "" if len(least) == 1 else f" ({len(least)} hypotheses that these inputs do not tell apart)"
    return Explanation(
        f"{lead} ({ordered[0].elements} {what}): {told}{choice}",
        "equal" if same else "reproduced",
        ordered,
        tried=tried,
    )


def of_classes(
    nearest: Fit, classes: dict[str, int], evidence: dict[str, Any], tried: int, *, garbage: bool, what: str
) -> Explanation:
    """Word the explanation of what the nearest hypothesis leaves."""
    found = {name: count for name, count in classes.items() if count}
    named = [name for name in found if name != "unexplained"]
    total = sum(found.values())
    told = ", ".join(f"{count} {name}" for name, count in found.items())
    if garbage:
        cause = "garbage"
        lead = f"Nothing tried comes near: {nearest.matching} of {nearest.elements} {what} agree"
    elif not named:
        cause, lead = "unexplained", f"{total} differences from the nearest hypothesis are of no known kind"
    elif len(found) == 1:
        cause, lead = named[0], f"All {total} differences from the nearest hypothesis: {named[0]}"
    else:
        cause, lead = "several", f"{total} differences from the nearest hypothesis: {told}"
    if nearest.assumptions and not garbage:
        lead += f"; and the nearest hypothesis is a variant itself ({nearest.name})"
    return Explanation(lead, cause, [], nearest, found, evidence, tried)
