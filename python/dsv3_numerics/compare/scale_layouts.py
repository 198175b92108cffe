"""Layouts in which scales may be stored or misread, and what their bytes may mean.

Lives here: the table of layouts, and `readings`, which yields every one that fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from .._arrays import Array
from ..layouts import from_mn_major, from_packed_ue8m0, out_of_tiles
from .scale_rows import Floats, f32

_E8M0, _E4M3 = np.dtype(ml_dtypes.float8_e8m0fnu), np.dtype(ml_dtypes.float8_e4m3fn)
_FILLED = (4, 8, 16, 32, 64, 128)
PLAIN_LAYOUT = "row-major"
_SWAPPED = "bytes reversed"


def _plain(s: Array, rows: int, groups: int) -> Array | None:
    if s.shape == (groups, rows) and rows != groups:
        return None
    return s.reshape(rows, groups) if s.size == rows * groups else None


def _transposed(s: Array, rows: int, groups: int) -> Array | None:
    if rows == groups:
        return s.T if s.shape == (rows, groups) else None
    return s.T if s.shape == (groups, rows) and rows != 1 and groups != 1 else None


def _column_major(s: Array, rows: int, groups: int) -> Array | None:
    return s.reshape(groups, rows).T if s.shape == (rows, groups) and 1 not in s.shape else None


def _row_major_under_transposed(s: Array, rows: int, groups: int) -> Array | None:
    fits = s.shape == (groups, rows) and rows != groups and 1 not in s.shape
    return s.reshape(rows, groups) if fits else None


def _mn_major(s: Array, rows: int, groups: int) -> Array | None:
    if s.shape != (groups, -(-rows // 4) * 4) or (rows < 4 and not _idle(s[:, rows:])):
        return None
    return from_mn_major(s, rows) if s.dtype == f32 else s[:, :rows].T


def _packed(s: Array, rows: int, groups: int) -> Array | None:
    fits = s.dtype in (np.int32, np.uint32) and s.shape == (-(-groups // 4), -(-rows // 4) * 4)
    return from_packed_ue8m0(s.view(np.int32), rows, groups) if fits else None


def _packed_backwards(s: Array, rows: int, groups: int) -> Array | None:
    return _packed(s.byteswap(), rows, groups) if s.dtype in (np.int32, np.uint32) else None


def _packed_rows(s: Array, rows: int, groups: int) -> Array | None:
    """Words of four exponents along k, a row after another."""
    if s.dtype not in (np.int32, np.uint32) or s.shape not in (
        (rows, -(-groups // 4)), (-(-rows // 4) * 4, -(-groups // 4)),
    ):  # fmt: skip
        return None
    return np.ascontiguousarray(s).view(np.uint8)[:rows, :groups]


def _packed_rows_backwards(s: Array, rows: int, groups: int) -> Array | None:
    return _packed_rows(s.byteswap(), rows, groups) if s.dtype in (np.int32, np.uint32) else None


def _tiles(s: Array, rows: int, groups: int) -> Array | None:
    """Scales in whole tiles of 128 rows by 4 groups, as they are stored; bytes are exponents."""
    high, wide = -(-rows // 128) * 128, -(-groups // 4) * 4
    s = s.view(_E8M0) if s.dtype == np.uint8 else s
    return s.reshape(high, wide) if s.size == high * wide and s.dtype.kind not in "iu" else None


def _swizzled(s: Array, rows: int, groups: int) -> Array | None:
    found = _tiles(s, rows, groups)
    return None if found is None else out_of_tiles(found)[:rows, :groups]


def _swizzled_rows_exchanged(s: Array, rows: int, groups: int) -> Array | None:
    found = _tiles(s, rows, groups)
    if found is None:
        return None
    tiles = found.reshape(found.shape[0] // 128, -1, 4, 32, 4)
    return tiles.transpose(0, 3, 2, 1, 4).reshape(found.shape)[:rows, :groups]


def _swizzled_tiles_exchanged(s: Array, rows: int, groups: int) -> Array | None:
    """Tiles one below the other instead of one beside the other."""
    found = _tiles(s, rows, groups)
    if found is None or found.shape[0] == 128 or found.shape[1] == 4:
        return None
    tiles = found.reshape(-1, found.shape[0] // 128, 32, 4, 4)
    return tiles.transpose(1, 3, 2, 0, 4).reshape(found.shape)[:rows, :groups]


def _swizzled_twice(s: Array, rows: int, groups: int) -> Array | None:
    once = _swizzled(s, rows, groups)
    return None if once is None or once.size != s.size else _swizzled(once, rows, groups)


def _unswizzled_for_nothing(s: Array, rows: int, groups: int) -> Array | None:
    """Row-major scales that were read as swizzled ones: swizzle them again."""
    if s.shape != (rows, groups) or rows % 128 or groups % 4 or s.dtype.kind in "iu":
        return None
    tiles = s.reshape(rows // 128, 4, 32, groups // 4, 4).transpose(0, 3, 2, 1, 4)
    return np.ascontiguousarray(tiles).reshape(rows, groups)


def _filled(s: Array, rows: int, groups: int) -> Array | None:
    """Rows and groups filled up to a multiple."""
    if s.ndim != 2 or s.shape == (rows, groups) or rows == 1:
        return None
    high = s.shape[0] in {-(-rows // n) * n for n in (1, *_FILLED)}
    wide = s.shape[1] in {-(-groups // n) * n for n in (1, 4, 8)}
    fits = high and wide and _idle(s[rows:]) and _idle(s[:, groups:])
    return s[:rows, :groups] if fits else None


def _idle(rest: Array) -> bool:
    """Tell whether what fills up is all zero bits, or all one."""
    octets = np.ascontiguousarray(rest).view(np.uint8)
    return not octets.any() or bool((rest.astype(f32) == 1).all())


def _rolled(by: int, axis: int) -> Callable[[Array, int, int], Array | None]:
    def read(s: Array, rows: int, groups: int) -> Array | None:
        if s.shape != (rows, groups) or s.shape[axis] < 2:
            return None
        return np.roll(s, -by, axis)

    return read


def _flat(by: int) -> Callable[[Array, int, int], Array | None]:
    def read(s: Array, rows: int, groups: int) -> Array | None:
        if s.shape != (rows, groups) or 1 in s.shape:
            return None
        return np.roll(s.reshape(-1), -by).reshape(s.shape)

    return read


def _reversed(axis: int) -> Callable[[Array, int, int], Array | None]:
    return lambda s, rows, groups: (
        np.flip(s, axis) if s.shape == (rows, groups) and s.shape[axis] > 1 else None
    )


def _dealt(*, back: bool) -> Callable[[Array, int, int], Array | None]:
    """Read rows that were dealt to two halves, or two halves that were dealt together."""

    def read(s: Array, rows: int, groups: int) -> Array | None:
        if s.shape != (rows, groups) or rows % 2 or rows < 4:
            return None
        order = np.arange(rows).reshape(-1, 2).T.reshape(-1)  # even rows, then odd ones
        return s[order] if back else s[np.argsort(order)]

    return read


LAYOUTS: dict[str, tuple[int, Callable[[Array, int, int], Array | None]]] = {
    PLAIN_LAYOUT: (0, _plain),
    "transposed": (1, _transposed),
    "MN-major, TMA-aligned": (0, _mn_major),
    "MN-major, packed UE8M0": (0, _packed),
    "128x4 swizzled": (1, _swizzled),
    "row-major, filled up": (0, _filled),
    "row-major, packed UE8M0": (1, _packed_rows),
    "transposed memory under an untransposed shape": (1, _column_major),
    "row-major memory under a transposed shape": (1, _row_major_under_transposed),
    "MN-major, packed UE8M0, bytes of words reversed": (1, _packed_backwards),
    "row-major, packed UE8M0, bytes of words reversed": (1, _packed_rows_backwards),
    "128x4 swizzled twice": (1, _swizzled_twice),
    "128x4 swizzled, 32 and 4 rows exchanged": (1, _swizzled_rows_exchanged),
    "128x4 swizzled, tiles in columns": (1, _swizzled_tiles_exchanged),
    "row-major, read as 128x4 swizzled": (1, _unswizzled_for_nothing),
    "off by one group (one late)": (1, _rolled(1, 1)),
    "off by one group (one early)": (1, _rolled(-1, 1)),
    "off by one row (one late)": (1, _rolled(1, 0)),
    "off by one row (one early)": (1, _rolled(-1, 0)),
    "off by one in memory (one late)": (1, _flat(1)),
    "off by one in memory (one early)": (1, _flat(-1)),
    "off by two groups (two late)": (1, _rolled(2, 1)),
    "off by two groups (two early)": (1, _rolled(-2, 1)),
    "groups in reverse": (1, _reversed(1)),
    "rows in reverse": (1, _reversed(0)),
    "even rows first, then odd ones": (1, _dealt(back=False)),
    "halves of rows by turns (first, second)": (1, _dealt(back=True)),
}
"""Ways to read stored scales as (rows, groups): assumptions, and a reader, which may return None."""

_SECOND = ("off by one group (one late)", "off by one group (one early)", "off by one row (one late)",
           "off by one row (one early)")  # fmt: skip


class LaidScales:
    """Stored scales in any layout; the last one is kept, since readings ask for it again."""

    def __init__(self, stored: Array | None, rows: int, groups: int) -> None:
        self.stored, self.shape = stored, (rows, groups)
        self._last: tuple[tuple[str, ...], Array] | None = None

    def __call__(self, *layouts: str) -> Array | None:
        """Return scales of shape (rows, groups) by one layout, or by one after another."""
        if self._last is not None and self._last[0] == layouts:
            return self._last[1]
        found = self.stored
        for layout in layouts:
            if found is not None:
                whole = found if found is self.stored else np.ascontiguousarray(found)
                found = LAYOUTS[layout][1](whole, *self.shape)
        if found is None or found.shape != self.shape:
            return None
        self._last = layouts, found
        return found


@dataclass(frozen=True, eq=False)
class ScaleReading:
    """Scales by one reading of the file, a few rows at a time."""

    layout: str
    assumptions: int
    laid: LaidScales
    layouts: tuple[str, ...] = ()
    octets: Any = None
    "dtype that bytes are read as"
    factor: Any = 1
    columns: dict[str, str] = field(default_factory=dict)
    """Unusual choices besides the layout."""

    @property
    def key(self) -> str:
        """One word for the reading."""
        return "\0".join((self.layout, *self.columns.values()))

    def of(self, groups: Any) -> Floats:
        """Return scales of some rows of groups as float32."""
        if self.laid.stored is None:
            return np.zeros((len(groups), 0), f32)
        found = self.laid(*self.layouts)
        assert found is not None
        part = np.ascontiguousarray(found[groups])
        if self.octets is _SWAPPED:
            part = part.byteswap()
        elif self.octets is not None:
            part = part.view(np.uint8).view(self.octets)
        factor = (
            self.factor[groups] if isinstance(self.factor, np.ndarray) and self.factor.ndim else self.factor
        )
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(part.astype(f32) * factor, f32)

    def digest(self) -> bytes:
        """Return a hash of all scales."""
        rows = self.laid.shape[0]
        told = hashlib.blake2b()
        step = max(1, (1 << 20) // max(self.laid.shape[1], 1))
        for start in range(0, rows, step):
            told.update(self.of(np.arange(start, min(start + step, rows))).data)
        return told.digest()


def _dtypes(stored: Array, *, nvfp4: bool) -> Iterator[tuple[str, int, Any]]:
    """Name each way in which the elements of scales may be read, with the dtype of bytes."""
    if stored.dtype in (np.uint8, _E8M0, _E4M3):
        plain = _E4M3 if stored.dtype == _E4M3 or (stored.dtype == np.uint8 and nvfp4) else _E8M0
        other = _E8M0 if plain == _E4M3 else _E4M3
        yield "", 0, plain
        yield f"{other.name}, read as {plain.name}", 1, other
        return
    if stored.dtype.kind not in "iu":
        yield "", 0, None
        if stored.dtype.itemsize > 1:
            yield f"{stored.dtype}, bytes reversed (the other byte order)", 1, _SWAPPED


def readings(
    stored: Array,
    rows: int,
    groups: int,
    outer: Any,
    own: np.float32,
    *,
    nvfp4: bool = False,
    deep: bool = False,
) -> Iterator[ScaleReading]:
    """Read stored scales in every layout that fits; readings that are alike are named by the first.

    Parameters
    ----------
    stored : ndarray, two axes
    rows, groups : int
        Shape to be read.
    outer : float32, array of float32, or None
        Scale of all scales, which may have been left out, inverted, or applied twice.
    own : float32
        The scale of all scales that belongs to the input.
    nvfp4 : bool
        Plain bytes are float8_e4m3fn.
    deep : bool
        Two departures of layout at a time.
    """
    laid = LaidScales(stored, rows, groups)
    seen: set[bytes] = set()
    for name, cost, layouts in _layouts(laid, deep=deep):
        found = laid(*layouts)
        assert found is not None
        for told, more, octets in _dtypes(found, nvfp4=nvfp4):
            for outer_told, extra, factor in _outers(outer, own, found):
                columns = {"scale dtype": told} if told else {}
                if outer_told:
                    columns["global scale"] = outer_told
                total = cost + more + extra
                reading = ScaleReading(name, total, laid, layouts, octets, factor, columns)
                if (key := reading.digest()) not in seen:
                    seen.add(key)
                    yield reading


def _outers(outer: Any, own: np.float32, found: Array) -> Iterator[tuple[str, int, Any]]:
    if outer is None:
        yield "", 0, f32(1)
        if found.dtype in (_E4M3, np.uint8):
            yield "left out (codes and scales go with this tensor's)", 1, own
        return
    yield "", 0, outer
    with np.errstate(all="ignore"):
        yield "inverted (codes and scales go with 1 / global)", 1, f32(1) / outer
        yield "applied twice (it is in the scales already)", 1, f32(1)
        yield "missing once (codes and scales go with its square)", 1, outer * outer
        yield "of another tensor (codes and scales go with this tensor's)", 1, own


def _layouts(laid: LaidScales, *, deep: bool) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    for name, (cost, _) in LAYOUTS.items():
        if laid(name) is None:
            continue
        yield name, cost, (name,)
        if deep and cost and name not in _SECOND:
            for second in _SECOND:
                if laid(name, second) is not None:
                    yield f"{name}, {second}", cost + 1, (name, second)
