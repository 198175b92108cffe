"""Shards of quantized tensors, also where they begin or end inside a block: cut out, and put together again.

Lives here: codes and scales of a part of a `Quantized`. Not here: the layouts of kernels (`layouts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ._arrays import brief, positive, whole
from .quantized import Quantized


def take_shard(q: Quantized, start: int, stop: int, *, axis: int) -> Quantized:
    """Cut a shard out of a quantized tensor, also where it begins or ends inside a block.

    Parameters
    ----------
    q : Quantized
        In blocks of the last two axes, or in tiles.
    start, stop : int
        Where the shard begins and ends along `axis`.
    axis : int
        The axis that tensor parallelism splits.

    Returns
    -------
    Quantized
        The same numbers. Where `start` is inside a block, blocks become as short as the greatest common
        divisor of their length and `start`, with the scale of the block that they were part of: 18432 rows
        in 32 shards of 576 leave blocks of 64 rows from 128.

    Raises
    ------
    ValueError
        A `start` or `stop` out of range.
    numpy.exceptions.AxisError
        An axis that does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_blocks
    >>> q = quantize_blocks(np.ones((1152, 128), np.float32))
    >>> take_shard(q, 576, 1152, axis=0)
    Quantized((576, 128) float8_e4m3fn, 64x128, float32 scales, 8.004 bits per element)
    """
    place = np.lib.array_utils.normalize_axis_index(axis, len(q.shape))
    length = q.shape[place]
    first, last = whole(start, "start"), whole(stop, "stop")
    if not 0 <= first <= last <= length:
        raise ValueError(f"start and stop: found {first} and {last}, expected 0 <= start <= stop <= {length}")
    within = [slice(None)] * len(q.shape)
    within[place] = slice(first, last)
    codes = np.ascontiguousarray(q.codes[tuple(within)])
    blocked = _blocked_axes(q)
    if place not in blocked:
        return replace(q, codes=codes, scales=np.ascontiguousarray(q.scales[tuple(within)]))
    sizes = list(q.block)
    old = min(sizes[blocked.index(place)], max(length, 1))
    new = math.gcd(old, first) if first % old else old
    sizes[blocked.index(place)] = new
    wanted = (first + new * np.arange(-(-(last - first) // new))) // old
    scales = np.ascontiguousarray(np.take(q.scales, wanted, axis=place))
    return replace(q, codes=codes, scales=scales, block=tuple(sizes))


def join_shards(shards: Sequence[Quantized], *, axis: int, block: tuple[int, ...] | None = None) -> Quantized:
    """Put shards together again.

    Parameters
    ----------
    shards : sequence of Quantized
        Of one format, kind of scale and global scale, in the order of their tensor.
    axis : int
        The axis that they are parts of.
    block : tuple of int, optional
        Blocks of the whole. The scales within each must be equal. Without it, blocks are as long as all
        shards allow.

    Returns
    -------
    Quantized
        The same numbers as the shards hold.

    Raises
    ------
    ValueError
        No shard; shards that do not fit together; blocks within which scales differ.

    Examples
    --------
    >>> import numpy as np
    >>> from dsv3_numerics import quantize_blocks
    >>> q = quantize_blocks(np.arange(1152 * 128, dtype=np.float32).reshape(1152, 128))
    >>> parts = [take_shard(q, 0, 576, axis=0), take_shard(q, 576, 1152, axis=0)]
    >>> bool((join_shards(parts, axis=0, block=(128, 128)).scales == q.scales).all())
    True
    """
    if not shards:
        raise ValueError("shards: found none, expected at least one")
    head = shards[0]
    place = np.lib.array_utils.normalize_axis_index(axis, len(head.shape))
    for i, shard in enumerate(shards[1:], start=1):
        same = [
            (getattr(head, name), getattr(shard, name))
            for name in ("format", "axis", "scale_kind", "global_scale")
        ]
        shapes = [
            tuple(np.delete(x.shape, place)) if len(x.shape) > place else x.shape for x in (head, shard)
        ]
        if (
            any(not np.array_equal(x, y) for x, y in same)
            or shapes[0] != shapes[1]
            or len(head.block) != len(shard.block)
        ):
            raise ValueError(f"shards: found {brief(shard)} as number {i}, which does not continue {head!r}")
    codes = np.concatenate([shard.codes for shard in shards], axis=place)
    blocked = _blocked_axes(head)
    if place not in blocked:
        if any(shard.block != head.block for shard in shards):
            raise ValueError(f"shards: found blocks {[shard.block for shard in shards]}, expected one size")
        joined = replace(head, codes=codes, scales=np.concatenate([x.scales for x in shards], axis=place))
        return joined if block is None else _coarser(joined, tuple(block))
    at = blocked.index(place)
    starts = np.cumsum([0, *(shard.shape[place] for shard in shards)]).tolist()
    lengths = [min(shard.block[at], max(shard.shape[place], 1)) for shard in shards]
    # every shard but the last ends where a block does
    length = math.gcd(*lengths, *starts[1:-1]) if len(shards) > 1 else lengths[0]
    parts = []
    for shard, old in zip(shards, lengths, strict=True):
        wanted = length * np.arange(-(-shard.shape[place] // length)) // old
        parts.append(np.take(shard.scales, wanted, axis=place))
    sizes = tuple(length if i == at else size for i, size in enumerate(head.block))
    joined = replace(head, codes=codes, scales=np.concatenate(parts, axis=place), block=sizes)
    return joined if block is None else _coarser(joined, tuple(block))


def _coarser(q: Quantized, block: tuple[int, ...]) -> Quantized:
    """Hold the same numbers in larger blocks, within which scales are equal."""
    if len(block) != len(q.block):
        raise ValueError(f"block: found {block}, expected {len(q.block)} lengths")
    scales = q.scales
    for place, old, new in zip(_blocked_axes(q), q.block, block, strict=True):
        if positive(new, "block") % old:
            raise ValueError(f"block: found {block}, expected multiples of {q.block}, which shards have")
        first = np.arange(0, scales.shape[place], new // old)
        coarse = np.take(scales, first, axis=place)
        again = np.repeat(coarse, new // old, axis=place).take(np.arange(scales.shape[place]), axis=place)
        width = f"u{scales.dtype.itemsize}"
        if (again.view(width) != scales.view(width)).any():
            raise ValueError(f"block: found {block}, within which scales differ, expected {q.block}")
        scales = coarse
    return replace(q, scales=np.ascontiguousarray(scales), block=block)


def _blocked_axes(q: Quantized) -> list[int]:
    return [q.axis] if q.axis is not None else [len(q.shape) - 2, len(q.shape) - 1]
