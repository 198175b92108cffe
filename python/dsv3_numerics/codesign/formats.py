"""Formats on the wire: those that a recipe sends, by its rules, and the paper's bare FP8; bytes of a row."""

from __future__ import annotations

from functools import cache

from ..schemes import LogTiles, Scheme

BARE = "fp8_bare"
"""Section 2.3.2 counts a byte a value and no scales."""

COMMON = {
    "dispatch": ("bf16", "e4m3:1x128:f32", "e4m3:1x128:ue8m0"),
    "combine": ("bf16", "e5m6:1x128:ue8m0", "logfmt8", "logfmt10"),
    "cache": ("bf16", "fp8", "logfmt8", "logfmt10"),
}
"""Formats that the papers and kernels use; any other that a recipe's field takes goes as well."""


def check_wire(name: str, way: str) -> None:
    """Refuse a format that a recipe does not send this way, or whose rows have no known size.

    Raises
    ------
    ValueError
        With the recipe's reason.
    """
    if name == BARE:
        if way != "dispatch":
            raise ValueError(
                f"{way}: found {BARE!r}, which is the paper's dispatch, expected a scheme or bf16"
            )
        return
    if canonical(way, name) == "none":
        raise ValueError(f"{way}: found {name!r}, expected a scheme, as {', '.join(COMMON[way])}")
    row_bytes(name, 128)


@cache
def canonical(choice: str, name: str) -> str:
    """Return the one spelling of a scheme in a recipe's field: what tells whether two names mean the same.

    Examples
    --------
    >>> from dsv3_numerics.codesign.formats import canonical
    >>> canonical("cache", "fp8"), canonical("dispatch", "E4M3:1x128:F32")
    ('flashmla', 'e4m3:1x128:f32')
    """
    from ..model.fields import scheme_of

    return str(scheme_of(choice, name))


@cache
def row_bytes(name: str, width: int) -> int:
    """Count the bytes of a row of values, with scales; LogFMT has two BF16 magnitudes a tile, as in DeepEP.

    Raises
    ------
    ValueError
        No scheme, or one whose size depends on values.

    Examples
    --------
    >>> from dsv3_numerics.codesign.formats import row_bytes
    >>> row_bytes("e4m3:1x128:f32", 7168), row_bytes("logfmt10", 7168), row_bytes("bf16", 2880)
    (7392, 9184, 5760)
    """
    if name == BARE:
        return width
    scheme = Scheme.parse(name)
    if isinstance(scheme, LogTiles):
        return -(-width * scheme.width // 8) + 4 * -(-width // (scheme.group_k or width))
    one, two = scheme.bits(1, width), scheme.bits(2, width)
    if one is None or two is None:
        raise ValueError(
            f"format: found {name!r}, whose rows have no size of their own: it depends on values"
        )
    return -(-(two - one) // 8)  # of a further row: what a tensor has once is not sent with rows
