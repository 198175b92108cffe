"""Two arrays of one shape: differing bits, distances, errors and places, in one pass.

Lives here: `compare_arrays` and its result. How it is counted is in `counting`; files and names are in
`files`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .._arrays import Array, as_array, positive
from .counting import MAX_EDGE, Pieces, count_differences, same_bits
from .kinds import Kind, kind_of

_SAMPLED = 1200
_TILE = 128


@dataclass
class ArrayComparison:
    """Differences between two arrays.

    Attributes
    ----------
    name : str
    a, b : str
        Dtype and shape of each.
    equal : bool
        True: the same shape, and the same bits everywhere. Never anything else.
    note : str
        Reason why elements were not compared, or how dtypes were; may be empty.
    elements, differing : int
    bits : dict of int to int
        Elements by how many of their bits differ.
    distance : dict of str to int
        Differing elements by distance on the line of codes (ULP, for floats): "0" is zeros of unlike sign,
        "3-4" is two bounds. NaN are not in it.
    zeros, nan_a, nan_b, nan_payloads : int
        Zeros of unlike sign; NaN in one side only; NaN of unlike bits on both.
    saturated_a, saturated_b : int
        Differing elements that are the largest finite number.
    first : tuple of int or None
        Place of the first difference.
    rows, tiles, blocks : int
        Rows, 1x128 tiles and 128x128 blocks with a difference, of `row_count`, `tile_count`, `block_count`.
    worst_rows : list of (row, differing elements, worst error)
        At most five, the largest error first. Errors are absolute; of codes that mean nothing without scales,
        they are distances in codes. A number beside NaN or infinity is infinitely wrong.
    max_abs, max_rel, sqnr_db : float or None
        Largest absolute and relative error, and signal to noise of all finite elements, with A as the signal;
        None for codes that mean nothing without scales.
    tile_map : list of list of int
        Differing elements over rows and columns, in at most 48 x 48 cells.
    sample : list of (a, b)
        At most 1200 elements of both sides, as numbers, for a picture; not in JSON.
    """

    name: str
    a: str
    b: str
    equal: bool
    note: str = ""
    elements: int = 0
    differing: int = 0
    bits: dict[int, int] = field(default_factory=dict)
    distance: dict[str, int] = field(default_factory=dict)
    zeros: int = 0
    nan_a: int = 0
    nan_b: int = 0
    nan_payloads: int = 0
    saturated_a: int = 0
    saturated_b: int = 0
    first: tuple[int, ...] | None = None
    rows: int = 0
    row_count: int = 0
    tiles: int = 0
    tile_count: int = 0
    blocks: int = 0
    block_count: int = 0
    worst_rows: list[tuple[int, int, float]] = field(default_factory=list)
    max_abs: float | None = None
    max_rel: float | None = None
    sqnr_db: float | None = None
    tile_map: list[list[int]] = field(default_factory=list, repr=False)
    sample: list[tuple[float, float]] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        told = {name: value for name, value in vars(self).items() if name != "sample"}
        return {**told, "bits": {str(k): v for k, v in self.bits.items()}}

    def to_facts(self) -> dict[str, Any]:
        """Return everything that `from_facts` makes it of again, as JSON has it."""
        pairs = {"bits": [*self.bits.items()], "distance": [*self.distance.items()]}  # in their order
        return {**vars(self), **pairs, "sample": [[float(a), float(b)] for a, b in self.sample]}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> ArrayComparison:
        """Make it of what `to_facts` returned."""
        first = facts["first"]
        return cls(
            **{
                **facts,
                "bits": dict(facts["bits"]),
                "distance": dict(facts["distance"]),
                "first": None if first is None else tuple(first),
                "worst_rows": [tuple(row) for row in facts["worst_rows"]],
                "sample": [(a, b) for a, b in facts["sample"]],
            }
        )


def compare_arrays(
    a: ArrayLike, b: ArrayLike, *, name: str = "", fmt: str | None = None, tile: int = _TILE
) -> ArrayComparison:
    """Compare two arrays bit for bit.

    Parameters
    ----------
    a, b : array_like
        Codes of a format, floats or integers, in any byte order and strides. Memory-mapped arrays are read
        once, a piece at a time, and held nowhere.
    name : str
        Copied into the result.
    fmt : str, optional
        Format of codes that are held as plain unsigned integers.
    tile : int
        Edge of tiles and blocks that are counted, at most 65536.

    Returns
    -------
    ArrayComparison
        Unsigned integers beside a format of the same width are taken for its codes, with a note. Other unlike
        dtypes are compared as float64 numbers, and are never equal.

    Raises
    ------
    TypeError, ValueError
        Complex numbers, text and objects; `fmt` of another width; `tile` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> found = compare_arrays(np.float32([1, 2, 3]), np.float32([1, 2, 3.0000002]))
    >>> found.equal, found.differing, found.distance, found.first
    (False, 1, {'1': 1}, (2,))
    """
    left, right = as_array(a, "a"), as_array(b, "b")
    edge = positive(tile, "tile")
    if edge > MAX_EDGE:
        raise ValueError(f"tile: found {edge}, expected at most {MAX_EDGE}")
    result = ArrayComparison(name, _facts(left), _facts(right), False, elements=left.size)
    spread = left.shape != right.shape and _squeezed(left.shape) == _squeezed(right.shape)
    if spread:
        right = right.reshape(left.shape)
    if left.shape != right.shape:
        result.note = f"shapes differ: {left.shape} and {right.shape}"
        if left.shape == right.shape[::-1] and left.dtype == right.dtype and left.ndim > 1:
            same = same_bits(Pieces(left, left.dtype), Pieces(right.T, left.dtype))
            result.note += "; B is A transposed, bit for bit" if same else ""
        return result
    try:
        kind, dtypes, result.note = _one_kind(left.dtype, right.dtype, fmt)
    except TypeError as error:
        raise TypeError(f"{name}: {error}" if name else str(error)) from error
    if spread:
        result.note = "; ".join(filter(None, ("shapes differ by axes of length 1", result.note)))
    pair = Pieces(left, dtypes[0]), Pieces(right, dtypes[1])
    count_differences(result, kind, pair, left.shape, edge)
    if result.differing:
        at = np.unique(np.linspace(0, left.size - 1, min(left.size, _SAMPLED)).astype(np.int64))
        numbers = (kind.values(side.at(at)).tolist() for side in pair)
        result.sample = list(zip(*numbers, strict=True))
    result.equal = result.differing == 0 and not spread and "dtypes differ" not in result.note
    return result


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _facts(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _one_kind(a: Any, b: Any, fmt: str | None) -> tuple[Kind, tuple[Any, Any], str]:
    """Choose the kind of bits that both sides are brought to, and the dtype that each is read as."""
    dtypes = a.newbyteorder("="), b.newbyteorder("=")
    if dtypes[0] == dtypes[1]:
        return kind_of(dtypes[0], fmt), dtypes, ""
    plain = [d.kind == "u" for d in dtypes]
    if dtypes[0].itemsize == dtypes[1].itemsize and plain[0] != plain[1]:
        named = dtypes[plain[0]]
        if named.kind not in "i":
            note = f"unsigned integers taken for codes of {named}"
            return kind_of(named), dtypes, note
    note = f"dtypes differ: {dtypes[0]} and {dtypes[1]}, compared as float64 numbers"
    for dtype in dtypes:
        kind_of(dtype)  # refuse what is no number
    wide = np.dtype(np.float64)
    return kind_of(wide), (wide, wide), note
