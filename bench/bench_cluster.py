"""Work on Dask's workers beside one process: a study, and a conversion of a checkpoint of several files.

Workers are processes of this machine with one thread each, started before the clock. Each ratio is the
median over rounds, in each of which every way takes its turn.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_checkpoint import GIB, Size, make
from dsv3_numerics.checkpoint import convert
from dsv3_numerics.study.split import StudyOfFiles
from dsv3_numerics.tasks.plan import Split
from harness import Row, set_state
from suite import levels

try:
    from distributed import LocalCluster
except ImportError:
    LocalCluster = None

LEGEND = """\
Two workers of Dask beside one process with two threads (`2 threads`: its time over theirs; 0.91 is 10 % of
overhead), and beside one worker (`1 worker`). Last, without Dask, two threads beside one: as much as this
second core gives. Elements: with schemes, of a study; written, of a conversion. Workers stand before
the clock starts; a conversion syncs its files, as it does anywhere.
"""
SIZES = {"study": Size("0.2 GB", 1, 1, GIB // 24), "convert to BF16": Size("0.8 GB", 14, 1, GIB // 24)}
QUICK = Size("quick", 2, 24, 1 << 18)
SCHEMES = ("e4m3:1x128:f32", "mxfp4", "logfmt8:1x128")
ROUNDS = 5
OVERHEAD, SPEEDUP = 0.91, 1.7

Way = tuple[int | None, str | None]
"""Threads of one process, or the address of a scheduler."""
Timings = tuple[dict[str, list[float]], int]


def study(source: Path, way: Way, folder: Path) -> int:
    """Study all weights; elements times schemes."""
    threads, dask = way
    of_files = StudyOfFiles((str(source),), SCHEMES)
    found, items = of_files.prepare()
    folder.mkdir()
    split = Split.of(None, dask).within(of_files, folder)
    of_files.execute(found, items, threads=threads, split=split)
    return int(found.settings["elements_selected"]) * len(SCHEMES)


def conversion(source: Path, way: Way, folder: Path) -> int:
    """Convert to BF16; elements."""
    threads, dask = way
    options: dict[str, Any] = {"dask": dask} if dask else {"threads": threads}
    return convert(source, folder, to="bf16", **options).bytes_written // 2


WORKS: dict[str, Callable[[Path, Way, Path], int]] = {"study": study, "convert to BF16": conversion}


def timed(work: Callable[[Path, Way, Path], int], source: Path, ways: dict[str, Way], rounds: int) -> Timings:
    """Seconds of each way, in each round; and the elements of one."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    elements, out = 0, source.with_name("out")
    for turn in range(rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            begin = time.perf_counter()
            elements = work(source, ways[name], out)
            seconds[name].append(time.perf_counter() - begin)
            shutil.rmtree(out)
    return seconds, elements


def rows(sizes: dict[str, Size] = SIZES, rounds: int = ROUNDS) -> Iterator[Row]:
    """Measure a study and a conversion."""
    if LocalCluster is None:
        yield Row("cluster", "", "", 0, "", "", None, None, note='pip install "dsv3_numerics[cluster]"')
        return
    set_state(levels()[-1], 2)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways: dict[str, Way] = {"2 threads": (2, None), "1 thread": (1, None)}
        for count in (1, 2):
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                silence_logs="ERROR",
            )
            ways[f"{count} worker"] = (None, stack.enter_context(cluster).scheduler_address)
        for name, size in sizes.items():
            for warm in (QUICK, size):
                shutil.rmtree(place / "source", ignore_errors=True)
                make(place / "source", warm)
                seconds, elements = timed(WORKS[name], place / "source", ways, 1 if warm is QUICK else rounds)
            for way, beside, gate in (
                ("2 worker", "2 threads", OVERHEAD),
                ("2 worker", "1 worker", SPEEDUP),
                ("2 threads", "1 thread", None),
            ):
                ratio = statistics.median(b / a for a, b in zip(seconds[way], seconds[beside], strict=True))
                took, other = (statistics.median(seconds[one]) for one in (way, beside))
                rate, note = elements / took / 1e9, f"{took:.2f} s beside {other:.2f} s"
                yield Row(
                    f"{name}, {way}s".replace("ss", "s"), size.label, levels()[-1], 2, "files", beside, rate,
                    ratio, gate, pairs=rounds, note=note,
                )  # fmt: skip


def quick() -> str:
    """Check that a small checkpoint is read and written by both ways."""
    if LocalCluster is None:
        return "skipped: distributed is not installed"
    found = list(rows(dict.fromkeys(SIZES, QUICK), 1))
    return f"{len(found)} ratios of {QUICK.label} sizes"
