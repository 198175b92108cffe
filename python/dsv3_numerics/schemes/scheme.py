"""The scheme: its interface, its spelling, and the one function that quantizes by any of them.

Lives here: `Scheme`, reading a spelling, `quantize`. The kinds are in the other files of the package.
"""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from .._arrays import RANDOM_ROUNDINGS, Array, brief, source
from ..logfmt import LogFmt
from ..quantized import Quantized

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
    "flashmla": "e4m3:1x128:f32:flashmla",
    "fp8_ds_mla": "e4m3:1x128:f32:vllm_fp8_ds_mla",
    "fp8_static": "e4m3:tensor:f32=1",
    "model1": "e4m3:1x64:ue8m0:flashmla",
    "flashmla_v41": "e4m3:1x32:ue8m0:flashmla",
    "flashmla_v41_fp4": "e2m1:1x16:nvfp4:none:nvfp4_flashmla",
}
"""Names for schemes that a standard, a vendor or a kernel has named."""


class NotFiniteError(ValueError):
    """NaN or infinity where numbers were to become codes."""


class CodedSlab(NamedTuple):
    """Codes that an approximation was read back from, by which clipped elements are counted.

    Attributes
    ----------
    codes : ndarray
        Unsigned integers, on one axis.
    format : str
    layout : tuple of five int
        Stack, rows, columns, rows and columns that share a scale.
    scales : ndarray of float32
        Multipliers, on one axis.
    """

    codes: Array
    format: str
    layout: tuple[int, int, int, int, int]
    scales: Floats


class Approximation(NamedTuple):
    """Slab after a scheme: the values read back (its shape), and how many elements were clipped.

    `saturated` is their number, or the codes by which they are counted in the pass that sums up errors.
    `bits` are those that the slab takes, where they depend on its values: where `Scheme.bits` says None. NaN
    where nobody knows. `floored` counts elements of groups whose scale a floor of the rule made larger.
    """

    values: Floats
    saturated: int | CodedSlab = 0
    bits: float | None = None
    floored: int = 0


