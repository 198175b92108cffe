"""Formats that tensors are sent in: those with their scales, and LogFMT in its readings, as one table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..logfmt import LogFmt
from ..report.charts import RING, Style
from ..schemes import Scheme, quantize

Floats = npt.NDArray[np.float32]


class Received(NamedTuple):
    """Arrival of a tensor: the values, the bits sent for each, and the share that LogFMT left in bfloat16."""

    values: Floats
    bits_per_element: float
    escaped: float | None = None


class Wire(NamedTuple):
    """A way to send: its name in tables, and the scheme."""

    name: str
    scheme: Scheme

    def send(self, x: Floats) -> Received:
        """Encode rows of values and read them back."""
        sent = quantize(x, self.scheme)
        values = self.scheme.decode(sent)
        if not isinstance(sent, LogFmt):
            return Received(values, self.bits(*x.shape) / x.size)
        escaped = 0.0 if sent.escaped is None else float(np.mean(sent.escaped))
        return Received(values, sent.bits_per_element, escaped)

    def bits(self, rows: int, cols: int) -> int:
        """Count the bits of rows of values, with scales; a scheme's size, known without the values."""
        found = self.scheme.bits(rows, cols)
        assert found is not None
        return found


def _wires(rows: dict[str, str]) -> tuple[Wire, ...]:
    return tuple(Wire(name, Scheme.parse(spelling)) for name, spelling in rows.items())


FLOATS = _wires(
    {
        "BF16": "bf16",
        "E5M6 2^k": "e5m6:1x128:ue8m0",
        "E4M3": "e4m3:1x128:f32",
        "E4M3 2^k": "e4m3:1x128:ue8m0",
        "E5M2": "e5m2:1x128:f32",
    }
)
"""Floating-point formats; 2^k: scales are powers of two, otherwise they are float32."""

LOGFMT = _wires(
    {
        f"LogFMT-{bits}{reading}{', log' if rounding == 'log' else ''}": f"logfmt{bits}:{tiles}:{rounding}"
        for bits in (8, 10)
        for reading, tiles in (("", "1x128"), (", DeepEP", "deepep"))
        for rounding in ("linear", "log")
    }
)
"""LogFMT by the paper and as DeepEP's kernel has it; rounded in linear space, or ("log") in log space."""

WIRES = FLOATS + LOGFMT


def pick(*names: str) -> list[Wire]:
    """Return some of `WIRES`, by their names.

    Examples
    --------
    >>> from dsv3_numerics.experiments.wire import pick
    >>> str(pick("E4M3")[0].scheme)
    'e4m3:1x128:f32'
    """
    by_name = {wire.name: wire for wire in WIRES}
    return [by_name[name] for name in names]


def colours(names: Iterable[str]) -> dict[str, Style]:
    """How each is drawn: the colour is the family, a ring or dashes are DeepEP's reading."""
    return {name: _STYLES[name] for name in names}


_DASHED, _EIGHT, _TEN = (0, (4, 1.5)), "#D55E00", "#CC79A7"
_STYLES: dict[str, Style] = {
    "BF16": ("#555555", "X", "-"),
    "E5M6 2^k": ("#009E73", "D", "-"),
    "E4M3": ("#0072B2", "o", "-"),
    "E4M3 2^k": ("#0072B2", "<", _DASHED),
    "E5M2": ("#56B4E9", "v", "-"),
    "LogFMT-8": (_EIGHT, "^", "-"),
    "LogFMT-8, DeepEP": (_EIGHT, RING, _DASHED),
    "LogFMT-10": (_TEN, "s", "-"),
    "LogFMT-10, DeepEP": (_TEN, RING, _DASHED),
}
