"""Two files against each other: equal, few differences, all different, beside reading both from memory.

Each case is a process of its own: two `.npy` files of `SIZE` bytes are mapped and compared. What it needs
beyond the mapped files' pages is its anonymous memory, sampled while it runs (RssAnon of /proc/self/status).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness import Row

LEGEND = """\
`x read`: the time in which one thread sums as many bytes, mapped from the same files and in memory already,
over that of `compare_arrays`. `MB`: the most anonymous memory during it, less that before (pages of mapped
files are not in it)."""

SIZE = 1 << 30
QUICK = 1 << 22
READ, MEMORY = 0.5, 300.0
"""Bars."""

CASES = ("equal", "one in 1000 differs", "all differ")

_CHILD = """
import sys, threading, time
import numpy as np
from dsv3_numerics.compare import compare_arrays

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

a, b = (np.load(path, mmap_mode="r") for path in sys.argv[1:3])
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
found = compare_arrays(a, b)
taken = time.perf_counter() - start
done.set(); thread.join()
print(reading, taken, max(most[0] - before, 0), found.differing)
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


def rows(size: int = SIZE) -> Iterator[Row]:
    """Measure every case."""
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            paths = written(Path(folder), case, size)
            command = [sys.executable, "-c", _CHILD, *map(str, paths)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            reading, taken, memory, differing = map(float, done.stdout.split())
            told = f"{size >> 20} MiB twice"
            note = f"{taken:.2f} s, {2 * size / taken / 1e9:.2f} GB/s; {differing:.0f} differ"
            rate = size / 4 / taken / 1e9
            yield Row(
                case, told, "numpy", 1, "out", "x read", rate, reading / taken, READ, pairs=1, note=note
            )
            yield Row(case, told, "numpy", 1, "out", "MB", None, memory, MEMORY, at_most=True, pairs=1)


def quick() -> str:
    """Run every case on small files."""
    return f"{len(list(rows(QUICK)))} rows"