class Scheme(ABC):
    """How a tensor is held in low precision.

    `parse` reads a spelling and ``str`` writes it; ``Scheme.parse(str(scheme)) == scheme``. Schemes are
    frozen dataclasses: hashable, and equal when they say the same.

    Examples
    --------
    >>> from dsv3_numerics import Scheme
    >>> scheme = Scheme.parse("e4m3:1x128:f32")
    >>> scheme.format, scheme.group, scheme.scale
    ('float8_e4m3fn', (1, 128), 'float32')
    >>> str(Scheme.parse("e2m1:1x32:mx"))
    'mxfp4'
    >>> scheme.nbytes((4, 256))
    1056
    """

    is_identity: ClassVar[bool] = False
    "True: numbers stay as they are."
    is_quantized: ClassVar[bool] = False
    "True: codes with scales, a `Quantized`, which products can take as they are."

    @property
    @abstractmethod
    def group(self) -> Group | None:
        """Rows and columns that share a scale (None: the whole axis); None where there are no scales."""

    @property
    def group_k(self) -> int | None:
        """Columns that share a scale; None where all of a row do."""
        return None if self.group is None else self.group[1]

    @property
    def needs_tensor_amax(self) -> bool:
        """True: a slab cannot be quantized without the largest magnitude of the whole tensor."""
        return False

    @property
    def needs_whole_tensor(self) -> bool:
        """True: the tensor must not be cut in slabs at all."""
        return False

    @property
    def is_random(self) -> bool:
        """True: it rounds at random, and needs a seed."""
        return getattr(self, "rounding", None) in RANDOM_ROUNDINGS

    @property
    def uses_scale_rule(self) -> bool:
        """True: a rule of someone's choice makes the scales, and the scheme names none."""
        return False

    def with_rule(self, rule: str) -> Scheme:
        """Return the same, with its scales by this rule where `uses_scale_rule`."""
        return self

    def per_token(self) -> Scheme:
        """Return the same with nothing that rows share: NVFP4 with a scale of scales for each."""
        return self

    def with_rounding(self, rounding: str) -> Scheme:
        """Return the same, rounding so.

        Raises
        ------
        ValueError
            The scheme does not round so; the message lists how it does.
        """
        raise ValueError(
            f"rounding: found {brief(rounding)}, but scheme '{self}' has no use for it; leave it out"
        )

    @abstractmethod
    def bits(self, rows: int, cols: int) -> int | None:
        """Bits that a (rows, cols) tensor takes, with its scales; None where they depend on its values."""

    def nbytes(self, shape: tuple[int, ...]) -> int | None:
        """Bytes of a tensor, densely packed, with its scales; None where they depend on its values.

        Parameters
        ----------
        shape : tuple of int
            Leading axes are rows, as in `approximate`; a vector is one row.
        """
        cols = shape[-1] if shape else 1
        bits = self.bits(math.prod(shape[:-1]), cols)
        return None if bits is None else -(-bits // 8)

    @abstractmethod
    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        """Quantize and read back a (rows, cols) slab of a tensor, as studies do.

        Parameters
        ----------
        slab : ndarray of float32 or float64, shape (rows, cols)
            It starts on a group's border.
        amax : ndarray of float32, optional
            The largest magnitude of each group, where the groups reach beyond the slab.
        tensor_amax : float, optional
            The largest magnitude of the tensor, where the scheme needs it and the slab is not all of it.
        """

    def encode(self, x: Array, **settings: Any) -> Any:
        """Quantize; see `quantize`, which checks the input first. By default what `approximate` reads back.

        `settings` are those of `quantize` that were given: ``out`` and ``seed``.
        """
        refuse_settings(self, settings)
        rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
        return self.approximate(rows).values.reshape(x.shape)

    def decode(self, held: Any, dtype: npt.DTypeLike = np.float32) -> Array:
        """Read back what `encode` made, as numbers of `dtype`."""
        if isinstance(held, Quantized | LogFmt):
            return held.dequantize(dtype)
        array: Array = np.asarray(held).astype(dtype, copy=False)
        return array

    def read_back(self, x: npt.ArrayLike) -> Array:
        """Return what is left of numbers that have been in this scheme; their shape and dtype.

        Raises
        ------
        NotFiniteError
            NaN or infinity.
        TypeError, ValueError
            As for `quantize`.

        Examples
        --------
        >>> import numpy as np
        >>> from dsv3_numerics import Scheme
        >>> Scheme.parse("mxfp4").read_back(np.float32([1, 2.4, 3]))
        array([1., 2., 3.], dtype=float32)
        """
        array, _ = source(x, "x")
        return self.decode(quantize(array, self), array.dtype)

    def problem(self) -> str | None:
        """Why the quantizer takes no array in this scheme; None where it does.

        Formats and scales may not go together: it is found by trying.
        """
        seed = {"seed": 0} if self.is_random else {}
        try:
            self.encode(np.zeros((1, 1), np.float32), **seed)
        except ValueError as error:
            return str(error)
        return None

    @classmethod
    def parse(cls, spelling: Any) -> Scheme:
        """Read a scheme.

        Parameters
        ----------
        spelling : str, Scheme, dtype, or a user's own scheme
            ``format:group:scale[:rule]``, a format alone, ``logfmtN[:group[:rounding]]``, ``none``, or a name
            such as ``mxfp4``. A Scheme is returned as it is; a dtype is a cast to it; a function, or an
            object with the methods ``quantize`` and ``dequantize``, becomes an `OwnScheme`.

        Raises
        ------
        ValueError
            The spelling is not a scheme; the message lists what is possible.
        TypeError
            Anything else.

        Examples
        --------
        >>> from dsv3_numerics import Scheme
        >>> Scheme.parse("e4m3:2x2:f16")
        Traceback (most recent call last):
        ...
        ValueError: scheme 'e4m3:2x2:f16': unknown scale 'f16'; expected one of f32, ue8m0, mx, nvfp4
        """
        if isinstance(spelling, Scheme):
            return spelling
        if not isinstance(spelling, str):
            for kind in KINDS:
                found = kind.of(spelling)
                if found is not None:
                    return found
            raise TypeError(
                f"scheme: found {brief(spelling)}, expected a spelling such as 'e4m3:1x128:f32', a Scheme, a "
                "dtype, a function, or an object with the methods quantize and dequantize"
            )
        text = spelling.strip().lower()
        parts = text.split(":")
        name, static, number = parts[0].partition("=")
        if name in NAMED:
            named = NAMED[name].split(":")
            if static:
                named[2] = f"{named[2].partition('=')[0]}={number}"
            parts = [*named, *parts[1:]]
        for kind in KINDS:
            if kind.takes(parts):
                return kind.read(spelling, parts)
        raise ValueError(
            f"scheme {spelling!r}: {len(parts)} parts; expected format, or format:group:scale[:rule]"
        )

    @classmethod
    def takes(cls, parts: list[str]) -> bool:
        """Tell whether this kind of scheme reads a spelling of these parts."""
        return False

    @classmethod
    def read(cls, spelling: str, parts: list[str]) -> Scheme:
        """Read the parts of a spelling that this kind takes; kinds without a spelling take none."""
        raise TypeError(f"{cls.__name__} has no spelling, found {brief(spelling)}")

    @classmethod
    def of(cls, value: Any) -> Scheme | None:
        """Return the scheme that a value stands for which is no spelling; None where it stands for none."""
        return None


KINDS: list[type[Scheme]] = []
"""The kinds that a spelling may be, in the order in which they are asked; the package fills it."""


def quantize(
    x: npt.ArrayLike,
    scheme: Any,
    *,
    rounding: str | None = None,
    seed: int | np.random.Generator | None = None,
    out: Any = None,
) -> Any:
    """Quantize in any scheme: one front door for formats, scales, LogFMT and a user's own.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
    scheme : str or Scheme
        ``"mxfp8"``, ``"nvfp4"``, ``"e4m3:128x128:ue8m0"``, ``"logfmt8:1x128"``, ``"bf16"``, or anything else
        that `Scheme.parse` takes. Groups of one row run along the last axis; others are blocks of the last
        two axes, with leading axes as a stack.
    rounding : str, optional
        Instead of the scheme's own: see `encode` for casts and scaled codes, `logfmt_encode` for LogFMT.
    seed : int or numpy.random.Generator, optional
        For stochastic rounding, which needs one.
    out : ndarray or tuple of ndarray, optional
        Where codes (and scales, or ranges) are written, as for `quantize_tiles`, `logfmt_encode` or `encode`.

    Returns
    -------
    Quantized, LogFmt or ndarray
        Codes with scales; logarithmic codes; or, of a plain cast, an array of the format's dtype. ``"none"``
        gives the array itself.

    Raises
    ------
    NotFiniteError
        NaN or infinity, a ValueError.
    TypeError, ValueError
        As for those functions; an option that the scheme has no use for.

    Examples
    --------
    >>> import numpy as np
    >>> import dsv3_numerics as d3
    >>> x = np.linspace(-3, 3, 64, dtype=np.float32).reshape(2, 32)
    >>> d3.quantize(x, "mxfp8")
    Quantized((2, 32) float8_e4m3fn, 32 along axis 1, mx scales, 8.25 bits per element)
    >>> d3.quantize(x, "logfmt8:1x32").bits
    8
    >>> d3.quantize(x, "bf16").dtype
    dtype(bfloat16)
    """
    chosen = Scheme.parse(scheme)
    array, _ = source(x, "x")
    if rounding is not None:
        chosen = chosen.with_rounding(rounding)
    given = {"seed": seed, "out": out}
    settings = {name: value for name, value in given.items() if value is not None}
    try:
        return chosen.encode(array, **settings)
    except NotFiniteError:
        raise
    except ValueError as error:
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False)).all()
        if finite:
            raise
        raise NotFiniteError(str(error)) from error


