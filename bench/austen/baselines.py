"""Bits per byte of *Persuasion* given the other five novels, by `xz` and by a 5-gram model.

    python baselines.py novels.json

The 5-gram model interpolates with Witten-Bell smoothing: the weight of the longer context is c / (c + d),
where c is how often it was seen and d how many different bytes followed. Below order 1 all 256 bytes are
equally likely. The figure of `xz` is how much longer both together are than the five novels alone.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from text import split


def xz(training: bytes, held_out: bytes) -> float:
    """Bits per byte of what is held out, behind what is known."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    both, known = (
        len(lzma.compress(t, lzma.FORMAT_RAW, filters=filters)) for t in (training + held_out, training)
    )
    return 8 * (both - known) / len(held_out)


def ngram(training: bytes, held_out: bytes, order: int = 5) -> float:
    """Bits per byte by an interpolated model of `order` bytes, Witten-Bell smoothed."""
    counts: list[dict[bytes, Counter[int]]] = []
    for width in range(order):
        table: dict[bytes, Counter[int]] = defaultdict(Counter)
        for i in range(width, len(training)):
            table[training[i - width : i]][training[i]] += 1
        counts.append(table)
    sums = [{c: (f.total(), len(f)) for c, f in table.items()} for table in counts]
    bits = np.empty(len(held_out) - order)
    for i in range(order, len(held_out)):
        p = 1 / 256
        for width in range(order):
            context = held_out[i - width : i]
            total, kinds = sums[width].get(context, (0, 0))
            if not total:
                break
            p = (counts[width][context][held_out[i]] + kinds * p) / (total + kinds)
        bits[i - order] = -np.log2(p)
    return float(bits.mean())


if __name__ == "__main__":
    known, held = split(json.loads(Path(sys.argv[1]).read_text()))
    print(f"xz -9e: {xz(known, held):.4f} bits a byte of {len(held)} bytes")
    print(f"5-gram, Witten-Bell: {ngram(known, held):.4f}")
