"""Part ``kv``: bytes that a cache keeps, by format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .attention import Compressed, Gqa, Mla
from .caches import INDEX_KEYS, Format, chosen_format, default_index, formats
from .checks import integer, one_of
from .figures import Answer, Figure
from .plots import KV_PLOTS
from .reader import read_shape
from .shape import Shape

LARGEST_CONTEXT = 1 << 40


def kv_bytes(
    shape: Shape, tokens: int, cache: str = "bf16", *, index: str | None = None, window: str | None = None
) -> int:
    """Count the bytes that a cache keeps of `tokens` tokens, all layers together.

    Parameters
    ----------
    shape : Shape
    tokens : int
    cache : str
        A row of `FORMATS` for this attention.
    index : str, optional
        Format of index keys, a key of `INDEX_KEYS`; by default bf16 beside bf16, fp8 beside others.
    window : str, optional
        Format of DeepSeek-V4's window rows; `cache` by default.

    Examples
    --------
    >>> from dsv3_numerics.codesign import kv_bytes, read_shape
    >>> kv_bytes(read_shape("deepseek_v3"), 1)
    70272
    """
    tokens = integer(tokens, "tokens", 1, LARGEST_CONTEXT)
    row, near = chosen_format(shape, cache), chosen_format(shape, window or cache, "window")
    index = default_index(row.name) if index is None else index
    one_of(index, "index", INDEX_KEYS)
    return sum(
        kept.rows * kept.size
        for layer in shape.layers
        for kept in _kept(layer.attention, tokens, row, near, INDEX_KEYS[index])
    )


class Kept(NamedTuple):
    """Rows that a layer keeps, bytes of each, and their formula."""

    rows: int
    size: int
    how: str


def _kept(
    a: Gqa | Mla | Compressed, tokens: int, row: Format, near: Format, keys: Callable[[int], int]
) -> list[Kept]:
    """Rows of a layer: of tokens, of a window, of compressed tokens, of index keys."""
    if isinstance(a, Gqa):
        seen = tokens if a.span is None else min(tokens, a.span)
        return [Kept(seen, row.record(a), row.told(a))]
    if isinstance(a, Mla):
        found, rows = [Kept(tokens, row.record(a), row.told(a))], tokens
    else:
        rows = a.rows(tokens)
        found = [
            Kept(min(tokens, a.window), near.record(a), near.told(a)),
            Kept(rows, row.record(a), row.told(a)),
        ]
    if a.index is not None and not a.index.shared:
        found.append(Kept(rows, keys(a.index.dim), f"{keys(a.index.dim)} of an index key"))
    return [kept for kept in found if kept.rows]


def told(shape: Shape, tokens: int, row: Format, near: Format, index: str) -> str:
    """Return the formula of `kv_bytes` with numbers put in: layers x rows x bytes."""
    counts: Counter[Kept] = Counter()
    for layer in shape.layers:
        counts.update(_kept(layer.attention, tokens, row, near, INDEX_KEYS[index]))
    return " + ".join(f"{n} x {kept.rows:,} x ({kept.how})" for kept, n in counts.items())


def tokens_that_fit(shape: Shape, memory: int, cache: str = "bf16", **formats: str | None) -> int:
    """Return the most tokens whose cache takes at most `memory` bytes; at most 2^40."""
    low, high = 0, LARGEST_CONTEXT
    while low < high:
        middle = (low + high + 1) // 2
        if kv_bytes(shape, middle, cache, **formats) <= memory:
            low = middle
        else:
            high = middle - 1
    return low


def kv(
    config: object,
    tokens: Sequence[int] = (1,),
    cache: Sequence[str] = (),
    *,
    index: str | None = None,
    window: str | None = None,
    memory: int | None = None,
    mtp: bool = False,
) -> Answer:
    """Part ``kv``: bytes of a model's cache in each format, beside BF16.

    Raises
    ------
    ValueError
        Tokens below 1; a format that this attention does not have.
    """
    shape = read(config, mtp)
    if memory is not None:
        memory = integer(memory, "memory", 1, 1 << 60)
    names = [chosen_format(shape, name).name for name in cache] or [
        name for name in formats(shape) if name != "float32" and _possible(shape, name)
    ]
    rows: list[dict[str, Any]] = []
    figures = []
    for name in names:
        row, near = chosen_format(shape, name), chosen_format(shape, window or name, "window")
        keys = default_index(name) if index is None else index
        for count in tokens:
            size = kv_bytes(shape, count, name, index=index, window=window)
            base = kv_bytes(shape, count)
            rows.append(
                {
                    "model": shape.name,
                    "format": name,
                    "tokens": count,
                    "bytes": size,
                    "per_token": size / count,
                    "of_bf16": size / base,
                    "source": row.source,
                }
            )
            how = told(shape, count, row, near, keys)
            figures.append(
                Figure(f"{name}, {count} token{'s' * (count != 1)}", size, "B", "formula", row.source, how)
            )
        if memory is not None:
            most = tokens_that_fit(shape, memory, name, index=index, window=window)
            how = f"the largest N with cache(N) <= {memory:,} B"
            figures.append(Figure(f"tokens that fit, {name}", most, "", "formula", row.source, how))
    notes = list(shape.notes)
    if isinstance(shape.layers[0].attention, Compressed):
        notes.append("rows of windows that a compressor has not closed yet (constant) are not counted")
    inputs = {"config": shape.name, "tokens": list(tokens), "cache": names, "index": index, "memory": memory}
    columns = ("model", "format", "tokens", "bytes", "per_token", "of_bf16", "source")
    curves = {
        name: [[1 << k, kv_bytes(shape, 1 << k, name, index=index, window=window)] for k in range(21)]
        for name in names
    }
    return Answer("kv", inputs, figures, columns, rows, notes, {"curves": curves}, KV_PLOTS)


def _possible(shape: Shape, name: str) -> bool:
    try:
        kv_bytes(shape, 1, name)
    except ValueError:
        return False
    return True


def read(config: object, mtp: bool = False) -> Shape:
    """Read a model, with its layers of multi-token prediction if asked for."""
    shape = read_shape(config)
    return shape.with_mtp() if mtp else shape
