"""Tensors of torch as arrays, and its dtypes by name, without importing torch.

Lives here: what NumPy and DLPack cannot say of them (bfloat16 and the FP8 formats are handed over as bytes,
parameters without their gradient). Memory is shared, nothing is copied but lazily conjugated numbers.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_AS_BYTES = {
    name: np.dtype(getattr(ml_dtypes, name))
    for name in (
        "bfloat16",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}
_PREFIX = "torch."


def is_tensor(x: Any) -> bool:
    """Tell whether it is a tensor or parameter of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def from_tensor(x: Any, name: str) -> NDArray[Any]:
    """Return a tensor as an array that shares its memory.

    Raises
    ------
    TypeError
        A tensor on another device, sparse, quantized by torch, or of a dtype that NumPy and ml_dtypes lack.
    """
    x = x.detach()
    if x.device.type != "cpu":
        raise TypeError(f"{name}: found a tensor on {x.device}, expected one in CPU memory (.cpu())")
    if str(x.layout) != "torch.strided" or x.is_quantized:
        kind = "quantized by torch" if x.is_quantized else str(x.layout).removeprefix(_PREFIX)
        raise TypeError(f"{name}: found a tensor that is {kind}, expected a dense one")
    x = x.resolve_conj().resolve_neg()
    found: NDArray[Any]
    element = _AS_BYTES.get(str(x.dtype).removeprefix(_PREFIX))
    try:
        if element is None:
            found = x.numpy()
            return found
        torch = sys.modules["torch"]
        found = x.view(torch.uint8 if element.itemsize == 1 else torch.int16).numpy()
        return found.view(element)
    except (TypeError, RuntimeError):
        raise TypeError(f"{name}: found a tensor of {x.dtype}, which NumPy cannot hold") from None


def dtype_of(dtype: Any) -> Any:
    """Return NumPy's or ml_dtypes' name of a dtype of torch; anything else as it is."""
    text = str(dtype) if type(dtype).__module__ == "torch" else ""
    if not text.startswith(_PREFIX):
        return dtype
    name = text.removeprefix(_PREFIX)
    return _AS_BYTES.get(name, name)
