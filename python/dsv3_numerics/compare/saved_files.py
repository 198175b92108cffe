"""Values that `Quantized.save` and `LogFmt.save` wrote, opened as what their integers mean.

Lives here: `opened_value`, which tells such an archive from others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .._archive import kind_of
from .._arrays import Array
from ..logfmt_result import LogFmt
from ..quantized import Quantized
from .npz_files import NpzFile

_MOST = 1 << 16  # bytes of facts


def opened_value(path: Path, archive: NpzFile) -> tuple[Mapping[str, Array], list[str]]:
    """Return the arrays of an archive, and a note of what a saved value is; others stay as they are.

    A saved value has its codes and scales in their own dtypes, its global scale by a name of its own, and its
    facts in ``meta``, as bytes: two values of equal codes that mean different numbers are not equal.

    Raises
    ------
    ValueError
        It says that it is a saved value, and is damaged.
    """
    if "meta" not in archive or archive.nbytes("meta") > _MOST:
        return archive, []
    facts = archive["meta"]
    kind = kind_of(facts.tobytes()) if facts.dtype == np.uint8 else None
    if kind is None:
        return archive, []
    value = (Quantized if kind == "Quantized" else LogFmt).load(path)
    arrays = {"meta": facts, **value._stored()[1]}
    if isinstance(value, Quantized) and value.global_scale is not None:
        arrays["global_scale"] = np.asarray(value.global_scale, np.float32)
    told = facts.tobytes().decode().partition(", ")[2].rstrip("}")
    return arrays, [f"{path.name} is a saved {kind} ({told})"]
