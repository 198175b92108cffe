"""What every scheme is, and how a spelling finds its kind.

Lives here: the interface, the names, and reading a spelling. The kinds are in the other files of the package.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Group = tuple[int | None, int | None]
"""Rows and columns that share one scale; None is the whole axis, so (None, None) is the whole tensor."""

WHOLE: Group = (None, None)
GROUPS: dict[str, Group] = {"tensor": WHOLE, "row": (1, None), "col": (None, 1)}
_MAX_GROUP = 1 << 20  # a group given in numbers is held in memory whole; row, col and tensor are not

NAMED: dict[str, str] = {
    "mxfp8": "e4m3:1x32:mx",
    "mxfp6": "e2m3:1x32:mx",
    "mxfp4": "e2m1:1x32:mx",
    "nvfp4": "e2m1:1x16:nvfp4",
}
"""Names for schemes that a standard or a vendor has named."""


class Approximation(NamedTuple):
    """What a scheme makes of a slab: the values read back (its shape), and how many elements were clipped.

    `bits` are those that the slab takes, where they depend on its values: where `Scheme.bits` says None.
    """

    values: Floats
    saturated: int
    bits: int | None = None


class Scheme(ABC):
    """How a tensor is quantized.

    `parse` reads a spelling and ``str`` writes it; ``Scheme.parse(str(scheme)) == scheme``. Schemes are
    frozen dataclasses: hashable, and equal when they say the same.

    Examples
    --------
    >>> from dsv3_numerics.study import Scheme
    >>> scheme = Scheme.parse("e4m3:1x128:f32")
    >>> scheme.format, scheme.group, scheme.scale, scheme.rule
    ('float8_e4m3fn', (1, 128), 'float32', 'deepseek_v3')
    >>> str(Scheme.parse("e2m1:1x32:mx"))
    'mxfp4'
    """

    @property
    @abstractmethod
    def group(self) -> Group | None:
        """Rows and columns that share a scale (None: the whole axis); None where there are no scales."""

    @property
    def needs_tensor_amax(self) -> bool:
        """Whether a slab cannot be quantized without the largest magnitude of the whole tensor."""
        return False

    @abstractmethod
    def bits(self, rows: int, cols: int) -> int | None:
        """Bits that a (rows, cols) tensor takes, with its scales; None where they depend on its values."""

    @abstractmethod
    def quantize(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        """Quantize and read back a (rows, cols) slab.

        Parameters
        ----------
        slab : ndarray of float32 or float64, shape (rows, cols)
            It starts on a group's border.
        amax : ndarray of float32, optional
            The largest magnitude of each group, where the groups reach beyond the slab.
        tensor_amax : float, optional
            The largest magnitude of the tensor, where the scheme needs it and the slab is not all of it.
        """

    @classmethod
    def parse(cls, spelling: str | Scheme) -> Scheme:
        """Read a scheme.

        Parameters
        ----------
        spelling : str or Scheme
            ``format:group:scale[:rule]``, a format alone, ``logfmtN:group[:rounding]``, or a name such as
            ``mxfp4``. A Scheme is returned as it is.

        Raises
        ------
        ValueError
            The spelling is not a scheme; the message lists what is possible.

        Examples
        --------
        >>> from dsv3_numerics.study import Scheme
        >>> Scheme.parse("e4m3:2x2:f16")
        Traceback (most recent call last):
        ...
        ValueError: scheme 'e4m3:2x2:f16': unknown scale 'f16'; expected one of f32, ue8m0, mx, nvfp4
        """
        if isinstance(spelling, Scheme):
            return spelling
        text = spelling.strip().lower()
        parts = NAMED.get(text, text).split(":")
        for kind in KINDS:
            if kind.takes(parts):
                return kind.read(spelling, parts)
        raise ValueError(
            f"scheme {spelling!r}: {len(parts)} parts; expected format, or format:group:scale[:rule]"
        )

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        """Whether this kind of scheme reads a spelling of these parts."""
        return False

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        """Read the parts of a spelling that this kind takes; kinds without a spelling take none."""
        raise TypeError(f"{cls.__name__} has no spelling, found {spelling!r}")


KINDS: list[type[Scheme]] = []
"""The kinds that a spelling may be, in the order in which they are asked; the package fills it."""


def read_group(spelling: str, text: str) -> Group:
    if text in GROUPS:
        return GROUPS[text]
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if not match:
        hint = suggest(text, list(GROUPS))
        raise ValueError(
            f"scheme {spelling!r}: unknown group {text!r}; expected ROWSxCOLS (1x128, 128x128, 128x1), "
            f"tensor, row or col{hint}"
        )
    block = (int(match[1]), int(match[2]))
    if not 0 < block[0] * block[1] <= _MAX_GROUP:
        raise ValueError(
            f"scheme {spelling!r}: group {text} has {block[0] * block[1]} elements; "
            f"expected 1 to {_MAX_GROUP} (row, col and tensor have no limit)"
        )
    return block


def pick(spelling: str, what: str, text: str, options: list[str]) -> str:
    if text in options:
        return text
    possible = ", ".join(options) + suggest(text, options)
    raise ValueError(f"scheme {spelling!r}: unknown {what} {text!r}; expected one of {possible}")


def suggest(text: str, options: list[str]) -> str:
    close = difflib.get_close_matches(text, options, 1)
    return f" (did you mean {close[0]}?)" if close else ""
