"""Cache formats: bytes of a token's record by attention, and of the keys of indexers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .attention import Compressed, Gqa, Mla
from .checks import one_of
from .figures import ISCA
from .shape import Shape


@dataclass(frozen=True)
class Format:
    """Bytes that a cache format takes for the token (or row) of an attention, and who has it.

    `how` is the formula with a field's name in braces where its number goes.
    """

    name: str
    record: Callable[[Any], int]
    how: str
    source: str

    def told(self, a: Any) -> str:
        """Return the formula with numbers put in."""
        return self.how.format(**vars(a))


def _tiles(width: int, tile: int = 128) -> int:
    return -(-width // tile)


def _blocks(width: int, block: int = 16) -> int:
    if width % block:
        raise ValueError(f"cache: a rank of {width} found, expected a multiple of {block} for this format")
    return width // block


def _wide(a: Gqa) -> int:
    return a.kv_heads * a.head_dim


def _logfmt(bits: int) -> Format:
    return Format(
        f"logfmt{bits}",
        lambda a: -(-a.rank * bits // 8) + 8 * _tiles(a.rank) + 2 * a.rope,
        f"ceil({bits} {{rank}} / 8) + 8 ceil({{rank}}/128) + 2 {{rope}}",
        "dsv3_numerics.model, CacheFormat",
    )


_V41 = "sglang PR 39123"
_MLA = (
    Format("bf16", lambda a: 2 * (a.rank + a.rope), "2 ({rank} + {rope})", f"{ISCA}, table 1"),
    Format("float32", lambda a: 4 * (a.rank + a.rope), "4 ({rank} + {rope})", "twice BF16"),
    Format(
        "fp8",
        lambda a: a.rank + 4 * _tiles(a.rank) + 2 * a.rope,
        "{rank} + 4 ceil({rank}/128) + 2 {rope}",
        "FlashMLA README",
    ),
    Format("fp8_flat", lambda a: a.rank + a.rope, "{rank} + {rope}", "vLLM, kv_cache_dtype fp8"),
    _logfmt(8),
    _logfmt(10),
    Format(
        "nvfp4",
        lambda a: a.rank // 2 + _blocks(a.rank) + a.rope,
        "{rank}/2 + {rank}/16 + {rope}",
        "FlashMLA fork PR 18, flashinfer PR 4676",
    ),
    Format(
        "nvfp4_bf16rope",
        lambda a: a.rank // 2 + _blocks(a.rank) + 2 * a.rope + 16,
        "{rank}/2 + {rank}/16 + 2 {rope} + 16",
        "a vLLM fork's PR 82",
    ),
)
_GQA = (
    Format(
        "bf16", lambda a: 4 * a.kv_heads * a.head_dim, "2 x {kv_heads} x {head_dim} x 2", f"{ISCA}, table 1"
    ),
    Format(
        "float32",
        lambda a: 8 * _wide(a),
        "2 x {kv_heads} x {head_dim} x 4",
        "twice BF16",
    ),
    Format("fp8", lambda a: 2 * _wide(a), "2 x {kv_heads} x {head_dim}", "vLLM, fp8"),
    Format(
        "nvfp4",
        lambda a: 2 * a.kv_heads * (a.head_dim // 2 + _blocks(a.head_dim)),
        "2 x {kv_heads} x ({head_dim}/2 + {head_dim}/16)",
        "TensorRT-LLM, NVFP4 cache",
    ),
)
_V4 = (
    Format("bf16", lambda a: 2 * a.head_dim, "2 x {head_dim}", "transformers, deepseek_v4"),
    Format(
        "v4_fp8",
        lambda a: a.head_dim + a.rope + 8 * _tiles(_tiles(a.head_dim - a.rope, 64), 8),
        "{head_dim} - {rope} + 2 x {rope} + scales",
        "vLLM, 584 bytes",
    ),
    Format(
        "v41_mxfp8",
        lambda a: a.head_dim + _blocks(a.head_dim, 32),
        "{head_dim} + {head_dim}/32",
        _V41,
    ),
    Format(
        "v41_fp4",
        lambda a: a.head_dim // 2 + _blocks(a.head_dim),
        "{head_dim}/2 + {head_dim}/16",
        _V41,
    ),
)
FORMATS = {Mla: _MLA, Gqa: _GQA, Compressed: _V4}
"""Cache formats of each kind of attention."""

INDEX_KEYS: dict[str, Callable[[int], int]] = {
    "bf16": lambda d: 2 * d,
    "fp8": lambda d: d + 4 * _tiles(d),
    "fp4": lambda d: d // 2 + _blocks(d, 32),
}
"""Bytes of an index key of d channels: BF16; E4M3 with a float32 a tile; FP4 with a byte for 32."""

_SAME = {"bfloat16": "bf16", "flashmla": "fp8", "fp8_ds_mla": "fp8"}


def formats(shape: Shape) -> dict[str, Format]:
    """Cache formats that a model's attention has, by name."""
    return {row.name: row for row in FORMATS[type(shape.layers[0].attention)]}


def chosen_format(shape: Shape, name: str, argument: str = "cache") -> Format:
    """Return a cache format by its name; ValueError, which lists the possible ones, where there is none."""
    possible = formats(shape)
    name = _SAME.get(name, name)
    if name not in possible and isinstance(shape.layers[0].attention, Mla):
        return _of_recipe(name, argument, possible)
    one_of(name, argument, possible)
    return possible[name]


def _of_recipe(name: str, argument: str, possible: Iterable[str]) -> Format:
    """Any scheme that a recipe's cache may be, laid out as `model` does."""
    from ..model.cache_formats import CacheFormat

    try:
        CacheFormat.of(name, 512, 64)
    except (TypeError, ValueError) as error:
        words = ", ".join(possible)
        raise ValueError(
            f"{argument}: found {name!r}, expected one of {words}, or a scheme ({error})"
        ) from None

    def record(a: Mla) -> int:
        made = CacheFormat.of(name, a.rank, a.rope)
        return made.width * made.dtype.itemsize

    return Format(name, record, "codes and scales of {rank}, 2 x {rope}", "dsv3_numerics.model, CacheFormat")


def default_index(cache: str) -> str:
    """Format of index keys beside a cache format: BF16 beside BF16 and wider, FP8 beside others."""
    return "bf16" if cache in ("bf16", "float32") else "fp8"
