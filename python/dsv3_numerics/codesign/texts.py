"""Figures as people read them: numbers as text, and SI values in units."""

from __future__ import annotations

import math
from typing import Any


def text_of(value: Any) -> str:
    """Return a value as a table shows it: integers whole with commas, others to six digits.

    Examples
    --------
    >>> from dsv3_numerics.codesign.texts import text_of
    >>> text_of(70272), text_of(120.96000000000001), text_of(1.2e-05), text_of(None)
    ('70,272', '120.96', '1.2e-05', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
            return f"{int(value):,}"
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return " ".join(map(text_of, value))
    return str(value)


def human(value: float, unit: str) -> str:
    """Return a figure in a unit that people read: KB and GiB of bytes, us or ms of seconds, GFLOP.

    Examples
    --------
    >>> from dsv3_numerics.codesign.texts import human
    >>> human(70272, "B"), human(120.96e-6, "s"), human(250.449887232e9, "FLOP"), human(40e9, "B/s")
    ('70.272 KB', '120.96 us', '250.45 GFLOP', '40 GB/s')
    """
    for scale, name in _SCALES.get(unit, ()):
        if abs(value) >= scale:
            return f"{value / scale:.5g} {name}"
    return f"{text_of(value)} {unit}".rstrip()


_SCALES = {
    "B": ((1 << 30, "GiB"), (10**6, "MB"), (10**3, "KB")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "FLOP": ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")),
    "FLOP/s": ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
    "B/s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")),
}
