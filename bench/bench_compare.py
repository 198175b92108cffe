"""Two files against each other: equal, few differences, all different, beside reading both from memory.

Each case is a process of its own: two `.npy` files of `SIZE` bytes are mapped and compared. What it needs
beyond the mapped files' pages is its anonymous memory, sampled while it runs (RssAnon of /proc/self/status).
The last cases explain the quantization of an input of `SIZE` bytes: by a rule, and with one code flipped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dsv3_numerics import _core, get_num_threads, quantize_tiles
from harness import Row

LEGEND = """\
`x read`: the time in which one thread sums as many bytes, mapped from the same files and in memory already,
over that of `compare_arrays` on all threads. `MB`: the most anonymous memory during it, less that before
(pages of mapped files are not in it)."""

SIZE = 1 << 30
QUICK = 1 << 22
READ, MEMORY = 0.5, 300.0
"""Bars."""

LEVEL = _core.simd_level()

CASES = ("equal", "one in 1000 differs", "all differ")
EXPLAINED = ("explained: a rule", "explained: one flipped bit")

_CHILD = """
import sys, threading, time
import numpy as np
from dsv3_numerics.compare import compare_arrays, explain_quantization

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

a, b, *scales = (np.load(path, mmap_mode="r") for path in sys.argv[1:])
def read():
    start = time.perf_counter()
    for x in (a, b):
        flat = x.reshape(-1).view(np.uint64)
        for i in range(0, flat.size, 1 << 16):
            flat[i:i + (1 << 16)].sum()
    return time.perf_counter() - start
reading = min(read() for _ in range(2))
before, most, done = anonymous(), [0.0], threading.Event()
def watch():
    while not done.is_set():
        most[0] = max(most[0], anonymous())
        time.sleep(0.005)
thread = threading.Thread(target=watch); thread.start()
start = time.perf_counter()
if scales:
    found = explain_quantization(a, b, scales[0], fmt="float8_e4m3fn")
    told = found.nearest.elements - found.nearest.matching if found.nearest else 0
else:
    told = compare_arrays(a, b).differing
taken = time.perf_counter() - start
done.set(); thread.join()
print(reading, taken, max(most[0] - before, 0), told)
"""


def written(folder: Path, case: str, size: int) -> tuple[Path, Path]:
    """Write two files."""
    rng = np.random.default_rng(0)
    block = rng.standard_normal(1 << 20).astype(np.float32)
    columns = 4096 if size >= SIZE else 256
    paths = folder / "a.npy", folder / "b.npy"
    for path in paths:
        out = np.lib.format.open_memmap(path, "w+", np.float32, (size // 4 // columns, columns))
        flat = out.reshape(-1)
        for i in range(0, flat.size, block.size):
            part = flat[i : i + block.size]
            part[:] = block[: part.size]
            if path.stem == "b" and case != CASES[0]:
                part.view(np.uint32)[:: 1000 if case == CASES[1] else 1] ^= 1
        out.flush()
    return paths


def quantized(folder: Path, case: str, size: int) -> tuple[Path, ...]:
    """Write an input, its codes and its scales."""
    rng = np.random.default_rng(0)
    columns = 4096 if size >= SIZE else 256
    rows = size // 4 // columns
    shapes = {
        "x": (np.float32, columns),
        "codes": (np.uint8, columns),
        "scales": (np.float32, columns // 128),
    }
    paths = tuple(folder / f"{name}.npy" for name in shapes)
    held = [
        np.lib.format.open_memmap(path, "w+", dtype, (rows, wide))
        for path, (dtype, wide) in zip(paths, shapes.values(), strict=True)
    ]
    block = rng.standard_normal((min(256, rows), columns)).astype(np.float32)
    for i in range(0, rows, len(block)):
        q = quantize_tiles(block * np.float32(1 + i / rows))
        part = slice(i, i + len(block))
        held[0][part] = block * np.float32(1 + i / rows)
        held[1][part], held[2][part] = q.codes.view(np.uint8), q.scales
    if case == EXPLAINED[1]:
        held[1][rows // 2, 7] ^= 0x20
    for array in held:
        array.flush()
    return paths


def rows(size: int = SIZE) -> Iterator[Row]:
    """Measure every case."""
    threads = get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for case in (*CASES, *EXPLAINED):
            make = written if case in CASES else quantized
            paths = make(Path(folder), case, size)
            command = [sys.executable, "-c", _CHILD, *map(str, paths)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            reading, taken, memory, differing = map(float, done.stdout.split())
            told = f"{size >> 20} MiB" + (" twice" if case in CASES else "")
            note = f"{taken:.2f} s; {differing:.0f} differ"
            what = (case, told, LEVEL, threads, "out")
            if case in CASES:
                rate = size / 4 / taken / 1e9
                ratio = reading / taken
                yield Row(*what, "x read", rate, ratio, READ, pairs=1, note=note)
                note = ""
            yield Row(*what, "MB", None, memory, MEMORY, at_most=True, pairs=1, note=note)
            for path in paths:
                path.unlink()


def quick() -> str:
    """Run every case on small files."""
    return f"{len(list(rows(QUICK)))} rows"