def refuse_settings(scheme: Scheme, settings: dict[str, Any]) -> None:
    """Refuse options of `quantize` that a scheme has no use for."""
    for name, value in settings.items():
        raise ValueError(
            f"{name}: found {brief(value)}, but scheme '{scheme}' has no use for it; leave it out"
        )


def check_seed(scheme: Scheme, rounding: str, seed: Any) -> None:
    """Ask for a seed exactly where a scheme rounds at random."""
    if rounding in RANDOM_ROUNDINGS and seed is None:
        raise ValueError(
            f"seed: found none for scheme '{scheme}', which rounds at random; expected quantize(..., seed=)"
        )
    if rounding not in RANDOM_ROUNDINGS and seed is not None:
        raise ValueError(f"seed: found {seed}, but scheme '{scheme}' does not round at random; leave it out")


def read_group(spelling: str, text: str) -> Group:
    """Rows and columns that share a scale, from a part of a spelling."""
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


def write_group(group: Group) -> str:
    """Return the part of a spelling that `read_group` reads."""
    name = next((name for name, named in GROUPS.items() if named == group), None)
    return name or f"{group[0]}x{group[1]}"


def pick(spelling: str, what: str, text: str, options: list[str]) -> str:
    """Return a part of a spelling, if it is one of the options."""
    if text in options:
        return text
    possible = ", ".join(options) + suggest(text, options)
    raise ValueError(f"scheme {spelling!r}: unknown {what} {text!r}; expected one of {possible}")


def suggest(text: str, options: list[str]) -> str:
    """Return the closest of some words, as the end of a message."""
    close = difflib.get_close_matches(text, options, 1)
    return f" (did you mean {close[0]}?)" if close else ""
