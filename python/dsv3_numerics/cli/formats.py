"""The verb ``formats``: the table of number formats, or the values of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .console import make_console, print_json
from .options import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from ..number_formats import FormatInfo


@click.command("formats")
@click.argument("name", required=False)
@json_option
def formats_command(name: str | None, as_json: bool) -> None:
    """List the number formats, or print the values of one.

    \b
    Examples:
      dsv3-numerics formats                the table of formats
      dsv3-numerics formats float8_e4m3fn  every value of one of them
      dsv3-numerics formats e4m3           the same, by its short name
      dsv3-numerics formats --json         the table, for programs
    """
    if name is not None:
        info = _find_format(name)
        if as_json:
            print_json(_record(info) | ({"values": _values(info)} if info.bits <= 8 else {}))
        else:
            _print_values(info)
    elif as_json:
        print_json(_records())
    else:
        make_console().print(_formats_table())


def _print_values(info: FormatInfo) -> None:
    console = make_console()
    console.print(str(info), markup=False)
    console.print()
    for line in _few_values(info) if info.bits > 8 else _all_values(info):
        console.print(line, markup=False, highlight=False)


def _find_format(name: str) -> FormatInfo:
    from ..number_formats import format_info
    from ..schemes.scaled import short_names

    long = {short: full for full, short in short_names().items()}
    try:
        return format_info(long.get(name.lower(), name))
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("dtype: "), param_hint="NAME") from error


_FACTS = ("name", "bits", "exponent_bits", "mantissa_bits", "bias", "max", "tiny", "smallest_subnormal")
_FLAGS = {"has_inf": "Inf", "has_nan": "NaN", "has_signed_zero": "-0"}


def _record(info: FormatInfo) -> dict[str, Any]:
    """Facts of a format, by name."""
    from ..schemes.scaled import short_names

    return {name: getattr(info, name) for name in (*_FACTS, *_FLAGS)} | {
        "in_schemes": short_names().get(info.name)
    }


def _records() -> list[dict[str, Any]]:
    from ..number_formats import formats

    return [_record(info) for info in formats()]


def _formats_table() -> Table:
    from ..report.terminal import Column, rich_table

    titles = ("name", "in schemes", "bits", "exp/man", "bias", "largest", "least normal", "least", "specials")
    columns: list[Column] = [
        (title, {"justify": "right" if 1 < i < 8 else "left", "no_wrap": True})
        for i, title in enumerate(titles)
    ]
    rows = (
        (
            f["name"],
            f["in_schemes"] or "(scales)",
            str(f["bits"]),
            f"{f['exponent_bits']}/{f['mantissa_bits']}",
            str(f["bias"]),
            *(f"{f[name]:.5g}" for name in _FACTS[-3:]),
            " ".join(text for flag, text in _FLAGS.items() if f[flag]) or "none",
        )
        for f in _records()
    )
    return rich_table(columns, rows)


def _values(info: FormatInfo) -> list[float]:
    """Return the value of each code, in the order of the codes."""
    import numpy as np

    from ..number_formats import decode

    codes = np.arange(info.n_codes, dtype=np.uint8).view(info.dtype)
    found: list[float] = decode(codes, dtype=np.float64).tolist()
    return found


_PER_LINE = 8


def _all_values(info: FormatInfo) -> list[str]:
    """Return the values of all codes, 8 to a line; of signed formats the codes with a clear sign bit."""
    import math

    signed = info.min < 0
    values = _values(info)[: info.n_codes // 2 if signed else None]
    texts = [f"{v:.9g}" if math.isfinite(v) else str(v).replace("nan", "NaN") for v in values]
    width = max(map(len, texts)) + 2
    lines = ["code    " + "".join(f"+{i}".rjust(width) for i in range(min(_PER_LINE, len(texts))))]
    for start in range(0, len(texts), _PER_LINE):
        lines.append(f"0x{start:02x}    " + "".join(t.rjust(width) for t in texts[start : start + _PER_LINE]))
    how = "with the sign bit set" if not info.is_integer else "in two's complement"
    return [*lines, "", f"The same values with a minus sign have their codes {how}."] if signed else lines


def _few_values(info: FormatInfo) -> list[str]:
    """Return the octaves of a wide format: where each begins, and its step, without the middle ones."""
    import math

    low, high = math.floor(math.log2(info.tiny)), math.floor(math.log2(info.max))
    rows = [("0", f"{info.tiny:.9g}", f"{info.smallest_subnormal:.9g}")]
    for k in range(low, high + 1):
        rows.append(
            (
                f"{2.0**k:.9g}",
                f"{min(2.0 ** (k + 1), info.max):.9g}",
                f"{2.0 ** (k - info.mantissa_bits):.9g}",
            )
        )
    if len(rows) > 24:
        one = 1 - low  # the row that begins at 1
        rows = [*rows[:4], ("...", "...", "..."), *rows[one - 4 : one + 4], ("...", "...", "..."), *rows[-4:]]
    return [f"{a:>18}{b:>18}{c:>18}" for a, b, c in [("from", "to", "step"), *rows]]
