"""A user's own scheme: a function, or an object with two methods, wherever a named scheme may stand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._arrays import Array
from ..logfmt import LogFmt
from ..quantized import Quantized
from .scheme import Approximation, Floats, Group, Scheme, refuse_settings

_METHODS = ("quantize", "dequantize")


@dataclass(frozen=True, eq=False)
class OwnScheme(Scheme):
    """A scheme that a user wrote, wherever a named one may stand: `quantize`, studies, recipes.

    It gets matrices: rows of activations or of a latent, a weight, a study's tensor.

    Attributes
    ----------
    method : object or callable
        An object with ``quantize(x)``, of float32 or float64 (rows, columns), and ``dequantize(q)``, which
        gives numbers of that shape back; or a function that does both at once. Where it has an attribute
        ``group``, (rows, columns) with None for a whole axis, a study may cut tensors between groups; without
        one it sees whole tensors. With a method ``bits(rows, cols)`` it says what it takes; without one the
        bits are those of what ``quantize`` gives.
    name : str
        Of reports: the object's ``name``, or that of its class or function.

    Examples
    --------
    >>> import numpy as np
    >>> import dsv3_numerics as d3
    >>> class Hadamard:
    ...     "Rotate channels by a Hadamard matrix before MXFP4."
    ...     h = np.float32([[1]])
    ...     for _ in range(5):
    ...         h = np.block([[h, h], [h, -h]]) / np.float32(2**0.5)
    ...     def quantize(self, x):
    ...         return d3.quantize((x.reshape(-1, 32) @ self.h).reshape(x.shape), "mxfp4")
    ...     def dequantize(self, q):
    ...         return (q.dequantize().reshape(-1, 32) @ self.h).reshape(q.shape)
    >>> x = np.eye(4, 64, dtype=np.float32)
    >>> d3.Scheme.parse(Hadamard()).read_back(x).shape
    (4, 64)
    >>> d3.Recipe(activations=Hadamard(), weights="mxfp4").name
    'float64 with activations=Hadamard, weights=mxfp4'
    """

    method: Any
    name: str

    @property
    def format(self) -> str:
        """The name."""
        return self.name

    @property
    def scales(self) -> str:
        """Nothing: only its author knows."""
        return ""

    @property
    def group(self) -> Group | None:
        found: Group | None = getattr(self.method, "group", None)
        return found

    @property
    def needs_whole_tensor(self) -> bool:
        group = self.group
        return group is None or None in group

    def problem(self) -> str | None:
        return None  # it is found when it is used: nobody knows which shapes it takes

    def bits(self, rows: int, cols: int) -> int | None:
        count = getattr(self.method, "bits", None)
        return int(count(rows, cols)) if callable(count) else None

    def approximate(
        self, slab: npt.NDArray[np.floating], amax: Floats | None = None, tensor_amax: float | None = None
    ) -> Approximation:
        held = self._held(slab)
        values = self._numbers(held, slab.shape, np.dtype(np.float32))
        return Approximation(values, bits=self._bits_of(held))

    def encode(self, x: Array, **settings: Any) -> Any:
        """Return what the user's ``quantize`` gives, or the function."""
        refuse_settings(self, settings)
        return self._held(x)

    def decode(self, held: Any, dtype: npt.DTypeLike = np.float32) -> Array:
        return self._numbers(held, None, np.dtype(dtype))

    def read_back(self, x: npt.ArrayLike) -> Array:
        array = np.asarray(x)
        rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
        found = self._numbers(self._held(rows), rows.shape, array.dtype)
        return found.reshape(array.shape)

    def _held(self, x: Array) -> Any:
        return self.method.quantize(x) if hasattr(self.method, "quantize") else self.method(x)

    def _numbers(self, held: Any, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> Array:
        back = self.method.dequantize(held) if hasattr(self.method, "dequantize") else held
        found = np.asarray(back)
        if found.dtype.kind not in "fV" or (shape is not None and found.shape != shape):
            raise ValueError(
                f"scheme '{self}': gave back {found.dtype} of shape {found.shape}, expected floating-point "
                f"numbers of {'the shape that went in' if shape is None else f'shape {shape}'}"
            )
        array: Array = found.astype(dtype, copy=False)
        return array

    def _bits_of(self, held: Any) -> float:
        if isinstance(held, Quantized | LogFmt):
            return held.bits_per_element * math.prod(held.shape)
        return 8.0 * held.nbytes if hasattr(self.method, "quantize") and hasattr(held, "nbytes") else math.nan

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnScheme) and other.method is self.method and other.name == self.name

    def __hash__(self) -> int:
        return hash((id(self.method), self.name))

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, value: Any) -> Scheme | None:
        methods = [callable(getattr(value, name, None)) for name in _METHODS]
        if isinstance(value, type):
            if all(methods):
                raise TypeError(f"scheme: found the class {value.__name__}, expected an object of it")
            return None
        if not all(methods) and (any(methods) or not callable(value)):
            return None
        default = getattr(value, "__name__", None) or type(value).__name__
        return cls(value, str(getattr(value, "name", default)))
