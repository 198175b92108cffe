"""Names and figures as text, for the terminal and for reports."""

from __future__ import annotations

import math


def plain(name: str) -> str:
    """Make a name from a file safe to print: control characters become their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def code(name: str) -> str:
    """Set a name from a file as code in a Markdown table."""
    return "`" + plain(name).replace("|", "\\|").replace("`", "'") + "`"


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> counted(1, "tensor"), counted(1234, "tensor")
    ('1 tensor', '1,234 tensors')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def decibels(value: float) -> str:
    """Write an SQNR to a tenth; "exact" where nothing changed at all."""
    return "exact" if value == math.inf else f"{value:.1f}"


def share(fraction: float) -> str:
    """Write a rate in percent, short: a rate above zero never reads as 0.

    Examples
    --------
    >>> share(0.0261), share(0.0003), share(0.000001), share(0)
    ('2.6%', '0.03%', '<0.01%', '0')
    """
    if fraction == 0:
        return "0"
    if fraction < 1e-4:
        return "<0.01%"
    return f"{100 * fraction:.1f}%" if fraction >= 0.9995e-3 else f"{100 * fraction:.2f}%"


def ppm(fraction: float) -> str:
    """Write a signed drift in parts per million."""
    return f"{1e6 * fraction:+.1f}" if abs(fraction) < 9.95e-6 else f"{1e6 * fraction:+.0f}"


def figure(value: float | None) -> str:
    """Write a number in three digits.

    Examples
    --------
    >>> figure(0.0123456), figure(0), figure(1.5e-12), figure(None)
    ('0.0123', '0', '1.5e-12', 'inf')
    """
    return "inf" if value is None or math.isinf(value) else f"{value:.3g}"
