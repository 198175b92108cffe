"""Encodes every float32 there is and compares each code with ml_dtypes.

    python tests/exhaustive/sweep.py --formats float8_e4m3fn --overflow nonfinite   # one
    python tests/exhaustive/sweep.py --all --write   # everything, into RESULT.md

The 2^32 patterns are cut into chunks; processes take them in turn, as a cast by ml_dtypes holds the GIL.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from oracle import NO_NAN, SMALL, WIDE, expected, overflows

RESULT = Path(__file__).with_name("RESULT.md")
INPUTS = 1 << 32
CHUNK = 1 << 22
DIRECTED = ("toward_zero", "up", "down", "nearest_away")

Key = tuple[str, str, str, str]
"format, rounding, overflow, level"


def compare(
    chunk: int, formats: list[str], overflow: str | None, levels: list[str], directed: bool
) -> Counter[Key]:
    """Mismatches in one chunk: nearest even against ml_dtypes, the other roundings between the levels."""
    import dsv3_numerics as d3
    from dsv3_numerics import _core

    x = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=np.uint32).view(np.float32)
    found: Counter[Key] = Counter()
    for fmt in formats:
        encode = partial(d3.encode, x, fmt, nan="zero" if fmt in NO_NAN else "code")
        for mode in overflows(fmt) if overflow is None else (overflow,):
            for rounding in ("nearest_even", *(DIRECTED if directed else ())):
                want = None
                if rounding == "nearest_even":
                    want = expected(x, fmt, mode)
                for level in levels:
                    _core.set_simd_level(level)
                    got = encode(rounding=rounding, overflow=mode).view(np.uint8)
                    want = got if want is None else want
                    found[fmt, rounding, mode, level] += int(np.count_nonzero(got != want))
    return found


def sweep(
    formats: list[str], overflow: str | None, levels: list[str], directed: bool, processes: int, chunks: int
) -> Counter[Key]:
    """Mismatches over all chunks, summed."""
    os.environ["DSV3_NUMERICS_THREADS"] = "1"  # the processes are the parallelism
    one = partial(compare, formats=formats, overflow=overflow, levels=levels, directed=directed)
    total: Counter[Key] = Counter()
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done, part in enumerate(pool.map(one, range(chunks)), start=1):
            total.update(part)
            if sys.stderr.isatty():
                print(f"\r{done}/{chunks} chunks", end="", file=sys.stderr)
    return total


def markdown(found: Counter[Key], inputs: int) -> str:
    """The record: one row per format and overflow mode, one column per level."""
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("dsv3_numerics", "ml_dtypes", "numpy"))
    levels = list(dict.fromkeys(level for *_, level in found))
    headings = [
        "format",
        "overflow",
        *(f"{level}: mismatches" for level in levels),
        "other roundings: mismatches",
    ]
    lines = [
        "# Every float32, every small format",
        "",
        f"Written by `make exhaustive`: {inputs:,} float32 inputs per row, level and rounding. {versions}.",
        "",
        "Nearest even is compared with ml_dtypes at each level: `nonfinite` with its plain cast, `saturate`",
        "with clip-then-cast (integers: with `np.rint`). The last column sums",
        f"{', '.join(DIRECTED)} over the levels, compared with the scalar one, which",
        "other tests hold to the textbook.",
        "",
        "One correction to ml_dtypes: it encodes numbers between 2^-127 and 1.5 * 2^-127 as 2^-126 in E8M0;",
        "the nearest power of two is 2^-127.",
        "",
        f"| {' | '.join(headings)} |",
        "|---" * len(headings) + "|",
    ]
    for fmt, mode in dict.fromkeys((fmt, mode) for fmt, _, mode, _ in found):
        nearest = [found[fmt, "nearest_even", mode, level] for level in levels]
        tried = [key for key in found if key[0] == fmt and key[1] in DIRECTED and key[2] == mode]
        others = f"{sum(found[key] for key in tried):,}" if tried else "not run"
        lines.append(f"| {fmt} | {mode} | {' | '.join([*(f'{n:,}' for n in nearest), others])} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Command line; prints JSON, exits with 1 on any mismatch."""
    from dsv3_numerics import _core

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--formats", nargs="+", choices=SMALL + WIDE, default=["float8_e4m3fn", "float8_e5m2"]
    )
    parser.add_argument("--overflow", choices=("nonfinite", "saturate"), help="both by default")
    parser.add_argument(
        "--levels", nargs="+", default=[_core.simd_level()], help="SIMD levels; the current one by default"
    )
    parser.add_argument("--all", action="store_true", help="every small format, rounding and level")
    parser.add_argument("--write", action="store_true", help=f"record the outcome in {RESULT.name}")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--chunks", type=int, default=INPUTS // CHUNK, help="fewer chunks, for a trial")
    options = parser.parse_args()
    formats = list(SMALL) if options.all else options.formats
    levels = options.levels
    if options.all:  # those above avx512 are for products
        levels = [level for level in _core.simd_levels() if level not in ("avx512_bf16", "amx")]
    found = sweep(formats, options.overflow, levels, options.all, options.processes, options.chunks)
    inputs = options.chunks * CHUNK
    if options.write:
        RESULT.write_text(markdown(found, inputs))
    mismatches = {" ".join(key): count for key, count in found.items()}
    print(json.dumps({"inputs": inputs, "mismatches": mismatches}, indent=1))
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
