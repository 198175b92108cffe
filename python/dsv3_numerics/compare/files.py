"""Files and folders of tensors side by side, their names matched.

Lives here: `compare` and its result. What it opens is in `sources`; names that are spelled in another
project's way are matched by `names`; single arrays are compared in `arrays`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike

from .._progress import Meter, Progress
from ..report.text import counted
from .arrays import ArrayComparison, compare_arrays
from .names import match_names
from .sources import Tensors, opened


@dataclass
class Comparison:
    """Result of `compare`.

    Attributes
    ----------
    a, b : str
        Sources.
    tensors : list of ArrayComparison
        One for each name that both have; where names are spelled in two ways, ``"A's = B's"``.
    only_a, only_b : list of str
        Names that the other side does not have.
    notes : list of str
        What was done to names and shards, and what was left out, by side.
    equal : bool
        True: the same names, and all bits equal.
    """

    a: str
    b: str
    tensors: list[ArrayComparison] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True: the same names, and all bits equal."""
        return not self.only_a and not self.only_b and all(one.equal for one in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "notes": self.notes,
            "tensors": [one.to_dict() for one in self.tensors],
        }

    def lines(self) -> list[str]:
        """Return the comparison as text."""
        differing = [one for one in self.tensors if not one.equal]
        out = []
        for one in differing:
            out.append(f"{one.name or 'array'}: differs")
            out += [f"  {line}" for line in told(one)]
        out += [f"note: {note}" for note in self.notes]
        for side, names in (("A", self.only_a), ("B", self.only_b)):
            out += [f"only in {side}: {name}" for name in names]
        same = len(self.tensors) - len(differing)
        unmatched = len(self.only_a) + len(self.only_b)
        elements = sum(one.elements for one in self.tensors)
        out.append(
            f"{same} of {counted(len(self.tensors), 'tensor')} equal bit for bit, {len(differing)} differ, "
            f"{unmatched} without a partner ({counted(elements, 'element')})"
        )
        return out


def told(one: ArrayComparison) -> Iterator[str]:
    """Say in lines where and by how much."""
    yield f"A {one.a}; B {one.b}"
    if one.note:
        yield one.note
    if not one.differing:
        return
    yield f"{one.differing:,} of {counted(one.elements, 'element')}, first at {list(one.first or ())}"
    yield (
        f"in {one.rows} of {one.row_count} rows, {one.tiles} of {one.tile_count} tiles, "
        f"{one.blocks} of {one.block_count} blocks"
    )
    unit = "error" if one.max_abs is not None else "codes away"
    yield "worst rows: " + ", ".join(
        f"{row} ({error:.4g} {unit}, {count} differ)" for row, count, error in one.worst_rows
    )
    if one.distance:
        yield "distance in codes (ULP): " + ", ".join(f"{k}: {v}" for k, v in one.distance.items())
    yield "differing bits: " + ", ".join(f"{k}: {v}" for k, v in one.bits.items())
    special = {
        "zeros of unlike sign": one.zeros,
        "NaN only in A": one.nan_a,
        "NaN only in B": one.nan_b,
        "NaN of unlike bits": one.nan_payloads,
        "saturated in A": one.saturated_a,
        "saturated in B": one.saturated_b,
    }
    found = [f"{name} {count}" for name, count in special.items() if count]
    if found:
        yield ", ".join(found)
    if one.max_abs is not None and one.max_rel is not None and one.sqnr_db is not None:
        yield (
            f"largest error {one.max_abs:.4g} absolute, {one.max_rel:.4g} relative; SQNR {one.sqnr_db:.4g} dB"
        )


def compare(
    a: str | os.PathLike[str] | Mapping[str, ArrayLike],
    b: str | os.PathLike[str] | Mapping[str, ArrayLike],
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Compare files, folders or mappings of arrays, tensor by tensor.

    Parameters
    ----------
    a, b : path or mapping of str to array
        A ``.npy``, ``.npz``, ``.safetensors`` or ``.pt`` file (read without running anything in it), a
        checkpoint folder, a folder that `golden` wrote, a dump of SGLang or msprobe, or a folder of such
        files, whose names then begin with those of the files.
    progress : callable, optional

    Returns
    -------
    Comparison
        Tensors are matched by name; see `names` for spellings of other projects.

    Raises
    ------
    OSError
        Something is missing or cannot be read.
    ValueError
        Something is not understood: pickles of more than tensors, damaged files, no name in common.

    Examples
    --------
    >>> import numpy as np
    >>> found = compare({"x": np.float32([1, 2])}, {"x": np.float32([1, 2])})
    >>> found.equal
    True
    """
    with opened(a, "a") as left, opened(b, "b") as right:
        matched = Matched(_called(a), _called(b), left, right)
        result, meter = matched.empty, Meter(progress, float(len(matched.pairs)))
        for pair in matched.pairs:
            meter.advance(pair[0])
            result.tensors.append(matched.compared(pair))
            meter.advance(pair[0], 1)
        return result


class Matched:
    """Two sides, their tensors matched by name.

    Attributes
    ----------
    pairs : list of (str, str)
        Names of either side.
    empty : Comparison
        The result without tensors.

    Raises
    ------
    ValueError
        No name in common.
    """

    def __init__(self, a: str, b: str, left: Tensors, right: Tensors) -> None:
        self._left, self._right = left, right
        self.pairs, only_a, only_b = match_names(list(left), list(right))
        if not self.pairs:
            raise ValueError(
                f"a and b: found no name in common: {_some(list(left))} and {_some(list(right))}"
            )
        notes = [f"{side}: {note}" for side, held in (("A", left), ("B", right)) for note in held.notes]
        self.empty = Comparison(a, b, only_a=only_a, only_b=only_b, notes=notes)

    def compared(self, pair: tuple[str, str]) -> ArrayComparison:
        """Compare the tensors of a pair."""
        name, other = pair
        shown = name if name == other else f"{name} = {other}"
        return compare_arrays(self._left[name], self._right[other], name=shown)


def _called(source: Any) -> str:
    return "arrays" if isinstance(source, Mapping) else os.fspath(source)


def _some(names: list[str]) -> str:
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
    )
