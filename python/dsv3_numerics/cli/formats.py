"""The verb ``formats``: the table of number formats, or the values of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from ..number_formats import FormatInfo


@click.command("formats")
@click.argument("name", required=False)
def formats_command(name: str | None) -> None:
    """List the number formats, or print the values of one.

    \b
    Examples:
      dsv3-numerics formats                the table of formats
      dsv3-numerics formats float8_e4m3fn  every value of one of them
      dsv3-numerics formats e4m3           the same, by its short name
    """
    console = make_console()
    if name is None:
        console.print(_formats_table())
        return
    info = _find_format(name)
    console.print(str(info), markup=False)
    console.print()
    for line in _few_values(info) if info.bits > 8 else _all_values(info):
        console.print(line, markup=False, highlight=False)


def _find_format(name: str) -> FormatInfo:
    from ..number_formats import format_info
    from ..schemes import short_names

    long = {short: full for full, short in short_names().items()}
    try:
        return format_info(long.get(name.lower(), name))
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("dtype: "), param_hint="NAME") from error


def _formats_table() -> Table:
    from rich import box
    from rich.table import Table

    from ..number_formats import formats
    from ..schemes import short_names

    short = short_names()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(
        ("name", "in schemes", "bits", "exp/man", "bias", "largest", "least normal", "least", "specials")
    ):
        table.add_column(title, justify="right" if 1 < i < 8 else "left", no_wrap=True)
    for f in formats():
        specials = [
            what for what, has in (("Inf", f.has_inf), ("NaN", f.has_nan), ("-0", f.has_signed_zero)) if has
        ]
        figures = (f.max, f.tiny, f.smallest_subnormal)
        table.add_row(
            f.name,
            short.get(f.name, "(scales)"),
            str(f.bits),
            f"{f.exponent_bits}/{f.mantissa_bits}",
            str(f.bias),
            *(f"{value:.5g}" for value in figures),
            " ".join(specials) or "none",
        )
    return table


_PER_LINE = 8


def _all_values(info: FormatInfo) -> list[str]:
    """The values of all codes, 8 to a line; of signed formats the codes with a clear sign bit."""
    import numpy as np

    from ..number_formats import decode

    signed = info.min < 0
    codes = np.arange(info.n_codes // 2 if signed else info.n_codes, dtype=np.uint8)
    values = decode(codes.view(info.dtype), dtype=np.float64)
    texts = [f"{v:.9g}" if np.isfinite(v) else str(v).replace("nan", "NaN") for v in values]
    width = max(map(len, texts)) + 2
    lines = ["code    " + "".join(f"+{i}".rjust(width) for i in range(min(_PER_LINE, len(texts))))]
    for start in range(0, len(texts), _PER_LINE):
        lines.append(f"0x{start:02x}    " + "".join(t.rjust(width) for t in texts[start : start + _PER_LINE]))
    how = "with the sign bit set" if not info.is_integer else "in two's complement"
    return [*lines, "", f"The same values with a minus sign have their codes {how}."] if signed else lines


def _few_values(info: FormatInfo) -> list[str]:
    """The octaves of a wide format: where each begins, and the step in it; the middle ones are left out."""
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
